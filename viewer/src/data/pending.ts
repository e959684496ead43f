/** Bytes that came in but are not parsed yet: the end of one chunk, joined with the next one. */

import { LoadError } from "./errors.ts";

/** The longest row, JSON record or text. Without a limit a lost quotation mark would make the whole file one text. */
export const MAX_UNIT = 16 * 1024 * 1024;

export class Pending {
  buf: Uint8Array = new Uint8Array(0);
  pos = 0;

  add(chunk: Uint8Array): void {
    const rest = this.buf.length - this.pos;
    if (rest === 0) {
      this.buf = chunk;
    } else {
      const joined = new Uint8Array(rest + chunk.length);
      joined.set(this.buf.subarray(this.pos));
      joined.set(chunk, rest);
      this.buf = joined;
    }
    this.pos = 0;
  }

  /** Throws if what is left over is too long to be one row or value. */
  checkLength(what: () => string): void {
    if (this.buf.length - this.pos > MAX_UNIT) {
      throw new LoadError(`${what()} is longer than 16 MB: a quotation mark seems to be missing there`);
    }
  }

  /** Remove a byte order mark. False if too few bytes are there to tell. */
  skipMark(last: boolean): boolean {
    const rest = this.buf.length - this.pos;
    const begins = [0xef, 0xbb, 0xbf].every((byte, i) => i >= rest || this.buf[this.pos + i] === byte);
    if (begins && rest < 3 && !last) return false;
    if (begins && rest >= 3) this.pos += 3;
    return true;
  }
}
