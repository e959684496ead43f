/** What the prompt, the ranking, the head matrix and the line plot are computed from. */

import { describe, expect, it } from "vitest";
import { headMatrix, order, strongestHeads } from "../src/core/head-matrix.ts";
import { cellOf, isBlock, layerRange, promptText, ranked, scores, whyMissing } from "../src/core/prompt-text.ts";
import type { Scene } from "../src/core/scene.ts";
import { positionsIn } from "../src/core/beside.ts";
import { apart, lineVariants, seriesOf, target, toggled } from "../src/core/series.ts";
import { DEFAULTS, type State } from "../src/core/state.ts";
import { index, type Manifest, type Run, type TokenInfo } from "../src/data/types.ts";
import { METRICS } from "./helpers.ts";

const VARIANTS = ["Full", "Attn", "Head_0", "Head_2"];

/** Steps 0 and 1, layers 0, 2, 4; value(step, variant, layer, position) for the positions masked at the step. */
function makeRun(
  infos: Partial<TokenInfo>[],
  value: (step: number, variant: number, layer: number, position: number) => number,
  manifest: Manifest | null = null,
): Run {
  const plain = { text: "x", kind: "text" as const, id: null, image: null, row: null, col: null, box: null };
  const tokens = infos.map((info, position): TokenInfo => ({ position, ...plain, ...info }));
  const run: Run = {
    id: "run-1",
    name: "r",
    steps: [0, 1],
    layers: [0, 2, 4],
    variants: VARIANTS,
    tokens,
    metrics: METRICS,
    values: {
      l2: new Float32Array(2 * 4 * 3 * tokens.length).fill(NaN),
      cosine: new Float32Array(2 * 4 * 3 * tokens.length),
    },
    queries: null,
    rows: 0,
    duplicates: 0,
    manifest,
    pictures: [],
    effects: null,
    notes: [],
    source: { fileName: "r.csv", format: "csv", bytes: 1 },
  };
  for (const step of [0, 1])
    for (const variant of VARIANTS.keys())
      for (const layer of [0, 1, 2])
        tokens.forEach(
          ({ position }, token) =>
            (run.values.l2[index(run, step, variant, layer, token)] = value(
              step,
              variant,
              run.layers[layer],
              position,
            )),
        );
  return run;
}

const state = (patch: Partial<State> = {}): State => ({ ...DEFAULTS, ...patch });
const scene = (
  runs: Run[],
  patch: Partial<State> = {},
  hover = { token: null as number | null, layer: null as number | null },
): Scene => ({
  library: runs,
  runs,
  run: runs[0],
  state: state(patch),
  hover,
  ...positionsIn(runs, state(patch), { ...hover, of: 0 }),
  dark: false,
});
/** Position 3 is generated at step 0 and masked at step 1. */
const growing = (step: number, _: number, layer: number, position: number) =>
  position === 3 && step === 0 ? NaN : (position + 1) * (layer + 1);

describe("a metric that can be below 0", () => {
  const run = makeRun([{}, {}, {}, {}], (_step, _variant, layer, position) => [9, 2, -5, 1][position] + layer / 8);

  it("ranks tokens by the value furthest from 0, in the layer where that is", () => {
    const found = scores(scene([run], { join: "max" }));
    expect(ranked(scene([run], { join: "max" }), () => true)).toEqual([2, 1, 3]);
    expect([found.value[2], found.peak[2], found.value[1], found.peak[1]]).toEqual([-5, 0, 2.5, 4]);
    expect(found.text).toBe(5);
  });

  it("has the mean of its values where layers are joined so", () => {
    const found = scores(scene([run], { join: "mean" }));
    expect([found.value[2], found.peak[2], found.value[1]]).toEqual([-4.75, 0, 2.25]);
  });
});

describe("by default", () => {
  const run = makeRun([{}, {}, {}], (_step, _variant, layer, position) => [0, 3, layer ? 0 : -5][position]);
  const values = [3, 4, 0, 0, 0].map((floor) => [[floor]]);
  const by_layer = { layers: [0, 1, 2, 3, 4], variants: ["Full"], metrics: ["l2"], values };
  const noisy = { ...run, manifest: { noise_floor: { by_layer } } } as unknown as Run;

  it("the root of the sum of squares ranks, as in the summary: many layers outweigh one", () => {
    const found = scores(scene([run]));
    expect(ranked(scene([run]), () => true)).toEqual([1, 2]);
    expect([found.value[1], found.value[2]]).toEqual([Math.fround(Math.sqrt(3 * 9)), 5]);
    expect([found.peak[1], found.peak[2]]).toEqual([0, 0]);
  });

  it("the noise floor is that of the same layers together", () => {
    const shown = (patch: Partial<State>) => scores(scene([{ ...noisy }], patch)).floor;
    expect([shown({}), shown({ to: 0 }), shown({ join: "max" })]).toEqual([5, 3, 4]);
  });
});

