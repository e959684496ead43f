/** Pictures, decoded once and kept at the size a view needs: as they are, and with what patches cover in grey. */

import type { AnyFigure } from "./patches.ts";

export interface LoadedPicture {
  /** Upright, in pixels of the file; null while it is being decoded. */
  size: [number, number] | null;
  plain: HTMLCanvasElement | null;
  grey: HTMLCanvasElement | null;
  failed: boolean;
  /** Its shape is not the one the manifest tells of. */
  otherShape: boolean;
}

/** What the grey under the cells is on average. */
export const MIDDLE_GREY = "rgb(145, 145, 145)";
const LONGEST_SIDE = 1280; // pixels kept; a view is at most 480 CSS pixels high

/** What is known of each picture. */
export const base = new WeakMap<AnyFigure, LoadedPicture>();

/** Decodes the picture of a figure, if its file is there, and calls `ready`. Browsers turn it upright (EXIF) themselves. */
export async function loadPicture(figure: AnyFigure, ready: () => void): Promise<void> {
  const blob = figure.run.pictures[figure.image]?.blob;
  if (!blob || base.has(figure)) return;
  const loaded: LoadedPicture = { size: null, plain: null, grey: null, failed: false, otherShape: false };
  base.set(figure, loaded);
  try {
    const bitmap = await createImageBitmap(blob);
    loaded.size = [bitmap.width, bitmap.height];
    loaded.otherShape = figure.size !== null && !sameShape(loaded.size, figure.size);
    loaded.plain = small(bitmap);
    loaded.grey = greyUnder(figure, loaded.plain);
    bitmap.close();
  } catch {
    loaded.failed = true;
  }
  ready();
}

/** A picture may be a smaller copy: each side may be off by the rounding of a pixel. */
export function sameShape([width, height]: [number, number], [w, h]: [number, number]): boolean {
  const scale = width > height ? width / w : height / h;
  return Math.abs(width - w * scale) <= 1 + 0.01 * width && Math.abs(height - h * scale) <= 1 + 0.01 * height;
}

function small(bitmap: ImageBitmap): HTMLCanvasElement {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  return painted(
    Math.max(1, Math.round(bitmap.width * scale)),
    Math.max(1, Math.round(bitmap.height * scale)),
    (context, width, height) => {
      context.fillStyle = "white"; // where a picture is transparent
      context.fillRect(0, 0, width, height);
      context.imageSmoothingQuality = "high";
      context.drawImage(bitmap, 0, 0, width, height);
    },
  );
}

function greyUnder({ patches, size }: AnyFigure, plain: HTMLCanvasElement): HTMLCanvasElement {
  const grey = painted(plain.width, plain.height, (context, width, height) => {
    context.drawImage(plain, 0, 0);
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "grey";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
    context.fillStyle = "rgba(170, 170, 170, 0.4)"; // less contrast: black and white would change the colours over them
    context.fillRect(0, 0, width, height);
  });
  return painted(plain.width, plain.height, (context, width, height) => {
    context.drawImage(plain, 0, 0);
    for (const { box } of patches) {
      const [left, right] = [box[0], box[2]].map((x) => Math.round((x / size![0]) * width));
      const [top, bottom] = [box[1], box[3]].map((y) => Math.round((y / size![1]) * height));
      if (right > left && bottom > top)
        context.drawImage(grey, left, top, right - left, bottom - top, left, top, right - left, bottom - top);
    }
  });
}

function painted(
  width: number,
  height: number,
  paint: (context: CanvasRenderingContext2D, width: number, height: number) => void,
): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  paint(canvas.getContext("2d")!, width, height);
  return canvas;
}
