/**
 * A look at the pages of a Parquet column before hyparquet decodes them.
 *
 * In a damaged file a page may have an impossible size, and a run of equal numbers may claim two billion of them, which
 * hyparquet would write one by one. Here sizes and the lengths of runs are compared with the numbers of values that the
 * headers name. Where the writer left checksums (pyarrow: write_page_checksum=True), a flipped bit in the numbers is
 * noticed, too.
 */

import { decompress } from "fzstd";
import type { ColumnMetaData, Compressors, FileMetaData, PageHeader } from "hyparquet";
import { parquetHeader } from "hyparquet/src/column.js";
import { decompressPage } from "hyparquet/src/datapage.js";
import { getMaxDefinitionLevel, getMaxRepetitionLevel, getSchemaPath } from "hyparquet/src/schema.js";

import { LoadError } from "./errors.ts";

const LARGEST = 2 ** 26; // bytes of a page; writers make pages of about one MB
/** What hyparquet does not unpack itself. */
const UNPACK: Compressors = {
  ZSTD: (bytes, length) => {
    try {
      const out = decompress(bytes, new Uint8Array(length)); // never more than the page says
      if (out.length === length) return out;
    } catch {
      // what it says of a damaged page is not for readers
    }
    throw damaged("a page cannot be unpacked");
  },
};

const damaged = (what: string) => new LoadError(`the Parquet file is damaged: ${what}`);

/**
 * Throws LoadError for what is impossible. `data` holds the bytes of one column of the only row group of `metadata`. Each page
 * is unpacked once: what is returned gives the unpacked bytes to hyparquet.
 */
export function checkedPages(
  data: ArrayBuffer,
  name: string,
  { schema, row_groups: [group] }: FileMetaData,
): Compressors {
  const about = group.columns.find(({ meta_data }) => meta_data?.path_in_schema[0] === name)!.meta_data!;
  const path = getSchemaPath(schema, [name]);
  if (getMaxRepetitionLevel(path)) throw damaged(`${name} is a list`);
  const pages: Page[] = [];
  const reader = { view: new DataView(data), offset: 0 };
  for (let left = Number(group.num_rows); left > 0 && reader.offset < data.byteLength;) {
    const header = parquetHeader(reader);
    const bytes = checkedSize(data, reader.offset, header, left, about.codec);
    reader.offset += bytes.length;
    const optional = getMaxDefinitionLevel(path) > 0;
    const page = unpacked(bytes, header, about);
    pages.push(page);
    if (header.type === "DICTIONARY_PAGE") continue;
    checkRuns(page, header, optional, pages.length > 1);
    left -= valuesOf(header);
  }
  const byPlace = new Map(pages.map((page) => [page.place, page.body]));
  const given = (bytes: Uint8Array, length: number) => {
    const body = byPlace.get(bytes.byteOffset);
    if (body?.length !== length) throw damaged("a page is not where it was");
    return body;
  };
  return about.codec === "UNCOMPRESSED" ? {} : { [about.codec]: given };
}

interface Page {
  /** Where its packed bytes begin in the column. */
  place: number;
  /** Unpacked; of a page of version 2 without its levels, which are never packed. */
  body: Uint8Array;
  levels: Uint8Array | null;
}

const valuesOf = ({
  data_page_header: one,
  data_page_header_v2: two,
  dictionary_page_header: dictionary,
}: PageHeader) => (one ?? two ?? dictionary)?.num_values ?? -1;

/** The bytes of a page, after a look at its header: impossible sizes would make a decoder ask for all memory. */
function checkedSize(
  data: ArrayBuffer,
  start: number,
  header: PageHeader,
  left: number,
  codec: ColumnMetaData["codec"],
): Uint8Array {
  const { type, compressed_page_size: packed, uncompressed_page_size: full, crc } = header;
  const values = valuesOf(header);
  // Every entry of a dictionary takes bytes; snappy packs at most 1 : 21, zstd without a limit of that kind.
  const known = type === "DICTIONARY_PAGE" ? values >= 0 && values <= full : values > 0 && values <= left;
  const most = codec === "ZSTD" ? LARGEST : 1000 + 200 * packed;
  if (!known || !(packed >= 0) || start + packed > data.byteLength || !(full >= 0) || full > most) {
    throw damaged("a page has an impossible size");
  }
  const bytes = new Uint8Array(data, start, packed);
  if (crc !== undefined && crc >>> 0 !== crc32(bytes)) throw damaged("a checksum does not fit");
  return bytes;
}

