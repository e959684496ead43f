/** What leaves the page has a name, a title and, as CSV, exactly the texts of the table. */

import { describe, expect, test } from "vitest";
import { csvOf, fileName, tidy, titleOf } from "../src/core/export.ts";
import type { Scene } from "../src/core/scene.ts";
import { DEFAULTS } from "../src/core/state.ts";
import { CsvParser } from "../src/data/csv.ts";
import { plainToken } from "../src/data/cube.ts";
import { Table } from "../src/data/table.ts";
import { bytesOf, HEADER, METRICS } from "./helpers.ts";

describe("file names", () => {
  test.each([
    ["cat", "heat map", "cat_heat-map"],
    ["../../etc/passwd", "picture", "etc-passwd_picture"],
    ['a<b>:"c|?*', "x", "a-b-c_x"],
    ["été 猫", "picture", "été-猫_picture"],
    ["", "", "mask-impact"],
    ["con\u0000\n", "x", "con_x"],
  ])("%j and %j", (run, view, wanted) => expect(fileName(run, view)).toBe(wanted));

  test("a long name is cut", () => expect(fileName("x".repeat(300), "y").length).toBeLessThan(100));
});

describe("titles", () => {
  const run = (name: string, model?: string) => ({
    name,
    metrics: METRICS,
    steps: [0, 2],
    manifest: model ? { model: { name: model } } : null,
  });
  const scene = (runs: unknown[], state = {}) =>
    ({ runs, run: runs[0], state: { ...DEFAULTS, ...state } }) as unknown as Scene;

  test("run, view, model, metric, step and scale are in it", () => {
    const title = titleOf(
      scene([run("cat", "demo")], { metric: "cosine", curve: "sqrt", step: 2 }),
      "picture",
      "layer 3",
    );
    expect(title).toBe("cat · picture · demo · Cosine distance of Full · step 2 of 2 · layer 3 · square-root scale");
  });
  test("two runs", () => {
    const two = [run("a", "demo"), run("b", "demo")];
    expect(titleOf(scene(two), "picture")).toMatch(/^a, b · picture · demo · /);
    expect(titleOf(scene(two, { compare: "difference" }), "x")).toMatch(/^b − a · /);
  });
  test("without a manifest nothing is left empty", () => {
    expect(titleOf(scene([run("a")]), "picture")).toBe(
      "a · picture · L2 distance of Full · step 1 of 2 · linear scale",
    );
  });
});

describe("CSV", () => {
  test("every line says what it is of; columns of patches are there where there are any", () => {
    const token = (position: number, more = {}) => ({ ...plainToken(position, `t${position}`), ...more });
    const line = (position: number, more = {}) => ({
      run: "cat",
      more: { layer: 3 },
      token: token(position, more),
      value: Math.fround(0.1),
    });
    const state = { ...DEFAULTS, step: 2 };
    expect(tidy(state, [line(0)])).toEqual([
      ["run", "metric", "variant", "generation_step", "layer", "token_position", "token_masked", "value"],
      ["cat", "l2", "Full", "2", "3", "0", "t0", "0.1"],
    ]);
    const [head, text, patch] = tidy(state, [{ ...line(0), variant: "Head_1" }, line(1, { image: 0, row: 2, col: 1 })]);
    expect(head.slice(-4)).toEqual(["image", "row", "col", "value"]);
    expect([text[2], text.slice(-4), patch.slice(-4)]).toEqual(["Head_1", ["", "", "", "0.1"], ["0", "2", "1", "0.1"]]);
  });
  test("is quoted where it has to be", () => {
    const table = [
      ["a", "b,c"],
      ['say "hi"', "two\nlines"],
      [" lead", "trail\t"],
      ["", "007"],
    ];
    expect(csvOf(table)).toBe('a,"b,c"\r\n"say ""hi""","two\nlines"\r\n" lead","trail\t"\r\n,007\r\n');
  });
  test("comes back through our own reader", () => {
    const texts = ['"', "a,b", "\r\n", " x ", "</script>", "'", "é", ""];
    const rows = texts.map((text, i) => ["0", "0", text, String(i), "Full", "1", "0"]);
    const table = new Table();
    const parser = new CsvParser(table);
    parser.feed(bytesOf(csvOf([HEADER.split(","), ...rows])));
    parser.end();
    const ids = table.columns.token_masked.data as Int32Array;
    expect(texts.map((_, i) => table.texts.list[ids[i]])).toEqual(texts);
  });
});
