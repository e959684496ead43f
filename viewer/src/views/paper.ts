/** One figure for a paper: the prompt, the model and what is shown at the top, and below it the views, each with its letter and its scale. */

import { LIGHT } from "../core/ink.ts";
import { part, type Drawing } from "../core/painter.ts";
import type { Scene } from "../core/scene.ts";
import { visible } from "../core/tokens.ts";
import { capital, meaning, modelName } from "../core/words.ts";
import { metricText, stepText, wrapped } from "./figure.ts";

const LEFT = 28, // of a panel, beside its letter
  LINE = 17,
  MOST = 6; // lines of a prompt

/** Null: there is nothing to show. */
export function paperFigure(scene: Scene, drawings: Drawing[]): Drawing | null {
  if (!drawings.length) return null;
  const width = LEFT + Math.max(760, ...drawings.map((each) => each.width));
  const lines = headingLines(scene, width);
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

/** Each run with its model, its prompt and its step, and what the colours mean: the panels do not say it again. */
function headingLines(scene: Scene, width: number): HeadingLine[] {
  const { state } = scene,
    room = width - 32;
  const runs = scene.runs.flatMap((run): HeadingLine[] => {
    const prompt = run.manifest?.prompt ?? run.tokens.map(({ text }) => text).join("");
    const lines = wrapped(visible(prompt.replace(/\s*\n\s*/g, " ⏎ ").trim()), room, { size: 13, mono: true });
    const shown = lines.length > MOST ? [...lines.slice(0, MOST - 1), `${lines[MOST - 1]} …`] : lines;
    return [
      { text: [run.name, modelName(run)].filter(Boolean).join(" · "), bold: true },
      ...shown.map((text) => ({ text, mono: true })),
      { text: capital(stepText(run, state)) },
    ];
  });
  const about = wrapped(`${metricText(scene.run, state)}. ${meaning(scene)}`, room, { size: 13 });
  return [...runs, ...about.map((text) => ({ text }))];
}
