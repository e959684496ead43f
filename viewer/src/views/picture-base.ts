/** Pictures, decoded once and kept at the size a view needs. */

import type { AnyFigure } from "./patches.ts";

export interface LoadedPicture {
  /** Upright, in pixels of the file; null while it is being decoded. */
  size: [number, number] | null;
  plain: HTMLCanvasElement | null;
  failed: boolean;
  /** Its shape is not the one the manifest tells of. */
  otherShape: boolean;
  /** Whom to tell when it is there, or failed. */
  waiting: Set<() => void>;
}

const LONGEST_SIDE = 1280; // pixels kept; a view is at most 480 CSS pixels high

/** What is known of each picture. */
export const base = new WeakMap<AnyFigure, LoadedPicture>();

/**
 * Decodes the picture of a figure, if its file is there, and calls every `ready` that was given meanwhile, each once.
 * Browsers turn it upright (EXIF) themselves.
 */
export async function loadPicture(figure: AnyFigure, ready: () => void): Promise<void> {
  const blob = figure.run.pictures[figure.image]?.blob;
  const known = base.get(figure);
  if (known && !known.size && !known.failed) known.waiting.add(ready);
  if (!blob || known) return;
  const waiting = new Set([ready]);
  const loaded: LoadedPicture = { size: null, plain: null, failed: false, otherShape: false, waiting };
  base.set(figure, loaded);
  try {
    const bitmap = await createImageBitmap(blob);
    loaded.size = [bitmap.width, bitmap.height];
    loaded.otherShape = figure.size !== null && !sameShape(loaded.size, figure.size);
    loaded.plain = small(bitmap);
    bitmap.close();
  } catch {
    loaded.failed = true;
  }
  for (const each of waiting) each();
}

/** A picture may be a smaller copy: each side may be off by the rounding of a pixel. */
export function sameShape([width, height]: [number, number], [w, h]: [number, number]): boolean {
  const scale = width > height ? width / w : height / h;
  return Math.abs(width - w * scale) <= 1 + 0.01 * width && Math.abs(height - h * scale) <= 1 + 0.01 * height;
}

function small(bitmap: ImageBitmap): HTMLCanvasElement {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d")!;
  context.fillStyle = "white"; // where a picture is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}
