/**
 * Taking something away from the page: a drawing as PNG or SVG, a table as CSV.
 *
 * A drawing brings its paper and its title with it, so that a picture pasted into a document still says what it is.
 */

import { CanvasPainter, SvgPainter, type Drawing } from "./painter.ts";
import type { Scene } from "./scene.ts";
import { isDifference, METRICS, modelName, variantName } from "./words.ts";

/** A PNG of the drawing, `scale` pixels for each CSS pixel. Throws if the browser cannot make one that large. */
export async function pngOf(drawing: Drawing, scale = 2): Promise<Blob> {
  const canvas = document.createElement("canvas");
  drawing.draw(new CanvasPainter(canvas, drawing.width, drawing.height, scale));
  // Not toBlob: it waits until the page is idle, which was measured to take up to 7 seconds.
  const [head, data] = canvas.toDataURL("image/png").split(",");
  if (!data || !head.includes("png")) throw new Error(`the picture (${canvas.width} x ${canvas.height} pixels) is too large for this browser; take SVG`);
  return new Blob([Uint8Array.from(atob(data), (byte) => byte.charCodeAt(0))], { type: "image/png" });
}

export async function exportPng(drawing: Drawing, name: string, scale = 2): Promise<void> {
  download(await pngOf(drawing, scale), `${name}.png`);
}

export function svgOf(drawing: Drawing): string {
  const painter = new SvgPainter(drawing.width, drawing.height);
  drawing.draw(painter);
  return painter.source(drawing.title);
}

export function exportSvg(drawing: Drawing, name: string): void {
  download(new Blob([svgOf(drawing)], { type: "image/svg+xml" }), `${name}.svg`);
}

/** To the clipboard; where the browser refuses that, as a file. Says which of the two it was. */
export async function copyCsv(table: string[][], name: string): Promise<"copied" | "downloaded"> {
  const text = csvOf(table);
  try {
    await navigator.clipboard.writeText(text);
    return "copied";
  } catch {
    download(new Blob([text], { type: "text/csv" }), `${name}.csv`);
    return "downloaded";
  }
}

export function download(blob: Blob, fileName: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = fileName;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // not before the browser has begun to read it
}

// --- names and titles -------------------------------------------------------------------------------------
/** "cat_heatmap": of run and view, without what some system does not allow in a file name. */
export function fileName(run: string, view: string): string {
  const clean = (text: string) => text.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+|[-.]+$/g, "").slice(0, 80);
  return [clean(run), clean(view)].filter((part) => part).join("_") || "mask-impact";
}

/** "cat · picture · demo · L2 distance of Full · step 1 of 5 · layer 3 · linear scale" */
export function titleOf({ state, runs }: Scene, what: string, ...more: string[]): string {
  const names = isDifference(state, runs) ? `${runs[1].name} − ${runs[0].name}` : runs.map(({ name }) => name).join(", ");
  const models = [...new Set(runs.map(modelName))].join(", ");
  const step = `step ${runs[0].steps.indexOf(state.step) + 1} of ${runs[0].steps.length}`;
  const scale = state.curve === "sqrt" ? "square-root scale" : "linear scale";
  return [names, what, models, `${METRICS[state.metric]} of ${variantName(state.variant)}`, step, ...more, scale]
    .filter((part) => part).join(" · ");
}

// --- what is written --------------------------------------------------------------------------------------
/** RFC 4180, lines end with "\r\n". A value is quoted where it has to be. */
export function csvOf(table: string[][]): string {
  const cell = (text: string) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
  return table.map((row) => row.map(cell).join(",") + "\r\n").join("");
}
