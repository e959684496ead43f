/** The colours of the style sheet, for canvases; exported pictures use those of the light theme. */

export interface Ink {
  ink: string;
  muted: string;
  faint: string;
  line: string;
  paper: string;
  accent: string;
  empty: string;
}

export const LIGHT: Ink = {
  ink: "#1d1d22",
  muted: "#5c5c66",
  faint: "#8b8b95",
  line: "#dddde3",
  paper: "#ffffff",
  accent: "#0b57d0",
  empty: "#ececf0",
};

const known = new Map<boolean, Ink>();

/** The theme must be set on the page already. */
export function ink(dark: boolean): Ink {
  let found = known.get(dark);
  if (!found) {
    const style = getComputedStyle(document.documentElement);
    found = Object.fromEntries(
      Object.keys(LIGHT).map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
    ) as unknown as Ink;
    known.set(dark, found);
  }
  return found;
}
