/** One figure for a paper: the prompt, the model and what is shown at the top, and below it the views, each with its letter and its scale. */

import { LIGHT } from "../core/ink.ts";
import { CanvasPainter, part, type Drawing, type Painter } from "../core/painter.ts";
import type { Scene } from "../core/scene.ts";
import { visible } from "../core/tokens.ts";
import { meaning, modelName } from "../core/words.ts";
import { captions } from "./figure.ts";

const LEFT = 28, // of a panel, beside its letter
  LINE = 17,
  MOST = 6; // lines of a prompt

/** Null: there is nothing to show. */
export function paperFigure(scene: Scene, drawings: Drawing[]): Drawing | null {
  if (!drawings.length) return null;
  const width = LEFT + Math.max(760, ...drawings.map((each) => each.width));
  const lines = headingLines(scene, new CanvasPainter(document.createElement("canvas"), width, 1, 1));
  const top = 44 + LINE * lines.length;
  return {
    title: `${scene.runs.map(({ name }) => name).join(", ")} · ${modelName(scene.run)}`,
    width,
    height: top + drawings.reduce((sum, { height }) => sum + height, 0),
    draw: (painter) => {
      painter.rect(0, 0, painter.width, painter.height, LIGHT.paper);
      lines.forEach((line, i) =>
        painter.text(16, 26 + LINE * i, line.text, { size: 13, colour: LIGHT.ink, bold: line.bold, mono: line.mono }),
      );
      let y = top;
      drawings.forEach((each, i) => {
        each.draw(part(painter, LEFT, y, width - LEFT, each.height));
        painter.text(16, y + 26, String.fromCharCode(97 + i), { size: 15, bold: true, colour: LIGHT.ink });
        y += each.height;
      });
    },
  };
}

interface HeadingLine {
  text: string;
  bold?: boolean;
  mono?: boolean;
}

/** Each run with its model and its prompt, and what the colours mean. */
function headingLines(scene: Scene, painter: Painter): HeadingLine[] {
  const room = painter.width - 32;
  const runs = scene.runs.flatMap((run): HeadingLine[] => {
    const prompt = run.manifest?.prompt ?? run.tokens.map(({ text }) => text).join("");
    const wrapped = wrap(painter, visible(prompt.replace(/\s*\n\s*/g, " ⏎ ").trim()), room, { size: 13, mono: true });
    const shown = wrapped.length > MOST ? [...wrapped.slice(0, MOST - 1), `${wrapped[MOST - 1]} …`] : wrapped;
    return [
      { text: [run.name, modelName(run)].filter(Boolean).join(" · "), bold: true },
      ...shown.map((text) => ({ text, mono: true })),
    ];
  });
  const about = [...captions(scene), meaning(scene)].flatMap((text) => wrap(painter, text, room, { size: 13 }));
  return [...runs, ...about.map((text) => ({ text }))];
}

function wrap(painter: Painter, text: string, room: number, style: { size: number; mono?: boolean }): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/(?<= )/)) {
    if (line && painter.measure(line + word, style) > room) lines.push(line.trimEnd());
    line = line && painter.measure(line + word, style) > room ? word : line + word;
  }
  return [...lines, line];
}
