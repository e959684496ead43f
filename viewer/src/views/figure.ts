/** What the drawings share: a title that says what is shown, a colour bar, an axis. */

import { colourAt, css, CURVES, paletteOf } from "../core/colour.ts";
import type { Ink } from "../core/ink.ts";
import { titleOf } from "../core/metrics.ts";
import { CanvasPainter, type Painter, type TextStyle } from "../core/painter.ts";
import { places, type Scene } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import { number, signed as withSign, visible } from "../core/tokens.ts";
import { isDifference, modelName, percent, predicted, readAt, variantName } from "../core/words.ts";
import type { Run } from "../data/types.ts";

/** "step 1 of 3, next token ␣blue (98 %)" */
export function stepText(run: Run, state: State): string {
  const next = predicted(run, state.step);
  const chance = next?.probability === undefined ? "" : ` (${percent(next.probability)})`;
  const said = next?.text ? `, next token ${visible(next.text.slice(0, 40))}${chance}` : "";
  const query = state.query === null ? "" : ` · ${readAt(state)}`;
  return `step ${places(run, state).step + 1} of ${run.steps.length}${said}${query}`;
}

export const metricText = (run: Run, state: State) => `${titleOf(run, state)} of ${variantName(state.variant)}`;

/**
 * "text · demo · L2 distance of Full · step 1 of 3, next token ␣blue": for the line under a title. In a panel of a figure no
 * more than the run's name, if there are several. `ofVariant`: without the variant, or null, without the metric.
 */
export function caption(run: Run, { state, beside, isPanel }: Captioned, ofVariant: boolean | null = true): string[] {
  if (isPanel) return beside.length > 1 ? [run.name] : [];
  const metric = ofVariant ? metricText(run, state) : ofVariant === null ? "" : titleOf(run, state);
  return [[run.name, modelName(run), metric, stepText(run, state)].filter(Boolean).join(" · ")];
}

type Captioned = Pick<Scene, "state" | "beside" | "isPanel">;

/** Of both runs of a difference. */
export const captions = (scene: Scene, ofVariant: boolean | null = true) =>
  (isDifference(scene.state, scene.runs) ? scene.runs.slice(0, 2) : [scene.run]).flatMap((each) =>
    caption(each, scene, ofVariant),
  );

/** Where a figure can begin below its title and so many lines. */
export const below = (lines: string[]) => 52 + 16 * lines.length;

/** Paper, title and caption; returns where the figure can begin. */
export function heading(painter: Painter, ink: Ink, title: string, lines: string[]): number {
  painter.rect(0, 0, painter.width, painter.height, ink.paper);
  painter.text(16, 26, title, { size: 15, bold: true, colour: ink.ink });
  lines.forEach((line, place) =>
    painter.text(16, 44 + 16 * place, cut(painter, line, painter.width - 32), { size: 12, colour: ink.muted }),
  );
  return below(lines);
}

/** The text in lines of at most `width` pixels. */
export function wrapped(text: string, width: number, style: TextStyle = { size: 12 }): string[] {
  const ruler = new CanvasPainter(document.createElement("canvas"), 1, 1, 1);
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/(?<= )/)) {
    if (line && ruler.measure(line + word, style) > width) lines.push(line.trimEnd());
    line = line && ruler.measure(line + word, style) > width ? word : line + word;
  }
  return [...lines, line];
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
