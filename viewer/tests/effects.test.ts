import { expect, test } from "vitest";
import { readFileSync } from "node:fs";
import { effectScores, effectWords, points, ranks, shownEffects, spearman, unitOrder } from "../src/core/effects.ts";
import { DEFAULTS, fromFragment, toFragment, type State } from "../src/core/state.ts";
import { decodeRun } from "../src/data/embed.ts";
import { load } from "../src/data/load.ts";
import { tells } from "../src/core/effect-units.ts";
import { withRoutes } from "../src/data/routes.ts";
import { add, emptyLibrary, resolve, waiting } from "../src/data/pair.ts";
import type { Effects, Loaded, Run } from "../src/data/types.ts";
import { Table } from "../src/data/table.ts";
import { base64, failure, fixture, textFile } from "./helpers.ts";

const text = (name: string) => readFileSync(new URL(`fixtures/${name}`, import.meta.url), "utf8");
const csv = text("reach_effects.csv");
const rows = csv
  .trimEnd()
  .split("\n")
  .map((line) => line.split(","));
const at = (row: string[], column: string) => row[rows[0].indexOf(column)];
const numbers = JSON.parse(text("reach_numbers.json"));

async function effectsOf(file: File): Promise<Effects> {
  const loaded = await load(file);
  if (loaded.kind !== "effects") throw new Error(`${file.name} is a ${loaded.kind}`);
  return loaded.effects;
}

const renamed = async (name: string, other: string) => load(new File([await fixture(name).arrayBuffer()], other));

async function runWith(...names: string[]): Promise<Run> {
  const items: Loaded[] = [await load(fixture("reach_results.csv")), await load(fixture("reach_run.json"))];
  for (const name of names) items.push(await renamed(name, `reach_effects.${name.split(".")[1]}`));
  return resolve(items.reduce((library, item) => add(library, item).library, emptyLibrary))[0];
}

const scene = (run: Run, state: Partial<State> = {}) => ({ run, runs: [run], state: { ...DEFAULTS, ...state } });

// --- files ----------------------------------------------------------------------------------------
test.each(["csv", "json", "parquet"])("every number of every row: %s", async (kind) => {
  const effects = await effectsOf(fixture(`reach_effects.${kind}`));
  expect(effects).toMatchObject({
    name: "reach",
    steps: [0],
    blocks: ["last", "all"],
    windows: ["0-3", "1-3", "2-3", "3-3"],
    notes: [],
  });
  expect(effects.rows.size).toBe(rows.length - 1);
  expect(effects.units).toHaveLength(16);
  for (const row of rows.slice(1)) {
    const key = `${at(row, "token_position")} ${at(row, "token_masked")}`;
    const place = effects.rows.get(
      ["0", at(row, "block"), `${at(row, "first_layer")}-${at(row, "last_layer")}`, key].join(),
    )!;
    for (const name of [
      "logprob",
      "logprob_change",
      "rank",
      "kl",
      "final_l2",
      "final_cosine",
      "contrast",
      "contrast_change",
    ])
      expect(effects.numbers[name]![place], `${key} ${name}`).toBe(Math.fround(Number(at(row, name))));
    expect(effects.top[place]).toBe(at(row, "top_token"));
  }
});

test("records and lines of JSON, and columns that need not be there", async () => {
  const [names, first, second] = rows;
  const record = (row: string[], without = "") =>
    Object.fromEntries(
      names
        .filter((name) => name !== without)
        .map((name, i) => {
          const cell = row[names.indexOf(name)] ?? row[i];
          return [name, /^(token_masked|block|top_token)$/.test(name) ? cell : Number(cell)];
        }),
    );
  const list = await effectsOf(textFile(JSON.stringify([record(first), record(second, "contrast")]), "x_effects.json"));
  expect([...(list.numbers.contrast as Float32Array)].slice(0, 2)).toEqual([
    Math.fround(Number(at(first, "contrast"))),
    NaN,
  ]);
  const lines = await effectsOf(
    textFile([first, second].map((row) => JSON.stringify(record(row))).join("\n"), "x_effects.jsonl"),
  );
  expect(lines.rows.size).toBe(2);
  const plain = await effectsOf(
    textFile(
      csv
        .split("\n")
        .map((line) => line.split(",").slice(0, 13).join(","))
        .join("\n"),
      "x_effects.csv",
    ),
  );
  expect([plain.numbers.contrast, plain.numbers.interaction]).toEqual([undefined, undefined]);
});

