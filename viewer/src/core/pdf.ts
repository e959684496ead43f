/**
 * Drawing to a PDF of one page: lines, areas and text stay what they are, in the fonts that every reader has. Signs that those
 * fonts lack (a space that is shown, other scripts) are small pictures.
 */

import { rasterCanvas, type Painter, type TextStyle } from "./painter.ts";

const POINT = 0.75; // of a CSS pixel
const FINE = 4; // pixels of a picture for each pixel of the drawing
const FONTS = ["Helvetica", "Helvetica-Bold", "Courier", "Courier-Bold"];
/** What WinAnsiEncoding has beyond Latin-1. */
const MORE: Record<string, number> = {
  "−": 0x96,
  "–": 0x96,
  "—": 0x97,
  "‘": 0x91,
  "’": 0x92,
  "“": 0x93,
  "”": 0x94,
  "…": 0x85,
  "•": 0x95,
};

interface Picture {
  width: number;
  height: number;
  data: Uint8ClampedArray;
  smooth: boolean;
}

export class PdfPainter implements Painter {
  readonly width: number;
  readonly height: number;
  #parts: string[] = [];
  #pictures: Picture[] = [];
  #alphas = new Map<number, number>();
  #ruler = document.createElement("canvas").getContext("2d")!;

  constructor(width: number, height: number) {
    this.width = width;
    this.height = height;
  }

  /** The finished file. */
  async source(title: string): Promise<Blob> {
    const [wide, high] = [this.width * POINT, this.height * POINT].map(n);
    const content = `${POINT} 0 0 -${POINT} 0 ${high} cm\n${this.#parts.join("\n")}`;
    const file = new PdfFile();
    const [catalog, pages, page] = [file.reserve(), file.reserve(), file.reserve()];
    const fonts = FONTS.map((name) =>
      file.add(`<</Type/Font/Subtype/Type1/BaseFont/${name}/Encoding/WinAnsiEncoding>>`),
    );
    const pictures: number[] = [];
    for (const picture of this.#pictures) pictures.push(await addPicture(file, picture));
    const alphas = [...this.#alphas.keys()].map((alpha) => file.add(`<</Type/ExtGState/ca ${alpha}/CA ${alpha}>>`));
    const named = (letter: string, list: number[]) => list.map((each, i) => `/${letter}${i} ${each} 0 R`).join("");
    const resources = `<</Font<<${named("F", fonts)}>>/XObject<<${named("I", pictures)}>>/ExtGState<<${named("G", alphas)}>>>>`;
    const stream = await file.addStream("", new TextEncoder().encode(content));
    file.put(catalog, `<</Type/Catalog/Pages ${pages} 0 R>>`);
    file.put(pages, `<</Type/Pages/Kids[${page} 0 R]/Count 1>>`);
    file.put(
      page,
      `<</Type/Page/Parent ${pages} 0 R/MediaBox[0 0 ${wide} ${high}]/Resources ${resources}/Contents ${stream} 0 R>>`,
    );
    return file.finish(catalog, file.add(`<</Title ${hexText(title)}>>`));
  }

  #colour(text: string, operator: string): string {
    const [r, g, b, alpha] = rgba(text);
    if (!this.#alphas.has(alpha)) this.#alphas.set(alpha, this.#alphas.size);
    return `/G${this.#alphas.get(alpha)} gs ${[r, g, b].map((each) => n(each / 255)).join(" ")} ${operator}`;
  }

  rect(x: number, y: number, width: number, height: number, fill: string | null, stroke?: string, lineWidth = 1): void {
    const box = `${n(x)} ${n(y)} ${n(width)} ${n(height)} re`;
    if (fill) this.#parts.push(`${this.#colour(fill, "rg")} ${box} f`);
    if (stroke) this.#parts.push(`${this.#colour(stroke, "RG")} ${n(lineWidth)} w ${box} S`);
  }

  line(points: ArrayLike<number>, stroke: string, lineWidth = 1, dash: number[] = []): void {
    let path = "",
      drawing = false;
    for (let i = 0; i < points.length; i += 2) {
      const [x, y] = [points[i], points[i + 1]];
      if (!isNaN(x) && !isNaN(y)) path += `${n(x)} ${n(y)} ${drawing ? "l" : "m"} `;
      drawing = !isNaN(x) && !isNaN(y);
    }
    this.#parts.push(`${this.#colour(stroke, "RG")} ${n(lineWidth)} w [${dash.join(" ")}] 0 d ${path}S [] 0 d`);
  }

  circle(x: number, y: number, radius: number, fill: string): void {
    const c = 0.5523 * radius; // four Bézier curves
    const curve = (...all: number[]) => `${all.map(n).join(" ")} c`;
    const path = [
      `${n(x + radius)} ${n(y)} m`,
      curve(x + radius, y + c, x + c, y + radius, x, y + radius),
      curve(x - c, y + radius, x - radius, y + c, x - radius, y),
      curve(x - radius, y - c, x - c, y - radius, x, y - radius),
      curve(x + c, y - radius, x + radius, y - c, x + radius, y),
    ].join(" ");
    this.#parts.push(`${this.#colour(fill, "rg")} ${path} f`);
  }

  text(x: number, y: number, text: string, style: TextStyle = {}): void {
    const { align = "left", turn = 0, colour = "#000000" } = style;
    const width = this.measure(text, style);
    let at = align === "left" ? 0 : align === "right" ? -width : -width / 2;
    const [cos, sin] = [Math.cos, Math.sin].map((of) => n(of((turn * Math.PI) / 180)));
    this.#parts.push(`q ${cos} ${sin} ${n(-Number(sin))} ${cos} ${n(x)} ${n(y)} cm ${this.#colour(colour, "rg")}`);
    for (const piece of text.match(PIECES) ?? []) {
      const code = encoded(piece);
      if (code) this.#parts.push(`BT ${fontOf(style)} Tf 1 0 0 -1 ${n(at)} 0 Tm <${code}> Tj ET`);
      else this.#drawn(at, piece, style);
      at += this.measure(piece, style);
    }
    this.#parts.push("Q");
  }

  /** Text as a picture, its baseline at 0. */
  #drawn(x: number, text: string, style: TextStyle): void {
    const { size = 12, colour = "black" } = style,
      canvas = document.createElement("canvas"),
      wide = Math.ceil(this.measure(text, style)) + 2;
    [canvas.width, canvas.height] = [wide * FINE, Math.ceil(1.5 * size) * FINE];
    const context = canvas.getContext("2d")!;
    context.scale(FINE, FINE);
    context.font = font(style);
    context.fillStyle = colour;
    context.fillText(text, 0, 1.1 * size);
    this.#place(x, -1.1 * size, wide, Math.ceil(1.5 * size), canvas, true, 1);
  }

  cells(x: number, y: number, width: number, height: number, cells: ImageData, opacity = 1): void {
    this.#place(x, y, width, height, rasterCanvas(cells), false, opacity);
  }

  image(x: number, y: number, width: number, height: number, image: CanvasImageSource, opacity = 1): void {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.round(width * 2), Math.round(height * 2)];
    canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
    this.#place(x, y, width, height, canvas, true, opacity);
  }

