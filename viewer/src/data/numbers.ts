/**
 * Numbers from bytes, without making a string for each: a large file holds tens of millions.
 *
 * The grammar is that of JSON: -12, 0.5, 1e-7. Leading zeros, "5.", ".5" and "+5" are refused, because that is what a
 * damaged number often looks like ("0.1" that lost its point is "01"). Not a number at all: see `missing`.
 */

const MINUS = 45,
  POINT = 46,
  ZERO = 48;

/** 10^0 to 10^22: the powers of ten that a double holds exactly. */
const POW10 = Float64Array.from({ length: 23 }, (_, n) => Number(`1e${n}`));

/** What programs write for "no value": empty, null, and NaN in its spellings. */
const MISSING = new Set(["", "null", "nan", "NaN", "NA", "N/A", "None", "<NA>", "-nan"]);
const INFINITE = new Set(["inf", "-inf", "Infinity", "-Infinity", "+inf", "Inf", "-Inf"]);
const GRAMMAR = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;

export type Special = "missing" | "infinite" | "malformed";

/** What bytes are for which `float32At` or `integerAt` gave no number. */
export function special(buf: Uint8Array, start: number, end: number): Special {
  const text = latin1(buf, start, end);
  if (MISSING.has(text)) return "missing";
  return INFINITE.has(text) || GRAMMAR.test(text) ? "infinite" : "malformed";
}

/**
 * The float32 nearest to the text, or NaN: then `special` tells why (missing, infinite or malformed).
 *
 * Up to 15 digits and a power of ten up to 22, both exact as doubles, one division or multiplication rounds correctly.
 * Longer numbers are held between two such values; if both round to the same float32, that is the answer.
 */
export function float32At(buf: Uint8Array, start: number, end: number): number {
  let i = start;
  const negative = buf[i] === MINUS;
  if (negative) i++;
  let mantissa = 0,
    digits = 0,
    dropped = 0,
    exponent = 0;
  const whole = i;
  for (; i < end; i++) {
    const digit = buf[i] - ZERO;
    if (digit < 0 || digit > 9) break;
    if (digits < 15) {
      mantissa = mantissa * 10 + digit;
      if (mantissa) digits++;
    } else {
      dropped++;
      exponent++;
    }
  }
  if (i === whole || (buf[whole] === ZERO && i > whole + 1)) return NaN;
  if (i < end && buf[i] === POINT) {
    const fraction = ++i;
    for (; i < end; i++) {
      const digit = buf[i] - ZERO;
      if (digit < 0 || digit > 9) break;
      if (digits < 15) {
        mantissa = mantissa * 10 + digit;
        exponent--;
        if (mantissa) digits++;
      } else dropped++;
    }
    if (i === fraction) return NaN;
  }
  if (i < end && (buf[i] | 32) === 101) {
    // e or E
    let sign = 1,
      power = 0;
    if (buf[++i] === MINUS) {
      sign = -1;
      i++;
    } else if (buf[i] === 43) i++;
    const first = i;
    for (; i < end; i++) {
      const digit = buf[i] - ZERO;
      if (digit < 0 || digit > 9) break;
      power = Math.min(power * 10 + digit, 100_000);
    }
    if ((i >= end && i === first) || i === first) return NaN;
    exponent += sign * power;
  }
  if (i !== end) return NaN;
  const value = Math.fround(scaled(mantissa, exponent));
  const same = dropped === 0 ? Math.abs(exponent) <= 22 : value === Math.fround(scaled(mantissa + 1, exponent));
  const result = same && Math.abs(exponent) <= 22 ? value : Math.fround(Number(latin1(buf, whole, end)));
  return result === Infinity ? NaN : negative ? -result : result;
}

function scaled(mantissa: number, exponent: number): number {
  return exponent < 0 ? mantissa / POW10[Math.min(22, -exponent)] : mantissa * POW10[Math.min(22, exponent)];
}

/** A whole number from 0 to 2^31 - 1, also when written as 3.0 or 3e0; -1 for anything else. */
export function integerAt(buf: Uint8Array, start: number, end: number): number {
  if (end - start > 9 || end === start || (buf[start] === ZERO && end > start + 1)) return slowInteger(buf, start, end);
  let value = 0;
  for (let i = start; i < end; i++) {
    const digit = buf[i] - ZERO;
    if (digit < 0 || digit > 9) return slowInteger(buf, start, end);
    value = value * 10 + digit;
  }
  return value;
}

function slowInteger(buf: Uint8Array, start: number, end: number): number {
  const text = latin1(buf, start, end);
  return GRAMMAR.test(text) ? checkedInteger(Number(text)) : -1;
}

/** The number itself if it is a whole number from 0 to 2^31 - 1, else -1. */
export function checkedInteger(value: number): number {
  return Number.isInteger(value) && value >= 0 && value <= 0x7fffffff ? value : -1;
}

/** At most the first 400 bytes: no number is longer (the smallest double has 324 zeros), and "" is none either. */
export function latin1(buf: Uint8Array, start: number, end: number): string {
  if (end - start > 400) return "(too long for a number)";
  let text = "";
  for (let i = start; i < end; i++) text += String.fromCharCode(buf[i]);
  return text;
}
