import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { failure, fixture, fixtureRows, random, rowsOf, runOf, type Row } from "./helpers.ts";

const bytesOfFixture = async (name: string) => new Uint8Array(await fixture(name).arrayBuffer());

test.each(["grid", "hostile"] as const)("the Python side's file, manifest inside: %s", async (name) => {
  const run = await runOf(fixture(`${name}_results.parquet`));
  expect(rowsOf(run)).toEqual(fixtureRows(name));
  expect(run).toMatchObject({ name, notes: [], duplicates: 0, manifest: { name, rows: run.rows } });
});

test("the manifest's knowledge about tokens is in the run", async () => {
  const run = await runOf(fixture("grid_results.parquet"));
  expect(run.tokens[3]).toEqual({
    position: 3,
    text: "<image>",
    kind: "image",
    id: 103,
    image: 0,
    row: 0,
    col: 1,
    box: [10, 0, 20, 8],
  });
  expect(run.pictures).toEqual([null]);
});

test.each(["pandas.parquet", "plain.parquet", "categories.parquet", "delta.parquet", "delta_v2.parquet"])(
  "as other tools write it: %s",
  async (name) => {
    const run = await runOf(fixture(name));
    expect(rowsOf(run)).toEqual(fixtureRows("grid"));
    expect(run.manifest).toBeNull();
  },
);

test("missing and infinite values", async () => {
  const run = await runOf(fixture("gaps.parquet"));
  const rows = fixtureRows("grid");
  rows[3][5] = null;
  rows[5][6] = null;
  expect(rowsOf(run)).toEqual(rows);
  expect(run.notes).toEqual(["Some distances are infinite; they are shown as missing."]);
});

test("pages packed with zstd, as polars does it, of both versions", async () => {
  for (const name of ["zstd.parquet", "zstd_v2.parquet"])
    expect(rowsOf(await runOf(fixture(name))), name).toEqual(fixtureRows("grid"));
});

test("packed with gzip", async () => {
  const run = await runOf(
    new File([gzipSync(await bytesOfFixture("grid_results.parquet"))], "grid_results.parquet.gz"),
  );
  expect(rowsOf(run)).toEqual(fixtureRows("grid"));
});

test.each([
  ["brotli.parquet", "packed with BROTLI; save it anew with snappy, zstd or no compression"],
  ["missing.parquet", "the column layer is missing; found generation_step, token_masked"],
  ["text_layer.parquet", "the column layer is of type UTF8, which holds no whole numbers"],
])("%s is an error", async (name, expected) => expect(await failure(fixture(name))).toContain(expected));

test("cut off anywhere is an error", async () => {
  const bytes = await bytesOfFixture("grid_results.parquet");
  for (let end = 4; end < bytes.length; end++)
    expect(await failure(new File([bytes.slice(0, end)], "x.parquet"))).toMatch(/cut off|damaged/);
});

async function flip(name: string, times: number, seed: number) {
  const bytes = await bytesOfFixture(name);
  const next = random(seed);
  const survivors: Row[][] = [];
  for (let i = 0; i < times; i++) {
    const damaged = bytes.slice();
    damaged[4 + Math.floor(next() * (bytes.length - 4))] ^= 1 << Math.floor(next() * 8);
    try {
      survivors.push(rowsOf(await runOf(new File([damaged], "x.parquet"))));
    } catch (error) {
      expect((error as Error).name, (error as Error).stack).toBe("LoadError");
    }
  }
  return survivors;
}

test("with checksums, a flipped bit is an error or changes no number", async () => {
  const numbers = (rows: Row[]) =>
    rows.map(([step, layer, , position, variant, l2, cosine]) => [step, layer, position, variant, l2, cosine]);
  for (const rows of await flip("checksums.parquet", 1500, 11))
    expect(numbers(rows)).toEqual(numbers(fixtureRows("grid")));
});

test("packed with zstd, a flipped bit never ends in anything but an error or a table", async () => {
  await flip("zstd.parquet", 150, 13);
});

test("without checksums, a flipped bit never ends in anything but an error or a table", async () => {
  for (const name of ["grid_results.parquet", "plain.parquet", "categories.parquet", "delta.parquet"])
    await flip(name, 700, 12);
});