test("what is damaged, mixed or incomplete is one sentence", async () => {
  const changed = (from: string | RegExp, to: string) => failure(textFile(csv.replace(from, to), "x_effects.csv"));
  expect(await changed(/,kl/, ",KL")).toMatch(
    /^x_effects.csv: not a table of effects: the column kl is missing; found generation_step/,
  );
  expect(await changed("logprob_change", "other")).toContain("the column logprob_change is missing");
  expect(await changed(",0,3,last", ",3,0,last")).toContain("row 1: a mask of layers 3 to 0");
  expect(await changed(/,1, blue/, ",first, blue")).toContain('line 2: rank is "first", which is not a whole number');
  expect(await changed(/\n[^\n]*\n$/, "\n0,a,1")).toContain("cut off in this row");
  expect(await failure(textFile(csv.split("\n")[0] + "\n", "x_effects.csv"))).toContain("a header and no rows");
  const json = text("reach_effects.json");
  expect(await failure(textFile(json.slice(0, 5000), "x_effects.json"))).toContain("cut off");
  expect(await failure(textFile(json.replace('"kl": [', '"kl": [1, '), "x_effects.json"))).toContain(
    "different lengths",
  );
  const parquet = new Uint8Array(await fixture("reach_effects.parquet").arrayBuffer());
  expect(await failure(textFile(parquet.subarray(0, 6000), "x_effects.parquet"))).toContain("cut off");
  const twice = await effectsOf(textFile(csv + rows[1].join(",") + "\n", "x_effects.csv"));
  expect(twice.notes).toEqual(["1 row of x_effects.csv give a mask another effect; the last one is shown."]);
});

test("units from coarse to fine: all levels, if the manifest tells what is a part of what; else those that were not split", async () => {
  const units = [
    { label: "Tom has a red ball.", positions: [0, 1, 2, 3, 4, 5], level: 0 },
    { label: "Ann has a blue", positions: [6, 7, 8, 9], level: 0 },
    { label: "Ann has", positions: [6, 7], level: 1 },
    { label: " a", positions: [8], level: 1 },
    { label: " blue", positions: [9], level: 1 },
    { label: " Ann", positions: [6], level: 2 },
    { label: " has", positions: [7], level: 2 },
  ];
  const column = (value: unknown) => units.map(() => value);
  const columns = {
    ...Object.fromEntries(rows[0].map((name) => [name, column(0)])),
    block: column("all"),
    top_token: column("a"),
    token_masked: units.map(({ label }) => label),
    token_position: units.map(({ positions }) => positions[0]),
    logprob_change: units.map((_, place) => -place - 1),
    unit_level: units.map(({ level }) => level),
  };
  const file = textFile(JSON.stringify(columns), "reach_effects.json");
  const effects = await effectsOf(file);
  const leaves = units.filter((_, place) => ![1, 2].includes(place));
  const inOrder = leaves.toSorted((a, b) => a.positions[0] - b.positions[0]);
  expect(effects.rows.size).toBe(units.length);
  expect(effects.units.filter(({ split }) => !split).map(({ label }) => label)).toEqual(
    inOrder.map(({ label }) => label),
  );
  const run = await runWith("reach_effects.csv");
  const manifest = { ...run.manifest, effects: { refine: { units } } };
  const shown = shownEffects(scene({ ...run, effects, manifest }))!;
  expect(shown.units.map(({ positions }) => positions)).toEqual(inOrder.map(({ positions }) => positions));
  expect(shown.units.flatMap(({ positions }) => positions).sort((a, b) => a - b)).toEqual([...Array(10).keys()]);
  expect([shown.hidesSplit, shown.nested.some(({ isPart }) => isPart)]).toEqual([true, false]);

  const told = units.map((unit, place) => ({ ...unit, parent: [undefined, undefined, 1, 1, 1, 2, 2][place] }));
  const all = shownEffects(
    scene({ ...run, effects, manifest: { ...run.manifest, effects: { refine: { units: told } } } }),
  )!;
  const label = (place: number) => all.units[place].label;
  expect(all.hidesSplit).toBe(false);
  expect(Object.fromEntries(all.nested.map(({ parts }, place) => [label(place), parts.map(label)]))).toMatchObject({
    "Tom has a red ball.": [],
    "Ann has a blue": ["Ann has", " a", " blue"],
    "Ann has": [" Ann", " has"],
    " blue": [],
  });
  // The sentence changes the answer by 2, its parts by up to 5: they say it better.
  const sizes = all.units.map(({ value }) => Math.abs(value));
  const place = all.units.findIndex(({ label }) => label === "Ann has a blue");
  expect(tells(all.nested[place], sizes, place)).toBe(false);
  expect(tells(all.nested[place], sizes.with(place, 15.1), place)).toBe(true);
  expect(tells(all.nested[place], sizes.with(place, 14.9), place)).toBe(false);
});

