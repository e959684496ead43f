/** What is selected before anybody has chosen: what the page would point at first. */

import { ranked, scores, type Compared } from "./prompt-text.ts";
import type { State } from "./state.ts";
import { templatePositions } from "./template.ts";
import { isDifference } from "./words.ts";

/** The first word of the ranking, in its strongest layer; of a run with pictures or other queries no layer, so that they
 * show all layers together. */
export function strongestCell(scene: Compared): Partial<State> {
  const { run, runs, state } = scene;
  if (isDifference(state, runs)) return {};
  const template = templatePositions(run);
  const [first] = ranked(scene, ({ kind, position }) => kind !== "image" && !template.has(position));
  const [place = first] = first === undefined ? ranked(scene, () => true) : [];
  if (place === undefined) return {};
  const joined = run.queries || run.tokens.some(({ kind }) => kind === "image");
  return { token: run.tokens[place].position, layer: joined ? null : scores(scene).peak[place] };
}
