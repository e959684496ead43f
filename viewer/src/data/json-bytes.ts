/** Where things are in the bytes of JSON. A place is -1 if the bytes end before the answer is known. */

import { LoadError, quoted } from "./errors.ts";
import { utf8 } from "./texts.ts";

export const QUOTE = 34,
  COMMA = 44,
  COLON = 58,
  BACKSLASH = 92;
export const OPEN_LIST = 91,
  CLOSE_LIST = 93,
  OPEN_OBJECT = 123,
  CLOSE_OBJECT = 125;
export const NULL = 110; // "n"

/** Space, tab, line feed, carriage return. */
export const isSpace = (byte: number) => byte <= 32 && (byte === 32 || byte === 10 || byte === 13 || byte === 9);

/** Does a text, true, false, a list or an object begin with this byte? */
export const beginsOther = (byte: number) =>
  byte === QUOTE || byte === OPEN_LIST || byte === OPEN_OBJECT || byte === 116 || byte === 102;

export function afterSpace(buf: Uint8Array, i: number): number {
  while (i < buf.length && isSpace(buf[i])) i++;
  return i;
}

/** After the closing quotation mark of the string that opens at `i`. */
export function stringEnd(buf: Uint8Array, i: number): number {
  for (i++; i < buf.length; i++) {
    const byte = buf[i];
    if (byte === QUOTE) return i + 1;
    if (byte === BACKSLASH) i++;
  }
  return -1;
}

/** After a string, number or literal. It has ended only if something follows. */
export function scalarEnd(buf: Uint8Array, i: number): number {
  if (buf[i] === QUOTE) return stringEnd(buf, i);
  for (; i < buf.length; i++) {
    const ends = ENDS[buf[i]];
    if (ends) return ends === 1 ? i : i + 1;
  }
  return -1;
}

/** 1: ends a number or literal; 2: cannot be in one, so that it must fail as a value. A table: one look for each byte. */
const ENDS = new Uint8Array(256);
for (const byte of [COMMA, CLOSE_LIST, CLOSE_OBJECT, 32, 10, 13, 9]) ENDS[byte] = 1;
for (const byte of [OPEN_LIST, OPEN_OBJECT, QUOTE]) ENDS[byte] = 2;

/** After any value. */
export function valueEnd(buf: Uint8Array, i: number): number {
  if (buf[i] !== OPEN_LIST && buf[i] !== OPEN_OBJECT) return scalarEnd(buf, i);
  for (let depth = 0; i < buf.length; i++) {
    const byte = buf[i];
    if (byte === QUOTE) {
      i = stringEnd(buf, i) - 1;
      if (i < 0) return -1;
    } else if (byte === OPEN_LIST || byte === OPEN_OBJECT) depth++;
    else if ((byte === CLOSE_LIST || byte === CLOSE_OBJECT) && --depth === 0) return i + 1;
  }
  return -1;
}

/** Where the value begins whose key begins at `i`. `fail` throws. */
export function afterKey(buf: Uint8Array, i: number, fail: (what: string) => never): number {
  if (i >= buf.length) return -1;
  if (buf[i] !== QUOTE) fail("a key in quotation marks is missing");
  const end = stringEnd(buf, i);
  if (end < 0) return -1;
  const colon = afterSpace(buf, end);
  if (colon >= buf.length) return -1;
  if (buf[colon] !== COLON) fail("a colon is missing after a key");
  const value = afterSpace(buf, colon + 1);
  return value < buf.length ? value : -1;
}

export function begins(buf: Uint8Array, start: number, bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i++) if (buf[start + i] !== bytes[i]) return false;
  return true;
}

/** The text of a JSON string without its quotation marks. Half of a surrogate pair stays what it is. */
export function jsonText(bytes: Uint8Array): string {
  const text = utf8(bytes);
  // Plain text needs no parser; JSON.parse refuses raw control characters and unknown escapes.
  if (!/[\\\u0000-\u001f]/.test(text)) return text;
  try {
    return JSON.parse(`"${text}"`) as string;
  } catch {
    throw new LoadError(`${quoted(text)} is no valid JSON text`);
  }
}
