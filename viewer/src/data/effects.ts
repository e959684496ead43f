/** NAME_effects: the long table -> rows that are found by step, block, layers and unit. */

import { count, LoadError, NotResults, plural, quoted } from "./errors.ts";
import { JsonParser } from "./json.ts";
import { Table, type ColumnName } from "./table.ts";
import type { Effects, Injection, Run } from "./types.ts";

/** Is a file that holds no results of this kind, whole or not? The two columns are in no other file. */
export const looksLikeEffects = (error: unknown) =>
  error instanceof NotResults && (error.found.includes("first_layer") || error.found.includes("logprob_change"));

/** Throws LoadError with a sentence. */
export function makeEffects(table: Table, name: string, fileName: string, notes: string[] = []): Effects {
  const {
    columns,
    texts: { list },
  } = table;
  if (!table.rows) throw new LoadError("the table has a header and no rows");
  const steps = new Set<number>(),
    blocks = new Set<string>(),
    windows = new Set<string>();
  const units = new Map<string, Effects["units"][number]>(),
    rows: Effects["rows"] = new Map();
  const deepest = deepestLevels(table);
  const injections = new Map<string, Injection>();
  for (let row = 0; row < table.rows; row++) {
    const at = (column: ColumnName) => columns[column].data[row];
    const [step, first, last, block, position, label] = [
      at("generation_step"),
      at("first_layer"),
      at("last_layer"),
      list[at("block")],
      at("token_position"),
      list[at("token_masked")],
    ];
    if (first > last || !block) {
      throw new LoadError(
        `row ${count(row + 1)}: a mask of layers ${first} to ${last} and block ${quoted(block)} cannot be`,
      );
    }
    const level = columns.unit_level.length ? at("unit_level") : 0;
    const head = columns.head.length ? columns.head.data[row] : NaN;
    const added = injectionOf(table, row);
    if (added) injections.set(added.window, added);
    const window = added ? added.window : head >= 0 ? `${first}-${last}.${head}` : `${first}-${last}`,
      key = `${position} ${label}`;
    steps.add(step);
    blocks.add(block);
    windows.add(window);
    units.set(key, { key, label, position, level, split: level < (deepest.get(position) ?? 0) });
    rows.set([step, block, window, key].join(), row);
  }
  const twice = table.rows - rows.size;
  const said = [...notes];
  if (twice) said.push(`${plural(twice, "row")} of ${fileName} give a mask another effect; the last one is shown.`);
  const numeric = table.names.filter((column) => table.kindOf(column) !== "text" && columns[column].length);
  return {
    name,
    fileName,
    rows,
    steps: [...steps].sort((a, b) => a - b),
    blocks: [...blocks].sort().reverse(),
    units: [...units.values()].sort((a, b) => a.position - b.position || a.level - b.level),
    windows: injections.size ? [...windows] : [...windows].sort(byLayers),
    injections: injections.size ? [...injections.values()] : null,
    numbers: Object.fromEntries(numeric.map((column) => [column, columns[column].data])),
    top: [...columns.top_token.data.subarray(0, table.rows)].map((text) => list[text]),
    notes: said,
  };
}

function byLayers(a: string, b: string): number {
  const [one, other] = [partsOf(a), partsOf(b)];
  return one[0] - other[0] || one[1] - other[1] || (one[2] ?? -1) - (other[2] ?? -1);
}

/** Null: the row is of a mask. */
function injectionOf({ columns, texts: { list } }: Table, row: number): Injection | null {
  if (!columns.injection.length) return null;
  const [injection, vision, decoder, action] = ["injection", "vision_layer", "decoder_layer", "action"].map(
    (column) => list[columns[column].data[row]] ?? "",
  );
  return { window: `${injection} ${action}`, injection, vision, decoder, action };
}

/** From coarse to fine, by the first position of units: a unit of a level above was split, and its first part begins there. */
function deepestLevels({ rows, columns }: Table): Map<number, number> {
  const deepest = new Map<number, number>();
  for (let row = 0; columns.unit_level.length && row < rows; row++) {
    const position = columns.token_position.data[row];
    deepest.set(position, Math.max(deepest.get(position) ?? 0, columns.unit_level.data[row]));
  }
  return deepest;
}

/** First and last layer in which a mask held, and the head if it was one: "3-3.5" -> [3, 3, 5]. */
export const partsOf = (window: string) => window.split(/[-.]/).map(Number);

/** The same from columnar JSON. */
export function readEffects(json: string, name: string): Effects {
  const table = new Table("effects"),
    parser = new JsonParser(table);
  parser.feed(new TextEncoder().encode(json));
  parser.end();
  return makeEffects(table, name, name);
}

/** A sentence if the effects cannot be of this run. Labels of units are the user's, so not all of them have to agree. */
export function misfit(run: Run, { units, steps, fileName }: Effects): string[] {
  const texts = new Map(run.tokens.map(({ position, text }) => [position, text.trim()]));
  const known = units.some(
    ({ label, position }) => texts.has(position) && label.trim().startsWith(texts.get(position)!),
  );
  return steps.some((step) => run.steps.includes(step)) && (known || units.length < 3)
    ? []
    : [`${fileName} seems to be of another run: its tokens or steps are not those of the results.`];
}
