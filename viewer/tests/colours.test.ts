import { interpolateCividis, interpolatePuOr, interpolateViridis } from "d3-scale-chromatic";
import { expect, test } from "vitest";

import { risingSizes, share, table, type Palette } from "../src/core/colour.ts";

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

test("a difference on dark paper has it in its middle, and is further from it towards both ends", () => {
  const far = table("dusk").map((colour) => Math.hypot(...colour.map((part, channel) => part - [23, 23, 27][channel])));
  expect(far[127]).toBeLessThan(3);
  expect(far.slice(0, 127).every((each, i) => each > far[i + 1])).toBe(true);
  expect(far.slice(129).every((each, i) => each > far[i + 128])).toBe(true);
});

test("a percentile scale has as many values below a place as the place says", () => {
  const values = [5, -1, 2, 2, NaN, 100, 0];
  const sizes = risingSizes(values);
  expect([...sizes]).toEqual([0, 1, 2, 2, 5, 100]);
  const places = [0, 1, 2, 5, 100].map((value) => share(value, 100, { curve: "rank" }, false, sizes));
  expect(places).toEqual([0, 0.2, 0.4, 0.8, 1]);
  expect(share(-5, 100, { curve: "rank" }, true, sizes)).toBeCloseTo(0.1);
  expect(share(5, 100, { curve: "rank" })).toBe(0.05); // without the others: linear
});

test("under the threshold nothing has a colour", () => {
  for (const curve of ["linear", "sqrt", "rank"] as const) {
    expect(share(2.9, 10, { curve, least: 0.3 }, false, Float32Array.of(2.9, 3, 10))).toBe(0);
    expect(share(-2.9, 10, { curve, least: 0.3 }, true)).toBe(0.5);
    expect(share(3, 10, { curve, least: 0.3 })).toBeGreaterThan(0);
  }
});
