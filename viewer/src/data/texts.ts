/** Texts from bytes, each stored once: a table of millions of rows has a few thousand different tokens. */

type Decode = (bytes: Uint8Array) => string;

/** Gives each different byte sequence a number, 0, 1, 2, ... Equal texts may come as different bytes (JSON "A" and "\u0041"). */
export class Texts {
  /** Text of each number. */
  readonly list: string[] = [];
  #bytes: Uint8Array[] = [];
  #hashes: number[] = [];
  #slots = new Int32Array(1024).fill(-1); // open addressing; a power of two, at most half full

  /** `decode` is called once for each different byte sequence and may throw. */
  add(buf: Uint8Array, start: number, end: number, decode: Decode = utf8): number {
    let hash = 0x811c9dc5; // FNV-1a
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ buf[i], 0x01000193);
    const mask = this.#slots.length - 1;
    let slot = (hash ^ (hash >>> 15)) & mask;
    for (let id = this.#slots[slot]; id >= 0; slot = (slot + 1) & mask, id = this.#slots[slot]) {
      if (this.#hashes[id] === hash && same(this.#bytes[id], buf, start, end)) return id;
    }
    const bytes = buf.slice(start, end);
    const id = this.list.push(decode(bytes)) - 1;
    this.#bytes.push(bytes);
    this.#hashes.push(hash);
    this.#slots[slot] = id;
    if (this.list.length * 2 > this.#slots.length) this.#grow();
    return id;
  }

  /** Is text `id` made of these bytes? */
  is(id: number, buf: Uint8Array, start: number, end: number): boolean {
    const bytes = this.#bytes[id];
    return bytes !== undefined && same(bytes, buf, start, end);
  }

  #grow(): void {
    const slots = new Int32Array(this.#slots.length * 4).fill(-1);
    const mask = slots.length - 1;
    this.#hashes.forEach((hash, id) => {
      let slot = (hash ^ (hash >>> 15)) & mask;
      while (slots[slot] >= 0) slot = (slot + 1) & mask;
      slots[slot] = id;
    });
    this.#slots = slots;
  }
}

/** Adds the texts of one column. They repeat, or follow each other as they did before: then a comparison is enough. */
export class ColumnTexts {
  #texts: Texts;
  #last = -1;
  #after: number[] = [];
  constructor(texts: Texts) {
    this.#texts = texts;
  }

  add(buf: Uint8Array, start: number, end: number, decode: Decode = utf8): number {
    const last = this.#last;
    if (this.#texts.is(last, buf, start, end)) return last;
    const next = last < 0 ? -1 : (this.#after[last] ?? -1);
    if (this.#texts.is(next, buf, start, end)) return (this.#last = next);
    const id = this.#texts.add(buf, start, end, decode);
    if (last >= 0) this.#after[last] = id;
    return (this.#last = id);
  }
}

function same(bytes: Uint8Array, buf: Uint8Array, start: number, end: number): boolean {
  if (bytes.length !== end - start) return false;
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== buf[start + i]) return false;
  return true;
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // a token may be U+FEFF itself

/** Bytes that are no UTF-8 become U+FFFD. */
export const utf8: Decode = (bytes) => decoder.decode(bytes);
