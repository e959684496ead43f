/** NAME_neighbors: the long table -> rows by what was searched, layer, image token and rank. */

import { LoadError, NotResults, plural } from "./errors.ts";
import { JsonParser } from "./json.ts";
import { Table, type ColumnName } from "./table.ts";
import type { Box, Manifest, Neighbors, Source, TokenInfo } from "./types.ts";

const NONE = -1; // in the table: no caption, no bank layer, no grid
const MAX_PLACES = 100_000_000;

export const looksLikeNeighbors = (error: unknown) =>
  error instanceof NotResults && error.found.includes("neighbor_token");

/** Throws LoadError with a sentence. */
export function makeNeighbors(table: Table, name: string, source: Source, notes: string[] = []): Neighbors {
  const { ints, numbers, texts, count } = reader(table);
  if (!count) throw new LoadError("the table has a header and no rows");
  const [layer, position, rank] = ["layer", "token_position", "rank"].map(ints);
  const [layers, positions] = [rising(layer), rising(position)];
  const bankLayer = numbers("bank_layer");
  const { groups, groupAt } = groupsOf(ints("kind"), bankLayer, texts);
  const cells = groups.length * layers.length * positions.length;
  if (cells > MAX_PLACES) throw new LoadError("there are more places for neighbours than a browser can hold");
  const layerAt = new Map(layers.map((each, i) => [each, i]));
  const tokenAt = new Map(positions.map((each, i) => [each, i]));
  const placeAt = (at: number) => layerAt.get(layer[at])! * positions.length + tokenAt.get(position[at])!;
  const size = layers.length * positions.length;
  const cell = Int32Array.from({ length: count }, (_, at) => groupAt(at) * size + placeAt(at));
  return {
    name,
    source,
    layers,
    bankLayers: rising(bankLayer).filter((each) => each >= 0),
    tokens: placed(tokensOf(positions, (at) => tokenAt.get(position[at])!, table)),
    boxed: false,
    groups,
    ...byCell(cell, cells, rank),
    rank,
    similarity: numbers("similarity"),
    bankLayer,
    captionPosition: numbers("caption_position"),
    token: ints("neighbor_token"),
    caption: ints("caption"),
    texts,
    impact: impactsOf(table, placeAt, size),
    manifest: null,
    pictures: [],
    notes,
  };
}

/** Columns as arrays. One that is not there: numbers of none, the texts "" and kind "merged". */
function reader(table: Table) {
  const { rows: count, columns } = table,
    texts = [...table.texts.list, ""];
  const has = (column: ColumnName) => columns[column].length > 0;
  const numbers = (column: ColumnName) =>
    (has(column) ? columns[column].data.slice(0, count) : new Float32Array(count).fill(NONE)) as Float32Array;
  const none = (column: ColumnName) => (table.kindOf(column) === "text" ? texts.length - 1 : 0);
  const ints = (column: ColumnName) =>
    (has(column) ? columns[column].data.slice(0, count) : new Int32Array(count).fill(none(column))) as Int32Array;
  return { count, texts, numbers, ints };
}

/** What was searched, in order, and the place of each row's. */
function groupsOf(kind: Int32Array, bankLayer: Float32Array, texts: string[]) {
  const kindOf = (at: number) => texts[kind[at]] || "merged";
  const groupOf = (at: number) => (kindOf(at) === "layer" ? String(bankLayer[at]) : kindOf(at));
  // Kind and bank layer as one number, so that no text is made for each row.
  const keyOf = (at: number) => kind[at] * 65536 + (kindOf(at) === "layer" ? bankLayer[at] + 1 : 0);
  const first = new Map<number, string>();
  for (let at = 0; at < kind.length; at++) if (!first.has(keyOf(at))) first.set(keyOf(at), groupOf(at));
  const order = (group: string) => (group === "merged" ? -1 : group === "static" ? Infinity : Number(group));
  const groups = [...new Set(first.values())].sort((a, b) => order(a) - order(b));
  const places = new Map([...first].map(([key, group]) => [key, groups.indexOf(group)]));
  return { groups, groupAt: (at: number) => places.get(keyOf(at))! };
}

