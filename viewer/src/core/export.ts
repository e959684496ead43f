/**
 * Taking something away from the page: a drawing as PNG or SVG, a table as CSV.
 *
 * A drawing brings its paper and its title with it, so that a picture pasted into a document still says what it is.
 */

import type { TokenInfo } from "../data/types.ts";
import { titleOf as metricTitle } from "./metrics.ts";
import { CURVES } from "./colour.ts";
import { CanvasPainter, SvgPainter, type Drawing } from "./painter.ts";
import { PdfPainter } from "./pdf.ts";
import type { Scene } from "./scene.ts";
import type { State } from "./state.ts";
import { exact } from "./tokens.ts";
import { isDifference, modelName, readAt, subject, variantName } from "./words.ts";

/** A PNG of the drawing, `scale` pixels for each CSS pixel. Throws if the browser cannot make one that large. */
export async function pngOf(drawing: Drawing, scale = 2): Promise<Blob> {
  const canvas = document.createElement("canvas");
  drawing.draw(new CanvasPainter(canvas, drawing.width, drawing.height, scale));
  // Not toBlob: it waits until the page is idle, which was measured to take up to 7 seconds.
  const [head, data] = canvas.toDataURL("image/png").split(",");
  if (!data || !head.includes("png"))
    throw new Error(`the picture (${canvas.width} x ${canvas.height} pixels) is too large for this browser; take SVG`);
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

export async function exportPdf(drawing: Drawing, name: string): Promise<void> {
  const painter = new PdfPainter(drawing.width, drawing.height);
  drawing.draw(painter);
  download(await painter.source(drawing.title), `${name}.pdf`);
}

export function exportCsv(table: string[][], name: string): void {
  download(new Blob([csvOf(table)], { type: "text/csv" }), `${name}.csv`);
}

/** To the clipboard; where the browser refuses that, as a file. Says which of the two it was. */
export async function copyCsv(table: string[][], name: string): Promise<"copied" | "downloaded"> {
  try {
    await navigator.clipboard.writeText(csvOf(table));
    return "copied";
  } catch {
    exportCsv(table, name);
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
  const clean = (text: string) =>
    text
      .replace(/[^\p{L}\p{N}._-]+/gu, "-")
      .replace(/^[-.]+|[-.]+$/g, "")
      .slice(0, 80);
  return [clean(run), clean(view)].filter((part) => part).join("_") || "mask-impact";
}

/** "cat · picture · demo · L2 distance of Full · step 1 of 5 · layer 3 · linear scale" */
export function titleOf(scene: Scene, what: string, ...more: string[]): string {
  const { state, runs } = scene;
  const names = isDifference(state, runs) ? subject(scene) : runs.map(({ name }) => name).join(", ");
  const models = [...new Set(runs.map(modelName))].join(", ");
  const step = `step ${runs[0].steps.indexOf(state.step) + 1} of ${runs[0].steps.length}`;
  const scale = CURVES[state.curve] || "linear scale";
  return [
    names,
    what,
    models,
    `${metricTitle(runs[0], state)} of ${variantName(state.variant)}`,
    step,
    state.query === null ? "" : readAt(state),
    ...more,
    scale,
  ]
    .filter((part) => part)
    .join(" · ");
}

// --- tables --------------------------------------------------------------------------------------
/** One value, and what it is of. */
export interface Line {
  run: string;
  /** Without them they are those on the page. */
  metric?: string;
  variant?: string;
  /** The layer, or how layers were joined; and what else a view knows. */
  more: Record<string, string | number | null>;
  token: TokenInfo;
  value: number;
}

/** Each line says all that it is of, so that tables of several views and runs can be put together. */
export function tidy({ metric, variant, step, query }: State, lines: Line[]): string[][] {
  const records = lines.map(
    ({
      run,
      metric: of = metric,
      variant: own = variant,
      more,
      token: { position, text, image, row, col },
      value,
    }) => ({
      run,
      metric: of,
      variant: own,
      generation_step: step,
      ...(query === null ? {} : { query_position: query }),
      ...more,
      token_position: position,
      token_masked: text,
      image,
      row,
      col,
      value: exact(value),
    }),
  );
  const places = ["image", "row", "col"] as const; // of patches, where there are any
  const columns = Object.keys(records[0] ?? {}).filter(
    (name) => !places.some((each) => each === name && records.every((record) => record[each] === null)),
  );
  return [
    columns,
    ...records.map((record: Record<string, string | number | null>) =>
      columns.map((name) => String(record[name] ?? "")),
    ),
  ];
}

/** RFC 4180, lines end with "\r\n". A value is quoted where it has to be. */
export function csvOf(table: string[][]): string {
  const cell = (text: string) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
  return table.map((row) => row.map(cell).join(",") + "\r\n").join("");
}