  #place(
    x: number,
    y: number,
    width: number,
    height: number,
    canvas: HTMLCanvasElement,
    smooth: boolean,
    opacity: number,
  ) {
    const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
    const place = this.#pictures.push({ width: canvas.width, height: canvas.height, data, smooth }) - 1;
    const alpha = this.#colour(`rgba(0, 0, 0, ${opacity})`, "rg");
    this.#parts.push(`q ${alpha} ${n(width)} 0 0 ${n(-height)} ${n(x)} ${n(y + height)} cm /I${place} Do Q`);
  }

  hatch(x: number, y: number, width: number, height: number, colour: string): void {
    const step = 6;
    this.clip(x, y, width, height, () => {
      for (let offset = Math.floor((x - y - height) / step) * step; offset < x + width - y; offset += step)
        this.line([y + offset, y, y + height + offset, y + height], colour, 1);
    });
  }

  clip(x: number, y: number, width: number, height: number, draw: () => void): void {
    this.#parts.push(`q ${n(x)} ${n(y)} ${n(width)} ${n(height)} re W n`);
    draw();
    this.#parts.push("Q");
  }

  measure(text: string, style: TextStyle = {}): number {
    this.#ruler.font = font(style);
    return this.#ruler.measureText(text).width;
  }
}

/** Fonts as wide as the reader's own ones. */
const font = ({ size = 12, mono = false, bold = false }: TextStyle) =>
  `${bold ? "bold " : ""}${size}px ${mono ? "Courier, 'Courier New', 'Liberation Mono', monospace" : "Helvetica, Arial, 'Liberation Sans', sans-serif"}`;

