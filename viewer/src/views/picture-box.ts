/** A box over patches of a picture, drawn with the pointer or with Shift and the arrow keys. */

import { cornersOf, regionFlag } from "../core/command.ts";
import type { Scene } from "../core/scene.ts";
import { overLayers } from "../core/aggregate.ts";
import { number } from "../core/tokens.ts";
import { neighbour, type AnyFigure, type Figure, type Patch, type Shown } from "./patches.ts";

/** From one patch to another. */
export function boxOf(from: Patch | null, to: Patch | null): number[] {
  const [a, b] = [from?.token, to?.token];
  if (!a || !b || a.row === null || b.row === null) return [];
  return [a.image ?? 0, a.row, a.col!, b.row, b.col!];
}

/** The patches inside; none of a picture on which it was not drawn. */
export function inBox({ patches }: AnyFigure, region: readonly number[]): Patch[] {
  const corners = cornersOf(region);
  if (!corners) return [];
  const [image, top, left, bottom, right] = corners;
  return patches.filter(({ token: { image: of, row, col } }) => {
    const inside = row !== null && row >= top && row <= bottom && col! >= left && col! <= right;
    return inside && (of ?? 0) === image;
  });
}

/** A row or a column more or less, at the corner where it was ended. */
export function grown(figure: AnyFigure, region: readonly number[], from: Patch | null, key: string): number[] {
  const at = (row: number, col: number) =>
    figure.patches.find(({ token }) => token.row === row && token.col === col) ?? null;
  const [start, end] = region.length ? [at(region[1], region[2]), at(region[3], region[4])] : [from, from];
  return boxOf(start, neighbour(figure, end, key));
}

/** What is in it, and what to do with it; "" without a box. */
export function boxText({ state, run }: Scene, { figures, values }: Shown): string {
  const figure = figures.find((each): each is Figure => each.run === run && inBox(each, state.region).length > 0);
  if (!figure) return "";
  const [, top, left, bottom, right] = cornersOf(state.region)!;
  const places = [...new Set(inBox(figure, state.region).map(({ place }) => place))];
  const found = places.map((place) => values.get(run)!.of[place]).filter((value) => !isNaN(value));
  const mean = found.reduce((sum, value) => sum + value, 0) / found.length;
  const of = state.layer === null ? `, ${overLayers(state.join)}` : ` in layer ${state.layer}`;
  return (
    `Box: rows ${top} to ${bottom}, columns ${left} to ${right}; ${found.length} values, mean ${number(mean)}, ` +
    `largest ${number(Math.max(...found))}${of}. The command in Export has --region ${regionFlag(run, state.region)}.`
  );
}
