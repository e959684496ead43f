import { gzipSync } from "node:zlib";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { MAX_UNIT } from "../src/data/pending.ts";
import {
  bytesOf,
  failure,
  fixture,
  fixtureRows,
  HEADER,
  parsed,
  random,
  randomCuts,
  rowsOf,
  runOf,
  textFile,
  type Row,
} from "./helpers.ts";

const COLUMNS = HEADER.split(",");
const ROWS: Row[] = [
  [0, 0, 'a "b"\n😀\\', 0, "Full", 1.5, null],
  [0, 0, "</script>", 1, "Full", 0.25, 1e-20],
  [0, 2, 'a "b"\n😀\\', 0, "Full", 0, 2],
  [0, 2, "</script>", 1, "Full", 3e-5, 7],
].map(([...row]) => row.map((value) => (typeof value === "number" ? Math.fround(value) : value)) as Row);

const columns = (rows: Row[] = ROWS) => Object.fromEntries(COLUMNS.map((key, i) => [key, rows.map((row) => row[i])]));
const records = (rows: Row[] = ROWS) => rows.map((row) => Object.fromEntries(COLUMNS.map((key, i) => [key, row[i]])));
const json = (value: unknown, indent = 0) => JSON.stringify(value, null, indent);
const message = (text: string) => failure(textFile(text, "x.json"));
const more = { note: ["[", "]", { "}": 1 }], seed: 3, flag: true, none: null, text: 'a "quoted\\" }' };

const FORMS: [string, string][] = [
  ["columns", json(columns())],
  ["columns, pretty-printed", json(columns(), 2)],
  [
    "columns in another order, others between",
    json({ ...more, ...Object.fromEntries(Object.entries(columns()).reverse()), index: [1, 2] }, 1),
  ],
  [
    "columns with an index",
    json(Object.fromEntries(Object.entries(columns()).map(([key, list]) => [key, { ...list }]))),
  ],
  ["records", json(records())],
  [
    "records, pretty-printed, other keys",
    json(
      records().map((record, i) => (i % 2 ? { ...more, ...record } : { ...record, ...more })),
      3,
    ),
  ],
  [
    "JSON lines",
    records()
      .map((record) => json(record))
      .join("\n"),
  ],
  [
    "JSON lines, a list first",
    records()
      .map((record) => json({ ...more, ...record }))
      .join("\r\n") + "\n\n",
  ],
  ["byte order mark", `\ufeff  ${json(columns())}\n`],
];

test.each(FORMS)("%s: cut in two at every place, and into single bytes", (_, text) => {
  const bytes = bytesOf(text);
  for (let cut = 0; cut <= bytes.length; cut++)
    expect(parsed(bytes, [cut]), `cut at ${cut}`).toEqual({ rows: ROWS, notes: [] });
  expect(parsed(bytes, [...bytes.keys()]).rows).toEqual(ROWS);
});

test.each(FORMS)("%s: cut off anywhere is an error, never fewer or other numbers", async (form, text) => {
  const bytes = bytesOf(text.trimEnd());
  for (let end = 0; end < bytes.length; end++) {
    let rows: Row[] | null = null;
    try {
      rows = parsed(bytes.slice(0, end)).rows;
    } catch (error) {
      expect((error as Error).name, `${end}: ${(error as Error).stack}`).toMatch(/LoadError|NotResults/);
    }
    // JSON lines are whole after each line: then the table is shorter, which no parser can tell.
    if (rows)
      expect(form.startsWith("JSON lines") && rows.length < ROWS.length && ROWS.slice(0, rows.length)).toEqual(rows);
  }
});

test.each(["grid", "hostile"] as const)("the Python side's file: %s", async (name) => {
  const run = await runOf(fixture(`${name}_results.json`));
  expect(rowsOf(run)).toEqual(fixtureRows(name));
  expect(run).toMatchObject({ name, notes: [], duplicates: 0 });
});

test.each(["records.json", "lines.jsonl", "index.json"])("as pandas writes it: %s", async (name) => {
  const close = rowsOf(await runOf(fixture(name)));
  const exact = fixtureRows("grid");
  // pandas writes at most 15 decimals, so the smallest distances are rounded in the file.
  expect(close.map((row) => row.slice(0, 5))).toEqual(exact.map((row) => row.slice(0, 5)));
  for (const c of [5, 6])
    close.forEach((row, i) =>
      expect(Math.abs(Number(row[c]) - Number(exact[i][c])) / (Number(exact[i][c]) + 1e-8)).toBeLessThan(1e-6),
    );
});

test("random pieces of the hostile file, packed as well", async () => {
  const bytes = new Uint8Array(await fixture("hostile_results.json").arrayBuffer());
  const next = random(5);
  for (let i = 0; i < 100; i++)
    expect(parsed(bytes, randomCuts(next, bytes.length, 1 + Math.floor(next() * 40))).rows).toEqual(
      fixtureRows("hostile"),
    );
  const run = await runOf(new File([gzipSync(bytes)], "hostile_results.json.gz"));
  expect(rowsOf(run)).toEqual(fixtureRows("hostile"));
  expect(run.name).toBe("hostile");
});

