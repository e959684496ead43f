/**
 * One way to draw, three places to draw to: the screen, a PNG (a canvas at another scale) and an SVG.
 *
 * A picture on the page is a function of a Painter. Lengths are CSS pixels; text is placed by its baseline's start,
 * middle or end.
 */

export interface TextStyle {
  size?: number;
  colour?: string;
  align?: "left" | "center" | "right";
  mono?: boolean;
  bold?: boolean;
  /** Degrees, around the place of the text. */
  turn?: number;
}

export interface Painter {
  readonly width: number;
  readonly height: number;
  rect(
    x: number,
    y: number,
    width: number,
    height: number,
    fill: string | null,
    stroke?: string,
    lineWidth?: number,
  ): void;
  /** Through points [x, y, x, y, ...]; NaN breaks the line. */
  line(points: ArrayLike<number>, stroke: string, lineWidth?: number, dash?: number[]): void;
  circle(x: number, y: number, radius: number, fill: string): void;
  text(x: number, y: number, text: string, style?: TextStyle): void;
  /** A raster stretched over a rectangle: each pixel of `cells` is a sharp-edged cell. */
  cells(x: number, y: number, width: number, height: number, cells: ImageData, opacity?: number): void;
  image(x: number, y: number, width: number, height: number, image: CanvasImageSource, opacity?: number): void;
  /** Diagonal lines over a rectangle: "outside the scale", "below the noise". */
  hatch(x: number, y: number, width: number, height: number, colour: string): void;
  clip(x: number, y: number, width: number, height: number, draw: () => void): void;
  measure(text: string, style?: TextStyle): number;
}

/** A drawing of a size of its own, for export. */
export interface Drawing {
  title: string;
  width: number;
  height: number;
  draw(painter: Painter): void;
}

const SANS = "system-ui, sans-serif";
const MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";

function font({ size = 12, mono = false, bold = false }: TextStyle): string {
  return `${bold ? "600 " : ""}${size}px ${mono ? MONO : SANS}`;
}

export class CanvasPainter implements Painter {
  readonly width: number;
  readonly height: number;
  #context: CanvasRenderingContext2D;

  /** `scale`: device pixels per CSS pixel. The canvas gets the size it needs and is cleared. */
  constructor(canvas: HTMLCanvasElement, width: number, height: number, scale: number) {
    const [w, h] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    if (canvas.width !== w) canvas.width = w;
    if (canvas.height !== h) canvas.height = h;
    this.width = width;
    this.height = height;
    this.#context = canvas.getContext("2d")!;
    this.#context.setTransform(scale, 0, 0, scale, 0, 0);
    this.#context.clearRect(0, 0, width, height);
  }

  rect(x: number, y: number, width: number, height: number, fill: string | null, stroke?: string, lineWidth = 1): void {
    const c = this.#context;
    if (fill) {
      c.fillStyle = fill;
      c.fillRect(x, y, width, height);
    }
    if (stroke) {
      c.strokeStyle = stroke;
      c.lineWidth = lineWidth;
      c.strokeRect(x, y, width, height);
    }
  }

  line(points: ArrayLike<number>, stroke: string, lineWidth = 1, dash: number[] = []): void {
    const c = this.#context;
    c.beginPath();
    let drawing = false;
    for (let i = 0; i < points.length; i += 2) {
      const [x, y] = [points[i], points[i + 1]];
      if (isNaN(x) || isNaN(y)) drawing = false;
      else if (drawing) c.lineTo(x, y);
      else {
        c.moveTo(x, y);
        drawing = true;
      }
    }
    c.strokeStyle = stroke;
    c.lineWidth = lineWidth;
    c.setLineDash(dash);
    c.stroke();
    c.setLineDash([]);
  }

  circle(x: number, y: number, radius: number, fill: string): void {
    const c = this.#context;
    c.beginPath();
    c.arc(x, y, radius, 0, 2 * Math.PI);
    c.fillStyle = fill;
    c.fill();
  }

