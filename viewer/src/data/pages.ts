/**
 * The pages of one Parquet column chunk -> a column of the table.
 *
 * Headers, unpacking and plain values are hyparquet's. Levels and dictionary indices are decoded here, with bounds: in
 * a damaged file a run may claim two billion values. Pages are checked before they are decoded; where the writer left
 * checksums (pyarrow: write_page_checksum=True), a flipped bit in the numbers is noticed, too.
 */

import { parquetHeader } from "hyparquet/src/column.js";
import { DEFAULT_PARSERS } from "hyparquet/src/convert.js";
import { decompressPage, readDataPage, readDataPageV2 } from "hyparquet/src/datapage.js";
import { readPlain } from "hyparquet/src/plain.js";
import { getTreePath } from "hyparquet/src/schema.js";
import type { ColumnDecoder, ColumnMetaData, PageHeader, SchemaTree } from "hyparquet/src/types.js";

import { LoadError, count } from "./errors.ts";
import { KINDS, malformed, type ColumnName, type Table, wholeOf } from "./table.ts";

/** Appends the values of a column chunk to the table's column `name`. */
export function readPages(
  chunk: ArrayBuffer, table: Table, name: ColumnName, column: ColumnMetaData, tree: SchemaTree, rows: number,
): void {
  const schemaPath = getTreePath(tree, column.path_in_schema);
  const { element } = schemaPath[1];
  const decoder: ColumnDecoder = { ...column, pathInSchema: column.path_in_schema, schemaPath, element, parsers: DEFAULT_PARSERS };
  const reader = { view: new DataView(chunk), offset: 0 };
  const target = table.columns[name];
  const convert = converter(table, name);
  const optional = element.repetition_type === "OPTIONAL";
  let dictionary = new Float64Array(0);
  for (let left = rows; left > 0 && reader.offset < chunk.byteLength; ) {
    const header = parquetHeader(reader);
    const bytes = checkedPage(chunk, reader.offset, header, left);
    reader.offset += bytes.length;
    if (header.type === "DICTIONARY_PAGE") {
      const page = decompressPage(bytes, header.uncompressed_page_size, column.codec, undefined);
      const entries = readPlain(readerOf(page), decoder.type, header.dictionary_page_header!.num_values, undefined);
      dictionary = Float64Array.from(entries as ArrayLike<unknown>, convert);
      continue;
    }
    const values = pageValues(bytes, header, decoder, optional, dictionary, convert);
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
        if (name === "variant") throw malformed(String(value), name, where());
        table.noText = true;
        return table.texts.add(new Uint8Array(0), 0, 0);
      };
  }
}

const readerOf = (page: Uint8Array) => ({ view: new DataView(page.buffer, page.byteOffset, page.length), offset: 0 });

interface DataPage {
  values: number; // those that are null included
  present: Uint8Array | null; // 0 where the value is null; null if none is
  encoding: string;
  body: Uint8Array; // without the levels
}

function pageValues(
  bytes: Uint8Array, header: PageHeader, decoder: ColumnDecoder, optional: boolean, dictionary: Float64Array, convert: Convert,
): Float64Array {
  const page = header.data_page_header ? pageV1(bytes, header, decoder, optional) : pageV2(bytes, header, decoder, optional);
  const { present, encoding, body } = page;
  const n = present ? present.reduce((sum, flag) => sum + flag, 0) : page.values;
  const values = new Float64Array(n);
  if (encoding === "PLAIN_DICTIONARY" || encoding === "RLE_DICTIONARY") {
    const places = runs(body, 1, body[0], n);
    for (let i = 0; i < n; i++) {
      if (places[i] >= dictionary.length) throw new LoadError("the Parquet file is damaged: an entry is not in its dictionary");
      values[i] = dictionary[places[i]];
    }
  } else {
    const plain = encoding === "PLAIN";
    const decoded: ArrayLike<unknown> = plain ? readPlain(readerOf(body), decoder.type, n, undefined) : rare(bytes, header, decoder);
    if (decoded.length !== n) throw new LoadError(`the Parquet file is damaged: a page has ${decoded.length} of ${n} values`);
    for (let i = 0; i < n; i++) values[i] = convert(decoded[i]);
  }
  if (!present) return values;
  const missing = n < page.values ? convert(null) : NaN;
  let next = 0;
  return Float64Array.from(present, (flag) => (flag ? values[next++] : missing));
}

