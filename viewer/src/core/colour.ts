/** From a value to a colour: tables, the curve, and what is black or white on top of it. */

import { cividis, puor, viridis } from "virtual:colours";

import type { State } from "./state.ts";

export type Rgb = readonly [number, number, number];

/** One hue that pictures seldom have, on the paper of each theme: 0 leaves the paper as it is. "dusk" is "difference" on dark paper. */
const TABLES = {
  tint: "ffffffe45aa17d0340",
  night: "17171ba82f72ffa6d1",
  cividis,
  viridis,
  difference: puor,
  dusk: "cdb8ff7a52c717171bb8651bffc78f",
};
export type Palette = keyof typeof TABLES;

/** The same hue over a picture, and what costs or helps an answer; their opacity grows with the value. */
export const OVER = { plain: [230, 0, 126], less: [118, 42, 190], more: [240, 120, 0] } as const;

/** What has a sign has a palette of its own. */
export const paletteOf = (state: Pick<State, "palette">, signed: boolean): Palette =>
  signed ? (state.palette === "night" ? "dusk" : "difference") : state.palette;

const decoded = new Map<Palette, Rgb[]>();

/** 256 colours. */
export function table(palette: Palette): Rgb[] {
  let found = decoded.get(palette);
  if (!found) {
    const parts = TABLES[palette].match(/../g)!.map((part) => parseInt(part, 16));
    const stops = parts.length / 3 - 1;
    found = Array.from({ length: 256 }, (_, i) => {
      const place = (i / 255) * stops;
      const low = Math.min(Math.floor(place), stops - 1);
      const part = (channel: number) => {
        const [from, to] = [parts[3 * low + channel], parts[3 * low + 3 + channel]];
        return Math.round(from + (place - low) * (to - from));
      };
      return [part(0), part(1), part(2)] as const;
    });
    decoded.set(palette, found);
  }
  return found;
}

/** How a value becomes a place on a scale: `least` is the share of the largest value under which nothing is shown. */
export interface Scaling {
  curve: State["curve"];
  least?: number;
}

/**
 * Place on the scale, 0 to 1: of `value` between 0 and `largest`, or with `signed` between -largest and largest. With the
 * curve "rank", of its size among `sizes`, which rise; without them, as with a linear one.
 */
export function share(
  value: number,
  largest: number,
  { curve, least = 0 }: Scaling,
  signed = false,
  sizes: Float32Array | null = null,
): number {
  if (!(largest > 0)) return signed ? 0.5 : 0;
  const size = Math.abs(value),
    part = Math.min(1, size / largest);
  const bent =
    part < least ? 0 : curve === "sqrt" ? Math.sqrt(part) : curve === "rank" && sizes ? percentile(size, sizes) : part;
  return signed ? 0.5 + (Math.sign(value) * bent) / 2 : bent;
}

/** The share of the others that are smaller: 0 for the smallest size, 1 for the largest. */
function percentile(size: number, sizes: Float32Array): number {
  let [low, high] = [0, sizes.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sizes[middle] < size) low = middle + 1;
    else high = middle;
  }
  return sizes.length > 1 ? Math.min(1, low / (sizes.length - 1)) : 1;
}

/** The sizes of values, from the smallest on; without those that are missing or left out. */
export const risingSizes = (values: ArrayLike<number>, counts: (place: number) => boolean = () => true): Float32Array =>
  Float32Array.from(Array.from(values, Math.abs).filter((size, place) => !isNaN(size) && counts(place))).sort();

/** Of a scale, in words; "" of a linear one. */
export const CURVES: Record<State["curve"], string> = {
  linear: "",
  sqrt: "square-root scale",
  rank: "percentile scale",
};

export function colourAt(palette: Palette, place: number): Rgb {
  return table(palette)[Math.round(Math.min(1, Math.max(0, place)) * 255)];
}

export function css([r, g, b]: Rgb): string {
  return `rgb(${r}, ${g}, ${b})`;
}

/** Whether dark text is the readable one on a colour (relative luminance, WCAG 2.2). */
export function isLight([r, g, b]: Rgb): boolean {
  const linear = (part: number) => (part <= 10 ? part / 3294 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) > 0.179;
}
