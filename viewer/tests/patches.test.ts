/** Which patch lies where, what is the strongest, and how two runs are compared. */

import { describe, expect, test } from "vitest";
import type { Scene } from "../src/core/scene.ts";
import { DEFAULTS } from "../src/core/state.ts";
import { cleanManifest, withManifest } from "../src/data/manifest.ts";
import type { Run } from "../src/data/types.ts";
import { figures, neighbour, patchAt, scaleOf, shown } from "../src/views/patches.ts";
import { sameShape } from "../src/views/picture-base.ts";
import { METRICS } from "./helpers.ts";

interface Grid {
  rows: number;
  cols: number;
  size: [number, number];
  region: [number, number, number, number];
}

/** Two layers; a text token, the patches of each grid row by row, a text token with the largest value of all. */
function runOf(
  grids: Grid[],
  { model = "demo", value = (layer: number, token: number) => layer * 100 + token, padding = 0 } = {},
): Run {
  const tokens: object[] = [{ position: 0, text: "a", kind: "text" }];
  grids.forEach(({ rows, cols, region: [left, top, right, bottom] }, image) => {
    for (let i = 0; i < rows * cols; i++) {
      const [row, col] = [Math.floor(i / cols), i % cols];
      const [w, h] = [(right - left) / cols, (bottom - top) / rows];
      tokens.push({
        position: tokens.length,
        text: "▦",
        kind: "image",
        image,
        row,
        col,
        box: [left + col * w, top + row * h, left + (col + 1) * w, top + (row + 1) * h],
      });
    }
  });
  for (let i = 0; i < padding; i++)
    tokens.push({ position: tokens.length, text: "▦", kind: "image", image: 0, row: 9, col: i, box: null });
  tokens.push({ position: tokens.length, text: "b", kind: "text" });
  const numbers = Float32Array.from({ length: 2 * tokens.length }, (_, i) =>
    value(Math.floor(i / tokens.length), i % tokens.length),
  );
  const plain = tokens.map((token, position) => ({
    position,
    text: (token as { text: string }).text,
    kind: "text",
    id: null,
    image: null,
    row: null,
    col: null,
    box: null,
  }));
  const run = {
    id: "",
    name: model,
    steps: [0],
    layers: [3, 7],
    variants: ["Full"],
    tokens: plain,
    metrics: METRICS,
    values: { l2: numbers, cosine: numbers },
    queries: null,
    rows: 1,
    duplicates: 0,
    manifest: null,
    pictures: [],
    notes: [],
    source: {},
  };
  const images = grids.map(({ size }) => ({ size, path: "cat.png" }));
  return withManifest(run as unknown as Run, cleanManifest({ model: { name: model }, tokens, images })!);
}

const scene = (runs: Run[], state = {}) =>
  ({
    runs,
    run: runs[0],
    library: runs,
    hover: { token: null, layer: null },
    dark: false,
    state: { ...DEFAULTS, ...state },
  }) as Scene;
const WIDE: Grid = { rows: 2, cols: 3, size: [300, 200], region: [0, 0, 300, 200] };
const CROP: Grid = { rows: 2, cols: 2, size: [640, 480], region: [80, 0, 560, 480] };

