/** Metrics are what the table has: in every format, with or without a manifest that tells of them. */

import { describe, expect, test } from "vitest";
import { brief, inText, isOfModel, metricsOf as shared, unitOf, valuesAt } from "../src/core/metrics.ts";
import { settled } from "../src/core/scene.ts";
import { DEFAULTS, fromFragment, toFragment } from "../src/core/state.ts";
import { load } from "../src/data/load.ts";
import { metricOf, metricsOf } from "../src/data/metrics.ts";
import { cleanManifest, withManifest } from "../src/data/manifest.ts";
import { add, emptyLibrary } from "../src/data/pair.ts";
import { atQuery } from "../src/data/queries.ts";
import { index, type Run } from "../src/data/types.ts";
import { failure, KEYS, METRICS, runOf, textFile } from "./helpers.ts";

const csv = (columns: string, ...rows: string[]) =>
  textFile([`${KEYS},${columns}`, ...rows].map((row) => `${row}\n`).join(""));
const ROWS = ["0,0,a,0,Full,1.5,7", "0,0,b,1,Full,2.5,8", "0,1,a,0,Full,3.5,9", "0,1,b,1,Full,4.5,10"];

/** The same table as columns, as records and as lines. */
function asJson(columns: string, rows: string[], of: "columns" | "records" | "lines"): File {
  const names = `${KEYS},${columns}`.split(",");
  const value = (name: string, text: string) =>
    text === "" ? null : /token_masked|variant|note/.test(name) ? text : Number(text);
  const records = rows.map((row) =>
    Object.fromEntries(row.split(",").map((text, i) => [names[i], value(names[i], text)])),
  );
  if (of === "records") return textFile(JSON.stringify(records), "x_results.json");
  if (of === "lines") return textFile(records.map((each) => `${JSON.stringify(each)}\n`).join(""), "x_results.jsonl");
  const list = (name: string) => records.map((record) => record[name]);
  return textFile(JSON.stringify(Object.fromEntries(names.map((name) => [name, list(name)]))), "x_results.json");
}

const shape = ({ metrics, values }: Run) => metrics.map(({ name }) => [name, [...values[name]]]);

describe.each(["csv", "columns", "records", "lines"] as const)("from %s", (of) => {
  const file = (columns: string, ...rows: string[]) =>
    of === "csv" ? csv(columns, ...rows) : asJson(columns, rows, of);

  test("every further column of numbers is a metric", async () => {
    const run = await runOf(file("toy_distance,my_share", ...ROWS));
    expect(shape(run)).toEqual([
      ["toy", [1.5, 2.5, 3.5, 4.5]],
      ["my_share", [7, 8, 9, 10]],
    ]);
    expect(run.metrics.map(({ title, unit, range }) => [title, unit, range])).toEqual([
      ["toy", "", [null, null]],
      ["my share", "", [null, null]],
    ]);
    expect(run.notes).toEqual([]);
  });

  test("a column of texts beside them is not one, wherever its first text is", async () => {
    for (const notes of [
      ["x", "y", "", "z"],
      ["", "", "", "z"],
    ]) {
      const run = await runOf(file("l2_distance,note", ...ROWS.map((row, i) => row.replace(/,\d+$/, `,${notes[i]}`))));
      expect(shape(run)).toEqual([["l2", [1.5, 2.5, 3.5, 4.5]]]);
      expect(run.notes).toEqual([]);
    }
  });

  test("l2 and cosine come first, and one of them alone is enough", async () => {
    const both = await runOf(file("cosine_distance,l2_distance", ...ROWS));
    expect(both.metrics).toEqual(METRICS);
    expect(shape(await runOf(file("cosine_distance,index", ...ROWS)))).toEqual([["cosine", [1.5, 2.5, 3.5, 4.5]]]);
  });

  test("without any it is not a table of results", async () => {
    expect(await failure(file("index,level_0", ...ROWS))).toContain(
      "it has no column of distances, such as l2_distance",
    );
  });

  test("anything but a number in a distance is an error", async () => {
    if (of !== "csv") return;
    expect(await failure(file("toy_distance,x", ROWS[0].replace("1.5", "1.5x")))).toContain('toy_distance is "1.5x"');
  });
});

