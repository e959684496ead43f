/** The README has a row for every folder, and names only modules that are there. */

import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

const ROOT = new URL("..", import.meta.url);
const README = readFileSync(new URL("README.md", ROOT), "utf8");
const NOT_OURS = ["node_modules", "dist"];

function folders(path = ""): string[] {
  const inside = readdirSync(new URL(path || ".", ROOT), { withFileTypes: true });
  const own = inside.filter(
    (each) => each.isDirectory() && !NOT_OURS.includes(each.name) && !each.name.startsWith("."),
  );
  return own.flatMap(({ name }) => [`${path}${name}/`, ...folders(`${path}${name}/`)]);
}

test("every folder has a row, and every row a folder", () => {
  const [, table] = README.split("## Layout");
  const rows = [...table.matchAll(/^\| `([\w/]+\/)` \|/gm)].map(([, name]) => name);
  expect(rows.toSorted()).toEqual(folders().toSorted());
});

test("every module of the data layer has its job told", () => {
  const told = [...README.matchAll(/`([\w-]+\.ts)`/g)].map(([, name]) => name);
  const modules = readdirSync(new URL("src/data", ROOT));
  expect(modules.filter((name) => !told.includes(name) && name !== "errors.ts")).toEqual([]);
});
