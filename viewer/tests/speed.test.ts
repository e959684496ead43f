/** A sanity check, not a benchmark (that is bench/bench.mjs): ten times slower than expected fails. */

import { expect, test } from "vitest";
import { bytesOf, HEADER, runOf, textFile } from "./helpers.ts";

const STEPS = 5,
  LAYERS = 36,
  HEADS = 34,
  TOKENS = 27; // 165,240 rows

function rows(): (string | number)[][] {
  const rows: (string | number)[][] = [];
  for (let s = 0; s < STEPS; s++)
    for (let l = 0; l < LAYERS; l++)
      for (let t = 0; t < TOKENS; t++)
        for (let h = 0; h < HEADS; h++) {
          rows.push([
            s,
            l,
            ` token${t}`,
            t,
            `Head_${h}`,
            Math.fround(rows.length * 1e-5),
            Math.fround(rows.length * 3e-9),
          ]);
        }
  return rows;
}

test("165,240 rows in well under a second", async () => {
  const table = rows();
  const names = HEADER.split(",");
  const columns = JSON.stringify(Object.fromEntries(names.map((name, c) => [name, table.map((row) => row[c])])));
  const csv = `${HEADER}\n${table.map(([s, l, token, ...rest]) => `${s},${l},"${token}",${rest.join(",")}`).join("\n")}\n`;
  for (const file of [textFile(bytesOf(csv), "x.csv"), textFile(bytesOf(columns), "x.json")]) {
    const start = performance.now();
    const run = await runOf(file);
    expect(performance.now() - start).toBeLessThan(2000);
    expect(run.rows).toBe(table.length);
    expect(run.values.l2.at(-1)).toBe(table.at(-1)![5]);
  }
});
