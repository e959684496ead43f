import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { load, runName } from "../src/data/load.ts";
import { bytesOf, failure, fixture, fixtureRows, HEADER, rowsOf, runOf, textFile } from "./helpers.ts";

const zip = (text: string, name: string) => new File([gzipSync(text)], name);

test("a manifest is recognised by its keys, plain and packed", async () => {
  const text = await fixture("grid_run.json").text();
  for (const file of [
    fixture("grid_run.json"),
    zip(text, "x.json.gz"),
    textFile(JSON.stringify(JSON.parse(text)), "y"),
  ]) {
    expect(await load(file)).toMatchObject({ kind: "manifest", manifest: { name: "grid", model: { name: "tiny" } } });
  }
});

test("what a manifest holds beyond the known, or of another type, is left out", async () => {
  const odd = {
    model: { name: "m", layers: "many" },
    prompt: 3,
    tokens: [{ position: 0, text: "a", box: null }, 7],
    images: [null],
    future: 1,
    rows: null,
  };
  const loaded = await load(textFile(JSON.stringify(odd), "odd_run.json"));
  expect(loaded).toMatchObject({ kind: "manifest" });
  if (loaded.kind === "manifest")
    expect(loaded.manifest).toEqual({ model: { name: "m" }, tokens: [{ position: 0, text: "a" }, {}], images: [{}] });
});

test("pictures are passed on as they are", async () => {
  const magic = ["\x89PNG\r\n\x1a\n", "\xff\xd8\xff\xe0", "GIF89a", "RIFFxxxxWEBPVP8 ", "BM\x46\0\0\0\0\0\0\0"];
  for (const start of magic) {
    const file = new File([Uint8Array.from(start.padEnd(80, "x"), (char) => char.charCodeAt(0))], "cat.jpg");
    expect(await load(file)).toMatchObject({ kind: "image", picture: { fileName: "cat.jpg", blob: file } });
  }
});

test.each([
  [textFile("", "a.json"), "a.json: the file is empty"],
  [zip("", "a.csv.gz"), "the file is empty"],
  [textFile("\n\n", "a.csv"), "the file is empty"],
  [textFile("PK\x03\x04....", "a.xlsx"), "this is a ZIP archive or an Excel file"],
  [textFile(new Uint8Array([255, 254, 97, 0]), "a.csv"), "the text is UTF-16; save it as UTF-8"],
  [textFile("<html><body>hello", "a.html"), "this page has no results inside"],
  [textFile("%PDF-1.7", "a.pdf"), "a PDF document"],
  [textFile("a\0\0\0\x01\x02", "a.bin"), "a binary file of an unknown kind"],
  [textFile("PAR1", "a.parquet"), "a.parquet: the Parquet file is cut off"],
  [textFile('{"model": {}, "prompt": "x", "tokens": [', "a_run.json"), "the file is cut off"],
  [textFile('{"hello": 1}', "a.json"), "found hello"],
  [textFile(`${HEADER}\n${HEADER}\n`), 'line 2: generation_step is "generation_step", which is not a whole number'],
])("%#: one clear sentence", async (file, message) => expect(await failure(file)).toContain(message));

test("a packed file that is cut off or damaged is an error at every place", async () => {
  const bytes = gzipSync(await fixture("grid_results.csv").text());
  for (let end = 2; end < bytes.length; end += 7)
    expect(await failure(new File([bytes.slice(0, end)], "x.csv.gz"))).toContain("the gzip file is cut off or damaged");
  const damaged = bytes.slice();
  damaged[bytes.length >> 1] ^= 4;
  expect(await failure(new File([damaged], "x.csv.gz"))).toMatch(/gzip|line/);
  expect(await failure(new File([gzipSync(bytes)], "x.csv.gz"))).toContain("packed twice");
});

test("progress goes up to the size of the file, packed or not", async () => {
  const text = await fixture("hostile_results.csv").text();
  for (const file of [textFile(text), zip(text, "x.csv.gz"), fixture("grid_results.parquet")]) {
    const seen: number[] = [];
    await load(file, { onProgress: (done) => seen.push(done), chunkBytes: 1000 });
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    if (!file.name.endsWith("parquet")) expect(seen.at(-1)).toBe(file.size);
  }
});

test("aborting ends with the signal's reason", async () => {
  for (const name of ["hostile_results.csv", "hostile_results.json", "grid_results.parquet"]) {
    const controller = new AbortController();
    const loading = load(fixture(name), {
      signal: controller.signal,
      chunkBytes: 1000,
      pause: async () => controller.abort(),
    });
    await expect(loading).rejects.toThrow(expect.objectContaining({ name: "AbortError" }));
  }
});

test("pieces of any size from the disk", async () => {
  for (const chunkBytes of [1, 7, 4096]) {
    const loaded = await load(fixture("hostile_results.csv"), { chunkBytes: chunkBytes });
    if (loaded.kind === "run") expect(rowsOf(loaded.run)).toEqual(fixtureRows("hostile"));
  }
});

test("names of runs", () => {
  for (const name of [
    "demo_results.csv",
    "demo_run.json",
    "demo_results (1).json.gz",
    "demo.parquet",
    "out/demo_results.html",
    "demo",
  ])
    expect(runName(name)).toBe("demo");
  expect(runName(".csv")).toBe(".csv");
});

test("a prototype's names are names like others", async () => {
  const run = await runOf(textFile(`${HEADER}\n0,0,__proto__,0,constructor,1,1\n`));
  expect([run.tokens[0].text, run.variants]).toEqual(["__proto__", ["constructor"]]);
  expect(await failure(textFile(bytesOf('{"__proto__": [1]}'), "x.json"))).toContain("found __proto__");
});
