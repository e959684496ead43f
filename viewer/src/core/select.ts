/** What a click on a token selects. */

import type { State } from "./state.ts";

/** All selected positions, the first one first. */
export const selectedIn = ({ token, also }: Pick<State, "token" | "also">): number[] =>
  token === null ? [...also] : [token, ...also];

/** It alone, or nothing where it was alone; with Shift it is added to the others, or taken away from them. */
export function picked(state: Pick<State, "token" | "also">, position: number, more = false): Partial<State> {
  const { token, also } = state,
    before = selectedIn(state);
  const others = before.filter((each) => each !== position);
  const [first = null, ...rest] = more
    ? before.includes(position)
      ? others
      : [...before, position]
    : token === position && !also.length
      ? []
      : [position];
  return { token: first, also: rest };
}
