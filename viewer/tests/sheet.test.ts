/** What the heat map shows, made from small runs by hand: alignment, folding, scales, differences. */

import { describe, expect, test } from "vitest";

import { positionsIn } from "../src/core/beside.ts";
import type { Scene } from "../src/core/scene.ts";
import { columnOf, largestFor, sheets } from "../src/core/sheet.ts";
import { DEFAULTS, type State } from "../src/core/state.ts";
import type { Run } from "../src/data/types.ts";
import { METRICS } from "./helpers.ts";

interface Made {
  name?: string;
  positions?: number[];
  texts?: string[];
  layers?: number[];
  values: number[][]; // [layer][token]
  images?: number[]; // positions of image tokens
  model?: string;
  floor?: number;
}

function run({
  name = "a",
  values,
  positions = values[0].map((_, i) => i),
  layers = values.map((_, i) => i),
  texts,
  images = [],
  model,
  floor,
}: Made): Run {
  return {
    id: name,
    name,
    steps: [0],
    layers,
    variants: ["Full"],
    tokens: positions.map((position, i) => ({
      position,
      text: texts?.[i] ?? `t${position}`,
      kind: images.includes(position) ? "image" : "text",
      id: null,
      image: images.includes(position) ? 0 : null,
      row: null,
      col: null,
      box: null,
    })),
    metrics: METRICS,
    values: { l2: Float32Array.from(values.flat()), cosine: Float32Array.from(values.flat()) },
    rows: values.flat().length,
    duplicates: 0,
    queries: null,
    manifest: { ...(model && { model: { name: model } }), ...(floor && { noise_floor: { Full: { l2: floor } } }) },
    pictures: [],
    effects: null,
    notes: [],
    source: { fileName: `${name}_results.csv`, format: "csv", bytes: 0 },
  };
}

function scene(runs: Run[], state: Partial<State> = {}): Scene {
  return {
    library: runs,
    runs,
    run: runs[0],
    state: { ...DEFAULTS, ...state },
    hover: { token: null, layer: null },
    ...positionsIn(runs, { ...DEFAULTS, ...state }, { token: null, layer: null, of: 0 }),
    dark: false,
  };
}

const list = (values: ArrayLike<number>) => Array.from(values, (value) => (Number.isNaN(value) ? null : value));

describe("scale", () => {
  const one = run({
    values: [
      [9, 1, 4],
      [8, 2, 3],
    ],
  });

  test("leaves position 0 out, unless it is wanted", () => {
    expect(list(sheets(scene([one]))[0].largest)).toEqual([4]);
    expect(sheets(scene([one]))[0].outside).toBe(0);
    expect(list(sheets(scene([one], { first: true }))[0].largest)).toEqual([9]);
  });

  test("of each row goes along what a row is", () => {
    const [layers] = sheets(scene([one], { range: "row" }));
    expect([largestFor(layers, 0, 2), largestFor(layers, 1, 2)]).toEqual([4, 3]);
    const [tokens] = sheets(scene([one], { range: "row", rows: "tokens" }));
    expect([largestFor(tokens, 0, 1), largestFor(tokens, 0, 2)]).toEqual([2, 4]);
    expect(largestFor(tokens, 0, 0)).toBe(4); // position 0 against the others
  });

  test("the only token is never outside", () => {
    expect(sheets(scene([run({ values: [[5]] })]))[0].outside).toBe(-1);
  });

  test("is one for the runs of a model, and of its own for another model", () => {
    const [a, b] = [run({ values: [[0, 1]], model: "m" }), run({ name: "b", values: [[0, 5]], model: "m" })];
    expect(sheets(scene([a, b])).map(({ largest, shared }) => [largest[0], shared])).toEqual([
      [5, true],
      [5, true],
    ]);
    const other = run({ name: "b", values: [[0, 5]], model: "n" });
    expect(sheets(scene([a, other])).map(({ largest, shared }) => [largest[0], shared])).toEqual([
      [1, false],
      [5, false],
    ]);
  });

  test("counts what is empty and what is below the noise floor", () => {
    const [sheet] = sheets(scene([run({ values: [[1, NaN, 0.01]], floor: 0.1 })]));
    expect([sheet.empty, sheet.below, sheet.floor]).toEqual([1, 1, 0.1]);
  });

  test("has a noise floor of its own for each layer, and none for 0", () => {
    const made = run({
      values: [
        [1, 0.05, 0],
        [1, 0.05, 0.2],
      ],
    });
    const by_layer = { layers: [0, 1], variants: ["Attn", "Full"], metrics: ["cosine", "l2"] };
    made.manifest!.noise_floor = {
      Full: { l2: 9 },
      by_layer: {
        ...by_layer,
        values: [
          [[], [7, 0.01]],
          [[], [7, 0.1]],
        ],
      },
    };
    const [sheet] = sheets(scene([made]));
    expect([sheet.below, sheet.floor, ...sheet.floors]).toEqual([1, 0.1, 0.01, 0.1]);
  });
});

