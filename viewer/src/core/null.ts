/** What the manifest says of a ranked token beside its value: its percentile among other prompts' tokens, and sinks. */

import type { Run } from "../data/types.ts";

const ALIKE = 1e-4; // of a value: the page adds up float32

/**
 * How many in a hundred tokens of other prompts have a smaller value; null where that is not known. It belongs to one
 * value, so there is none while the page shows other layers, another variant, metric or output token.
 */
export function percentileOf({ manifest }: Pick<Run, "manifest">, position: number, value: number): number | null {
  const found = manifest?.null?.percentiles?.find((each) => each.position === position);
  if (found?.percentile === undefined || found.value === undefined) return null;
  return Math.abs(found.value - value) <= ALIKE * Math.abs(found.value) ? found.percentile : null;
}

/** "sink, 48 % of the attention, values 0.36 as long as the average"; null where it is none. */
export function sinkText({ manifest }: Pick<Run, "manifest">, position: number): string | null {
  const found = manifest?.sinks?.find((each) => each.position === position);
  if (found?.weight === undefined || found.value_length === undefined) return null;
  const weight = `${(100 * found.weight).toFixed(0)} % of the attention`;
  return `sink: ${weight}, values ${found.value_length.toFixed(2)} as long as the average of what is read`;
}
