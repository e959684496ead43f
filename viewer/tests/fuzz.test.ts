/**
 * Random damage to text files, against slow parsers written in another way: whatever the bytes are, the fast parser
 * gives the same cells as the slow one, or refuses. It may refuse more (a number with leading zeros), never show other
 * numbers. Damage that leaves a valid file (a 3 that became a 4) cannot be noticed by any parser.
 */

import { expect, test } from "vitest";
import { COLUMNS } from "../src/data/table.ts";
import { bytesOf, fixture, HEADER, parsed, random, randomCuts, type Row } from "./helpers.ts";

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

type Record = [number, number, string, number, string, number, number];
const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

/** Character by character over the whole text. Null: damaged. */
function slowCsv(text: string): Record[] | null {
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
  const places = COLUMNS.map((column) => header?.map((name) => name.trim()).indexOf(column) ?? -1);
  if (places.includes(-1) || rows.some((row) => row.length !== header.length)) return null;
  return rows.map(
    (row) =>
      places.map((place, c) =>
        c === 2 || c === 4 ? row[place] : slowNumber(row[place].replace(/^[ \t]+|[ \t]+$/g, "")),
      ) as Record,
  );
}

function slowNumber(text: string): number {
  return NUMBER.test(text) ? Math.fround(Number(text)) : NaN;
}

function slowJson(text: string): Record[] | null {
  try {
    const value = JSON.parse(text) as unknown;
    const rows = Array.isArray(value) ? value : transposed(value as { [key: string]: unknown[] });
    return rows.map(
      (row: { [key: string]: unknown }) =>
        COLUMNS.map((column) =>
          row[column] === null
            ? column === "token_masked"
              ? ""
              : NaN
            : typeof row[column] === "number"
              ? Math.fround(row[column])
              : row[column],
        ) as Record,
    );
  } catch {
    return null;
  }
}

const transposed = (columns: { [key: string]: unknown[] }) =>
  columns.layer.map((_, i) => Object.fromEntries(COLUMNS.map((column) => [column, columns[column][i]])));

/** The cells of the slow parser's rows, the last of several winning, without order. */
function cells(rows: Record[]): Map<string, [number | null, number | null]> {
  const none = (value: number) => (Number.isFinite(value) ? value : null);
  const map = new Map(
    rows.map(([step, layer, , position, variant, l2, cosine]) => [
      JSON.stringify([step, layer, position, variant]),
      [none(l2), none(cosine)] as [number | null, number | null],
    ]),
  );
  return new Map([...map].filter(([, values]) => values.some((value) => value !== null)));
}

function check(bytes: Uint8Array, slow: (text: string) => Record[] | null, next: () => number): "same" | "refused" {
  let result: { rows: Row[]; notes: string[] };
  try {
    result = parsed(bytes, randomCuts(next, bytes.length, 3));
  } catch (error) {
    if (!/^(LoadError|NotResults)$/.test((error as Error).name)) throw error;
    return "refused";
  }
  const text = new TextDecoder().decode(bytes);
  let expected = slow(/\n$/.test(text) ? text : `${text}\n`);
  if (result.notes.some((note) => note.includes("this row was left out"))) expected = expected?.slice(0, -1) ?? null;
  const found = cells(result.rows as Record[]);
  if (!expected) expect.fail(`the slow parser refuses what gave ${found.size} cells: ${JSON.stringify(text)}`);
  expect(found, JSON.stringify(text)).toEqual(cells(expected));
  return "same";
}

const SMALL = [
  `${HEADER}\n`,
  '0,0,"a, ""b""\n",0,Full,1.5,0.25\n',
  "0,0,x,1,Head_0,3e-7,12.125\n",
  '0,1,"",0,Full,0.001,2\r\n',
  '1,1,"\\",1,Full,1234567.75,1e-30\n',
].join("");

test.each(["csv", "json", "records.json"])("damaged %s", async (form) => {
  const table = slowCsv(SMALL)!;
  const columns = Object.fromEntries(COLUMNS.map((column, c) => [column, table.map((row) => row[c])]));
  const records = table.map((row) => Object.fromEntries(COLUMNS.map((column, c) => [column, row[c]])));
  const small = bytesOf(
    form === "csv" ? SMALL : form === "json" ? JSON.stringify(columns) : JSON.stringify(records, null, 1),
  );
  const large = form === "records.json" ? small : new Uint8Array(await fixture(`grid_results.${form}`).arrayBuffer());
  const slow = form === "csv" ? slowCsv : slowJson;
  const next = random(form.length);
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
    expect(() => parsed(bytes, randomCuts(next, bytes.length, 3))).toThrow(/./);
  }
});