const fontOf = ({ size = 12, mono = false, bold = false }: TextStyle) => `/F${2 * Number(mono) + Number(bold)} ${size}`;

/** Runs of signs that the fonts have, and of others. */
const PIECES = /[ -~\u00a1-\u00ff−–—‘’“”…•]+|[^ -~\u00a1-\u00ff−–—‘’“”…•]+/gu;

/** In hexadecimal; "" where a sign is not in the fonts. */
function encoded(piece: string): string {
  const codes = [...piece].map((sign) => MORE[sign] ?? sign.codePointAt(0)!);
  return codes.every((code) => code < 256) ? codes.map((code) => code.toString(16).padStart(2, "0")).join("") : "";
}

const hexText = (text: string) =>
  `<feff${Array.from(text, (_, i) => text.charCodeAt(i).toString(16).padStart(4, "0")).join("")}>`;

/** "#1d1d22", "#0006", "rgb(1, 2, 3)", "rgba(1, 2, 3, 0.5)" */
function rgba(text: string): [number, number, number, number] {
  const hex = /^#([\da-f]+)$/i.exec(text)?.[1];
  if (!hex) {
    const [r = 0, g = 0, b = 0, alpha = 1] = (text.match(/[\d.]+/g) ?? []).map(Number);
    return [r, g, b, alpha];
  }
  const parts = (hex.length < 5 ? [...hex].map((each) => each + each) : hex.match(/../g)!).map((each) =>
    parseInt(each, 16),
  );
  return [parts[0], parts[1], parts[2], n4((parts[3] ?? 255) / 255)];
}

const n4 = (value: number) => Math.round(value * 1e4) / 1e4;
const n = (value: number) => String(n4(value));

// --- the file ---------------------------------------------------------------------------------------------
async function addPicture(file: PdfFile, { width, height, data, smooth }: Picture): Promise<number> {
  const [colours, alphas] = [new Uint8Array(3 * width * height), new Uint8Array(width * height)];
  for (let i = 0; i < alphas.length; i++) {
    colours.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
    alphas[i] = data[4 * i + 3];
  }
  const about = `/Type/XObject/Subtype/Image/Width ${width}/Height ${height}/BitsPerComponent 8/Interpolate ${smooth}`;
  const mask = await file.addStream(`${about}/ColorSpace/DeviceGray`, alphas);
  return file.addStream(`${about}/ColorSpace/DeviceRGB/SMask ${mask} 0 R`, colours);
}

/** Objects by their numbers, from 1 on. */
class PdfFile {
  #objects: (Uint8Array<ArrayBuffer>[] | null)[] = [];

  reserve(): number {
    return this.#objects.push(null);
  }

  put(number: number, ...parts: (string | Uint8Array<ArrayBuffer>)[]): void {
    this.#objects[number - 1] = parts.map((part) => (typeof part === "string" ? new TextEncoder().encode(part) : part));
  }

  add(text: string): number {
    const number = this.reserve();
    this.put(number, text);
    return number;
  }

  async addStream(about: string, data: Uint8Array<ArrayBuffer>): Promise<number> {
    const packed = new Blob([data]).stream().pipeThrough(new CompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(packed).arrayBuffer());
    const number = this.reserve();
    this.put(number, `<<${about}/Filter/FlateDecode/Length ${bytes.length}>>stream\n`, bytes, "\nendstream");
    return number;
  }

  finish(root: number, info: number): Blob {
    const out: Uint8Array<ArrayBuffer>[] = [],
      starts: number[] = [];
    let at = 0;
    const write = (part: string | Uint8Array<ArrayBuffer>) => {
      const bytes = typeof part === "string" ? new TextEncoder().encode(part) : part;
      out.push(bytes);
      at += bytes.length;
    };
    write("%PDF-1.4\n%\u00e4\u00f6\u00fc\n");
    this.#objects.forEach((parts, i) => {
      starts.push(at);
      write(`${i + 1} 0 obj\n`);
      for (const part of parts ?? []) write(part);
      write("\nendobj\n");
    });
    const table = starts.map((start) => `${String(start).padStart(10, "0")} 00000 n \n`).join("");
    const count = starts.length + 1;
    write(
      `xref\n0 ${count}\n0000000000 65535 f \n${table}trailer\n<</Size ${count}/Root ${root} 0 R/Info ${info} 0 R>>\nstartxref\n${at}\n%%EOF\n`,
    );
    return new Blob(out, { type: "application/pdf" });
  }
}