describe("places", () => {
  test("a point finds its patch, and none outside of the grid", () => {
    const [figure] = figures(runOf([CROP]));
    expect(patchAt(figure, 79, 10)).toBeNull();
    expect(patchAt(figure, 80, 0)!.token).toMatchObject({ position: 1, row: 0, col: 0 });
    expect(patchAt(figure, 559, 479)!.token).toMatchObject({ position: 4, row: 1, col: 1 });
    expect(patchAt(figure, 560, 10)).toBeNull();
    expect(patchAt(figure, 100, 480)).toBeNull();
  });
  test("tokens in padding belong to the picture and have no place", () => {
    const [figure] = figures(runOf([WIDE], { padding: 2 }));
    expect([figure.tokens, figure.patches.length, figure.size]).toEqual([8, 6, [300, 200]]);
  });
  test("each picture has its own patches, the second one too", () => {
    expect(figures(runOf([WIDE, CROP])).map(({ patches }) => patches.map(({ token }) => token.position))).toEqual([
      [1, 2, 3, 4, 5, 6],
      [7, 8, 9, 10],
    ]);
  });
  test("a picture whose tokens were not masked is still a picture", () => {
    const run = runOf([WIDE]);
    const texts = { ...run, tokens: run.tokens.filter(({ kind }) => kind === "text") };
    expect(figures(texts)).toMatchObject([{ tokens: 0, patches: [], size: [300, 200] }]);
    expect(figures(runOf([]))).toEqual([]);
  });
  test("arrow keys go to the next patch and stop at the edge", () => {
    const [figure] = figures(runOf([WIDE]));
    const walk = (keys: string[]) =>
      keys.reduce((at, key) => neighbour(figure, at, `Arrow${key}`), neighbour(figure, null, "ArrowUp"))!.token
        .position;
    expect(walk([])).toBe(1);
    expect(walk(["Right", "Right", "Right", "Down"])).toBe(6);
    expect(walk(["Down", "Down", "Left", "Right"])).toBe(5);
    expect(walk(["Right", "Down", "Up", "Up"])).toBe(2);
  });
});

describe("values", () => {
  test("of a layer, on a scale of all layers or of its own; text and padding do not count", () => {
    const run = runOf([WIDE], { padding: 1 });
    const all = shown(scene([run], { layer: 3 }));
    expect([all.values.get(run)!.of[6], scaleOf(all, run).largest]).toEqual([6, 106]);
    expect(scaleOf(shown(scene([run], { layer: 3, range: "row" })), run).largest).toBe(6);
  });
  test("of all layers joined, with the layer of the largest", () => {
    const run = runOf([WIDE], { value: (layer, token) => (layer === token % 2 ? 10 : 1) + token });
    const { of, peak } = shown(scene([run], { join: "max" })).values.get(run)!;
    expect([...of.slice(1, 4)]).toEqual([11, 12, 13]);
    expect([
      ...shown(scene([run], { join: "mean" }))
        .values.get(run)!
        .of.slice(1, 4),
    ]).toEqual([6.5, 7.5, 8.5]);
    expect([...peak.slice(1, 4)]).toEqual([7, 3, 7]);
  });
  test("runs of one model share a scale, those of two do not", () => {
    const one = runOf([WIDE]),
      twice = runOf([WIDE], { value: () => 500 }),
      other = runOf([WIDE], { model: "other", value: () => 5 });
    const found = shown(scene([one, twice, other], { join: "max" }));
    expect([one, twice, other].map((run) => scaleOf(found, run).largest)).toEqual([500, 500, 5]);
    expect(found.scales.length).toBe(2);
  });
  test("a difference is of the same patch, and of nothing where there is none", () => {
    const one = runOf([WIDE]),
      more = runOf([WIDE], { value: (layer, token) => layer * 100 + token + (token === 2 ? -30 : 3) });
    const found = shown(scene([one, more], { compare: "difference", layer: 3 }));
    expect(found.signed).toBe(true);
    expect([...found.values.get(one)!.of.slice(0, 4)]).toEqual([3, 3, -30, 3]);
    expect(scaleOf(found, one).largest).toBe(30);
    const turned = runOf([{ ...WIDE, rows: 3, cols: 2 }]);
    const none = shown(scene([one, turned], { compare: "difference", layer: 3 })).values.get(one)!.of;
    expect([none[1], none[2], none[3]]).toEqual([0, 0, NaN]); // row 0 has two columns in both
  });
});

test("a smaller copy of a picture has its shape, a turned one has not", () => {
  expect(sameShape([1024, 683], [1600, 1067])).toBe(true);
  expect(sameShape([1, 1024], [2, 5000])).toBe(true);
  expect(sameShape([1067, 1600], [1600, 1067])).toBe(false);
  expect(sameShape([1000, 900], [1000, 1000])).toBe(false);
});
