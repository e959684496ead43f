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
} from "./helpers.ts";

const ROW = '0,0,"a",0,Full,0.5,0.25\n';
const csv = (...rows: string[]) => `${HEADER}\n${rows.join("\n")}\n`;
const read = (text: string) => parsed(bytesOf(text)).rows;

test.each(["grid", "hostile"] as const)("the Python side's file: %s", async (name) => {
  const run = await runOf(fixture(`${name}_results.csv`));
  expect(rowsOf(run)).toEqual(fixtureRows(name));
  expect(run).toMatchObject({ name, rows: fixtureRows(name).length, duplicates: 0, notes: [], manifest: null });
  expect(run.source).toMatchObject({ fileName: `${name}_results.csv`, format: "csv" });
});

test("reordered and extra columns, CRLF, byte order mark", async () => {
  expect(rowsOf(await runOf(fixture("reordered.csv")))).toEqual(fixtureRows("grid"));
});

test("semicolons and tabs", async () => {
  expect(rowsOf(await runOf(fixture("semicolon.csv")))).toEqual(fixtureRows("grid"));
  expect(read(csv('0,0,"a",0,Full,0.5,0.25').replaceAll(",", "\t"))).toEqual([[0, 0, "a", 0, "Full", 0.5, 0.25]]);
});

test("cut in two at every place, and into single bytes", () => {
  const text = `\ufeff${HEADER}\r\n0,0,"a, ""b""\r\n😀",0,Full,1.5,\r\n\r\n0,1,"",0,Head_12,-1e-3,NaN\n0,2,null,0,Full,12345.678,"0.5"\n`;
  const bytes = bytesOf(text);
  const whole = parsed(bytes);
  expect(whole.rows).toEqual([
    [0, 0, 'a, "b"\r\n😀', 0, "Full", 1.5, null],
    [0, 1, 'a, "b"\r\n😀', 0, "Head_12", Math.fround(-1e-3), null],
    [0, 2, 'a, "b"\r\n😀', 0, "Full", Math.fround(12345.678), 0.5],
  ]);
  for (let cut = 0; cut <= bytes.length; cut++) expect(parsed(bytes, [cut])).toEqual(whole);
  expect(parsed(bytes, [...bytes.keys()])).toEqual(whole);
});

test("random pieces of the hostile file", async () => {
  const bytes = new Uint8Array(await fixture("hostile_results.csv").arrayBuffer());
  const next = random(3);
  for (let i = 0; i < 100; i++)
    expect(parsed(bytes, randomCuts(next, bytes.length, 1 + Math.floor(next() * 40))).rows).toEqual(
      fixtureRows("hostile"),
    );
});

test("tokens stay text", () => {
  const tokens = ["null", "NaN", "007", "", " x ", "a'b", "1e5"];
  const rows = read(csv(...tokens.map((token, i) => `0,0,${token},${i},Full,1,2`)));
  expect(rows.map((row) => row[2])).toEqual(tokens);
});

test("doubled quotes mean one only inside of quotes", () => {
  expect(read(csv('0,0,a"",0,Full,1,1', '0,0,"a""",1,Full,1,1')).map((row) => row[2])).toEqual(['a""', 'a"']);
});

test("numbers may be in quotation marks or between spaces", () => {
  expect(read(csv('"0", 0 ,a,"0",Full, 0.5,"0.25" '.trimEnd()))).toEqual([[0, 0, "a", 0, "Full", 0.5, 0.25]]);
});

test("a missing column is named, with those that are there", async () => {
  const message = await failure(textFile("layer,token_masked,token_position,variant,l2_distance,x\n1,2,3,4,5,6\n"));
  expect(message).toBe(
    "x_results.csv: not a result table: the column generation_step is missing; found layer, token_masked, token_position, variant, l2_distance, x",
  );
  expect(await failure(textFile("hello world\n"))).toContain("found hello world");
  expect(await failure(textFile(csv(ROW).replace("layer", "layer,layer")))).toContain(
    "the column layer is there twice",
  );
});

test.each([
  ["an empty file", "", "the file is empty"],
  ["white space", " \n\n", "the file is empty"],
  ["a header alone", `${HEADER}\n`, "the table has a header and no rows"],
  ["cut in a row", `${HEADER}\n${ROW}0,0,"b"`, "line 3: the file is cut off in this row, which has 3 of 7 fields"],
  ["cut in the first field", `${HEADER}\n${ROW}0`, "line 3: the file is cut off in this row"],
  [
    "an end that was never written",
    `${HEADER}\n${ROW}0,0,"b",1,Full,0.5,\0\0\0\0`,
    "line 3: the file is damaged: its last row has null characters",
  ],
  ["cut in quotation marks", `${HEADER}\n${ROW}0,0,"b\n\n`, "line 3: the file is cut off inside of quotation marks"],
  [
    "too few fields",
    `${HEADER}\n${ROW}0,0,"b",0,Full,1\n${ROW}`,
    "line 3: this row has 6 fields, and the header has 7",
  ],
  ["too many fields", `${HEADER}\n0,0,"b",0,Full,1,2,3\n`, "line 2: this row has 8 fields"],
  [
    "no number",
    `${HEADER}\n${ROW}0,0,"b\n",1,Full,1,0.5x\n`,
    'line 3: cosine_distance is "0.5x", which is not a number',
  ],
  ["no layer", `${HEADER}\n0,,"b",1,Full,1,1\n`, 'line 2: layer is "", which is not a whole number'],
  ["half a position", `${HEADER}\n0,1,"b",1.5,Full,1,1\n`, 'token_position is "1.5", which is not a whole number'],
  ["text after quotes", `${HEADER}\n0,1,"b"c,1,Full,1,1\n`, "line 2: there is text after a closing quotation mark"],
  ["rows of another table", `${HEADER}\n${ROW}name,age\nx,3\n`, "line 3: this row has 2 fields"],
])("%s is an error", async (_, text, message) => {
  expect(await failure(textFile(text))).toContain(message);
});

test("lines are counted with the line breaks inside of tokens", async () => {
  expect(await failure(textFile(csv('0,0,"a\n\nb",0,Full,1,1', "0,0,x,0,Full,y,1")))).toContain("line 5: l2_distance");
});

test("a last row without a line break may be cut off: it is left out and said", () => {
  const { rows, notes } = parsed(bytesOf(`${HEADER}\n${ROW}0,0,"b",1,Full,0.5,0.2`));
  expect(rows).toHaveLength(1);
  expect(notes[0]).toContain("its last value, the cosine_distance, may be cut off: this row was left out");
  const extra = parsed(bytesOf(`${HEADER},note\n0,0,"b",1,Full,0.5,0.2,note`));
  expect(extra).toMatchObject({ rows: [[0, 0, "b", 1, "Full", 0.5, Math.fround(0.2)]], notes: [] });
});

test("a lost quotation mark does not read a large file into one token", () => {
  const piece = MAX_UNIT / 4;
  const bytes = new Uint8Array(piece * 6).fill(97);
  bytes.set(bytesOf(`${HEADER}\n0,0,"`));
  const cuts = [1, 2, 3, 4, 5].map((i) => i * piece);
  expect(() => parsed(bytes, cuts)).toThrow("line 2 is longer than 16 MB: a quotation mark seems to be missing");
});