  text(x: number, y: number, text: string, style: TextStyle = {}): void {
    const c = this.#context;
    c.font = font(style);
    c.fillStyle = style.colour ?? "black";
    c.textAlign = style.align ?? "left";
    c.textBaseline = "alphabetic";
    if (!style.turn) return c.fillText(text, x, y);
    c.save();
    c.translate(x, y);
    c.rotate((style.turn * Math.PI) / 180);
    c.fillText(text, 0, 0);
    c.restore();
  }

  cells(x: number, y: number, width: number, height: number, cells: ImageData, opacity = 1): void {
    this.#stretched(rasterCanvas(cells), x, y, width, height, opacity, false);
  }

  image(x: number, y: number, width: number, height: number, image: CanvasImageSource, opacity = 1): void {
    this.#stretched(image, x, y, width, height, opacity, true);
  }

  #stretched(
    image: CanvasImageSource,
    x: number,
    y: number,
    width: number,
    height: number,
    opacity: number,
    smooth: boolean,
  ): void {
    const c = this.#context;
    c.globalAlpha = opacity;
    c.imageSmoothingEnabled = smooth;
    c.imageSmoothingQuality = "high";
    c.drawImage(image, x, y, width, height);
    c.globalAlpha = 1;
  }

  hatch(x: number, y: number, width: number, height: number, colour: string): void {
    this.clip(x, y, width, height, () => hatchLines(x, y, width, height, (points) => this.line(points, colour, 1)));
  }

  clip(x: number, y: number, width: number, height: number, draw: () => void): void {
    const c = this.#context;
    c.save();
    c.beginPath();
    c.rect(x, y, width, height);
    c.clip();
    draw();
    c.restore();
  }

  measure(text: string, style: TextStyle = {}): number {
    this.#context.font = font(style);
    return this.#context.measureText(text).width;
  }
}

/** A part of a painter as one of its own: same surface, another origin and size. */
export function part(painter: Painter, dx: number, dy: number, width: number, height: number): Painter {
  return {
    width,
    height,
    rect: (x, y, ...rest) => painter.rect(x + dx, y + dy, ...rest),
    line: (points, ...rest) =>
      painter.line(
        Array.from(points, (value, i) => value + (i % 2 ? dy : dx)),
        ...rest,
      ),
    circle: (x, y, ...rest) => painter.circle(x + dx, y + dy, ...rest),
    text: (x, y, ...rest) => painter.text(x + dx, y + dy, ...rest),
    cells: (x, y, ...rest) => painter.cells(x + dx, y + dy, ...rest),
    image: (x, y, ...rest) => painter.image(x + dx, y + dy, ...rest),
    hatch: (x, y, ...rest) => painter.hatch(x + dx, y + dy, ...rest),
    clip: (x, y, ...rest) => painter.clip(x + dx, y + dy, ...rest),
    measure: (...all) => painter.measure(...all),
  };
}

function hatchLines(x: number, y: number, width: number, height: number, line: (points: number[]) => void): void {
  const step = 6;
  for (let offset = Math.floor((x - y - height) / step) * step; offset < x + width - y; offset += step)
    line([y + offset, y, y + height + offset, y + height]);
}

/** Of the data of an ImageData, which is to be asked for once: `raster.data` in a loop takes longer than all the rest. */
export function setPixel(data: ImageData["data"], place: number, colour: readonly number[]): void {
  data[4 * place] = colour[0];
  data[4 * place + 1] = colour[1];
  data[4 * place + 2] = colour[2];
  data[4 * place + 3] = 255;
}

export function rasterCanvas(cells: ImageData): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [cells.width, cells.height];
  canvas.getContext("2d")!.putImageData(cells, 0, 0);
  return canvas;
}

export class SvgPainter implements Painter {
  readonly width: number;
  readonly height: number;
  #parts: string[] = [];
  #clips = 0;
  #ruler = document.createElement("canvas").getContext("2d")!;

  constructor(width: number, height: number) {
    this.width = width;
    this.height = height;
  }

