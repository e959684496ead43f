/** What other files tell about a token of a run: what it costs, what the vision tower reads of it, what it says. */

import { importance } from "./aggregate.ts";
import { counterparts } from "./align.ts";
import { effectOn, shownEffects } from "./effects.ts";
import { groupName, nearest, tokenText, twinOf } from "./lens.ts";
import { titleOf } from "./metrics.ts";
import { matrix, tokenIndex, type Scene } from "./scene.ts";
import { withState } from "./state.ts";
import { number, unspaced, visible } from "./tokens.ts";
import { percent } from "./words.ts";
import type { Neighbors, Run, TokenInfo } from "../data/types.ts";

export interface Fact {
  what: string;
  said: string;
}

const WORDS = 3;

/** Nothing if only this run is about its prompt; then its own views say it all. */
export function factsBeside(scene: Scene, token: TokenInfo): Fact[] {
  const others = [...inOtherTowers(scene, token), ...inWords(scene, token)];
  return others.length ? [...ofTheAnswer(scene, token), ...others] : [];
}

/** By the smallest unit that the token is in. */
function ofTheAnswer(scene: Scene, { position }: TokenInfo): Fact[] {
  const shown = shownEffects(scene);
  const units = shown?.units.filter(({ positions, route }) => positions.includes(position) && !route) ?? [];
  const [unit] = units.sort((a, b) => a.positions.length - b.positions.length);
  const found = unit && effectOn(shown!, unit.key, unit.strongest);
  if (!found) return [];
  const then = unspaced(visible(found.top));
  return [{ what: "Answer without it", said: `p ${percent(found.before)} → ${percent(found.after)}, then ${then}` }];
}

const towerOf = ({ manifest }: Run) =>
  manifest?.tower === "vision" ? "Read in the vision tower" : "Read in the decoder";

function inOtherTowers({ library, run, state }: Scene, token: TokenInfo): Fact[] {
  return library.flatMap((other) => {
    const own = tokenIndex(run, token.position);
    const place = towerOf(other) === towerOf(run) ? -1 : counterparts(run, other, "token")[own];
    const { metrics, variants, steps } = other;
    if (place < 0 || !variants.includes(state.variant) || !metrics.some(({ name }) => name === state.metric)) return [];
    const asked = withState(state, { step: steps.includes(state.step) ? state.step : steps[0] });
    const { value, peak } = importance(matrix(other, asked), { from: null, to: null, join: state.join });
    const said = `${titleOf(other, state)} ${number(value[place])}, most in layer ${peak[place]}`;
    return isNaN(value[place]) ? [] : [{ what: towerOf(other), said }];
  });
}

function inWords({ neighbors = [], run, state }: Scene, token: TokenInfo): Fact[] {
  return neighbors.flatMap((found: Neighbors) => {
    const place = twinOf(found, run)?.indexOf(token.position) ?? -1;
    if (place < 0) return [];
    const { layers, groups, similarity } = found;
    const layer = layers.includes(state.layer ?? -1) ? state.layer! : layers[layers.length >> 1];
    const group = Math.max(0, groups.indexOf(state.near));
    const rows = [...nearest(found, group, layer, place)].slice(0, WORDS);
    const said = rows.map((row) => `${unspaced(visible(tokenText(found, row)))} (${number(similarity[row])})`);
    return rows.length
      ? [{ what: `Nearest text in layer ${layer}, ${groupName(groups[group])}`, said: said.join(", ") }]
      : [];
  });
}