describe("promptText", () => {
  it("finds the generated tokens without a manifest", () => {
    const { prompt, generated } = promptText(makeRun([{}, {}, {}, { text: "new" }], growing));
    expect(prompt).toHaveLength(3);
    expect(generated.map(({ info, step }) => [info.text, step])).toEqual([["new", 0]]);
  });

  it("adds what was not masked, and what was generated after everything that was", () => {
    const manifest: Manifest = {
      prompt_length: 5,
      mask_mode: "vision",
      generated: [{ step: 0, text: "A", probability: 0.5 }],
      tokens: [0, 1, 2, 3, 4].map((position) => ({
        position,
        text: `t${position}`,
        kind: position === 2 || position === 3 ? "image" : "text",
        image: 0,
        row: 0,
        col: position - 2,
      })),
    };
    const image = (position: number) => ({ position, kind: "image" as const, image: 0, row: 0, col: position - 2 });
    const run = makeRun([image(2), image(3)], () => 1, manifest);
    const { prompt, generated, tokens } = promptText(run);
    expect(tokens.map(({ info, place }) => [info.position, place])).toEqual([
      [0, -1],
      [1, -1],
      [2, 0],
      [3, 1],
      [4, -1],
      [5, -1],
    ]);
    const block = prompt[2];
    if (!isBlock(block)) throw new Error("expected a block");
    expect([block.rows, block.cols, block.grid, cellOf(block, 1)]).toEqual([1, 2, true, [0, 1]]);
    expect(generated[0].probability).toBe(0.5);
    expect(whyMissing(scene([run]), tokens[0])).toContain("mask mode vision");
    expect(whyMissing(scene([run]), generated[0])).toContain("not yet generated");
  });

  it("puts image tokens without a grid into lines", () => {
    const run = makeRun(
      Array.from({ length: 20 }, () => ({ kind: "image" as const, image: 0 })),
      () => 1,
    );
    const [block] = promptText(run).prompt;
    expect(isBlock(block) && [block.rows, block.cols, block.grid, cellOf(block, 17)]).toEqual([2, 16, false, [1, 1]]);
  });
});

describe("scores", () => {
  const run = makeRun([{}, {}, { kind: "image", image: 0 }], (_, __, layer, position) => [90, 2, 7][position] + layer);

  it("has a scale for text and one for images, position 0 only on demand", () => {
    expect(scores(scene([run], { join: "max" }))).toMatchObject({ text: 6, image: 11 });
    expect(scores(scene([run], { join: "max", first: true })).text).toBe(94);
  });

  it("joins the chosen layers", () => {
    expect(scores(scene([run], { join: "max", to: 2 })).value[1]).toBe(4);
    expect(scores(scene([run], { to: 2 })).value[1]).toBeCloseTo(Math.hypot(2, 4), 6);
    expect(scores(scene([run], { join: "mean" })).value[1]).toBe(4);
    expect(scores(scene([run])).peak[1]).toBe(4);
    expect(layerRange(run, state({ from: 9, to: 1 }))).toEqual([4, 4]);
  });

  it("ranks largest first", () => {
    expect(ranked(scene([run]), () => true)).toEqual([2, 1]);
    expect(ranked(scene([run], { first: true }), ({ kind }) => kind === "text")).toEqual([0, 1]);
  });
});

describe("a difference", () => {
  const infos = [{}, {}, { text: "same" }, { text: "one" }];
  const first = makeRun(infos, (_, variant, layer, position) => 10 * position + layer + variant);
  const second = makeRun(
    [{}, {}, { text: "same" }, { text: "other" }],
    (_, variant, layer, position) => [0, 20, 5, 99][position] + (layer === 2 ? 6 : 0) + variant,
  );
  const both = (patch: Partial<State> = {}) => scene([first, second], { compare: "difference", join: "max", ...patch });

  it("is that of the importances, with the layer where the runs are most apart", () => {
    const found = scores(both());
    expect([...found.value]).toEqual([2, 12, -13, NaN]); // 6 - 4, 26 - 14, 11 - 24
    expect([...found.peak]).toEqual([2, 2, 4, -1]);
    expect([found.text, found.signed]).toEqual([13, true]);
    expect(scores(both({ to: 0 })).value[1]).toBe(10);
    expect(scores(scene([first, second])).signed).toBe(false);
  });

  it("is ranked by size", () => {
    expect(ranked(both(), () => true)).toEqual([2, 1]);
    expect(ranked(both(), () => true, true)).toEqual([2, 1, 0]);
  });

  it("is that of the heads, of one token or of the one that differs most", () => {
    expect([...headMatrix(both({ token: 1 })).values]).toEqual([10, 10, 14, 14, 6, 6]);
    const found = headMatrix(both());
    expect([...found.values]).toEqual([-15, -15, 14, 14, -19, -19]);
    expect([...found.strongest!]).toEqual([2, 2, 1, 1, 2, 2]);
    expect(headMatrix(both({ token: 3 })).values.every(Number.isNaN)).toBe(true);
    expect(strongestHeads(found, 1)).toEqual([0]);
    const fewer = { ...second, variants: ["Full", "Attn", "Head_0", "Head_9"] };
    expect([...headMatrix(scene([first, fewer], { compare: "difference", token: 1 })).values]).toEqual([
      10,
      NaN,
      14,
      NaN,
      6,
      NaN,
    ]);
  });
});

