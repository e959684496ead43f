/** Draws the prompt as a picture, and pictures' patches on the page. */

import { effectScores } from "../core/effects.ts";
import type { Ink } from "../core/ink.ts";
import type { Painter } from "../core/painter.ts";
import {
  cellOf,
  isBlock,
  promptText,
  scores,
  type ImageBlock,
  type PromptToken,
  type Scores,
} from "../core/prompt-text.ts";
import { tokenIndex, type Scene } from "../core/scene.ts";
import { selectedIn } from "../core/select.ts";
import { label } from "../core/tokens.ts";
import { percent } from "../core/words.ts";
import type { Run, TokenInfo } from "../data/types.ts";
import { captions, colourBar, heading } from "./figure.ts";
import { emptyColour } from "./heatmap-paint.ts";
import { measured, shadeOf, UNSHADED } from "./shade.ts";

/** Of an encoder-decoder: the token after the encoder's, with which the decoder starts. */
export const beginsDecoder = ({ manifest }: Run, { info }: PromptToken) => info.position === manifest?.decoder_start;

export const scoresOf = (scene: Scene) => effectScores(scene) ?? scores(scene);

/** Is a token the one at `position`, or of the same unit? */
const tokenIs = (run: Run, place: number, { position }: TokenInfo, wanted: number | null) =>
  wanted !== null && (position === wanted || (place >= 0 && place === tokenIndex(run, wanted)));

export function paintBlock(
  painter: Painter,
  ink: Ink,
  scene: Scene,
  found: Scores,
  block: ImageBlock,
  x: number,
  y: number,
  cell: number,
  selected: number[],
  hovered: number | null,
): void {
  const edges: [number, number, string, number][] = [];
  block.patches.forEach(({ info, place }, patch) => {
    const [row, col] = cellOf(block, patch);
    const [left, top] = [x + col * cell, y + row * cell];
    const { fill, hatch } = shadeOf(scene, found, place);
    painter.rect(left, top, cell - (cell > 5 ? 1 : 0), cell - (cell > 5 ? 1 : 0), fill ?? emptyColour(found, ink));
    if (hatch) painter.hatch(left, top, cell, cell, hatch);
    if (tokenIs(scene.run, place, info, hovered)) edges.push([left, top, ink.ink, 1]);
    if (selected.some((each) => tokenIs(scene.run, place, info, each))) edges.push([left, top, ink.accent, 2]);
  });
  for (const [left, top, colour, thick] of edges) {
    painter.rect(left + 0.5, top + 0.5, cell - 1, cell - 1, null, ink.paper, thick + 2);
    painter.rect(left + 0.5, top + 0.5, cell - 1, cell - 1, null, colour, thick);
  }
}

/** Draws, and returns the height it took. */
export function drawPrompt(painter: Painter, ink: Ink, title: string, scene: Scene, found: Scores): number {
  const { run, state } = scene,
    { prompt, generated } = promptText(run);
  const shade = `Shade: ${found.what ?? measured(scene)}`;
  const top = heading(painter, ink, title, [...captions(scene, found.what ? null : true), shade]) + 4;
  const image = run.tokens.some(({ kind }) => kind === "image");
  colourBar(painter, ink, MARGIN, top, state, found.text, image ? "text" : "", found.signed);
  if (image) colourBar(painter, ink, MARGIN + 320, top, state, found.image, "image patches", found.signed);
  const page = new Lines(painter, ink, scene, found, top + 42);
  for (const piece of prompt) {
    if (isBlock(piece)) page.block(piece);
    else {
      if (beginsDecoder(run, piece)) page.divide("decoder begins");
      page.put(piece);
    }
  }
  if (generated.length) page.divide("generated");
  for (const token of generated) page.put(token);
  return page.end;
}

const MARGIN = 16,
  HIGH = 22; // of a line

/** Text that is set from left to right in lines. */
class Lines {
  #painter: Painter;
  #ink: Ink;
  #scene: Scene;
  #found: Scores;
  #x = MARGIN;
  #y: number;
  #tall = HIGH; // of the present line

  constructor(painter: Painter, ink: Ink, scene: Scene, found: Scores, y: number) {
    [this.#painter, this.#ink, this.#scene, this.#found, this.#y] = [painter, ink, scene, found, y];
  }

  get end(): number {
    return this.#y + this.#tall + 12;
  }

  #break(): void {
    [this.#x, this.#y, this.#tall] = [MARGIN, this.#y + this.#tall, HIGH];
  }

  #room(width: number): void {
    if (this.#x + width > this.#painter.width - MARGIN && this.#x !== MARGIN) this.#break();
  }

  put(token: PromptToken): void {
    const painter = this.#painter,
      ink = this.#ink,
      { run, state } = this.#scene,
      { info, place, step, probability } = token;
    const next = step === state.step,
      style = { size: 13, mono: true, bold: next };
    const text = label(info, 60),
      width = painter.measure(text, style) + 6;
    this.#room(width);
    const x = this.#x,
      y = this.#y;
    const isLater = step !== null && step >= state.step;
    const shade = isLater ? UNSHADED : shadeOf(this.#scene, this.#found, place);
    const { fill, text: colour } = shade.hatch ? UNSHADED : shade; // as on the page: it would make the text hard to read
    if (fill ?? step === null) painter.rect(x, y, width - 1, HIGH - 3, fill ?? emptyColour(this.#found, ink));
    painter.text(x + 3, y + 14, text, { ...style, colour: fill ? colour : next ? ink.ink : ink.muted });
    if (selectedIn(state).some((each) => tokenIs(run, place, info, each)))
      painter.rect(x + 0.5, y + 0.5, width - 2, HIGH - 4, null, ink.accent, 2);
    this.#x += width;
    if (next && probability !== null) this.#chance(x, probability);
    if (/\n$/.test(info.text)) this.#break();
  }

  #chance(from: number, probability: number): void {
    const text = `p ${percent(probability)}`,
      style = { size: 12, colour: this.#ink.muted };
    this.#painter.line([from, this.#y + HIGH - 3, this.#x, this.#y + HIGH - 3], this.#ink.ink, 2);
    this.#painter.text(this.#x + 4, this.#y + 14, text, style);
    this.#x += this.#painter.measure(text, { size: 12 }) + 12;
  }

  divide(text: string): void {
    const y = this.#y + this.#tall + 12,
      right = this.#painter.width - MARGIN;
    this.#painter.text(MARGIN, y + 4, text, { size: 12, colour: this.#ink.muted });
    this.#painter.line([MARGIN + this.#painter.measure(text, { size: 12 }) + 8, y, right, y], this.#ink.line);
    [this.#x, this.#y, this.#tall] = [MARGIN, y + 14, HIGH];
  }

  block(block: ImageBlock): void {
    const cell = Math.max(4, Math.min(16, Math.floor(240 / Math.max(block.rows, block.cols))));
    this.#room(block.cols * cell + 8);
    const marks = selectedIn(this.#scene.state);
    paintBlock(this.#painter, this.#ink, this.#scene, this.#found, block, this.#x, this.#y, cell, marks, null);
    this.#tall = Math.max(this.#tall, block.rows * cell + 4);
    this.#x += block.cols * cell + 8;
  }
}
