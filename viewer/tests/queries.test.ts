import { expect, test } from "vitest";
import { readFileSync } from "node:fs";
import { reads } from "../src/core/reads.ts";
import { settled, tokenIndex } from "../src/core/scene.ts";
import { DEFAULTS, fromFragment, toFragment } from "../src/core/state.ts";
import { label, named } from "../src/core/tokens.ts";
import { decodeRun } from "../src/data/embed.ts";
import { cleanManifest, withManifest } from "../src/data/manifest.ts";
import { add, emptyLibrary } from "../src/data/pair.ts";
import { atQuery, usualQuery } from "../src/data/queries.ts";
import { at, type Manifest, type Run } from "../src/data/types.ts";
import { figures } from "../src/views/patches.ts";
import { base64, failure, fixture, runOf, textFile } from "./helpers.ts";

interface Row {
  generation_step: number;
  query_position: number;
  layer: number;
  token_position: number;
  variant: string;
  l2_distance: number;
  cosine_distance: number;
}

const text = readFileSync(new URL("fixtures/every_records.json", import.meta.url), "utf8");
const rows = JSON.parse(text) as Row[];
const manifest = JSON.parse(readFileSync(new URL("fixtures/every_run.json", import.meta.url), "utf8")) as Manifest;
const FILES = ["every_results.csv", "every_results.json", "every_results.parquet", "every_records.json"];

/** "step query layer token variant" -> both distances; each query by itself. */
function cellsOf(run: Run): Map<string, number[]> {
  const found = new Map<string, number[]>();
  for (const position of run.queries!.positions) {
    const one = atQuery(run, position);
    one.layers.forEach((layer, l) =>
      one.variants.forEach((variant, v) =>
        one.tokens.forEach((token, t) => {
          const [l2, cosine] = (["l2", "cosine"] as const).map((metric) => at(one, metric, 0, v, l, t));
          if (!isNaN(l2)) found.set([one.steps[0], position, layer, token.position, variant].join(" "), [l2, cosine]);
        }),
      ),
    );
  }
  return found;
}

const wanted = new Map(
  rows.map((row) => [
    [row.generation_step, row.query_position, row.layer, row.token_position, row.variant].join(" "),
    [row.l2_distance, row.cosine_distance].map(Math.fround),
  ]),
);

test.each(FILES)("every query position comes back: %s", async (name) => {
  const run = await runOf(fixture(name));
  expect(run.queries).toMatchObject({ positions: [0, 1, 2, 3, 4, 5, 6], steps: [0, 0, 0, 0, 0, 0, 1] });
  expect(cellsOf(run)).toEqual(wanted);
  expect(run.notes).toEqual([]);
});

test("without a choice, a run is what its predicting positions saw", async () => {
  const run = withManifest(await runOf(fixture("every_results.csv")), manifest);
  expect(run.steps).toEqual([0, 1]);
  expect(usualQuery(run)).toBeNull();
  for (const [step, position] of [
    [0, 5],
    [1, 6],
  ]) {
    const one = atQuery(run, position);
    expect(run.values.l2.subarray(step * one.values.l2.length, (step + 1) * one.values.l2.length)).toEqual(
      one.values.l2,
    );
  }
  expect(atQuery(run, null)).toBe(run);
  expect(atQuery(run, 3)).toBe(atQuery(run, 3));
  const listed = text.replaceAll(/\{[^}]*"query_position":[56]\}/g, "").replaceAll(/,+(?=[,\]])|(?<=\[),/g, "");
  expect(usualQuery(withManifest(await runOf(textFile(listed, "x.json")), manifest))).toBe(4);
});

test("a run of predicting positions alone has the queries of its steps, and no others", async () => {
  const whole = withManifest(await runOf(fixture("every_results.csv")), manifest);
  const plain: Run = { ...whole, queries: null };
  expect(atQuery(plain, 6)).toMatchObject({ steps: [1], values: { l2: atQuery(whole, 6).values.l2 } });
  expect(atQuery(plain, 3)).toMatchObject({ steps: [], values: { l2: new Float32Array(0) } });
});

test("a table with and one without the column are two runs; rows with and without it are an error", async () => {
  const all = await runOf(fixture("every_results.csv"));
  const one = add(emptyLibrary, { kind: "run", run: all });
  expect(add(one.library, { kind: "run", run: { ...all, queries: null } }).library.runs).toHaveLength(2);
  expect(add(one.library, { kind: "run", run: await runOf(fixture("every_results.json")) }).library.runs).toHaveLength(
    1,
  );
  const some = text.replace(/,"query_position":6\}\]/, "}]");
  expect(some).not.toBe(text);
  expect(await failure(textFile(some, "x.json"))).toMatch("only some of the records have query_position");
  expect(
    await failure(
      textFile(`${readFileSync(new URL("fixtures/every_results.csv", import.meta.url), "utf8").trimEnd()}x\n`),
    ),
  ).toMatch("query_position");
});

