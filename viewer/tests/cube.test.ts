import { expect, test } from "vitest";
import { makeCube } from "../src/data/cube.ts";
import { CsvParser } from "../src/data/csv.ts";
import { Table } from "../src/data/table.ts";
import { at, row, type Run } from "../src/data/types.ts";
import { bytesOf, fixture, fixtureRows, HEADER, runOf } from "./helpers.ts";

function cube(lines: string[], maxCells?: number) {
  const table = new Table();
  const parser = new CsvParser(table);
  parser.feed(bytesOf(`${HEADER}\n${lines.join("\n")}\n`));
  parser.end();
  return makeCube(table, maxCells);
}

test("every value is where index() says", async () => {
  const run = await runOf(fixture("grid_results.csv"));
  expect([run.steps, run.layers, run.variants]).toEqual([
    [0, 1],
    [0, 2, 10],
    ["Full", "Attn", "Head_0", "Head_1"],
  ]);
  for (const [step, layer, , position, variant, l2, cosine] of fixtureRows("grid")) {
    const place = [
      run.steps.indexOf(step),
      run.variants.indexOf(variant),
      run.layers.indexOf(layer),
      run.tokens.findIndex((token) => token.position === position),
    ] as const;
    expect(at(run, "l2", ...place)).toBe(l2);
    expect(row(run, "cosine", place[0], place[1], place[2])[place[3]]).toBe(cosine);
  }
  expect(at(run, "l2", 0, 0, 0, 5)).toBeNaN(); // the last token is not there at step 0
  expect(run.values.l2.length).toBe(2 * 4 * 3 * 6);
});

test("variants in their natural order, whatever the order of rows", () => {
  const names = ["Head_10", "zeta", "Head_2", "Attn", "alpha", "Head_0", "Full"];
  expect(cube(names.map((name) => `0,0,a,0,${name},1,1`)).variants).toEqual([
    "Full",
    "Attn",
    "Head_0",
    "Head_2",
    "Head_10",
    "alpha",
    "zeta",
  ]);
});

test("cross-attention has tokens of its own: no gap, unless one of them is missing", () => {
  const lines = [0, 1].flatMap((layer) => [
    ...["CrossHead_10", "CrossHead_9", "CrossFull"].flatMap((variant) =>
      [0, 1].map((token) => `0,${layer},a,${token},${variant},1,1`),
    ),
    `0,${layer},a,2,Full,1,1`,
  ]);
  expect(cube(lines)).toMatchObject({ variants: ["Full", "CrossFull", "CrossHead_9", "CrossHead_10"], notes: [] });
  expect(cube(lines.slice(1)).notes).toEqual([
    "A layer is incomplete (step 0, layer 0 has 6 of 7 values): the file may have been cut off, or rows were removed.",
  ]);
});

test("duplicates are counted; the last one counts", () => {
  const { values, duplicates, notes } = cube(["0,0,a,0,Full,1,1", "0,0,a,0,Full,2,2", "0,0,a,0,Full,3,3"]);
  expect([values.l2[0], duplicates]).toEqual([3, 2]);
  expect(notes[0]).toContain("2 rows give a second value");
});

test("two texts at one position are said", () => {
  const { tokens, notes } = cube(["0,0,a,7,Full,1,1", "1,0,b,7,Full,1,1"]);
  expect(tokens[0].text).toBe("a");
  expect(notes[0]).toBe(
    'Position 7 has more than one text ("a" and "b" at 7): rows of two runs may be mixed. The first is shown.',
  );
});

test("large numbers need no large arrays", () => {
  const { steps, layers, tokens } = cube(["2147483647,5000000,a,2000000000,Full,1,1"]);
  expect([steps, layers, tokens[0].position]).toEqual([[2147483647], [5000000], 2000000000]);
});

test("too many cells are refused before they are made", () => {
  const lines = Array.from({ length: 60 }, (_, i) => `${i},${i},a,${i},Full,1,1`);
  expect(() => cube(lines, 100_000)).toThrow(
    "60 steps x 1 variant x 60 layers x 60 tokens = 216,000 cells are more than a browser can hold (100,000)",
  );
});

test("an incomplete layer is said, later tokens and fewer heads are not", () => {
  const full = (step: number, layer: number, tokens: number, heads: number) =>
    Array.from(
      { length: tokens * heads },
      (_, i) => `${step},${layer},a,${i % tokens},Head_${Math.floor(i / tokens)},1,1`,
    );
  const regular = [...full(0, 0, 3, 2), ...full(0, 1, 3, 4), ...full(1, 0, 4, 2), ...full(1, 1, 4, 4)];
  expect(cube(regular).notes).toEqual([]);
  expect(cube(regular.slice(0, -2)).notes[0]).toContain("A layer is incomplete (step 1, layer 1 has 14 of 16 values)");
});

test("every number in the table is a whole file that was cut between two rows, or complete", async () => {
  const text = await fixture("grid_results.csv").text();
  const lines = text.trimEnd().split("\n").slice(1);
  const rowsOfLayer = [20, 20, 20, 24, 24, 24].reduce<number[]>((sums, n) => [...sums, (sums.at(-1) ?? 0) + n], []);
  for (let end = 1; end < lines.length; end++) {
    const { notes } = cube(lines.slice(0, end));
    // Cut after the first step's whole layers, or in its only layer after a whole token, nothing can be noticed here.
    const unnoticed = rowsOfLayer.slice(0, 3).includes(end) || (end < 20 && (end < 5 || end % 4 === 0));
    if (!unnoticed) expect(notes.length, `cut after row ${end}`).toBe(1);
  }
});

export type { Run };
