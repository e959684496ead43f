/**
 * Random damage to text files, against slow parsers written in another way: whatever the bytes are, the fast parser
 * gives the same cells as the slow one, or refuses. It may refuse more (a number with leading zeros), never show other
 * numbers. Damage that leaves a valid file (a 3 that became a 4) cannot be noticed by any parser.
 */

import { expect, test } from "vitest";
import { metricOf } from "../src/data/metrics.ts";
import { index } from "../src/data/types.ts";
import { bytesOf, cubeOf, fixture, HEADER, KEYS, random, randomCuts } from "./helpers.ts";

const ROUNDS = 3000;

/** Deletes, repeats, swaps, overwrites or inserts at a random place; often with bytes that mean something. */
function damage(bytes: Uint8Array, next: () => number): Uint8Array {
  const place = Math.floor(next() * bytes.length),
    length = 1 + Math.floor(next() * (next() < 0.5 ? 3 : 200));
  const telling = bytesOf('",\n\r{}[]:\\ 0-.eEnN;\t');
  const byte = next() < 0.7 ? telling[Math.floor(next() * telling.length)] : Math.floor(next() * 256);
  const [before, piece, after] = [
    bytes.subarray(0, place),
    bytes.subarray(place, place + length),
    bytes.subarray(place + length),
  ];
  switch (Math.floor(next() * 6)) {
    case 0:
      return before.slice();
    case 1:
      return joined(before, after);
    case 2:
      return joined(before, piece, piece, after);
    case 3:
      return joined(before, after, piece);
    case 4:
      return joined(before, Uint8Array.of(byte), bytes.subarray(place));
    default:
      return joined(before, Uint8Array.of(byte), bytes.subarray(place + 1));
  }
}

const joined = (...parts: Uint8Array[]) => Uint8Array.from(parts.flatMap((part) => [...part]));

/** A row by the names of its columns. Of a metric: a number, NaN where it is missing, undefined for anything else. */
type Row = { [column: string]: unknown };
const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
const NONE = ["", "null", "nan", "NaN", "NA", "N/A", "None", "<NA>", "-nan"];
const NEEDED = KEYS.split(",");
const isText = (column: string) => column === "token_masked" || column === "variant";
/** An index, not a metric. */
const UNNAMED = ["", "index"];

/** Character by character over the whole text. Null: damaged. */
function slowCsv(text: string): Row[] | null {
  const table: string[][] = [[]];
  for (let i = 0; i < text.length;) {
    let field = "";
    if (text[i] === '"') {
      for (i++; ; i++) {
        if (i >= text.length) return null;
        if (text[i] === '"' && text[++i] !== '"') break;
        field += text[i];
      }
      if (text[i] === "\r") i++;
      if (i < text.length && text[i] !== "," && text[i] !== "\n") return null;
    } else {
      while (i < text.length && text[i] !== "," && text[i] !== "\n") field += text[i++];
      if (text[i] === "\n") field = field.replace(/\r$/, "");
    }
    table.at(-1)!.push(field);
    if (text[i++] === "\n") table.push([]);
  }
  const [header, ...rows] = table.filter((row) => row.length > 1 || (row[0] ?? "") !== "");
  const names = header?.map((name) => name.trim()) ?? [];
  if (NEEDED.some((key) => !names.includes(key)) || rows.some((row) => row.length !== header.length)) return null;
  const value = (name: string, field: string) =>
    isText(name) ? field : slowNumber(field.replace(/^[ \t]+|[ \t]+$/g, ""));
  // Of two columns with one name, the first: the list of pairs is read backwards.
  return rows.map((row) => Object.fromEntries(names.map((name, c) => [name, value(name, row[c])] as const).reverse()));
}

function slowNumber(text: string): number | undefined {
  if (NUMBER.test(text)) return Math.fround(Number(text));
  return NONE.includes(text) ? NaN : undefined;
}

function slowJson(text: string): Row[] | null {
  try {
    const found = JSON.parse(text) as unknown;
    const rows = (Array.isArray(found) ? found : transposed(found as { [key: string]: unknown[] })) as Row[];
    const value = (name: string, each: unknown) => {
      if (isText(name)) return each ?? "";
      return each === null ? NaN : typeof each === "number" ? Math.fround(each) : undefined;
    };
    const names = Object.keys(rows[0]);
    return rows.map((row) =>
      Object.fromEntries(names.map((name) => [name, value(name, row[name] === undefined ? null : row[name])])),
    );
  } catch {
    return null;
  }
}

/** Columns of another length do not belong to the table. */
function transposed(columns: { [key: string]: unknown[] }): Row[] {
  const names = Object.keys(columns).filter((name) => columns[name].length === columns.layer.length);
  return columns.layer.map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
}

type Cells = Map<string, { [metric: string]: number }>;