test("only a table with injections is of DeepStack, in every form", async () => {
  const [first, second] = [rows[0], rows[1]];
  const record = (more: object) => ({
    ...Object.fromEntries(first.map((name, i) => [name, second[i]])),
    ...numbersOf(second),
    ...more,
  });
  const added = {
    injection: "0+1",
    vision_layer: "5+17",
    decoder_layer: "0+1",
    action: "removed",
    unit: "all image tokens",
  };
  const load = (records: object[]) => effectsOf(textFile(JSON.stringify(records), "x_deepstack.json"));
  expect((await load([record({})])).injections).toBeNull();
  expect(await load([record(added)])).toMatchObject({
    name: "x",
    windows: ["0+1 removed"],
    injections: [{ injection: "0+1", vision: "5+17", decoder: "0+1", action: "removed" }],
  });
});

/** As numbers what a CSV has as text. */
const numbersOf = (row: string[]) =>
  Object.fromEntries(
    rows[0].flatMap((name, i) => (/^(token_masked|block|top_token)$/.test(name) ? [] : [[name, Number(row[i])]])),
  );

test("results with columns of effects beside theirs stay results", async () => {
  const [head, ...body] = text("reach_results.csv").trimEnd().split("\n");
  const loaded = await load(
    textFile([`${head},rank,block`, ...body.map((line) => `${line},none,x`)].join("\n") + "\n"),
  );
  expect(loaded.kind).toBe("run");
});

test("tokens are text, whatever is in them", async () => {
  const tokens = ["</script>", '"', "a,b\n", "", "__proto__", "1-2", " "];
  const column = (value: unknown) => tokens.map(() => value);
  const columns = {
    ...Object.fromEntries(rows[0].map((name) => [name, column(0)])),
    block: column("all"),
    token_masked: tokens,
    top_token: tokens,
    token_position: tokens.map((_, i) => i),
  };
  const effects = await effectsOf(textFile(JSON.stringify(columns), "x_effects.json"));
  expect(effects.units.map(({ label }) => label)).toEqual(tokens);
  expect(effects.top).toEqual(tokens);
});

// --- together with a run ----------------------------------------------------------------------------
test("effects find their run by its name, in any order; alone they wait", async () => {
  const effects = await load(fixture("reach_effects.csv")),
    results = await load(fixture("reach_results.csv"));
  const alone = add(emptyLibrary, effects).library;
  expect(resolve(alone)).toEqual([]);
  expect(waiting(alone)).toEqual([
    "reach_effects.csv holds effects on the answer; the results of their run are in reach_results.csv, .json or .parquet: drop that file, too.",
  ]);
  for (const library of [add(alone, results).library, add(add(emptyLibrary, results).library, effects).library]) {
    expect(resolve(library)[0]).toMatchObject({ name: "reach", effects: { windows: { length: 4 } }, notes: [] });
    expect(waiting(library)).toEqual([]);
  }
  const again = add(add(alone, results).library, await load(fixture("reach_effects.parquet"))).library;
  expect(again.effects.map(({ fileName }) => fileName)).toEqual(["reach_effects.parquet"]);
  const other = add(add(emptyLibrary, await renamed("grid_results.csv", "reach_results.csv")).library, effects).library;
  expect(resolve(other)[0].notes).toEqual([
    "reach_effects.csv seems to be of another run: its tokens or steps are not those of the results.",
  ]);
});

