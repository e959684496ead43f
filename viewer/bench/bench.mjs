/**
 * Times from bytes on disk to cube, in Node, for each file of make_files.py. One process a file, so that none pays for
 * the memory of another; `rounds` loads in it, of which the first is cold.
 *
 *   node bench/bench.mjs /tmp/viewer-bench            all files
 *   node bench/bench.mjs /tmp/viewer-bench 165k       those with 165k in their name
 */

import { execFileSync } from "node:child_process";
import { openAsBlob, readdirSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "vite";

const BUNDLE = join(tmpdir(), "mask-impact-viewer-bench");

/** The data layer as the page has it: bundled, not minified. */
async function bundle() {
  const entry = new URL("../src/data/load.ts", import.meta.url).pathname;
  await build({
    configFile: false,
    logLevel: "error",
    build: {
      lib: { entry, formats: ["es"], fileName: () => "load.mjs" },
      outDir: BUNDLE,
      emptyOutDir: true,
      minify: false,
      target: "es2022",
    },
  });
}

async function one(path) {
  const { load } = await import(join(BUNDLE, "load.mjs"));
  const file = await openAsBlob(path);
  const rounds = file.size > 50e6 ? 2 : 6;
  const times = [];
  let rows = 0;
  for (let i = 0; i < rounds; i++) {
    const start = performance.now();
    rows = (await load(file, { fileName: path })).run.rows;
    times.push(performance.now() - start);
  }
  const [first, ...later] = times.map(Math.round);
  const peak = Math.round(process.resourceUsage().maxRSS / 1024);
  console.log(
    [
      path.split("/").at(-1).padEnd(28),
      String(rows).padStart(9),
      (file.size / 1e6).toFixed(1).padStart(7),
      String(first).padStart(7),
      String(Math.min(...later)).padStart(7),
      String(peak).padStart(7),
    ].join(" "),
  );
}

const [folder, filter = ""] = process.argv.slice(2);
if (statSync(folder).isFile()) {
  await one(folder);
} else {
  await bundle();
  console.log("file                              rows      MB   first    best  RSS MB   (ms)");
  const files = readdirSync(folder).filter((name) => name.includes(`${filter}`) && name.includes("_results"));
  for (const name of files)
    execFileSync(process.execPath, [import.meta.filename, join(folder, name)], { stdio: "inherit" });
}
