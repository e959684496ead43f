/**
 * The pages of one Parquet column chunk -> a column of the table.
 *
 * Unpacking and the encodings of single values are hyparquet's. Levels and dictionary indices are decoded here, with
 * bounds: in a damaged file a run may claim two billion values. Pages are checked before they are decoded; where the
 * writer left checksums (pyarrow: write_page_checksum=True), a flipped bit in the numbers is noticed, too.
 */

import { decompressPage } from "hyparquet/src/datapage.js";
import { deltaBinaryUnpack, deltaByteArray, deltaLengthByteArray } from "hyparquet/src/delta.js";
import { byteStreamSplit } from "hyparquet/src/encoding.js";
import { readPlain } from "hyparquet/src/plain.js";
import type { Encoding, ParquetType } from "hyparquet/src/types.js";

import { LoadError, count } from "./errors.ts";
import { readPageHeader, type Chunk, type PageHeader } from "./parquet-headers.ts";
import { KINDS, malformed, needed, type ColumnName, type Table, wholeOf } from "./table.ts";

/** Appends the values of a column chunk, of which `data` are the bytes, to the table's column `name`. */
export function readPages(data: ArrayBuffer, table: Table, name: ColumnName, chunk: Chunk, optional: boolean): void {
  const reader = { view: new DataView(data), offset: 0 };
  const target = table.columns[name];
  const convert = converter(table, name);
  let dictionary = new Float64Array(0);
  for (let left = chunk.rows; left > 0 && reader.offset < data.byteLength;) {
    const header = readPageHeader(reader);
    const bytes = checkedPage(data, reader.offset, header, left);
    reader.offset += bytes.length;
    if (header.dictionary) {
      const page = decompressPage(bytes, header.unpacked, chunk.codec, undefined);
      dictionary = Float64Array.from(decoded(page, "PLAIN", chunk.type, header.values), convert);
      continue;
    }
    const values = pageValues(bytes, header, chunk, optional, dictionary, convert);
    for (let i = 0; i < values.length; i++) target.push(values[i]);
    left -= values.length;
  }
}

type Convert = (value: unknown) => number;

/** A decoded value as what the table holds. */
function converter(table: Table, name: ColumnName): Convert {
  const where = () => `row ${count(table.columns[name].length + 1)}`;
  switch (KINDS[name]) {
    case "integer":
      return (value) => wholeOf(value, name, where);
    case "number":
      return (value) => (value === null ? NaN : table.numberOf(Number(value)));
    case "text":
      return (value) => {
        if (value instanceof Uint8Array) return table.texts.add(value, 0, value.length);
        if (needed(name)) throw malformed(String(value), name, where());
        table.noText = true;
        return table.texts.add(new Uint8Array(0), 0, 0);
      };
  }
}

const readerOf = (page: Uint8Array) => ({ view: new DataView(page.buffer, page.byteOffset, page.length), offset: 0 });

interface DataPage {
  present: Uint8Array | null; // 0 where the value is null; null if none is
  body: Uint8Array; // without the levels
}

function pageValues(
  bytes: Uint8Array,
  header: PageHeader,
  chunk: Chunk,
  optional: boolean,
  dictionary: Float64Array,
  convert: Convert,
): Float64Array {
  const { present, body } = header.v2 ? pageV2(bytes, header, chunk, optional) : pageV1(bytes, header, chunk, optional);
  const n = present ? present.reduce((sum, flag) => sum + flag, 0) : header.values;
  const values = new Float64Array(n);
  if (header.encoding === "PLAIN_DICTIONARY" || header.encoding === "RLE_DICTIONARY") {
    const places = runs(body, 1, body[0], n);
    for (let i = 0; i < n; i++) {
      if (places[i] >= dictionary.length)
        throw new LoadError("the Parquet file is damaged: an entry is not in its dictionary");
      values[i] = dictionary[places[i]];
    }
  } else {
    const found = decoded(body, header.encoding, chunk.type, n);
    if (found.length !== n)
      throw new LoadError(`the Parquet file is damaged: a page has ${found.length} of ${n} values`);
    for (let i = 0; i < n; i++) values[i] = convert(found[i]);
  }
  if (!present) return values;
  const missing = n < header.values ? convert(null) : NaN;
  let next = 0;
  return Float64Array.from(present, (flag) => (flag ? values[next++] : missing));
}

function pageV1(bytes: Uint8Array, { unpacked, values }: PageHeader, { codec }: Chunk, optional: boolean): DataPage {
  const page = decompressPage(bytes, unpacked, codec, undefined);
  if (!optional) return { present: null, body: page };
  const end = 4 + readerOf(page).view.getUint32(0, true);
  return { present: levels(page.subarray(4, end), values), body: page.subarray(end) };
}

