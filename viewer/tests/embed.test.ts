import { expect, test } from "vitest";
import { readFileSync } from "node:fs";
import { decodeRun, EMPTY_ELEMENT, findEmbedded } from "../src/data/embed.ts";
import { load } from "../src/data/load.ts";
import type { Run } from "../src/data/types.ts";
import { METRICS, base64, fixture, fixtureRows, rowsOf, runOf, textFile } from "./helpers.ts";

/** What the Python side writes. */
function encoded(run: Run, more: object = {}): string {
  const { name, rows, steps, layers, variants, tokens, manifest } = run;
  const image = { name: "cat.png", data: `data:image/png;base64,${btoa("a picture")}` };
  const data = {
    format: 2,
    name,
    rows,
    steps,
    layers,
    variants,
    manifest,
    images: manifest?.images?.map(() => image) ?? [],
    positions: tokens.map(({ position }) => position),
    tokens: tokens.map(({ text }) => text),
    metrics: run.metrics,
    values: run.metrics.map(({ name }) => base64(run.values[name])),
    ...more,
  };
  return JSON.stringify(data).replaceAll("<", "\\u003c");
}

const page = (data: string) =>
  `<!doctype html><body>${EMPTY_ELEMENT.replace("></", () => `>${data}</`)}<script>1</script></body>`;

test("the page's template has the empty element exactly once", () => {
  const html = readFileSync(new URL("../index.html", import.meta.url), "utf8");
  expect(html.split(EMPTY_ELEMENT)).toHaveLength(2);
  expect(findEmbedded(html)).toBeNull();
});

test.each(["grid", "hostile"] as const)(
  "a run comes back bit for bit, from the page and from a dropped report: %s",
  async (name) => {
    const run = await runOf(fixture(`${name}_results.parquet`));
    const html = page(encoded(run));
    expect(html.match(/<\/script>/g)).toHaveLength(2);
    const again = decodeRun(findEmbedded(html)!);
    const dropped = await load(textFile(html, `${name}_results.html`));
    for (const each of [again, (dropped as { run: Run }).run]) {
      expect(rowsOf(each)).toEqual(fixtureRows(name));
      expect({ ...each, pictures: [], source: null }).toEqual({ ...run, pictures: [], source: null });
    }
    expect((dropped as { run: Run }).run.source).toMatchObject({ format: "html", fileName: `${name}_results.html` });
    if (name === "grid") expect(await again.pictures[0]?.blob.text()).toBe("a picture");
  },
);

test("atob and Uint8Array.fromBase64 give the same", async () => {
  const run = await runOf(fixture("grid_results.csv"));
  const holder = Uint8Array as unknown as { fromBase64?: (text: string) => Uint8Array };
  const native = holder.fromBase64;
  const results = [undefined, (text: string) => new Uint8Array(Buffer.from(text, "base64"))].map((replacement) => {
    holder.fromBase64 = replacement;
    return rowsOf(decodeRun(encoded(run)));
  });
  if (native) holder.fromBase64 = native;
  else delete holder.fromBase64;
  expect(results[0]).toEqual(fixtureRows("grid"));
  expect(results[1]).toEqual(results[0]);
});

test("damage is an error", async () => {
  const run = await runOf(fixture("grid_results.csv"));
  const whole = encoded(run);
  expect(() => decodeRun(whole.slice(0, -5))).toThrow("cut off or no valid JSON");
  for (const [more, message] of [
    [{ format: 3 }, "has format 3, and this page reads formats 1 and 2"],
    [{ values: [base64(run.values.l2.subarray(1)), base64(run.values.cosine)] }, "l2 has 572 of 576 bytes"],
    [{ values: [base64(run.values.l2), "!!!!"] }, "base64"],
    [{ values: [base64(run.values.l2)] }, "lists do not fit together"],
    [{ metrics: [METRICS[0], METRICS[0]] }, "lists do not fit together"],
    [{ metrics: [], values: [] }, "lists do not fit together"],
    [{ tokens: ["a"] }, "lists do not fit together"],
    [{ layers: [2, 1, 0] }, "lists do not fit together"],
    [{ variants: ["Full", "Full", "Attn", "Head_0"] }, "lists do not fit together"],
    [{ steps: [] }, "lists do not fit together"],
  ] as const) {
    expect(() => decodeRun(encoded(run, more)), message).toThrow(message);
  }
});

test("a page of format 1, with l2 and cosine by name, is read as before", async () => {
  const run = await runOf(fixture("grid_results.parquet"));
  const old = {
    format: 1,
    l2: base64(run.values.l2),
    cosine: base64(run.values.cosine),
    metrics: undefined,
    values: undefined,
  };
  const again = decodeRun(encoded(run, old));
  expect({ ...again, pictures: [], source: null }).toEqual({ ...run, pictures: [], source: null });
  expect(() => decodeRun(encoded(run, { ...old, cosine: undefined }))).toThrow("lists do not fit together");
});

test("what a list of metrics leaves out is as for a column of a table", async () => {
  const run = await runOf(fixture("grid_results.csv"));
  const metrics = [
    { name: "cosine", column: "cosine_distance" },
    { name: "toy", title: "Toy", unit: "apples", range: [1, 2] },
  ];
  const found = decodeRun(encoded(run, { metrics }));
  expect(found.metrics).toEqual([
    METRICS[1],
    { name: "toy", column: "toy", title: "Toy", unit: "apples", range: [1, 2] },
  ]);
  expect(found.values.toy).toEqual(run.values.cosine);
  // So is what has the wrong type, as in a manifest.
  const odd = [
    { ...METRICS[0], title: 5, unit: null },
    { ...METRICS[1], range: "0 to 2" },
  ];
  expect(decodeRun(encoded(run, { metrics: odd })).metrics).toEqual(METRICS);
});
