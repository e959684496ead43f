/** What the drawings share: a title that says what is shown, a colour bar, an axis. */

import { colourAt, css, CURVES, paletteOf } from "../core/colour.ts";
import type { Ink } from "../core/ink.ts";
import { titleOf } from "../core/metrics.ts";
import type { Painter } from "../core/painter.ts";
import { places, type Scene } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import { number, signed as withSign, visible } from "../core/tokens.ts";
import { isDifference, modelName, percent, predicted, readAt, variantName } from "../core/words.ts";
import type { Run } from "../data/types.ts";

/** "text · demo · L2 distance of Full · step 1 of 3, next token ␣blue": for the line under a title. */
export function caption(run: Run, state: State, ofVariant: boolean | null = true): string {
  const next = predicted(run, state.step);
  const chance = next?.probability === undefined ? "" : ` (${percent(next.probability)})`;
  const step = `step ${places(run, state).step + 1} of ${run.steps.length}${next?.text ? `, next token ${visible(next.text.slice(0, 40))}${chance}` : ""}`;
  const metric = ofVariant !== null && titleOf(run, state) + (ofVariant ? ` of ${variantName(state.variant)}` : "");
  return [run.name, modelName(run), metric, step, state.query === null ? "" : readAt(state)]
    .filter(Boolean)
    .join(" · ");
}

/** Of both runs of a difference. */
export const captions = ({ run, runs, state }: Scene, ofVariant: boolean | null = true) =>
  (isDifference(state, runs) ? runs.slice(0, 2) : [run]).map((each) => caption(each, state, ofVariant));

/** Paper, title and caption; returns where the figure can begin. */
export function heading(painter: Painter, ink: Ink, title: string, lines: string[]): number {
  painter.rect(0, 0, painter.width, painter.height, ink.paper);
  painter.text(16, 26, title, { size: 15, bold: true, colour: ink.ink });
  lines.forEach((line, place) =>
    painter.text(16, 44 + 16 * place, cut(painter, line, painter.width - 32), { size: 12, colour: ink.muted }),
  );
  return 52 + 16 * lines.length;
}

/** The text in at most `width` pixels. */
export function cut(painter: Painter, text: string, width: number, style = {}): string {
  if (painter.measure(text, style) <= width) return text;
  const characters = [...text];
  while (characters.length && painter.measure(`${characters.join("")}…`, style) > width)
    characters.splice(Math.ceil(characters.length * 0.9) - 1);
  return `${characters.join("")}…`;
}

/** The colours from 0, or -largest, to `largest`, with both ends named. */
export function colourBar(
  painter: Painter,
  ink: Ink,
  x: number,
  y: number,
  state: State,
  largest: number,
  unit: string,
  signed = false,
): void {
  const width = 120,
    palette = paletteOf(state, signed);
  for (let step = 0; step < 60; step++)
    painter.rect(x + (step * width) / 60, y, width / 60 + 0.5, 10, css(colourAt(palette, step / 59)));
  const [low, high] = ends(largest, signed);
  painter.text(x, y + 23, low, { size: 11, colour: ink.muted });
  painter.text(x + width, y + 23, high, { size: 11, colour: ink.muted, align: "right" });
  painter.text(x + width + 8, y + 9, [unit, CURVES[state.curve]].filter(Boolean).join(", "), {
    size: 11,
    colour: ink.muted,
  });
}

/** What a scale goes from and to. */
export const ends = (largest: number, signed: boolean) =>
  signed ? [withSign(-largest), withSign(largest)] : ["0", number(largest)];

/** The same for the page, as CSS. */
export function gradient(state: State, signed: boolean): string {
  const palette = paletteOf(state, signed);
  const stops = Array.from({ length: 17 }, (_, step) => css(colourAt(palette, step / 16)));
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

/** Round numbers from 0 to a little under or at `largest`, about `count` of them. */
export function ticks(largest: number, count: number): number[] {
  if (!(largest > 0)) return [0];
  const rough = largest / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough)!;
  return Array.from({ length: Math.floor(largest / step + 1e-9) + 1 }, (_, place) =>
    Number((place * step).toPrecision(12)),
  );
}