function pageV2(
  bytes: Uint8Array,
  { unpacked, values, v2 }: PageHeader,
  { codec }: Chunk,
  optional: boolean,
): DataPage {
  const { repetition: start, definition, packed } = v2!;
  const end = start + definition;
  const body = decompressPage(bytes.subarray(end), unpacked - end, packed ? codec : "UNCOMPRESSED", undefined);
  return { present: optional ? levels(bytes.subarray(start, end), values) : null, body };
}

/** `n` values that are in no dictionary. The delta and byte-stream-split encodings are there only if asked for. */
function decoded(body: Uint8Array, encoding: Encoding, type: ParquetType, n: number): ArrayLike<unknown> {
  const reader = readerOf(body);
  const filled = <List>(fill: (from: typeof reader, n: number, to: List) => void, list: List) => {
    if (n) fill(reader, n, list);
    return list;
  };
  switch (encoding) {
    case "PLAIN":
      return readPlain(reader, type, n, undefined);
    case "BYTE_STREAM_SPLIT":
      return byteStreamSplit(reader, n, type, undefined);
    case "DELTA_BINARY_PACKED":
      return filled(deltaBinaryUnpack, type === "INT32" ? new Int32Array(n) : new BigInt64Array(n));
    case "DELTA_LENGTH_BYTE_ARRAY":
      return filled(deltaLengthByteArray, new Array<Uint8Array>(n));
    case "DELTA_BYTE_ARRAY":
      return filled(deltaByteArray, new Array<Uint8Array>(n));
    default:
      throw new LoadError(`the Parquet file is encoded as ${encoding}, which cannot be read`);
  }
}

function levels(bytes: Uint8Array, n: number): Uint8Array {
  return Uint8Array.from(runs(bytes, 0, 1, n));
}

/** Parquet's RLE / bit-packing hybrid: `n` numbers of `width` bits, starting at byte `at`. */
function runs(bytes: Uint8Array, at: number, width: number, n: number): Int32Array {
  const out = new Int32Array(n);
  if (width > 31) throw new LoadError("the Parquet file is damaged: numbers of more than 31 bits in a dictionary");
  if (width === 0) return out;
  const valueBytes = (width + 7) >> 3;
  for (let done = 0; done < n;) {
    let header = 0,
      shift = 0;
    do {
      if (at >= bytes.length) throw new LoadError("the Parquet file is damaged: a page ends too early");
      header += (bytes[at] & 127) * 2 ** shift;
      shift += 7;
    } while (bytes[at++] & 128);
    const length = Math.floor(header / 2);
    if (header % 2) {
      // 8 * length numbers, bit by bit
      const many = Math.min(8 * length, n - done);
      if (at + Math.ceil((many * width) / 8) > bytes.length)
        throw new LoadError("the Parquet file is damaged: a page ends too early");
      unpackBits(bytes, at, width, out, done, many);
      done += many;
      at += length * width;
    } else {
      let value = 0;
      if (at + valueBytes > bytes.length) throw new LoadError("the Parquet file is damaged: a page ends too early");
      for (let i = 0; i < valueBytes; i++) value |= bytes[at++] << (8 * i);
      const many = Math.min(length, n - done);
      out.fill(value, done, done + many);
      done += many;
    }
  }
  return out;
}

function unpackBits(bytes: Uint8Array, at: number, width: number, out: Int32Array, from: number, many: number): void {
  let bits = 0,
    held = 0; // up to 38 bits are held, more than an integer of JavaScript's shifts: hence * and %
  const range = 2 ** width;
  for (let i = 0; i < many; i++) {
    while (held < width) {
      bits += bytes[at++] * 2 ** held;
      held += 8;
    }
    out[from + i] = bits % range;
    bits = Math.floor(bits / range);
    held -= width;
  }
}

/** The bytes of a page, after a look at its header: impossible sizes would make a decoder ask for all memory. */
function checkedPage(
  data: ArrayBuffer,
  start: number,
  { dictionary, packed, unpacked, values, crc }: PageHeader,
  left: number,
): Uint8Array {
  // Every entry of a dictionary takes bytes; snappy packs at most 1 : 21.
  const known = dictionary ? values >= 0 && values <= unpacked : values > 0 && values <= left;
  if (
    !known ||
    !(packed >= 0) ||
    start + packed > data.byteLength ||
    !(unpacked >= 0) ||
    unpacked > 1000 + 200 * packed
  ) {
    throw new LoadError("the Parquet file is damaged: a page has an impossible size");
  }
  const bytes = new Uint8Array(data, start, packed);
  if (crc !== undefined && crc >>> 0 !== crc32(bytes))
    throw new LoadError("the Parquet file is damaged: a checksum does not fit");
  return bytes;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

function crc32(bytes: Uint8Array): number {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
