/**
 * What a Parquet file says about itself: the list of its contents at its end, and the header of each page.
 *
 * hyparquet turns every field of these into an object, statistics and geography included; of its Thrift structures
 * these are the few fields that a result table needs, by the numbers of the format's parquet.thrift
 * (https://github.com/apache/parquet-format). A damaged file makes these functions throw any error; parquet.ts says so.
 */

import {
  CompressionCodecs,
  ConvertedTypes,
  Encodings,
  FieldRepetitionTypes,
  PageTypes,
  ParquetTypes,
} from "hyparquet/src/constants.js";
import { deserializeTCompactProtocol } from "hyparquet/src/thrift.js";
import type { CompressionCodec, DataReader, Encoding, ParquetType } from "hyparquet/src/types.js";

import { LoadError } from "./errors.ts";

/** A column of the table; a group of columns has no type. */
export interface Element {
  name: string;
  type: ParquetType | undefined;
  repetition: string;
  converted: string | undefined;
  timestamp: boolean;
}

/** One column of one row group. */
export interface Chunk {
  name: string;
  type: ParquetType;
  codec: CompressionCodec;
  rows: number;
  /** Where its pages are in the file. */
  start: number;
  end: number;
}

export interface Metadata {
  rows: number;
  elements: Element[];
  chunks: Chunk[];
  texts: Map<string, string>;
}

type Fields = ReturnType<typeof deserializeTCompactProtocol>;

const decoder = new TextDecoder();

export async function readMetadata(file: Blob): Promise<Metadata> {
  const end = new DataView(await file.slice(-8).arrayBuffer());
  if (file.size < 12 || end.getUint32(4, true) !== 0x31524150) {
    // "PAR1"
    throw new LoadError("the Parquet file is cut off: its end, with the list of its contents, is missing");
  }
  const length = end.getUint32(0, true);
  if (length > file.size - 12)
    throw new LoadError("the Parquet file is damaged: the list of its contents is longer than the file");
  const {
    field_2: schema,
    field_3: rows,
    field_4: groups,
    field_5: texts = [],
  } = deserializeTCompactProtocol({
    view: new DataView(await file.slice(-8 - length, -8).arrayBuffer()),
    offset: 0,
  });
  return {
    rows: Number(rows),
    elements: topLevel(schema).map(elementOf),
    chunks: groups.flatMap((group: Fields) =>
      group.field_1.flatMap((column: Fields) => chunkOf(column.field_3, Number(group.field_3))),
    ),
    texts: new Map(
      texts.map(({ field_1: key, field_2: value }: Fields) => [decoder.decode(key), decoder.decode(value)]),
    ),
  };
}

/** The schema is a tree, written depth first; what groups hold are no columns of ours. */
function topLevel(schema: Fields[]): Fields[] {
  const behind = (place: number): number => {
    let next = place + 1;
    for (let left = schema[place].field_5 ?? 0; left > 0; left--) next = behind(next);
    return next;
  };
  const found: Fields[] = [];
  for (let place = 1; found.length < schema[0].field_5; place = behind(place)) found.push(schema[place]);
  return found;
}

const elementOf = ({
  field_1: type,
  field_3: repetition,
  field_4: name,
  field_6: converted,
  field_10: logical,
}: Fields): Element => ({
  name: decoder.decode(name),
  type: ParquetTypes[type],
  repetition: FieldRepetitionTypes[repetition],
  converted: ConvertedTypes[converted],
  timestamp: !!logical?.field_8,
});

function chunkOf({ field_1: type, field_3: path, field_4: codec, ...column }: Fields, rows: number): Chunk[] {
  if (path.length > 1) return [];
  const start = Number(column.field_11 ?? column.field_9); // of the dictionary or, without one, of the data
  const end = start + Number(column.field_7);
  return [
    { name: decoder.decode(path[0]), type: ParquetTypes[type], codec: CompressionCodecs[codec], rows, start, end },
  ];
}

export interface PageHeader {
  dictionary: boolean;
  /** Bytes that follow, and bytes that they are once unpacked. */
  packed: number;
  unpacked: number;
  crc: number | undefined;
  values: number;
  encoding: Encoding;
  /** Of a page of version 2, null for others: bytes of its levels, and whether its values are packed. */
  v2: { repetition: number; definition: number; packed: boolean } | null;
}

/** Leaves the reader where the page's bytes begin. */
export function readPageHeader(reader: DataReader): PageHeader {
  const {
    field_1: type,
    field_2: unpacked,
    field_3: packed,
    field_4: crc,
    ...header
  } = deserializeTCompactProtocol(reader);
  const dictionary = PageTypes[type] === "DICTIONARY_PAGE";
  const v2 = PageTypes[type] === "DATA_PAGE_V2" ? header.field_8 : null;
  const own = v2 ?? (dictionary ? header.field_7 : header.field_5);
  return {
    dictionary,
    packed,
    unpacked,
    crc,
    values: own?.field_1 ?? 0,
    encoding: Encodings[v2 ? v2.field_4 : own?.field_2],
    v2: v2 && { definition: v2.field_5, repetition: v2.field_6, packed: v2.field_7 !== false },
  };
}
