import { expect, test } from "vitest";
import { load } from "../src/data/load.ts";
import { add, emptyLibrary, remove, resolve, waiting, type Library } from "../src/data/pair.ts";
import type { Loaded } from "../src/data/types.ts";
import { fixture, textFile } from "./helpers.ts";

const picture = (name: string): Loaded => ({
  kind: "image",
  picture: { fileName: name, blob: new Blob([name]) },
  source: { fileName: name, format: "image", bytes: 1 },
});
const renamed = async (name: string, other: string) => load(new File([await fixture(name).arrayBuffer()], other));
const all = (items: Loaded[]): Library => items.reduce((library, item) => add(library, item).library, emptyLibrary);

function permutations<T>(items: T[]): T[][] {
  return items.length < 2
    ? [items]
    : items.flatMap((item, i) => permutations(items.toSpliced(i, 1)).map((rest) => [item, ...rest]));
}

test("results, manifest and picture find each other in any order", async () => {
  const items = [
    await load(fixture("grid_results.csv")),
    await load(fixture("grid_run.json")),
    await load(fixture("hostile_results.json")),
    picture("CAT.png"),
  ];
  for (const order of permutations(items)) {
    const library = all(order);
    const grid = resolve(library).find(({ name }) => name === "grid")!;
    expect(grid.manifest?.name).toBe("grid");
    expect(grid.tokens[2]).toMatchObject({ kind: "image", row: 0, col: 0, box: [0, 0, 10, 8] });
    expect(grid.pictures.map((each) => each?.fileName)).toEqual(["CAT.png"]);
    expect(resolve(library).find(({ name }) => name === "hostile")!.manifest).toBeNull();
    expect(waiting(library)).toEqual([]);
    expect(grid.notes).toEqual([]);
  }
});

test("renamed files are a pair if they agree, not otherwise", async () => {
  const manifest = await renamed("grid_run.json", "other_run.json");
  expect(resolve(all([await renamed("grid_results.csv", "mine.csv"), manifest]))[0].manifest).not.toBeNull();
  const library = all([await load(fixture("hostile_results.csv")), manifest]);
  expect(resolve(library)[0].manifest).toBeNull();
  expect(waiting(library)).toEqual([
    "other_run.json is the manifest of a run; its numbers are in grid_results.csv or grid_results.json or grid_results.parquet: drop that file, too.",
  ]);
});

test("a manifest of the same name that does not fit is said", async () => {
  const library = all([await renamed("hostile_results.csv", "grid_results.csv"), await load(fixture("grid_run.json"))]);
  const { notes } = resolve(library)[0];
  expect(notes[0]).toContain("The table has 44 of the 132 rows");
  expect(notes[1]).toContain('position 0 is "</script>" in the table, "What" in the manifest');
});

test("the same run in two formats is shown once, with the manifest that came with either", async () => {
  let library = all([await load(fixture("grid_results.csv"))]);
  const second = add(library, await load(fixture("grid_results.parquet")));
  expect(second.message).toBe("grid_results.parquet holds the same run as grid_results.csv; it is shown once.");
  expect(resolve(second.library)).toHaveLength(1);
  expect(resolve(second.library)[0]).toMatchObject({ id: "run-1", manifest: { name: "grid" } });
  library = add(second.library, await load(fixture("grid_run.json"))).library;
  expect(waiting(library)).toEqual([]);
  const other = add(
    library,
    await load(textFile((await fixture("grid_results.csv").text()).replace(/e-\d+\n/, "\n"), "grid_results.csv")),
  );
  expect([other.runId, other.message]).toEqual(["run-2", null]);
  expect(resolve(remove(other.library, "run-1")).map(({ id }) => id)).toEqual(["run-2"]);
});

test("pictures: by name first, then in order; one that fits better later takes its place", async () => {
  const csv = await load(fixture("grid_results.csv"));
  const manifest = await load(fixture("grid_run.json"));
  let library = all([csv, manifest, picture("photo.jpg")]);
  expect(resolve(library)[0].pictures[0]?.fileName).toBe("photo.jpg");
  library = add(library, picture("cat.png")).library;
  expect(resolve(library)[0].pictures[0]?.fileName).toBe("cat.png");
  expect(waiting(library)).toEqual([
    "photo.jpg is a picture, and no loaded run has a place for it (a manifest names the pictures of a run).",
  ]);
});
