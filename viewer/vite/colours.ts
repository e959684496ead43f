/**
 * Vite plugin: the colour tables, made at build time from d3-scale-chromatic (which stays out of the page).
 *
 *   import { cividis, viridis, puor } from "virtual:colours";   // 33 colours, evenly spaced, as "rrggbbrrggbb..."
 *
 * The page joins them by straight lines (src/core/colour.ts): at most 3 of 255 off the original, and 4 kB less.
 */

import * as chromatic from "d3-scale-chromatic";
import type { Plugin } from "vite";

const TABLES: Record<string, (t: number) => string> = {
  cividis: chromatic.interpolateCividis, // sequential, the default: made for colour-blind readers
  viridis: chromatic.interpolateViridis,
  puor: chromatic.interpolatePuOr, // diverging, for differences
};

const STOPS = 33;
const NAME = "virtual:colours";

export function colours(): Plugin {
  return {
    name: "colours",
    resolveId: (id) => (id === NAME ? `\0${NAME}` : null),
    load: (id) =>
      id === `\0${NAME}`
        ? Object.entries(TABLES)
            .map(([name, scale]) => `export const ${name} = "${table(scale)}";`)
            .join("\n")
        : null,
  };
}

function table(scale: (t: number) => string): string {
  return Array.from({ length: STOPS }, (_, i) => hex(scale(i / (STOPS - 1)))).join("");
}

/** "rgb(1, 2, 3)" or "#010203" -> "010203". */
function hex(colour: string): string {
  if (colour.startsWith("#")) return colour.slice(1);
  const [r, g, b] = colour.match(/\d+/g)!.map(Number);
  return [r, g, b].map((part) => part.toString(16).padStart(2, "0")).join("");
}
