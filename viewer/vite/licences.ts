/** The licences of others' code in the page; they go into it as a comment. */

import { readFileSync } from "node:fs";

/** What of others is in the page. */
const PARTS = [
  ["hyparquet", "the Parquet reader, with parts of snappyjs, Copyright (c) 2016 Zhipeng Jia, under the same licence"],
  ["d3-scale-chromatic", "the colour tables"],
];

export function licences(): string {
  const text = (name: string) => readFileSync(new URL(`../node_modules/${name}/LICENSE`, import.meta.url), "utf8").trim();
  return PARTS.map(([name, what]) => `${name} (${what})\n\n${text(name)}`).join("\n\n").replaceAll("--", "- -");
}
