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
  const {
    rows: count,
    texts: { list },
    columns,
  } = table;
  if (!count) throw new LoadError("the table has a header and no rows");
  const has = (column: ColumnName) => columns[column].length > 0;
  // A column that is not there: numbers of none, the texts "" and kind "merged".
  const numbers = (column: ColumnName) =>
    (has(column) ? columns[column].data.slice(0, count) : new Float32Array(count).fill(NONE)) as Float32Array;
  const texts = [...list, ""];
  const ints = (column: ColumnName) =>
    (has(column)
      ? columns[column].data.slice(0, count)
      : new Int32Array(count).fill(table.kindOf(column) === "text" ? list.length : 0)) as Int32Array;
  const [layer, position, rank, image, kind] = (["layer", "token_position", "rank", "image", "kind"] as const).map(
    ints,
  );
  const bankLayer = numbers("bank_layer"),
    row = numbers("row"),
    col = numbers("col");

  const layers = rising(layer),
    positions = rising(position);
  const kindOf = (at: number) => texts[kind[at]] || "merged";
  const groupOf = (at: number) => (kindOf(at) === "layer" ? String(bankLayer[at]) : kindOf(at));
  const keys = new Map<number, number>(); // kind and bank layer as one number, so that no text is made for each row
  const keyOf = (at: number) => kind[at] * 65536 + (kindOf(at) === "layer" ? bankLayer[at] + 1 : 0);
  const first = new Map<number, string>();
  for (let at = 0; at < count; at++) if (!first.has(keyOf(at))) first.set(keyOf(at), groupOf(at));
  const order = (group: string) => (group === "merged" ? -1 : group === "static" ? Infinity : Number(group));
  const groups = [...new Set(first.values())].sort((a, b) => order(a) - order(b));
  for (const [key, group] of first) keys.set(key, groups.indexOf(group));

  const layerAt = new Map(layers.map((each, i) => [each, i])),
    tokenAt = new Map(positions.map((each, i) => [each, i]));
  const cells = groups.length * layers.length * positions.length;
  if (cells > MAX_PLACES) throw new LoadError("there are more places for neighbours than a browser can hold");
  const cellOf = (at: number) =>
    (keys.get(keyOf(at))! * layers.length + layerAt.get(layer[at])!) * positions.length + tokenAt.get(position[at])!;
  const starts = new Int32Array(cells + 1),
    cell = Int32Array.from({ length: count }, (_, at) => cellOf(at));
  for (const each of cell) starts[each + 1]++;
  for (let each = 0; each < cells; each++) starts[each + 1] += starts[each];
  const next = starts.slice(),
    rows = new Int32Array(count);
  for (let at = 0; at < count; at++) rows[next[cell[at]]++] = at;
  for (let each = 0; each < cells; each++)
    rows.subarray(starts[each], starts[each + 1]).sort((a, b) => rank[a] - rank[b] || a - b);

  const tokens = positions.map((each): TokenInfo => ({
    position: each,
    text: "",
    kind: "image",
    id: null,
    image: 0,
    row: null,
    col: null,
    box: null,
  }));
  const impact = has("masking_impact") ? new Float32Array(layers.length * positions.length).fill(NaN) : null;
  const impacts = columns.masking_impact.data;
  for (let at = 0; at < count; at++) {
    const t = tokenAt.get(position[at])!;
    if (impact) impact[layerAt.get(layer[at])! * positions.length + t] = impacts[at];
    Object.assign(tokens[t], {
      image: image[at],
      row: row[at] < 0 ? null : row[at],
      col: col[at] < 0 ? null : col[at],
    });
  }
  return {
    name,
    source,
    layers,
    bankLayers: [...new Set(bankLayer)].filter((each) => each >= 0).sort((a, b) => a - b),
    tokens: placed(tokens),
    boxed: false,
    groups,
    starts,
    rows,
    rank,
    similarity: numbers("similarity"),
    bankLayer,
    captionPosition: numbers("caption_position"),
    token: ints("neighbor_token"),
    caption: ints("caption"),
    texts,
    impact,
    manifest: null,
    pictures: [],
    notes,
  };
}

/** The same from the bytes of columnar JSON. */
export function readNeighbors(json: Uint8Array, name: string, source: Source): Neighbors {
  const table = new Table("neighbors"),
    parser = new JsonParser(table);
  parser.feed(json);
  parser.end();
  return makeNeighbors(table, name, source);
}

const rising = (data: Int32Array) => [...new Set(data)].sort((a, b) => a - b);

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