test("a column that holds numbers and then a text is left out, and that is said", async () => {
  const run = await runOf(csv("l2_distance,share", ROWS[0], ROWS[1].replace(",8", ",eight"), ROWS[2]));
  expect(run.metrics.map(({ name }) => name)).toEqual(["l2"]);
  expect(run.notes).toContain('The column share is not shown: line 3: share is "eight", which is not a number.');
});

const about = { name: "toy", column: "toy_distance", title: "Toy distance", unit: "apples", range: [0, 5] };

test("the manifest says what they are called, and their order", async () => {
  const plain = await runOf(csv("l2_distance,toy_distance", ...ROWS));
  const run = withManifest(
    plain,
    cleanManifest({ metrics: [about, { column: "l2_distance", title: "Length" }, { title: 3 }, null] })!,
  );
  expect(run.metrics).toEqual([about, { ...METRICS[0], title: "Length" }]);
  expect([...run.values.toy]).toEqual([7, 8, 9, 10]);
  // A name that is taken is not taken over; one that is free is.
  const taken = withManifest(plain, cleanManifest({ metrics: [{ ...about, name: "l2" }] })!);
  expect(taken.metrics.map(({ name }) => name)).toEqual(["toy", "l2"]);
  const free = withManifest(plain, cleanManifest({ metrics: [{ ...about, name: "fruit" }] })!);
  expect([free.metrics[0].name, [...free.values.fruit], Object.keys(free.values)]).toEqual([
    "fruit",
    [7, 8, 9, 10],
    ["fruit", "l2"],
  ]);
});

describe("the relative distance", () => {
  const lengths = {
    layers: [1, 0],
    variants: ["Attn", "Full"],
    values: [
      [
        [9, 2],
        [9, 4],
      ],
    ],
  };
  const manifest = cleanManifest({ prompt_length: 2, unmasked_length: lengths })!;

  test("is the L2 distance over the length of the unmasked update", async () => {
    const run = withManifest(await runOf(csv("l2_distance,cosine_distance", ...ROWS)), manifest);
    expect(run.metrics.at(-1)).toEqual({
      name: "relative",
      column: "",
      title: "Relative distance",
      unit: "L2 / length of the unmasked update",
      range: [0, null],
    });
    expect([...run.values.relative]).toEqual([1.5 / 4, 2.5 / 4, 3.5 / 2, 4.5 / 2]);
    expect(withManifest(run, manifest).metrics.filter(({ name }) => name === "relative")).toHaveLength(1);
  });

  test.each([[0], [null], [-1], ["x"], [undefined]])("has no value where the length is %j", async (length) => {
    const values = [
      [
        [9, length],
        [9, 4],
      ],
    ];
    const odd = cleanManifest({ unmasked_length: { ...lengths, values } })!;
    const run = withManifest(await runOf(csv("l2_distance", ...ROWS.map((row) => row.replace(/,\d+$/, "")))), odd);
    expect([...run.values.relative]).toEqual([1.5 / 4, 2.5 / 4, NaN, NaN]);
  });

  test("is not made where the table has it, where no length fits, or without an L2 distance", async () => {
    const own = withManifest(await runOf(csv("l2_distance,relative_distance", ...ROWS)), manifest);
    expect([...own.values.relative]).toEqual([7, 8, 9, 10]);
    const plain = await runOf(csv("l2_distance,x", ...ROWS));
    for (const odd of [{ ...lengths, layers: [7, 8] }, { ...lengths, variants: [] }, { ...lengths, values: [] }, {}])
      expect(withManifest(plain, cleanManifest({ unmasked_length: odd })!).values.relative).toBeUndefined();
    expect(withManifest(await runOf(csv("cosine_distance,x", ...ROWS)), manifest).values.relative).toBeUndefined();
  });

  test("of other query positions than the predicting ones is not known", async () => {
    const rows = ["0,0,a,0,Full,0,3", "0,0,a,0,Full,1,4", "1,0,a,0,Full,2,5"];
    const two = cleanManifest({
      prompt_length: 2,
      unmasked_length: { layers: [0], variants: ["Full"], values: [[[2]], [[10]]] },
    })!;
    const run = withManifest(await runOf(csv("query_position,l2_distance", ...rows)), two);
    expect(run.queries!.positions).toEqual([0, 1, 2]);
    expect([...run.queries!.values.relative]).toEqual([NaN, 4 / 2, 5 / 10]);
    expect([[...run.values.relative], [...atQuery(run, 0).values.relative]]).toEqual([[2, 0.5], [NaN]]);
  });
});