test("effects inside of a page", async () => {
  const run = await runWith();
  const data = (effects: unknown) =>
    JSON.stringify({
      format: 1,
      name: "reach",
      rows: run.rows,
      steps: run.steps,
      layers: run.layers,
      variants: run.variants,
      manifest: null,
      images: [],
      effects,
      positions: run.tokens.map(({ position }) => position),
      tokens: run.tokens.map((token) => token.text),
      l2: base64(run.values.l2),
      cosine: base64(run.values.cosine),
    });
  const columns = JSON.parse(text("reach_effects.json"));
  const inside = decodeRun(data({ columns })).effects!,
    file = await effectsOf(fixture("reach_effects.csv"));
  expect({ ...inside, fileName: "" }).toEqual({ ...file, fileName: "" });
  expect([decodeRun(data(null)).effects, decodeRun(data(undefined)).effects]).toEqual([null, null]);
  expect(() => decodeRun(data({ columns: { ...columns, kl: undefined } }))).toThrow("the column kl is missing");
  expect(() => decodeRun(data({ columns: { ...columns, kl: [1] } }))).toThrow("different lengths");
});

// --- what is shown ----------------------------------------------------------------------------------
test("the widest layers stand for a unit, unless they are chosen or there are several as wide", async () => {
  const run = await runWith("reach_effects.csv");
  const value = (state: Partial<State>, position: number) =>
    shownEffects(scene(run, state))!.units.find((unit) => unit.position === position)!;
  const wanted = (position: number, first: number, block = "all") =>
    Math.fround(
      Number(
        at(
          rows.find(
            (row) =>
              at(row, "token_position") === `${position}` &&
              at(row, "first_layer") === `${first}` &&
              at(row, "block") === block,
          )!,
          "logprob_change",
        ),
      ),
    );
  expect(value({}, 14).value).toBe(wanted(14, 0));
  expect(value({ mask: "2-3", block: "last" }, 14).value).toBe(wanted(14, 2, "last"));
  expect(value({ mask: "strongest" }, 14)).toMatchObject({ value: wanted(14, 1), strongest: "1-3" });
  const windows: Record<string, string[]> = { 1: ["0", "1"], 2: ["1", "2"], 3: ["2", "3"] };
  const sliding = rows
    .slice(1)
    .filter((row) => row[3] in windows)
    .map((row) => row.with(3, windows[row[3]][0]).with(4, windows[row[3]][1]));
  const slid = await effectsOf(
    textFile([rows[0], ...sliding].map((row) => row.join(",")).join("\n") + "\n", "x_effects.csv"),
  );
  expect(shownEffects(scene({ ...run, effects: slid }))!.window).toBe(-1);
});

test("scale, order and pairs", async () => {
  const run = await runWith("one_effects.json"),
    shown = shownEffects(scene(run))!;
  expect(shown.units.map(({ label }) => label)).not.toContain(" blue + cup"); // a pair: its interaction
  const order = unitOrder(shown, "auto").map((place) => Math.abs(shown.units[place].value));
  expect(order).toEqual(order.toSorted((a, b) => b - a));
  const pairs = shownEffects(scene(run, { effect: "interaction" }))!;
  expect(pairs.units.map(({ label }) => label).sort()).toEqual([" blue + cup", " blue cup + red ball"]);
  const without = shown.units.filter(({ position }) => position).map(({ value }) => Math.abs(value));
  expect(shown.largest).toBe(Math.max(...without));
  expect(shownEffects(scene(await runWith("reach_effects.csv"), { effect: "interaction" }))!.measure).toBe(
    "logprob_change",
  );
  expect(shownEffects(scene(run, { step: 7 }))!.units).toEqual([]);
});

