/** DeepStack: what the answer needs of the image features that are added between decoder layers, in numbers. */

import { membersOf } from "../data/manifest.ts";
import type { Effects, Injection, Run } from "../data/types.ts";
import { tokenIndex } from "./scene.ts";

/** Every set of injections that was removed from, or kept alone of, all image tokens. */
export interface AddedSet extends Injection {
  change: number;
  before: number;
  after: number;
  top: string;
}

type Added = Pick<Run, "deepstack" | "manifest" | "tokens">;

/** The single injections, by number, as they were removed. */
export const levels = ({ deepstack }: Added): Injection[] =>
  deepstack?.injections?.filter(({ injection, action }) => action === "removed" && /^\d+$/.test(injection)) ?? [];

/** What was done to all image tokens at once. */
export function wholes({ deepstack }: Added, step: number): AddedSet[] {
  if (!deepstack) return [];
  const { rows, injections, numbers, top } = deepstack;
  const whole = wholeKey(deepstack);
  return (injections ?? []).flatMap((each) => {
    const row = rows.get(rowKey(deepstack, step, each.window, whole));
    if (row === undefined) return [];
    const [logprob, change] = [numbers.logprob![row], numbers.logprob_change![row]];
    return [{ ...each, change, before: Math.exp(logprob - change), after: Math.exp(logprob), top: top[row] }];
  });
}

/** The change of log-probability when an injection is removed from each of the run's tokens; NaN where none was. */
export function changesOf(run: Added, step: number, { window }: Injection): Float32Array {
  const found = new Float32Array(run.tokens.length).fill(NaN);
  const { deepstack, manifest } = run;
  if (!deepstack) return found;
  const members = membersOf({ units: manifest?.units }),
    whole = wholeKey(deepstack);
  for (const { key, position, label } of deepstack.units) {
    const row = deepstack.rows.get(rowKey(deepstack, step, window, key));
    if (row === undefined || key === whole) continue;
    for (const each of members({ position, text: label }) ?? [position])
      found[tokenIndex(run, each)] = deepstack.numbers.logprob_change![row]; // at -1: nothing
  }
  return found;
}

const ALL = "all image tokens"; // the name of this unit in the table

const wholeKey = ({ units }: Effects) => units.find(({ label }) => label === ALL)?.key ?? "";

const rowKey = ({ blocks }: Effects, step: number, window: string, key: string) =>
  [step, blocks[0], window, key].join();

/** "injection 1 (vision layer 17, added after decoder layer 1)" */
export const injectionText = ({ injection, vision, decoder }: Injection): string =>
  `injection ${injection} (vision layer ${vision}, added after decoder layer ${decoder})`;