describe("headMatrix", () => {
  const run = makeRun([{}, {}, {}], (_, variant, layer, position) =>
    variant === 3 && layer === 2 ? NaN : variant * 10 + layer + [100, 3, 5][position],
  );

  it("is that of the selected token", () => {
    const found = headMatrix(scene([run], { token: 1 }));
    expect([found.heads, found.strongest]).toEqual([[0, 2], null]);
    expect([...found.values]).toEqual([23, 33, 25, NaN, 27, 37]);
  });

  it("takes the strongest token of each cell, position 0 only on demand", () => {
    const found = headMatrix(scene([run]));
    expect([...found.values]).toEqual([25, 35, 27, NaN, 29, 39]);
    expect([...found.strongest!]).toEqual([2, 2, 2, -1, 2, 2]);
    expect(headMatrix(scene([run], { first: true })).values[0]).toBe(120);
  });

  it("has a noise floor of its own for each cell, of two runs the larger one", () => {
    const noise_floor = (first: number) => {
      const of = { layers: [0, 2, 4], variants: ["Head_0", "Head_2"], metrics: ["l2"] };
      return { by_layer: { ...of, values: [0, 1, 2].map((layer) => [[first + layer], [10 * (first + layer)]]) } };
    };
    const [one, two] = [1, 2].map((first) => ({ ...run, manifest: { noise_floor: noise_floor(first) } }));
    expect(headMatrix(scene([one])).floors).toEqual([1, 10, 2, 20, 3, 30]);
    expect(headMatrix(scene([one, two], { compare: "difference" })).floors).toEqual([2, 20, 3, 30, 4, 40]);
    expect(headMatrix(scene([run])).floors).toEqual([0, 0, 0, 0, 0, 0]);
  });

  it("sorts by sums and knows the strongest heads", () => {
    const found = headMatrix(scene([run]));
    expect(order(found, false, false)).toEqual({ rows: [2, 1, 0], columns: [0, 1] });
    expect(order(found, true, true)).toEqual({ rows: [2, 0, 1], columns: [0, 1] });
    expect(strongestHeads(found, 1)).toEqual([2]);
  });
});

describe("series", () => {
  const run = makeRun([{}, {}, {}], (_, variant, layer, position) => variant + layer + position);

  it("has a line for Full, Attn, the chosen heads and the shown one", () => {
    expect(lineVariants(run, state({ heads: [2, 7] }))).toEqual(["Full", "Attn", "Head_2"]);
    expect(lineVariants(run, state({ variant: "Head_0" }))).toEqual(["Full", "Attn", "Head_0"]);
    const [full, attn] = seriesOf(scene([run]), { token: run.tokens[2], positions: [2] });
    expect([[...full.values], [...attn.values]]).toEqual([
      [2, 4, 6],
      [3, 5, 7],
    ]);
  });

  it("shows the selected token, else the hovered, else the strongest", () => {
    expect(target(scene([run], { token: 1 }, { token: 2, layer: null }))).toMatchObject({
      why: "selected",
      token: { position: 1 },
    });
    expect(target(scene([run], {}, { token: 1, layer: null }))).toMatchObject({
      why: "hovered",
      token: { position: 1 },
    });
    expect(target(scene([run]))).toMatchObject({ why: "strongest", token: { position: 2 } });
  });

  it("has no values of runs that lack the position or the step", () => {
    const short = makeRun([{}], () => 1);
    for (const other of [short, { ...run, steps: [5, 6] }]) {
      const series = seriesOf(scene([run, other]), { token: run.tokens[2], positions: [2, 2] });
      expect(series.map(({ values }) => values.some((value) => value >= 0))).toEqual([true, true, false, false]);
    }
  });

  it("keeps six heads at most", () => {
    expect(toggled([1, 2, 3, 4, 5, 6], 7)).toEqual([2, 3, 4, 5, 6, 7]);
    expect(toggled([1, 2], 1)).toEqual([2]);
  });

  it("moves labels apart and keeps them inside", () => {
    expect(apart([50, 51, 52], 10, 0, 60)).toEqual([40, 50, 60]);
    expect(apart([5, 0, 80], 10, 0, 60)).toEqual([10, 0, 60]);
  });
});

describe("cross-attention", () => {
  const base = makeRun([{}, {}], (_, variant, layer, position) => 10 * variant + layer + position);
  const run = { ...base, variants: ["Full", "Head_0", "CrossFull", "CrossHead_0"] };

  it("has heads and lines of its own, as the chosen variant is", () => {
    const values = (variant: string) => [...headMatrix(scene([run], { token: 1, variant })).values];
    expect([values("Full"), values("CrossFull")]).toEqual([
      [11, 13, 15],
      [31, 33, 35],
    ]);
    expect(lineVariants(run, state({ heads: [0] }))).toEqual(["Full", "Head_0"]);
    expect(lineVariants(run, state({ heads: [0], variant: "CrossFull" }))).toEqual(["CrossFull", "CrossHead_0"]);
  });
});
