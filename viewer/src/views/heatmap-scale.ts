/** The colour bar of a heat map, and what it says in words. */

import { colourAt, css, CURVES, paletteOf, table, type Rgb } from "../core/colour.ts";
import type { Ink } from "../core/ink.ts";
import { metricOf, titleOf, unitOf } from "../core/metrics.ts";
import { setPixel, type Painter } from "../core/painter.ts";
import type { Sheet } from "../core/sheet.ts";
import type { State } from "../core/state.ts";
import { number } from "../core/tokens.ts";
import { percent, variantName } from "../core/words.ts";
import { contrast, emptyColour, hatching, LABEL } from "./heatmap-paint.ts";

const BAR = { width: 180, top: 17, height: 9, line: 18 };
const LEGEND = { size: LABEL };

/** What the colour bar says, in words. */
export function scaleText(sheet: Sheet, state: State): string {
  const what = measured(sheet, state);
  if (sheet.by !== "all")
    return `${what}; each ${sheet.by === "layer" ? "layer" : "token"} from 0 to its own largest value`;
  const largest = number(sheet.largest[0]);
  return sheet.signed ? `${what}, from −${largest} to ${largest}` : `${what}, from 0 to ${largest}`;
}

const measured = ({ run }: Sheet, state: State) => `${titleOf(run, state)} of ${variantName(state.variant)}`;

interface Sign {
  fill: Rgb | null; // null: no value
  text: string;
  x: number;
  line: number;
}

/** What hatching and grey mean, right of the bar or, where that is too narrow, under it. */
function signs(sheet: Sheet, state: State, width: number): Sign[] {
  const palette = paletteOf(state, sheet.signed);
  const found: [Rgb | null, string][] = [];
  if (sheet.outside >= 0) found.push([colourAt(palette, sheet.signed ? 0.9 : 0.35), "position 0, outside the scale"]);
  if (sheet.below)
    found.push([
      colourAt(palette, sheet.signed ? 0.5 : 0),
      `below the noise floor ${number(sheet.floor)} (${percent(sheet.below / sheet.measured)})`,
    ]);
  if (sheet.empty) found.push([null, "no value"]);
  let x = BAR.width + 40,
    line = 0;
  return found.map(([fill, text]) => {
    const wide = 37 + text.length * 6.4;
    if (x > 0 && x + wide - 16 > width) [x, line] = [0, line + 1];
    const sign = { fill, text, x, line };
    x += wide;
    return sign;
  });
}

export function scaleHeight(sheet: Sheet, state: State, width: number): number {
  return 44 + BAR.line * Math.max(0, ...signs(sheet, state, width).map(({ line }) => line));
}

/** The bar with its numbers, and what hatching and grey mean. */
export function paintScale(
  painter: Painter,
  sheet: Sheet,
  state: State,
  ink: Ink,
  x: number,
  y: number,
  width: number,
): void {
  const palette = paletteOf(state, sheet.signed);
  const small = { ...LEGEND, colour: ink.muted };
  const title = measured(sheet, state);
  painter.text(x, y + 11, title, { size: 12, bold: true, colour: ink.ink });
  const each = sheet.by === "layer" ? "layer" : "token";
  const unit = [
    unitOf(metricOf(sheet.run, state)),
    sheet.by !== "all" && `each ${each} by itself`,
    sheet.shared && "one scale for all runs",
    CURVES[state.curve],
    state.least > 0 && `from ${percent(state.least)} of the largest on`,
  ]
    .filter(Boolean)
    .join(", ");
  if (unit) painter.text(x + painter.measure(title, { size: 12, bold: true }) + 6, y + 11, `(${unit})`, small);
  const raster = new ImageData(256, 1);
  table(palette).forEach((colour, place) => setPixel(raster.data, place, colour));
  const top = y + BAR.top;
  painter.cells(x, top, BAR.width, BAR.height, raster);
  const largest = sheet.by === "all" ? sheet.largest[0] : 0;
  const median = sheet.sizes?.[0]?.[(sheet.sizes[0].length - 1) >> 1] ?? 0;
  const half = number(state.curve === "rank" ? median : state.curve === "sqrt" ? largest / 4 : largest / 2);
  const end = largest ? number(largest) : sheet.by === "all" ? "" : `${each}’s largest`;
  const ends = sheet.signed
    ? [end && `−${largest ? end : "largest"}`, "0", largest ? end : "largest"]
    : ["0", largest ? half : "", end];
  ends.forEach((text, i) =>
    painter.text(x + (i * BAR.width) / 2, top + BAR.height + 12, text, {
      ...small,
      align: (["left", "center", "right"] as const)[i],
    }),
  );
  for (const sign of signs(sheet, state, width)) {
    const at = x + sign.x,
      line = sign.line ? top + BAR.height + 18 + (sign.line - 1) * BAR.line : top - 1;
    painter.rect(at, line, 16, 11, sign.fill ? css(sign.fill) : emptyColour(sheet, ink));
    if (sign.fill) painter.hatch(at, line, 16, 11, hatching(contrast(sign.fill)));
    painter.text(at + 21, line + 9, sign.text, small);
  }
}
