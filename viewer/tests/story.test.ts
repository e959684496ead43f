/** What the first sentence says, from the numbers: words by layer, the picture, the template, and what costs the answer. */

import { expect, test } from "vitest";

import { story, wordAround } from "../src/core/story.ts";
import { DEFAULTS } from "../src/core/state.ts";
import { templatePositions } from "../src/core/template.ts";
import { plainToken } from "../src/data/cube.ts";
import { readEffects } from "../src/data/effects.ts";
import { cleanManifest, withManifest } from "../src/data/manifest.ts";
import type { Run } from "../src/data/types.ts";
import { METRICS } from "./helpers.ts";

const TEXTS = ["<|s|>", "user", "\n", "Is", " the", " b", "all", " red", "<|e|>"];

/** Three layers; `values` by position, those of layer 0, 1 and 2. */
function runOf(values: Record<number, number[]>, manifest: object = {}): Run {
  const tokens = TEXTS.map((text, position) => ({ position, text, kind: text.startsWith("<") ? "special" : "text" }));
  const plain = TEXTS.map((text, position) => plainToken(position, text));
  const l2 = Float32Array.from(
    { length: 3 * TEXTS.length },
    (_, i) => values[i % TEXTS.length]?.[Math.floor(i / TEXTS.length)] ?? 0.1,
  );
  const run = {
    id: "", name: "r", steps: [0], layers: [0, 1, 2], variants: ["Full"], tokens: plain, metrics: METRICS,
    values: { l2, cosine: l2 }, queries: null, rows: 0, duplicates: 0, manifest: null, effects: null, pictures: [], notes: [],
    source: { fileName: "r.csv", format: "csv" as const, bytes: 1 },
  } as Run; // prettier-ignore
  const about = {
    prompt_length: 9,
    tokens,
    chat: true,
    prompt: "Is the ball red",
    generated: [{ step: 0, text: " no" }],
  };
  return withManifest(run, cleanManifest({ ...about, ...manifest })!);
}

const told = (run: Run) => story({ run, runs: [run], state: { ...DEFAULTS } });

test("the words that are read most, by layer; little is not named, and a loud token of the template is told apart", () => {
  const found = told(runOf({ 0: [90, 90, 90], 6: [0, 0, 12], 7: [0, 9, 0], 4: [0, 1, 0], 8: [0, 30, 0] }));
  expect(found.words.map(({ token, layer }) => [token.position, layer])).toEqual([
    [7, 1],
    [6, 2],
  ]);
  expect([found.template?.token.position, found.template?.layer]).toEqual([8, 1]);
  expect([found.patch, found.lost, found.robust]).toEqual([null, null, false]);
});

test("words of the template are those outside of the messages", () => {
  expect([...templatePositions(runOf({}))]).toEqual([0, 1, 2, 8]);
  const messages = [{ role: "user", content: [{ type: "text", text: "Is the ball red" }] }];
  expect([...templatePositions(runOf({}, { prompt: "?", messages }))]).toEqual([0, 1, 2, 8]);
  expect([...templatePositions(runOf({}, { prompt: "something else" }))]).toEqual([0, 8]); // only what is special for certain
});

test("a piece of a word is shown with the word", () => {
  const run = runOf({});
  expect(wordAround(run, 6)).toEqual(["b", "all", ""]);
  expect(wordAround(run, 5)).toEqual(["", "b", "all"]);
  expect(wordAround(run, 7)).toBeNull();
});

test.each([
  [-3, " yes", { after: 0.9 * Math.exp(-3), then: " yes", robust: false }],
  [-0.0001, " no", { after: null, then: null, robust: true }],
])("what the answer needs: a change of %d", (change, top, wanted) => {
  const of = (position: number, by: number, then: string) => ({
    generation_step: 0, token_masked: TEXTS[position], token_position: position, first_layer: 0, last_layer: 2, block: "all",
    logprob: Math.log(0.9) + by, logprob_change: by, rank: 0, top_token: then, kl: 0, final_l2: 0, final_cosine: 0,
  }); // prettier-ignore
  const rows = [of(0, -9, " x"), of(6, change, top), of(7, 0, " no")]; // position 0 does not count
  const columns = Object.fromEntries(
    Object.keys(rows[0]).map((key) => [key, rows.map((row) => row[key as keyof (typeof rows)[0]])]),
  );
  const { lost, robust } = told({ ...runOf({}), effects: readEffects(JSON.stringify(columns), "r") });
  expect([robust, lost?.then ?? null]).toEqual([wanted.robust, wanted.then]);
  if (wanted.after === null) expect(lost).toBeNull();
  else
    expect([lost!.token.position, lost!.before, lost!.after]).toEqual([
      6,
      expect.closeTo(0.9, 5),
      expect.closeTo(wanted.after, 5),
    ]);
});
