/** The picture view as a drawing and as a table. */

import { titleOf, type Line } from "../core/export.ts";
import { LIGHT } from "../core/ink.ts";
import { part, type Drawing } from "../core/painter.ts";
import { over } from "../core/prompt-text.ts";
import type { Scene } from "../core/scene.ts";
import { layerText, modelName, subject } from "../core/words.ts";
import { cut } from "./figure.ts";
import { shown } from "./patches.ts";
import { BAR_HEIGHT, fitted, paint, paintBar, sizeOf, WIDEST, type Area } from "./picture-paint.ts";
import { mapsOf, paintStrip, stripLayout } from "./picture-strip.ts";
import { caption, figuresWithPatches, halves, scaleText, unmasked } from "./picture-words.ts";

const STRIP_WIDTH = 900;

export function pictureDrawing(scene: Scene): Drawing | null {
  const found = shown(scene);
  if (!found.figures.length) return null;
  const margin = 16,
    gap = 16,
    line = 18,
    top = scene.isPanel ? 44 : 64,
    scaleHeight = BAR_HEIGHT + line + 6;
  let right = margin;
  const laid = found.figures.map((figure) => {
    const [width, height] = fitted(sizeOf(figure), WIDEST);
    const box: Area = [right, top, width, height];
    right += Math.max(width, 240) + gap;
    return { figure, box };
  });
  const under = Math.max(...laid.map(({ box }) => box[1] + box[3])) + line + gap;
  const strips = laid.length === 1 ? mapsOf(scene, laid[0].figure).filter((maps) => maps !== null) : [];
  const laidStrips = strips.map((maps) => ({ maps, layout: stripLayout(maps, STRIP_WIDTH) }));
  const bottom = under + laidStrips.reduce((sum, { layout }) => sum + layout.size[1] + line, 0);
  const what = laid.length > 1 ? "pictures" : "picture";
  const title =
    found.effect !== null
      ? [scene.run.name, what, modelName(scene.run), found.effect].join(" · ")
      : titleOf(scene, what, layerText(scene.state));
  return {
    title,
    width: Math.max(
      right - gap + margin,
      strips.length ? STRIP_WIDTH + 2 * margin : 0,
      found.effect === null ? 640 : 820,
    ),
    height: bottom + found.scales.length * scaleHeight + margin,
    draw: (painter) => {
      painter.rect(0, 0, painter.width, painter.height, LIGHT.paper);
      const [whose, what] = scene.isPanel ? ["Picture", ""] : halves(title, scene);
      painter.text(margin, 26, whose, { size: 15, bold: true, colour: LIGHT.ink });
      painter.text(margin, 46, what, { colour: LIGHT.muted });
      for (const { figure, box } of laid) {
        paint(painter, figure, scene, found, box, LIGHT);
        painter.text(box[0], box[1] + box[3] + line, caption(figure, scene, found), { colour: LIGHT.muted });
      }
      let y = under;
      for (const { maps, layout } of laidStrips) {
        painter.text(margin, y + 4, maps.title, { colour: LIGHT.ink });
        paintStrip(part(painter, margin, y + 12, ...layout.size), maps, scene, LIGHT, layout);
        y += layout.size[1] + line;
      }
      if (!figuresWithPatches(found))
        return painter.text(margin, bottom + line, unmasked(found), { size: 11, colour: LIGHT.muted });
      found.scales.forEach((each, i) => {
        const y = bottom + i * scaleHeight;
        paintBar(painter, scene, found, each, margin, y, LIGHT);
        painter.text(
          margin,
          y + BAR_HEIGHT + 12,
          cut(painter, scaleText(scene, found, each), painter.width - 2 * margin, { size: 11 }),
          { size: 11, colour: LIGHT.muted },
        );
      });
    },
  };
}

/** One line for each patch. */
export function pictureLines(scene: Scene): Line[] | null {
  const found = shown(scene),
    { layer } = scene.state;
  if (!figuresWithPatches(found)) return null;
  return found.all.flatMap(({ run, patches }) =>
    patches.map(({ token, place, box: [left, top, right, bottom] }) => {
      const { of, peak } = found.values.get(run)!;
      const where: Line["more"] =
        found.effect !== null
          ? { effect: found.effect }
          : layer === null
            ? { ...over({ ...scene, run }), peak_layer: peak[place] ?? null }
            : { layer };
      return {
        run: subject({ ...scene, run }),
        more: { ...where, left, top, right, bottom },
        token,
        value: of[place],
      };
    }),
  );
}