/** The numbers of a cell; cells without any are left out, and numbers that are missing. */
function kept(cells: Iterable<[string, [string, number][]]>): Cells {
  const last = new Map(cells); // of several, the last one counts
  const there = [...last].map(
    ([key, values]) => [key, Object.fromEntries(values.filter(([, value]) => Number.isFinite(value)))] as const,
  );
  return new Map(there.filter(([, values]) => Object.keys(values).length));
}

/** The cells of the slow parser's rows, the last of several winning, without order. */
function cellsOf(rows: Row[]): Cells {
  const isMetric = (name: string) =>
    ![...NEEDED, ...UNNAMED].includes(name) &&
    (/_distance$/.test(name) || rows.every((row) => row[name] !== undefined));
  const metrics = Object.keys(rows[0] ?? {}).filter(isMetric);
  const keyOf = (row: Row) => JSON.stringify(NEEDED.filter((key) => key !== "token_masked").map((key) => row[key]));
  return kept(rows.map((row) => [keyOf(row), metrics.map((name) => [metricOf(name).name, row[name] as number])]));
}

/** Those of the fast parser. */
function cellsFound({ cube }: ReturnType<typeof cubeOf>): Cells {
  const found: [string, [string, number][]][] = [];
  cube.steps.forEach((step, s) =>
    cube.layers.forEach((layer, l) =>
      cube.tokens.forEach(({ position }, t) =>
        cube.variants.forEach((variant, v) => {
          const at = index(cube, s, v, l, t);
          const values = cube.metrics.map(({ name }): [string, number] => [name, cube.values[name][at]]);
          found.push([JSON.stringify([step, layer, position, variant]), values]);
        }),
      ),
    ),
  );
  return kept(found);
}

function check(bytes: Uint8Array, slow: (text: string) => Row[] | null, next: () => number): "same" | "refused" {
  let result: ReturnType<typeof cubeOf>;
  try {
    result = cubeOf(bytes, randomCuts(next, bytes.length, 3));
  } catch (error) {
    if (!/^(LoadError|NotResults)$/.test((error as Error).name)) throw error;
    return "refused";
  }
  const text = new TextDecoder().decode(bytes);
  let expected = slow(/\n$/.test(text) ? text : `${text}\n`);
  if (result.notes.some((note) => note.includes("this row was left out"))) expected = expected?.slice(0, -1) ?? null;
  const found = cellsFound(result);
  if (!expected) expect.fail(`the slow parser refuses what gave ${found.size} cells: ${JSON.stringify(text)}`);
  expect(found, JSON.stringify(text)).toEqual(cellsOf(expected));
  return "same";
}

const SMALL = [
  `${HEADER}\n`,
  '0,0,"a, ""b""\n",0,Full,1.5,0.25\n',
  "0,0,x,1,Head_0,3e-7,12.125\n",
  '0,1,"",0,Full,0.001,2\r\n',
  '1,1,"\\",1,Full,1234567.75,1e-30\n',
].join("");

/** With metrics of somebody's own, and a text beside them. */
const OTHERS = [
  "toy_distance,generation_step,layer,token_masked,token_position,variant,share,note\n",
  "1.5,0,0,a,0,Full,0.25,x\n",
  "2,0,0,b,1,Full,,y\n",
  "nan,0,1,b,1,Full,7e3,\n",
].join("");

test.each([
  ["csv", SMALL],
  ["json", SMALL],
  ["records.json", SMALL],
  ["csv", OTHERS],
  ["json", OTHERS],
  ["records.json", OTHERS],
])("damaged %s", async (form, csv) => {
  const table = slowCsv(csv)!;
  const names = Object.keys(table[0]).filter((name) => name !== "note"); // what is no column of ours is not checked in JSON
  const columns = Object.fromEntries(names.map((name) => [name, table.map((row) => row[name])]));
  const small = bytesOf(
    form === "csv" ? csv : form === "json" ? JSON.stringify(columns) : JSON.stringify(table, names, 1),
  );
  const large = form === "records.json" ? small : new Uint8Array(await fixture(`grid_results.${form}`).arrayBuffer());
  const slow = form === "csv" ? slowCsv : slowJson;
  const next = random(form.length + csv.length);
  const times = { same: 0, refused: 0 };
  expect(check(small, slow, next)).toBe("same");
  for (let i = 0; i < ROUNDS; i++) {
    let bytes = damage(i % 10 ? small : large, next);
    if (next() < 0.3) bytes = damage(bytes, next);
    times[check(bytes, slow, next)]++;
  }
  expect(times.same).toBeGreaterThan(ROUNDS / 50);
  expect(times.refused).toBeGreaterThan(ROUNDS / 4);
});

test("bytes without any meaning", () => {
  const next = random(9);
  for (let i = 0; i < 2000; i++) {
    const bytes = Uint8Array.from({ length: 1 + Math.floor(next() * 300) }, () =>
      next() < 0.5 ? bytesOf('{}[]",:\n\\')[Math.floor(next() * 9)] : next() * 256,
    );
    expect(() => cubeOf(bytes, randomCuts(next, bytes.length, 3))).toThrow(/./);
  }
});