test("Spearman's correlation is that of numpy, ties at their mean ranks", async () => {
  expect(ranks([3, 1, 1, 2])).toEqual([4, 1.5, 1.5, 3]);
  const { a, b, rho } = numbers.ties;
  expect(spearman(a, b)).toBeCloseTo(rho, 12);
  expect(spearman([1, 1], [1, 2])).toBeNaN();
  const run = await runWith("reach_effects.csv");
  for (const block of ["last", "all"] as const) {
    for (const first of [0, 1, 2, 3]) {
      const here = scene(run, { block, mask: `${first}-3` }),
        found = points(here, shownEffects(here)!);
      expect(found).toHaveLength(15); // position 0 is left out
      expect(
        spearman(
          found.map(({ impact }) => impact),
          found.map(({ size }) => size),
        ),
      ).toBeCloseTo(numbers[`${block} ${first}`], 6);
    }
  }
  expect(points(scene(run, { first: true }), shownEffects(scene(run, { first: true }))!)).toHaveLength(16);
});

test("the prompt is shaded by the smallest unit a token is in", async () => {
  const run = await runWith("one_effects.csv");
  const units = [
    { label: " blue cup", positions: [9, 10] },
    { label: " red ball", positions: [3, 4] },
  ];
  const known = { ...run, manifest: { ...run.manifest, units } };
  expect(effectScores(scene(known))).toBeNull();
  const { value, signed, text: end } = effectScores(scene(known, { shade: "effect" }))!;
  const shown = shownEffects(scene(known))!,
    of = (label: string, position: number) =>
      shown.units.find((unit) => unit.label === label && unit.position === position)!.value;
  expect([value[9], value[10], signed]).toEqual([of(" blue", 9), of(" cup", 10), true]);
  expect(end).toBe(Math.max(...Array.from(value).slice(1).map(Math.abs)));
  const words = {
    ...known,
    effects: { ...run.effects!, units: run.effects!.units.filter(({ label }) => label === " blue cup") },
  };
  const spread = effectScores(scene(words, { shade: "effect" }))!.value;
  expect([spread[9], spread[10], spread[8]]).toEqual([of(" blue cup", 9), of(" blue cup", 9), NaN]);
});

test("an integer column of effects is read from a page and from JSON", () => {
  const columns = new Table("effects");
  for (const name of ["head", "unit_level", "rank"]) expect(columns.kindOf(name)).toBe("integer");
  for (const name of columns.names) expect(columns.kindOf(name), name).toBeDefined();
});

test("rows of named readers and of heads have a cell each", async () => {
  const [head, first] = csv.trimEnd().split("\n");
  const masks = ["last", "question", "12-18"].flatMap((block) => [0, 10, 2].map((one) => [block, one] as const));
  const lines = masks.map(([block, one], place) => {
    const cells = first.split(",");
    [cells[3], cells[4], cells[5], cells[7]] = ["3", "3", block, String(-1 - place)];
    return `${cells.join()},${one}`;
  });
  const effects = await effectsOf(textFile([`${head},head`, ...lines].join("\n") + "\n", "some_effects.csv"));
  expect(effects).toMatchObject({ windows: ["3-3.0", "3-3.2", "3-3.10"], notes: [] });
  expect(effects.rows.size).toBe(9);
  const run = { ...(await runWith()), effects };
  for (const [place, [block, one]] of masks.entries()) {
    const shown = shownEffects(scene(run, { block, mask: `3-3.${one}`, first: true }))!;
    expect([shown.block, shown.units[0].value]).toEqual([block, -1 - place]);
  }
  expect(effectWords(shownEffects(scene(run, { block: "question", mask: "3-3.10" }))!, run)).toContain(
    "hidden from the positions “question” in head 10 of layer 3",
  );
});

test("the state in the address", () => {
  const state = { ...DEFAULTS, effect: "kl", block: "last", mask: "2-5", order: "strength", shade: "effect" } as const;
  expect(fromFragment(toFragment(state))).toEqual(state);
  expect(fromFragment("effect=x&block=&mask=a-b&order=1&shade=<b>")).toEqual(DEFAULTS);
});