test("a report of it comes back, and a damaged one is refused", async () => {
  const run = await runOf(fixture("every_results.parquet"));
  const {
    positions,
    steps,
    values: { l2, cosine },
  } = run.queries!;
  const data = {
    format: 1,
    name: "every",
    rows: run.rows,
    steps,
    queries: positions,
    layers: run.layers,
    variants: run.variants,
    images: [],
    manifest: null,
    positions: run.tokens.map(({ position }) => position),
    tokens: run.tokens.map((token) => token.text),
    l2: base64(l2),
    cosine: base64(cosine),
  };
  expect(cellsOf(decodeRun(JSON.stringify(data)))).toEqual(wanted);
  for (const queries of [[...positions].reverse(), positions.slice(1), positions.map(() => 3)]) {
    expect(() => decodeRun(JSON.stringify({ ...data, queries }))).toThrow(/damaged|out of order/);
  }
});

test("in an encoder-decoder the decoder's start token predicts, and queries of the encoder do not", async () => {
  const about = cleanManifest({ prompt_length: 7, decoder_start: 7, tokens: [] })!;
  expect(about.prompt_length).toBe(8);
  expect(usualQuery({ ...(await runOf(fixture("every_results.csv"))), manifest: about })).toBe(6);
});

// --- the map ----------------------------------------------------------------------------------------------
test.each([
  ["l2", "Full", 0],
  ["cosine", "Attn", 3],
  ["l2", "Attn", null],
] as const)("the map has the numbers of the table: %s %s, layer %s", async (metric, variant, layer) => {
  const run = withManifest(await runOf(fixture("every_results.csv")), manifest);
  const found = reads({ run: atQuery(run, 3), state: { ...DEFAULTS, join: "max", metric, variant, layer } })!;
  const own = rows.filter((row) => row.variant === variant);
  const value = (row: Row) => Math.fround(row[`${metric}_distance`]);
  found.rows.forEach((query, q) =>
    found.tokens.forEach((token, t) => {
      const cell = own.filter(
        (row) =>
          row.query_position === query.position &&
          row.token_position === token.position &&
          (layer === null || row.layer === layer),
      );
      expect(found.values[q * found.tokens.length + t]).toBe(cell.length ? Math.max(...cell.map(value)) : NaN);
    }),
  );
  expect([...found.largest]).toEqual([Math.max(...own.filter((row) => row.token_position > 0).map(value))]);
  expect(found.rows.map((token) => token.text)).toEqual(manifest.tokens!.slice(0, 7).map((token) => token.text));
});

test("scales of the map: each row by itself, position 0 in or out", async () => {
  const run = await runOf(fixture("every_results.csv"));
  const most = (first: boolean) =>
    run.queries!.positions.map((query) =>
      Math.max(
        0,
        ...rows
          .filter(
            (row) =>
              row.query_position === query &&
              row.variant === "Full" &&
              row.layer === 3 &&
              (first || row.token_position > 0),
          )
          .map((row) => Math.fround(row.l2_distance)),
      ),
    );
  for (const first of [false, true]) {
    const found = reads({ run, state: { ...DEFAULTS, layer: 3, range: "row", first } })!;
    expect([...found.largest]).toEqual(most(first));
    expect(found.outside).toBe(first ? -1 : 0);
  }
  expect(reads({ run: { ...run, queries: null }, state: DEFAULTS })).toBeNull();
});

test("the position that reads is in the address", () => {
  expect(toFragment({ ...DEFAULTS, query: 3, large: true })).toBe("query=3&large=true");
  expect(fromFragment("query=3&large=true")).toEqual({ ...DEFAULTS, query: 3, large: true });
  expect(fromFragment("query=-1&large=3")).toEqual(DEFAULTS);
});

// --- units ------------------------------------------------------------------------------------------------
test("a unit is shown as what it is: all of its patches, its own name, no note", async () => {
  const patch = (position: number, col: number) => ({
    position,
    text: "<pad>",
    kind: "image",
    image: 0,
    row: 0,
    col,
    box: [col, 0, col + 1, 1],
  });
  const run = await runOf(
    textFile(
      "generation_step,layer,token_masked,token_position,variant,l2_distance,cosine_distance\n0,0,corner,1,Full,1,1\n0,0,Ann,4,Full,2,1\n",
    ),
  );
  const units = [
    { label: "corner", positions: [1, 3] },
    { label: "Ann", positions: [4] },
  ];
  const tokens = [
    { position: 0, text: "a", kind: "text" },
    patch(1, 0),
    patch(2, 1),
    patch(3, 2),
    { position: 4, text: " Ann", kind: "text" },
  ];
  const made = withManifest(run, { tokens, units, images: [{ size: [3, 1] }] });
  expect(made.notes).toEqual([]);
  const [corner, word] = made.tokens;
  expect([corner.kind, label(corner), named(corner)]).toEqual(["image", "corner", "corner, 2 tokens from position 1"]);
  expect([word.kind, label(word), named(word)]).toEqual(["text", "Ann", "Ann, at position 4"]);
  expect([1, 2, 3, 4].map((position) => tokenIndex(made, position))).toEqual([0, -1, 0, 1]);
  expect(settled({ ...DEFAULTS, token: 3 }, made).token).toBe(1);
  expect(figures(made)[0].patches.map(({ box, place }) => [box[0], place])).toEqual([
    [0, 0],
    [2, 0],
  ]);
});
