/** Tokens as a reader sees them: white space, control characters and patches have a visible form. */

import type { TokenInfo } from "../data/types.ts";

const NAMED: Record<string, string> = { "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽", "\u200b": "∅", "\ufeff": "∅" };

/** The whole text: a leading or lone space is ␣, inner ones stay; direction marks and control characters are ␀-like. */
export function visible(text: string): string {
  if (text === "") return "∅";
  return text
    .replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length))
    .replace(
      /[\u0000-\u001f\u007f-\u00a0\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g,
      (character) => NAMED[character] ?? hidden(character),
    );
}

function hidden(character: string): string {
  const code = character.charCodeAt(0);
  return code < 32
    ? String.fromCharCode(0x2400 + code)
    : code === 127
      ? "␡"
      : `\\u${code.toString(16).padStart(4, "0")}`;
}

/** A token's name in at most `length` characters: its text, or the patch it is. */
export function label(token: TokenInfo, length = 40): string {
  const picture = `▦${token.image || ""}`; // the first one needs no number
  if (token.kind === "image" && !token.members)
    return `${picture} ${token.row === null ? token.position : `${token.row},${token.col}`}`;
  const text = visible(token.text.length > 4 * length ? token.text.slice(0, 4 * length) : token.text);
  const characters = [...text];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : text;
}

/** In running text a leading space says nothing. */
export const unspaced = (shown: string) => shown.replace(/^␣(?=.)/, "");

/** For a sentence: `token "Paris" at position 4`, `patch row 1, column 2 of image 0`. */
export function named(token: TokenInfo, length?: number): string {
  if (token.members)
    return `${label(token, length)}, ${token.members.length > 1 ? `${token.members.length} tokens from` : "at"} position ${token.position}`;
  if (token.kind !== "image") return `token ${label(token, length)} at position ${token.position}`;
  const place =
    token.row === null ? `image token at position ${token.position}` : `patch row ${token.row}, column ${token.col}`;
  return `${place} of image ${token.image ?? 0}`;
}

/** Three significant digits, of what is larger its whole part; never an exponent where it is not needed. */
export function number(value: number): string {
  if (isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 999.5 && size < 1e5) return String(Math.round(value));
  return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(3))) : value.toExponential(2);
}

/** The same of a difference: "+1.2", "−1.2". */
export const signed = (value: number) => (value > 0 ? "+" : value < 0 ? "−" : "") + number(Math.abs(value));

/** Shortest decimal that reads back as the same float32: the number as it is in the file. */
export function exact(value: number): string {
  if (isNaN(value)) return "";
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return String(short);
  }
  return String(Number(value.toPrecision(9)));
}
