/**
 * What cutting routes costs the answer, as a graph: columns are sets of positions, a line goes from what is read to those who
 * stop reading it, through the layers in which they do. Only effects of at least a part of the largest are in it.
 */

import { plainToken } from "../data/cube.ts";
import { partsOf } from "../data/effects.ts";
import { ROUTE, shownSide } from "../data/routes.ts";
import type { Run, Side, TokenInfo } from "../data/types.ts";
import { shownEffects, WHOLE, type Shown } from "./effects.ts";
import { bySize, fewEnough, type Graph, type Line } from "./graph.ts";
import type { Compared } from "./prompt-text.ts";
import { predictedText } from "./words.ts";

export type RouteUnit = Shown["units"][number];

/** A route, cut in some layers. */
export interface Cut {
  unit: RouteUnit;
  /** Of one head at a time: those of its strongest head. */
  window: string;
  heads: { head: string; value: number }[];
}

/** Lines are cuts, the last layers first. */
export interface Routes extends Graph<Cut> {
  shown: Shown;
  part: number;
}

const AT_THE_END = ["generated", "later", "last"]; // sets that are another one at every step, in this order

/** Null: no routes were cut. */
export function routes(scene: Omit<Compared, "runs">): Routes | null {
  const shown = shownEffects(scene);
  if (shown?.block !== ROUTE) return null;
  const { run, state } = scene,
    { layers } = run,
    { largest, signed } = shown;
  const { names, columns } = columnsOf(run, shown);
  const all = cutsOf(run, shown, names).filter(({ value }) => Math.abs(value) > shown.floor);
  const strong = (part: number) => all.filter(({ value }) => Math.abs(value) >= part * largest);
  const { found: lines, part } = fewEnough(state.routes, strong, ({ length }) => length);
  const answer = shown.step === WHOLE ? null : predictedText(run, state.step);
  const column = names.indexOf("last"),
    says = { column, text: answer === null ? "the answer" : `→ ${answer}` };
  return { shown, part, columns, layers, lines, largest, signed, says, ways: waysOf(lines, column, layers.length) };
}

const LAST: Side = { name: "last", positions: [] };

/** The sets of all routes, by their first positions, and the position that predicts. */
function columnsOf(run: Run, { units }: Shown): { names: string[]; columns: TokenInfo[] } {
  const named = [LAST, ...units.flatMap(({ route }) => [route!.source, route!.readers])];
  const sides = new Map(named.map((side) => [side.name, side]));
  const place = ({ name, positions }: Side) => positions[0] ?? run.tokens.length * 2 + AT_THE_END.indexOf(name);
  const sorted = [...sides.values()].sort((a, b) => place(a) - place(b));
  return {
    names: sorted.map(({ name }) => name),
    columns: sorted.map((side) => {
      const token = plainToken(side.positions[0] ?? -1, shownSide(side, run.manifest));
      return { ...token, members: side.positions };
    }),
  };
}

function cutsOf({ layers }: Run, { units, values, effects: { windows } }: Shown, names: string[]): Line<Cut>[] {
  return units
    .flatMap((unit, place) => {
      const { source, readers } = unit.route!;
      const found = new Map<string, Line<Cut>>();
      windows.forEach((window, i) => {
        const value = values[place * windows.length + i],
          [first, last, head] = partsOf(window);
        if (isNaN(value)) return;
        const key = `${unit.key} ${first}-${last}`,
          other = found.get(key);
        const heads = [...(other?.of.heads ?? []), ...(head === undefined ? [] : [{ head: `Head_${head}`, value }])];
        const stands = other && Math.abs(other.value) >= Math.abs(value) ? other : { value, of: { window } };
        found.set(key, {
          key,
          from: names.indexOf(source.name),
          bottom: layers.indexOf(first),
          to: names.indexOf(readers.name),
          top: layers.indexOf(last) + 1,
          value: stands.value,
          of: { unit, window: stands.of.window, heads: heads.sort(bySize) },
        });
      });
      return [...found.values()];
    })
    .sort((a, b) => b.top - a.top || bySize(a, b));
}

/** Up to where a set is read or has read; that of the answer to the top. */
function waysOf(lines: Line<Cut>[], answers: number, top: number): Map<number, number> {
  const ways = new Map(lines.length ? [[answers, top]] : []);
  for (const { from, bottom, to, top } of lines) {
    ways.set(from, Math.max(bottom, ways.get(from) ?? 0));
    ways.set(to, Math.max(top, ways.get(to) ?? 0));
  }
  return ways;
}
