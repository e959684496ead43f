/** Heads as the views mark them: their colours in the line plot, and what a click on one does. */

import { HEAD_LIMIT } from "../core/series.ts";
import { DEFAULTS, type State } from "../core/state.ts";
import { crossing } from "../core/words.ts";

/** Blue, green, pink, ochre, sky, purple: apart also for colour-blind readers, and none is the selection's orange. */
const LIGHT = ["#0068b0", "#00805f", "#b8408f", "#8a6a00", "#2b96cc", "#5b3fa8"];
const DARK = ["#56b4e9", "#2fbf8f", "#e58fc4", "#f0e442", "#b3a5ff", "#a8d08d"];

export function headColour(state: State, head: number, dark: boolean): string | null {
  const place = state.heads.indexOf(head);
  return place < 0 || place >= HEAD_LIMIT ? null : nthColour(place, dark);
}

export const nthColour = (nth: number, dark: boolean) => (dark ? DARK : LIGHT)[nth % LIGHT.length];

/** What a click on a head's cell does to layer and variant: show it, or, if it is shown, go back. */
export function shown(state: State, layer: number, variant: string): Partial<State> {
  const same = state.layer === layer && state.variant === variant;
  return same ? { layer: null, variant: crossing(variant) + DEFAULTS.variant } : { layer, variant };
}