  /** The finished file. */
  source(title: string): string {
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" width="${this.width}" height="${this.height}" ` +
      `viewBox="0 0 ${this.width} ${this.height}" role="img"><title>${escaped(title)}</title>${this.#parts.join("")}</svg>\n`
    );
  }

  rect(x: number, y: number, width: number, height: number, fill: string | null, stroke?: string, lineWidth = 1): void {
    const edge = stroke ? ` stroke="${stroke}" stroke-width="${lineWidth}"` : "";
    this.#parts.push(
      `<rect x="${n(x)}" y="${n(y)}" width="${n(width)}" height="${n(height)}" fill="${fill ?? "none"}"${edge}/>`,
    );
  }

  line(points: ArrayLike<number>, stroke: string, lineWidth = 1, dash: number[] = []): void {
    let path = "";
    let drawing = false;
    for (let i = 0; i < points.length; i += 2) {
      const [x, y] = [points[i], points[i + 1]];
      if (isNaN(x) || isNaN(y)) {
        drawing = false;
        continue;
      }
      path += `${drawing ? "L" : "M"}${n(x)} ${n(y)}`;
      drawing = true;
    }
    const dashes = dash.length ? ` stroke-dasharray="${dash.join(" ")}"` : "";
    this.#parts.push(`<path d="${path}" fill="none" stroke="${stroke}" stroke-width="${lineWidth}"${dashes}/>`);
  }

  circle(x: number, y: number, radius: number, fill: string): void {
    this.#parts.push(`<circle cx="${n(x)}" cy="${n(y)}" r="${n(radius)}" fill="${fill}"/>`);
  }

  text(x: number, y: number, text: string, style: TextStyle = {}): void {
    const anchor = { left: "start", center: "middle", right: "end" }[style.align ?? "left"];
    const turn = style.turn ? ` transform="rotate(${style.turn} ${n(x)} ${n(y)})"` : "";
    this.#parts.push(
      `<text x="${n(x)}" y="${n(y)}" text-anchor="${anchor}" fill="${style.colour ?? "black"}" style="font:${escaped(font(style))}" ` +
        `xml:space="preserve"${turn}>${escaped(text)}</text>`,
    );
  }

  cells(x: number, y: number, width: number, height: number, cells: ImageData, opacity = 1): void {
    this.#image(x, y, width, height, rasterCanvas(cells), opacity, "image-rendering:pixelated");
  }

  image(x: number, y: number, width: number, height: number, image: CanvasImageSource, opacity = 1): void {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.round(width * 2), Math.round(height * 2)];
    canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
    this.#image(x, y, width, height, canvas, opacity, "");
  }

  #image(
    x: number,
    y: number,
    width: number,
    height: number,
    canvas: HTMLCanvasElement,
    opacity: number,
    style: string,
  ): void {
    this.#parts.push(
      `<image x="${n(x)}" y="${n(y)}" width="${n(width)}" height="${n(height)}" preserveAspectRatio="none" ` +
        `opacity="${opacity}" style="${style}" href="${canvas.toDataURL()}"/>`,
    );
  }

  hatch(x: number, y: number, width: number, height: number, colour: string): void {
    this.clip(x, y, width, height, () => hatchLines(x, y, width, height, (points) => this.line(points, colour, 1)));
  }

  clip(x: number, y: number, width: number, height: number, draw: () => void): void {
    const id = `clip${this.#clips++}`;
    this.#parts.push(
      `<clipPath id="${id}"><rect x="${n(x)}" y="${n(y)}" width="${n(width)}" height="${n(height)}"/></clipPath><g clip-path="url(#${id})">`,
    );
    draw();
    this.#parts.push("</g>");
  }

  measure(text: string, style: TextStyle = {}): number {
    this.#ruler.font = font(style);
    return this.#ruler.measureText(text).width;
  }
}

/** Two decimals at most: a hundredth of a pixel. */
function n(value: number): string {
  return String(Math.round(value * 100) / 100);
}

function escaped(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text
    .replace(
      /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g,
      "\ufffd",
    )
    .replace(/&/g, "&amp;")
    .replace(/</g, "&lt;")
    .replace(/>/g, "&gt;")
    .replace(/"/g, "&quot;");
}