/** The rows of each cell, by rank. */
function byCell(cell: Int32Array, cells: number, rank: Int32Array): Pick<Neighbors, "starts" | "rows"> {
  const starts = new Int32Array(cells + 1),
    rows = new Int32Array(cell.length);
  for (const each of cell) starts[each + 1]++;
  for (let each = 0; each < cells; each++) starts[each + 1] += starts[each];
  const next = starts.slice();
  for (let at = 0; at < cell.length; at++) rows[next[cell[at]]++] = at;
  for (let each = 0; each < cells; each++)
    rows.subarray(starts[each], starts[each + 1]).sort((a, b) => rank[a] - rank[b] || a - b);
  return { starts, rows };
}

/** The image tokens; their last rows tell where they are. */
function tokensOf(positions: number[], tokenAt: (at: number) => number, table: Table): TokenInfo[] {
  const { ints, numbers, count } = reader(table),
    image = ints("image");
  const [row, col] = ["row", "col"].map(numbers);
  const plain = { text: "", kind: "image" as const, id: null, image: 0, row: null, col: null, box: null };
  const tokens = positions.map((position): TokenInfo => ({ position, ...plain }));
  const place = (value: number) => (value < 0 ? null : value);
  for (let at = 0; at < count; at++)
    Object.assign(tokens[tokenAt(at)], { image: image[at], row: place(row[at]), col: place(col[at]) });
  return tokens;
}

/** What masking a token changes, where there was a masking run. */
function impactsOf({ columns, rows }: Table, placeAt: (at: number) => number, size: number): Float32Array | null {
  const { data, length } = columns.masking_impact;
  if (!length) return null;
  const out = new Float32Array(size).fill(NaN);
  for (let at = 0; at < rows; at++) out[placeAt(at)] = data[at];
  return out;
}

/** The same from the bytes of columnar JSON. */
export function readNeighbors(json: Uint8Array, name: string, source: Source): Neighbors {
  const table = new Table("neighbors"),
    parser = new JsonParser(table);
  parser.feed(json);
  parser.end();
  return makeNeighbors(table, name, source);
}

const rising = (data: Int32Array | Float32Array): number[] => [...new Set(data)].sort((a, b) => a - b);

/** Without a manifest a patch is a square: in its row and column, or in lines of 16. */
function placed(tokens: TokenInfo[]): TokenInfo[] {
  const seen = new Map<number | null, number>();
  return tokens.map((token) => {
    const nth = seen.get(token.image) ?? 0;
    seen.set(token.image, nth + 1);
    const [row, col] = [token.row ?? Math.floor(nth / 16), token.col ?? nth % 16];
    return { ...token, box: [col, row, col + 1, row + 1] as Box };
  });
}

/** With where the patches lie, and a note if the manifest is of something else. */
export function withPlaces(found: Neighbors, manifest: Manifest): Neighbors {
  const known = new Map((manifest.tokens ?? []).map((token) => [token.position, token]));
  const infos = found.tokens.map((token) => known.get(token.position));
  const boxes = infos.every((each) => each?.box?.length === 4);
  const tokens = found.tokens.map((token, t) => ({
    ...token,
    text: infos[t]?.text ?? "",
    box: boxes ? (infos[t]!.box as Box) : token.box,
  }));
  const other = infos.filter((each) => each?.kind !== "image").length;
  const rows = manifest.rows !== undefined && manifest.rows !== found.rows.length;
  const notes = [
    ...(manifest.tokens && other
      ? [
          `The manifest seems to be of other neighbours: ${plural(other, "image token")} of the table ${other === 1 ? "is" : "are"} none in it.`,
        ]
      : []),
    ...(rows
      ? [
          `The table has ${found.rows.length.toLocaleString("en-US")} rows and its manifest names ${manifest.rows!.toLocaleString("en-US")}: it is incomplete or of another search.`,
        ]
      : []),
  ];
  const pictures = (manifest.images ?? []).map((_, i) => found.pictures[i] ?? null);
  return { ...found, tokens, boxed: boxes, manifest, pictures, notes: [...found.notes, ...notes] };
}