// --- the whole answer -------------------------------------------------------------------------------
test.each(["csv", "json"])("rows of the whole answer are a choice beside the steps: %s", async (kind) => {
  const names = rows[0].filter((name) => !["contrast", "contrast_change", "interaction"].includes(name));
  const one = rows.slice(1).filter((row) => at(row, "block") === "all" && at(row, "first_layer") === "0");
  const whole = one.map((row) =>
    names.map((name) =>
      name === "generation_step"
        ? "-1"
        : name.startsWith("final")
          ? ""
          : name === "logprob_change"
            ? "-7.5"
            : at(row, name),
    ),
  );
  const all = [...one.map((row) => names.map((name) => at(row, name))), ...whole];
  const texts = ["token_masked", "block", "top_token"];
  const cell = (name: string, text: string) =>
    texts.includes(name) ? text.replace(/^"|"$/g, "") : text === "" ? null : Number(text);
  const columns = Object.fromEntries(names.map((name, c) => [name, all.map((row) => cell(name, row[c]))]));
  const file =
    kind === "csv"
      ? textFile([names, ...all].map((row) => row.join()).join("\n") + "\n", "reach_effects.csv")
      : textFile(JSON.stringify(columns), "reach_effects.json");
  const effects = await effectsOf(file);
  expect(effects.steps).toEqual([-1, 0]);
  const run = { ...(await runWith()), effects };
  const shown = (answer: State["answer"]) => shownEffects(scene(run, { answer }))!;
  expect(shown("whole").units.map(({ value }) => value)).toEqual(whole.map(() => -7.5));
  expect(shown("step").units.map(({ value }) => value)).not.toContain(-7.5);
  expect([shown("whole").step, shown("step").step]).toEqual([-1, 0]);
  const without = { ...run, effects: { ...effects, steps: [0] } };
  expect(shownEffects(scene(without, { answer: "whole" }))!.step).toBe(0);
});

test("runs next to each other are on one scale", async () => {
  const run = await runWith("reach_effects.csv"),
    { effects } = run;
  const twice = Array.from(effects!.numbers.logprob_change!, (value) => 2 * value);
  const other: Run = { ...run, effects: { ...effects!, numbers: { ...effects!.numbers, logprob_change: twice } } };
  const [one, two] = [run, other].map((each) => shownEffects(scene(each))!.largest);
  expect(two).toBeCloseTo(2 * one);
  for (const each of [run, other]) {
    const here = { ...scene(each), beside: [run, other] };
    expect(shownEffects(here)!.largest).toBe(two);
    expect(shownEffects(here)).toBe(shownEffects(here)); // what was made of it is found again
  }
});

// --- routes ---------------------------------------------------------------------------------------
const routed = {
  effects: {
    routes: [
      { block: "last", source: { name: "9", positions: [9] }, readers: { name: "last", positions: [] } },
      { block: "all", source: { name: "fact", positions: [9, 10] } },
    ],
  },
  tokens: [{ position: 9, text: " blue" }],
};
const routeRows = [
  "generation_step,token_masked,token_position,first_layer,last_layer,block,logprob,logprob_change,rank,top_token,kl,final_l2,final_cosine",
  '0,"9",9,0,1,"last",-1,-1,2,"a",1,1,1',
  '0,"fact",9,0,1,"all",-2,-2,2,"b",2,1,1',
];

test("a route is a unit where the manifest tells all of them", async () => {
  const effects = await effectsOf(textFile(routeRows.join("\n") + "\n", "x_effects.csv"));
  const found = withRoutes(effects, routed);
  expect(found.units.map(({ label }) => label)).toEqual(["blue (9) → last", "fact → later"]);
  expect(found.blocks).toEqual(["route"]);
  expect([...found.rows]).toEqual([
    ["0,route,0-1,blue (9) → last", 0],
    ["0,route,0-1,fact → later", 1],
  ]);
  const half = { ...routed, effects: { routes: routed.effects.routes.slice(1) } };
  for (const other of [null, {}, half, { effects: { routes: [{ block: "last" }, { block: "all" }] } }])
    expect(withRoutes(effects, other)).toBe(effects);
});
