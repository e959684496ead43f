/** The index of a folder of runs, one row for each: in index.html, and in NAME_batch.json under `index`. */

import { LoadError } from "./errors.ts";
import { list, number, object, text } from "./manifest.ts";
import type { IndexRow, RunIndex } from "./types.ts";

const cleanRow = object<IndexRow>({
  name: text,
  report: text,
  prompt: text,
  answer: text,
  probability: number,
  model: text,
  metric: text,
  top: object({ text, layer: number, value: number }),
  effect: object({ text, before: number, after: number, then: text, least: number }),
  by_layer: list(number),
  units: list(object({ name: text, read: number, effect: number })),
});

/** Is it NAME_batch.json? */
export const looksLikeBatch = (keys: readonly string[]) => keys.includes("prompts") && keys.includes("processes");

/** `inPlace`: the page lies in the folder of the runs. Throws LoadError. */
export function readIndex(value: unknown, name: string, inPlace: boolean): RunIndex {
  const { index } = value as { index?: unknown };
  if (!Array.isArray(index))
    throw new LoadError(
      "this batch was written before batches had an index; write one with: python -m mask_impact index DIR",
    );
  return { name, rows: index.map((row) => cleanRow(row) ?? {}), inPlace };
}

/** Mean of a number with a name over the runs, and the half-width of its 95 % interval (Student's t); NaN of one run. */
export interface Mean {
  count: number;
  mean: number;
  half: number;
}

export function meanOf(values: number[]): Mean {
  const count = values.length,
    mean = values.reduce((sum, value) => sum + value, 0) / count;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { count, mean, half: count > 1 ? quantile(count - 1) * Math.sqrt(squares / (count - 1) / count) : NaN };
}

const EXACT = [12.706, 4.303, 3.182, 2.776, 2.571]; // of few degrees of freedom

/** 97.5 % quantile of Student's t; the Cornish-Fisher expansion from six degrees of freedom on. */
function quantile(freedom: number): number {
  const z = 1.959964;
  return EXACT[freedom - 1] ?? z + (z ** 3 + z) / 4 / freedom + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96 / freedom ** 2;
}

/** Of every unit that several runs have by this name: how much it is read, and its effect. The strongest effect first. */
export function unitMeans({ rows }: RunIndex): { name: string; read: Mean; effect: Mean }[] {
  const byName = new Map<string, { read: number[]; effect: number[] }>();
  for (const { name = "", read, effect } of rows.flatMap(({ units = [] }) => units)) {
    const found = byName.get(name) ?? { read: [], effect: [] };
    byName.set(name, found);
    if (read !== undefined) found.read.push(read);
    if (effect !== undefined) found.effect.push(effect);
  }
  const size = ({ mean }: Mean) => Math.abs(mean) || 0;
  return [...byName]
    .filter(([, { read, effect }]) => Math.max(read.length, effect.length) > 1)
    .map(([name, { read, effect }]) => ({ name, read: meanOf(read), effect: meanOf(effect) }))
    .sort((a, b) => size(b.effect) - size(a.effect) || size(b.read) - size(a.read));
}
