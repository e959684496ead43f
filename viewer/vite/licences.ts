/** What of others is in the page, and under which licence; it goes into the page as a comment. */

import { readFileSync } from "node:fs";

const COLOURS =
  "Colour tables: cividis and viridis (CC0), PuOr by Cynthia Brewer (Apache License 2.0), sampled from " +
  "d3-scale-chromatic by Mike Bostock (ISC).";
const PARQUET = "Parquet: hyparquet, with parts of snappyjs, Copyright (c) 2016 Zhipeng Jia, under the same licence:";

export function licences(): string {
  const text = (name: string) =>
    readFileSync(new URL(`../node_modules/${name}/LICENSE`, import.meta.url), "utf8").trim();
  return `${COLOURS}\n${PARQUET}\n\n${text("hyparquet")}\n\nZstandard: fzstd.\n\n${text("fzstd")}`.replaceAll(
    "--",
    "- -",
  );
}
