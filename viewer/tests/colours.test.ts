import { interpolateCividis, interpolatePuOr, interpolateViridis } from "d3-scale-chromatic";
import { expect, test } from "vitest";

import { table, type Palette } from "../src/core/colour.ts";

const ORIGINALS: Partial<Record<Palette, (t: number) => string>> = {
  cividis: interpolateCividis,
  viridis: interpolateViridis,
  difference: interpolatePuOr,
};

function parts(colour: string): number[] {
  if (colour.startsWith("#")) return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return colour.match(/\d+/g)!.map(Number);
}

test.each(Object.keys(ORIGINALS) as Palette[])("%s is the original to 3 of 255", (palette) => {
  const found = table(palette);
  expect(found).toHaveLength(256);
  const apart = found.map((colour, i) => {
    const original = parts(ORIGINALS[palette]!(i / 255));
    return Math.max(...colour.map((part, channel) => Math.abs(part - original[channel])));
  });
  expect(Math.max(...apart)).toBeLessThanOrEqual(3);
});

test.each([
  ["tint", [255, 255, 255]],
  ["night", [23, 23, 27]],
] as const)("0 in %s is the paper, and more is further from it", (palette, paper) => {
  const far = table(palette).map((colour) => Math.hypot(...colour.map((part, channel) => part - paper[channel])));
  expect(far[0]).toBe(0);
  expect(far.every((each, i) => i === 0 || each >= far[i - 1] - 1)).toBe(true);
});