describe("folding", () => {
  const picture = run({
    values: [
      [1, 2, 7, 3],
      [1, 6, 5, 3],
    ],
    images: [1, 2],
  });

  test("joins the tokens of an image to their largest value, and says which it was", () => {
    const [sheet] = sheets(scene([picture], { fold: true }));
    expect(sheet.columns.map(({ positions }) => positions)).toEqual([[0], [1, 2], [3]]);
    expect(list(sheet.values)).toEqual([1, 7, 3, 1, 6, 3]);
    expect(list(sheet.strongest!)).toEqual([0, 2, 3, 0, 1, 3]);
    expect([
      columnOf(sheet.columns, 2),
      columnOf(sheet.columns, 3),
      columnOf(sheet.columns, 9),
      columnOf(sheet.columns, null),
    ]).toEqual([1, 2, -1, -1]);
  });

  test("of a difference keeps the larger change, with its sign", () => {
    const other = run({
      name: "b",
      values: [
        [1, 1, 9, 3],
        [1, 0, 5, 3],
      ],
      images: [1, 2],
    });
    const [sheet] = sheets(scene([picture, other], { fold: true, compare: "difference" }));
    expect(list(sheet.values)).toEqual([0, 2, 0, 0, -6, 0]);
  });
});

describe("several runs", () => {
  test("have their own columns and layers, and one scale", () => {
    const a = run({
      positions: [0, 2],
      layers: [0, 1],
      values: [
        [1, 2],
        [3, 4],
      ],
    });
    const b = run({
      name: "b",
      positions: [1, 2],
      layers: [1, 3],
      values: [
        [5, 6],
        [7, 8],
      ],
    });
    const [first, second] = sheets(scene([a, b]));
    expect([first.layers, second.layers]).toEqual([
      [0, 1],
      [1, 3],
    ]);
    expect([first, second].map(({ columns }) => columns.map(({ positions }) => positions[0]))).toEqual([
      [0, 2],
      [1, 2],
    ]);
    expect([list(first.values), list(second.values)]).toEqual([
      [1, 2, 3, 4],
      [5, 6, 7, 8],
    ]);
    expect(list(first.largest)).toEqual([8]); // of both: they are of one model
  });

  test("differ where tokens are the same; the rest is empty and counted", () => {
    const a = run({ values: [[1, 2, 3]], texts: ["x", "y", "z"] });
    const b = run({ name: "b", values: [[5, 5, 2]], texts: ["x", "other", "z"] });
    const [sheet] = sheets(scene([a, b], { compare: "difference" }));
    expect(list(sheet.values)).toEqual([4, null, -1]);
    expect([sheet.signed, sheet.title, list(sheet.largest)]).toEqual([true, "b − a", [1]]);
    expect(sheet.notes[0]).toMatch(/^By token: 2 of 4 tokens are in one run alone/);
    const [whole] = sheets(scene([a, b], { compare: "difference", align: "position" }));
    expect(list(whole.values)).toEqual([4, 3, -1]);
    expect(whole.columns.map(({ other }) => other?.text)).toEqual([undefined, "other", undefined]);
    expect(whole.notes).toEqual(["By position: another token at 1 of 3 (1 y → other)."]);
  });

  test("say it when a run does not have the step or the variant", () => {
    const a = run({ values: [[1]] });
    const b = { ...run({ name: "b", values: [[1]] }), steps: [1] };
    const [, second] = sheets(scene([a, b]));
    expect(second.notes).toEqual(["b has no step 1."]);
    expect(list(second.values)).toEqual([null]);
  });
});
