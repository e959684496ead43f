/** What a file is, by its first bytes: names and extensions lie. */

import { LoadError } from "./errors.ts";

export type Content = "gzip" | "parquet" | "json" | "csv" | "html" | "image" | "empty";

/** Beginnings of files, as text of bytes. */
const MAGIC: [string, Content][] = [
  ["\x1f\x8b", "gzip"],
  ["PAR1", "parquet"],
  ["\x89PNG", "image"],
  ["\xff\xd8\xff", "image"],
  ["GIF8", "image"],
  ["BM", "image"],
  ["II*\0", "image"],
  ["MM\0*", "image"],
];

/** Files people try that are something else; each with what to do. */
const OTHERS: [string, string][] = [
  ["PK\x03\x04", "this is a ZIP archive or an Excel file; unpack it, or save the table as CSV"],
  ["%PDF", "this is a PDF document, not results"],
  ["\xff\xfe", "the text is UTF-16; save it as UTF-8"],
  ["\xfe\xff", "the text is UTF-16; save it as UTF-8"],
  ["ARROW1", "this is an Arrow file; save the table as Parquet"],
  ["\x28\xb5\x2f\xfd", "the file is packed with zstd; only gzip can be unpacked here"],
  ["BZh", "the file is packed with bzip2; only gzip can be unpacked here"],
  ["\xfd7zXZ", "the file is packed with xz; only gzip can be unpacked here"],
];

/** `head` are the first bytes, 64 or more where the file has them. Throws LoadError for what no one can use here. */
export function detect(head: Uint8Array): Content {
  const bytes = Array.from(head.subarray(0, 64), (byte) => String.fromCharCode(byte)).join("");
  const other = OTHERS.find(([magic]) => bytes.startsWith(magic));
  if (other) throw new LoadError(other[1]);
  // BM could begin a text: a bitmap has four zero bytes at 6.
  const magic = MAGIC.find(
    ([start]) => bytes.startsWith(start) && (start !== "BM" || bytes.slice(6, 10) === "\0\0\0\0"),
  );
  if (magic) return magic[1];
  if (bytes.startsWith("RIFF") && bytes.slice(8, 12) === "WEBP") return "image";
  if (/^....ftyp(avif|avis|heic|mif1)/s.test(bytes)) return "image";
  const start = bytes.replace(/^\xef\xbb\xbf/, "").trimStart();
  if (!start) return head.length > 64 ? "csv" : "empty";
  if (start[0] === "{" || start[0] === "[") return "json";
  if (start[0] === "<") return "html";
  if (bytes.includes("\0")) throw new LoadError("this is a binary file of an unknown kind, not results");
  return "csv";
}