function pageV1(bytes: Uint8Array, header: PageHeader, decoder: ColumnDecoder, optional: boolean): DataPage {
  const { num_values: values, encoding } = header.data_page_header!;
  const page = decompressPage(bytes, header.uncompressed_page_size, decoder.codec, undefined);
  if (!optional) return { values, present: null, encoding, body: page };
  const length = readerOf(page).view.getUint32(0, true);
  return { values, present: levels(page.subarray(4, 4 + length), values), encoding, body: page.subarray(4 + length) };
}

function pageV2(bytes: Uint8Array, header: PageHeader, decoder: ColumnDecoder, optional: boolean): DataPage {
  const { num_values: values, encoding, is_compressed, ...lengths } = header.data_page_header_v2!;
  const start = lengths.repetition_levels_byte_length;
  const end = start + lengths.definition_levels_byte_length;
  const codec = is_compressed === false ? "UNCOMPRESSED" : decoder.codec;
  const body = decompressPage(bytes.subarray(end), header.uncompressed_page_size - end, codec, undefined);
  return { values, present: optional ? levels(bytes.subarray(start, end), values) : null, encoding, body };
}

function levels(bytes: Uint8Array, n: number): Uint8Array {
  return Uint8Array.from(runs(bytes, 0, 1, n));
}

/** Delta and byte-stream-split encodings, which writers use only when asked to: hyparquet's whole reader. */
function rare(bytes: Uint8Array, header: PageHeader, decoder: ColumnDecoder): ArrayLike<unknown> {
  if (header.data_page_header_v2) return readDataPageV2(bytes, header, decoder).dataPage as ArrayLike<unknown>;
  const page = decompressPage(bytes, header.uncompressed_page_size, decoder.codec, undefined);
  return readDataPage(page, header.data_page_header!, decoder).dataPage as ArrayLike<unknown>;
}

/** Parquet's RLE / bit-packing hybrid: `n` numbers of `width` bits, starting at byte `at`. */
function runs(bytes: Uint8Array, at: number, width: number, n: number): Int32Array {
  const out = new Int32Array(n);
  if (width > 31) throw new LoadError("the Parquet file is damaged: numbers of more than 31 bits in a dictionary");
  if (width === 0) return out;
  const valueBytes = (width + 7) >> 3;
  for (let done = 0; done < n; ) {
    let header = 0, shift = 0;
    do {
      if (at >= bytes.length) throw new LoadError("the Parquet file is damaged: a page ends too early");
      header += (bytes[at] & 127) * 2 ** shift;
      shift += 7;
    } while (bytes[at++] & 128);
    const length = Math.floor(header / 2);
    if (header % 2) { // 8 * length numbers, bit by bit
      const many = Math.min(8 * length, n - done);
      if (at + Math.ceil((many * width) / 8) > bytes.length) throw new LoadError("the Parquet file is damaged: a page ends too early");
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
  let bits = 0, held = 0; // up to 38 bits are held, more than an integer of JavaScript's shifts: hence * and %
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
function checkedPage(chunk: ArrayBuffer, start: number, header: PageHeader, left: number): Uint8Array {
  const { compressed_page_size: packed, uncompressed_page_size: unpacked } = header;
  const values = (header.data_page_header ?? header.data_page_header_v2)?.num_values ?? 0;
  const entries = header.dictionary_page_header?.num_values ?? 0;
  const known = header.type === "DICTIONARY_PAGE" ? entries >= 0 : values > 0 && values <= left;
  // Every entry of a dictionary takes bytes; snappy packs at most 1 : 21.
  if (!known || !(packed >= 0) || start + packed > chunk.byteLength || !(unpacked >= entries) || unpacked > 1000 + 200 * packed) {
    throw new LoadError("the Parquet file is damaged: a page has an impossible size");
  }
  const bytes = new Uint8Array(chunk, start, packed);
  const crc = header.crc as number | undefined;
  if (crc !== undefined && crc >>> 0 !== crc32(bytes)) throw new LoadError("the Parquet file is damaged: a checksum does not fit");
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