function unpacked(
  bytes: Uint8Array,
  { uncompressed_page_size: full, data_page_header_v2: two }: PageHeader,
  { codec }: ColumnMetaData,
): Page {
  if (!two) return { place: bytes.byteOffset, body: decompressPage(bytes, full, codec, UNPACK), levels: null };
  const { repetition_levels_byte_length: start, definition_levels_byte_length: length, num_nulls: nulls } = two;
  const end = start + length;
  if (start !== 0 || !(length >= 0) || end > bytes.length || !(nulls >= 0) || nulls > two.num_values) {
    throw damaged("the levels of a page have an impossible size");
  }
  const packed = bytes.subarray(end);
  const body = decompressPage(packed, full - end, two.is_compressed ? codec : "UNCOMPRESSED", UNPACK);
  return { place: packed.byteOffset, body, levels: bytes.subarray(start, end) };
}

/** The runs of a page's levels, and those of its places in the dictionary if it has one. */
function checkRuns({ body, levels }: Page, header: PageHeader, optional: boolean, dictionary: boolean): void {
  const values = valuesOf(header),
    two = header.data_page_header_v2;
  let rest = body,
    present = values;
  if (two) {
    if (optional) countOnes(levels!, values);
    present -= two.num_nulls;
  } else if (optional) {
    const end = 4 + new DataView(body.buffer, body.byteOffset, body.length).getUint32(0, true);
    if (end > body.length) throw damaged("the levels of a page are longer than it is");
    present = countOnes(body.subarray(4, end), values);
    rest = body.subarray(end);
  }
  const encoding = (header.data_page_header ?? two)!.encoding;
  if (!/DICTIONARY$/.test(encoding ?? "")) return;
  if (!dictionary) throw damaged("a page refers to a dictionary that is not there");
  if (rest[0] > 31) throw damaged("numbers of more than 31 bits in a dictionary");
  if (present) walk(rest.subarray(1), rest[0], present);
}

/** How many of `n` numbers of one bit are 1. */
function countOnes(bytes: Uint8Array, n: number): number {
  let ones = 0;
  walk(bytes, 1, n, (start, count, packed) => {
    for (let i = 0; i < count; i++) ones += packed ? (bytes[start + (i >> 3)] >> (i & 7)) & 1 : bytes[start] & 1;
  });
  return ones;
}

/** Parquet's RLE / bit-packing hybrid: `n` numbers of `width` bits, in runs that must fit. */
function walk(
  bytes: Uint8Array,
  width: number,
  n: number,
  each?: (start: number, count: number, packed: boolean) => void,
): void {
  let at = 0;
  for (let left = n; left > 0;) {
    let header = 0,
      shift = 0;
    do {
      if (at >= bytes.length) throw damaged("a page ends too early");
      header += (bytes[at] & 127) * 2 ** shift;
      shift += 7;
    } while (bytes[at++] & 128);
    const packed = header % 2 === 1,
      length = Math.floor(header / 2);
    const count = packed ? 8 * length : length;
    const size = packed ? length * width : (width + 7) >> 3;
    // Numbers are packed by eight, so the last run may have up to seven more; and writers may leave room for further ones.
    if (!count || (packed ? count > left + 504 : count > left))
      throw damaged("a run of numbers is longer than its page");
    if (at + (packed ? Math.ceil((Math.min(count, left) * width) / 8) : size) > bytes.length)
      throw damaged("a page ends too early");
    each?.(at, Math.min(count, left), packed);
    at += size;
    left -= count;
  }
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
