/**
 * From the values of a token in several layers to one number. This is the one place that says which rule the page uses
 * unless another one is chosen; rankings, the prompt, pictures and sentences all go through `importance`.
 */

import type { TokenInfo } from "../data/types.ts";

export type Aggregate = "root" | "max" | "mean";

/** That of impact/top_tokens.py, by which the summary and the manifest rank, too. */
export const AGGREGATE: Aggregate = "root";

/** As they are called. */
export const JOINED: Record<Aggregate, string> = { root: "root sum square", max: "largest", mean: "mean" };

/** "root sum square over layers" */
export const overLayers = (join: Aggregate, layers = "layers") =>
  `${join === "max" ? "largest value" : JOINED[join]} over ${layers}`;

/** A matrix of values, layers down, tokens across; NaN: no value. */
export interface Matrix {
  layers: number[];
  tokens: TokenInfo[];
  /** [layer * tokens.length + token] */
  values: Float32Array;
}

export interface Joined {
  from: number | null;
  to: number | null;
  join: Aggregate;
}

/**
 * Importance of each token over the layers `from` to `to`: the root of the sum of squares (of L2 distances, the length of
 * the changes of all these layers side by side), the value furthest from 0 (a metric may have a sign), or the mean. NaN
 * where there is none. `peak`: the layer with the value furthest from 0, -1 where there is none.
 */
export function importance(found: Matrix, { from, to, join }: Joined): { value: Float32Array; peak: Int32Array } {
  const count = found.tokens.length;
  const value = new Float32Array(count).fill(NaN);
  const peak = new Int32Array(count).fill(-1);
  const best = new Float32Array(count).fill(-1);
  const sum = new Float64Array(count);
  const seen = new Int32Array(count);
  found.layers.forEach((layer, row) => {
    if ((from !== null && layer < from) || (to !== null && layer > to)) return;
    for (let token = 0, place = row * count; token < count; token++, place++) {
      const here = found.values[place],
        size = Math.abs(here);
      if (isNaN(here)) continue;
      if (size > best[token]) {
        best[token] = size;
        peak[token] = layer;
        if (join === "max") value[token] = here;
      }
      sum[token] += join === "root" ? here * here : here;
      seen[token]++;
    }
  });
  if (join !== "max")
    sum.forEach((all, token) => {
      if (seen[token]) value[token] = join === "root" ? Math.sqrt(all) : all / seen[token];
    });
  return { value, peak };
}

/** Position 0 as a single token, which often just absorbs attention. A unit that begins there is none. */
export const isFirst = ({ position, members }: Pick<TokenInfo, "position" | "members">) =>
  position === 0 && (members?.length ?? 1) < 2;