test("escapes: halves of emojis stay halves, two spellings are one token", () => {
  const spellings = ['"\\ud83d\\u0041\\/"', '"\\uD83DA/"'];
  const text = json(columns()).replace(/"<\/script>"/g, () => spellings.shift()!);
  const { rows, notes } = parsed(bytesOf(text));
  expect(rows.map((row) => row[2])).toEqual([ROWS[0][2], "\ud83dA/", ROWS[2][2], "\ud83dA/"]);
  expect(notes).toEqual([]);
});

test("null and NaN are missing values", () => {
  const { rows, notes } = parsed(bytesOf(json(columns()).replace("[1.5,0.25", "[NaN,null")));
  expect(rows.map((row) => row[5])).toEqual([null, 0, Math.fround(3e-5)]);
  expect(notes).toEqual([]);
});

test("a token of null has no text, and that is said", () => {
  const { rows, notes } = parsed(bytesOf(json(columns()).replaceAll('"</script>"', "null")));
  expect(rows[1][2]).toBe("");
  expect(notes[0]).toContain("Some tokens have no text");
});

test.each<[string, string, string]>([
  ["empty", "", "the file is empty"],
  ["an empty object", "{}", "not a result table"],
  ["an empty list", "[]", "the list of records is empty"],
  ["empty columns", json(columns([])), "no rows"],
  [
    "another object",
    '{"a": [1, 2], "b": {"c": 3}}',
    "columns generation_step, layer, token_masked, token_position, variant are missing; found a, b",
  ],
  ["another list", "[1, 2]", "record 1: this is no record {...}"],
  [
    "a missing column",
    json({ ...columns(), layer: undefined }),
    "the column layer is missing; found generation_step, token_masked",
  ],
  [
    "no distance in records",
    json(records().map((record) => ({ ...record, l2_distance: undefined, cosine_distance: undefined }))),
    "it has no column of distances, such as l2_distance; found generation_step, layer",
  ],
  [
    "no distance in columns",
    json({ ...columns(), l2_distance: undefined, cosine_distance: undefined }),
    "it has no column of distances, such as l2_distance; found generation_step, layer",
  ],
  [
    "a distance that the first record does not have",
    json([{ ...records()[0], l2_distance: undefined }, records()[1]]),
    "record 2: only some of the records have l2_distance",
  ],
  [
    "a later record without it",
    json([records()[0], { ...records()[1], layer: undefined }]),
    "record 2: this record has no layer",
  ],
  [
    "pandas orient=split",
    readFileSync(new URL("fixtures/split.json", import.meta.url), "utf8"),
    "found columns, index, data",
  ],
  [
    "columns of different lengths",
    json({ ...columns(), layer: [0] }),
    "different lengths, so the file is damaged: generation_step 4, layer 1",
  ],
  ["a column twice", json(columns()).replace("{", '{"layer":[1],'), "the column layer is there twice"],
  ["a key twice in a record", json(records()).replace("{", '{"layer":1,'), "record 1: layer is there twice"],
  [
    "a number as text",
    json(columns()).replace("1.5", '"1.5"'),
    'l2_distance, value 1: l2_distance is "\\"1.5\\"", which is not a number',
  ],
  [
    "a layer that is none",
    json(records()).replace('"layer":2', '"layer":2.5'),
    'record 3: layer is "2.5", which is not a whole number',
  ],
  ["a list in a column", json(columns()).replace("[1.5", "[[1.5]"), "not a number"],
  ["no comma", json(columns()).replace("1.5,", "1.5 "), "l2_distance, value 2: a comma is missing"],
  ["a comma too many", json(columns()).replace("1.5,", "1.5,,"), "l2_distance, value 2: a value is missing"],
  ["a comma at the end", json(columns()).replace("[1.5", "[,1.5"), "a value is missing"],
  ["no colon", json(columns()).replace('"layer":', '"layer" '), "a colon is missing"],
  ["two files in one", json(columns()) + json(columns()), "more text after the end"],
  ["text after records", `${json(records())}x`, "more text after the end"],
  ["a bad escape", json(columns()).replace("</script>", "\\x41"), "is no valid JSON text"],
  ["a raw line break in a text", json(columns()).replace("</script>", "a\nb"), "is no valid JSON text"],
  ["a variant that is none", json(columns()).replace('"Full"', "null"), 'variant is "null", which is not a text'],
])("%s is an error", async (_, text, expected) => {
  expect(await message(text)).toContain(expected);
});

test("a lost quotation mark does not read a large file into one text", () => {
  const piece = MAX_UNIT / 4;
  const bytes = new Uint8Array(piece * 6).fill(97);
  bytes.set(bytesOf('{"token_masked":["a","'));
  expect(() =>
    parsed(
      bytes,
      [1, 2, 3, 4, 5].map((i) => i * piece),
    ),
  ).toThrow("token_masked, value 2 is longer than 16 MB");
});

test("an unneeded column larger than any unit is skipped in pieces", () => {
  const piece = MAX_UNIT / 2;
  const filler = new Uint8Array(piece * 3).fill(49);
  for (let i = 0; i < filler.length; i += 10) filler[i] = 44;
  const start = bytesOf('{"index":[0'),
    end = bytesOf(`],${json(columns()).slice(1)}`);
  const bytes = new Uint8Array(start.length + filler.length + end.length);
  bytes.set(start);
  bytes.set(filler, start.length);
  bytes.set(end, start.length + filler.length);
  expect(parsed(bytes, [piece, piece * 2, piece * 3]).rows).toEqual(ROWS);
});
