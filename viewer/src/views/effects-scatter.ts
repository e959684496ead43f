/** Effects on the answer against what single layers read: one point for each unit. */

import { isFirst } from "../core/aggregate.ts";
import { share } from "../core/colour.ts";
import {
  changes,
  CHANGES,
  MEASURES,
  points,
  spearman,
  unitToken,
  where,
  type Point,
  type Shown,
} from "../core/effects.ts";
import type { Ink } from "../core/ink.ts";
import { titleOf } from "../core/metrics.ts";
import type { Painter } from "../core/painter.ts";
import type { Scene } from "../core/scene.ts";
import { label, number } from "../core/tokens.ts";
import { remembered } from "../core/track.ts";
import { variantName } from "../core/words.ts";
import { ticks } from "./figure.ts";

export const SCATTER = 230; // pixels high
const AXIS = { left: 52, bottom: 36, top: 26, right: 48 }; // the title of the upright axis is above it
const REACH = 16; // pixels from a point that still mean it
const MOST_NAMES = 15;
/** Units that change the answer: with fewer, an order of them says nothing. */
export const ENOUGH = 10;

interface Compared {
  run: Scene["run"];
  runs: Scene["runs"];
  state: Scene["state"];
  shown: Shown;
}

const made = remembered(
  ({ shown, ...scene }: Compared) => points(scene, shown).filter(({ unit }) => changes(shown, unit)),
  ({ shown }) => shown,
);

export const pointsOf = ({ run, runs, state }: Scene, shown: Shown): Point[] => made({ run, runs, state, shown });

const impactText = ({ run, state }: Scene) => {
  const { variant, query } = state;
  return `root sum square of ${titleOf(run, state)} of ${variantName(variant)} over single layers${query === null ? "" : `, at position ${query}`}`;
};

export function rhoText(scene: Scene, shown: Shown, found: Point[]): string {
  if (found.length < ENOUGH) return "";
  const { state, run } = scene;
  const rho = spearman(
    found.map(({ impact }) => impact),
    found.map(({ size }) => size),
  );
  const without = !state.first && run.tokens.some(isFirst) ? ", position 0 left out" : "";
  const said = isNaN(rho) ? "not defined" : rho.toFixed(2).replace("-", "−");
  const against = `Size of the effect ${where(shown.effects.windows[shown.window])} against the ${impactText(scene)}`;
  return `${against}: Spearman’s ρ = ${said}, n = ${found.length} units that change p by ${CHANGES} or more${without}.`;
}

type Spot = Pick<Point, "impact" | "size">;

/** Where a point is drawn. */
function spots({ state: { curve } }: Scene, found: Point[], width: number): (point: Spot) => [x: number, y: number] {
  const [right, top] = (["impact", "size"] as const).map((key) => Math.max(...found.map((point) => point[key])));
  return ({ impact, size }) => [
    AXIS.left + share(impact, right, { curve }) * (width - AXIS.left - AXIS.right),
    SCATTER - AXIS.bottom - share(size, top, { curve }) * (SCATTER - AXIS.bottom - AXIS.top),
  ];
}

/** The position of the unit whose point is nearest to a place, if it is near. */
export function nearest(scene: Scene, shown: Shown, width: number, x: number, y: number): number | null {
  const found = pointsOf(scene, shown),
    place = spots(scene, found, width);
  const far = (point: Point) => Math.hypot(place(point)[0] - x, place(point)[1] - y);
  const best = found.toSorted((a, b) => far(a) - far(b))[0];
  return best && far(best) < REACH ? best.unit.position : null;
}

export function drawScatter(painter: Painter, ink: Ink, scene: Scene, shown: Shown): void {
  const found = pointsOf(scene, shown);
  drawAxes(painter, ink, scene, shown, found);
  const { state, hover, run } = scene,
    place = spots(scene, found, painter.width),
    [left] = place({ impact: 0, size: 0 });
  // The strongest are named where there is room.
  const taken: number[][] = found.map((point) => [...place(point), 0]);
  for (const [nth, point] of found.toSorted((a, b) => b.size - a.size).entries()) {
    const [x, y] = place(point),
      { position } = point.unit;
    const chosen = position === state.token,
      over = position === hover.token;
    painter.circle(x, y, chosen || over ? 5 : 3.5, chosen ? ink.accent : over ? ink.ink : ink.muted);
    const text = label(unitToken(point.unit, run), 14),
      wide = painter.measure(text, { size: 11, mono: true });
    const isFree = (at: number) =>
      at > left &&
      at + wide < painter.width &&
      !taken.some(([a, b, w]) => at - 3 < a + w && a < at + wide && Math.abs(b - y) < 11);
    const side = [x + 8, x - 8 - wide].find(isFree) ?? NaN;
    if (!chosen && !over && (nth > MOST_NAMES || y > SCATTER - AXIS.bottom - 14 || isNaN(side))) continue;
    const from = side || x + 8;
    taken.push([from, y, wide]);
    painter.text(from, y + 4, text, { size: 11, mono: true, colour: chosen ? ink.accent : ink.ink });
  }
}

function drawAxes(painter: Painter, ink: Ink, scene: Scene, { measure }: Shown, found: Point[]): void {
  const place = spots(scene, found, painter.width),
    small = { size: 11, colour: ink.muted };
  const [x, y] = place({ impact: 0, size: 0 });
  const most = (key: keyof Spot) => Math.max(...found.map((point) => point[key]));
  painter.line([x, AXIS.top, x, y, painter.width - AXIS.right, y], ink.line);
  for (const tick of ticks(most("impact"), 5))
    painter.text(place({ impact: tick, size: 0 })[0], y + 14, number(tick), { ...small, align: "center" });
  for (const tick of ticks(most("size"), 4))
    painter.text(x - 6, place({ impact: 0, size: tick })[1] + 4, number(tick), { ...small, align: "right" });
  painter.text(painter.width - AXIS.right, y + 30, impactText(scene), { ...small, align: "right" });
  painter.text(4, 12, `size of the ${MEASURES[measure]}`, small);
}