test("the same run in two formats is shown once, whatever its metrics are and whether one has a manifest", async () => {
  const [one, two] = [
    await load(csv("l2_distance,toy_distance", ...ROWS)),
    await load(asJson("l2_distance,toy_distance", ROWS, "columns")),
  ];
  const { library } = add(emptyLibrary, one);
  expect(add(library, two).library.runs).toHaveLength(1);
  const other = await load(csv("l2_distance,toy_distance", ...ROWS.slice(1), ROWS[0].replace(",7", ",70")));
  expect(add(library, other).library.runs).toHaveLength(2);
  const named = {
    kind: "run" as const,
    run: withManifest((two as { run: Run }).run, cleanManifest({ metrics: [about] })!),
  };
  expect(add(library, named).library.runs).toHaveLength(1);
});

describe("on the page", () => {
  const make = (...columns: string[]) => ({ metrics: metricsOf(columns) }) as Run;

  test("runs are compared by what all of them have", () => {
    const names = (...runs: Run[]) => shared(runs).map(({ name }) => name);
    expect(names(make("l2_distance", "toy_distance"), make("toy_distance", "cosine_distance"))).toEqual(["toy"]);
    expect(names(make("l2_distance"), make("toy_distance"))).toEqual(["l2"]);
  });

  test("an address may name any metric; in place of one that the run does not have, its first is shown", async () => {
    const run = await runOf(csv("toy_distance,cosine_distance", ...ROWS));
    expect(fromFragment("#metric=cosine").metric).toBe("cosine");
    expect(settled(fromFragment("#metric=toy"), run).metric).toBe("toy");
    expect(settled(fromFragment("#metric=constructor"), run).metric).toBe("cosine");
    expect(settled(DEFAULTS, run).metric).toBe("cosine");
    expect(toFragment({ ...DEFAULTS, metric: "toy" })).toBe("metric=toy");
  });

  test("titles, units and ranges in words", () => {
    const [l2, cosine] = METRICS,
      relative = metricOf("relative_distance"),
      toy = metricOf("toy_distance");
    expect([l2, cosine, relative, toy].map(brief)).toEqual(["L2", "Cosine", "Relative", "toy"]);
    expect([l2, cosine, relative, toy].map(({ title }) => inText(title))).toEqual([
      "L2 distance",
      "cosine distance",
      "relative distance",
      "toy",
    ]);
    expect([l2, cosine, toy].map(unitOf)).toEqual(["model units", "0 to 2", ""]);
    expect([l2, cosine].map(isOfModel)).toEqual([true, false]);
    expect(isOfModel({ ...l2, unit: "model's own units" })).toBe(true);
  });

  test("a cell is told with all its metrics", async () => {
    const run = await runOf(csv("l2_distance,toy_distance", ...ROWS));
    expect(valuesAt(run, 0, 0, 1, 0)).toBe("L2 3.5, toy 9");
    run.values.l2[index(run, 0, 0, 1, 0)] = run.values.toy[index(run, 0, 0, 1, 0)] = NaN;
    expect(valuesAt(run, 0, 0, 1, 0)).toBeNull();
  });
});
