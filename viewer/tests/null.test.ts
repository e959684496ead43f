/** Percentiles among other prompts' tokens, and the label of attention sinks, as the manifest has them. */

import { expect, test } from "vitest";

import { percentileOf, sinkText } from "../src/core/null.ts";
import { cleanManifest } from "../src/data/manifest.ts";

const percentiles = [
  { position: 3, value: 80.43, percentile: 93.1 },
  { position: 4, value: 20, percentile: null },
];
const manifest = cleanManifest({
  null: { runs: 3, percentiles },
  sinks: [{ position: 0, weight: 0.484, value_length: 0.357 }, { position: 5 }],
})!;

test("a percentile belongs to one value of its token", () => {
  expect(percentileOf({ manifest }, 3, Math.fround(80.43))).toBe(93.1);
  expect(percentileOf({ manifest }, 3, 79)).toBe(null); // fewer layers are shown, or another variant
  expect(percentileOf({ manifest }, 4, 20)).toBe(null);
  expect(percentileOf({ manifest }, 9, 80.43)).toBe(null);
  expect(percentileOf({ manifest: cleanManifest({ null: null })! }, 3, 80.43)).toBe(null);
  expect(percentileOf({ manifest: null }, 3, 80.43)).toBe(null);
});

test("a sink says how much of the attention, and how long its values", () => {
  const said = "sink: 48 % of the attention, values 0.36 as long as the average of what is read";
  expect(sinkText({ manifest }, 0)).toBe(said);
  expect([sinkText({ manifest }, 5), sinkText({ manifest }, 1), sinkText({ manifest: null }, 0)]).toEqual(
    Array(3).fill(null),
  );
});
