import { deflateSync } from "node:zlib";
import { expect, test } from "vitest";
import { lensScene, matching, nearest, scaleOf, sentence, shownPatch, tints, wins } from "../src/core/lens.ts";
import type { Scene } from "../src/core/scene.ts";
import { DEFAULTS, fromFragment, toFragment, type State } from "../src/core/state.ts";
import { csvOf } from "../src/core/export.ts";
import { load } from "../src/data/load.ts";
import { add, emptyLibrary, resolveNeighbors, waiting, type Library } from "../src/data/pair.ts";
import type { Loaded, Manifest, Neighbors, Run } from "../src/data/types.ts";
import { failure, fixture, textFile } from "./helpers.ts";

interface Row {
  image: number;
  layer: number;
  token_position: number;
  row: number;
  col: number;
  rank: number;
  neighbor_token: string;
  caption: string;
  caption_position: number;
  bank_layer: number;
  similarity: number;
  kind: string;
  masking_impact: number | null;
}

const LAYERS = [0, 3, 8],
  BANK = [1, 4],
  POSITIONS = [5, 6, 7, 8],
  K = 3;
const WORDS = [" red", " Blue", "ing", ', "x"', "\n"];

/** A whole table in no order, from a generator with a seed. */
function table(seed = 1): Row[] {
  const next = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  const rows: Row[] = [];
  for (const [kind, bank] of [
    ["merged", 0],
    ["layer", 1],
    ["layer", 4],
    ["static", -1],
  ] as const) {
    for (const layer of LAYERS)
      for (const [place, token_position] of POSITIONS.entries()) {
        const similarities = Array.from({ length: K }, () => Math.fround(next() * 2 - 1)).sort((a, b) => b - a);
        for (const [i, similarity] of similarities.entries()) {
          rows.push({
            image: place >> 1,
            layer,
            token_position,
            row: 0,
            col: place & 1,
            rank: i + 1,
            neighbor_token: WORDS[Math.floor(next() * WORDS.length)],
            caption: kind === "static" ? "" : "a red dog",
            caption_position: kind === "static" ? -1 : 1,
            bank_layer: kind === "merged" ? BANK[Math.floor(next() * 2)] : bank,
            similarity,
            kind,
            masking_impact: layer === 8 ? null : layer + token_position / 8,
          });
        }
      }
  }
  return rows
    .map((row) => [next(), row] as const)
    .sort((a, b) => a[0] - b[0])
    .map(([, row]) => row);
}

const names = Object.keys(table()[0]) as (keyof Row)[];
const columns = (rows: Row[]) =>
  JSON.stringify(Object.fromEntries(names.map((name) => [name, rows.map((row) => row[name])])));
const csv = (rows: Row[]) => csvOf([names, ...rows.map((row) => names.map((name) => String(row[name] ?? "")))]);
const file = (text: string, name: string) => textFile(text, name);

async function neighborsOf(given: File): Promise<Neighbors> {
  const loaded = await load(given);
  if (loaded.kind !== "neighbors") throw new Error(`${given.name} is a ${loaded.kind}`);
  return loaded.neighbors;
}

/** A group's rows of the file, however they are stored. */
const listed = (found: Neighbors, group: string, layer: number, position: number) =>
  [
    ...nearest(
      found,
      found.groups.indexOf(group),
      layer,
      found.tokens.findIndex((token) => token.position === position),
    ),
  ].map((row) => [
    found.rank[row],
    found.texts[found.token[row]],
    found.texts[found.caption[row]],
    found.captionPosition[row],
    found.bankLayer[row],
    found.similarity[row],
  ]);

const groupOf = ({ kind, bank_layer }: Row) => (kind === "layer" ? String(bank_layer) : kind);
const sceneOf = (found: Neighbors, patch: Partial<State> = {}, scene: Scene | null = null) =>
  lensScene([found], found, { ...DEFAULTS, ...patch }, scene, false);

test("columns, records and CSV give every row its place, in any order", async () => {
  const rows = table();
  const files = [
    file(columns(rows), "a_neighbors.json"),
    file(JSON.stringify(rows), "a_neighbors.json"),
    file(csv(rows), "a_neighbors.csv"),
  ];
  for (const given of files) {
    const found = await neighborsOf(given);
    expect(found).toMatchObject({
      name: "a_neighbors",
      layers: LAYERS,
      bankLayers: BANK,
      groups: ["merged", "1", "4", "static"],
      notes: [],
    });
    expect(found.tokens.map(({ image, row, col, box }) => [image, row, col, box])).toEqual(
      [0, 1, 2, 3].map((place) => [place >> 1, 0, place & 1, [place & 1, 0, (place & 1) + 1, 1]]),
    );
    for (const group of found.groups)
      for (const layer of LAYERS)
        for (const position of POSITIONS) {
          const own = rows
            .filter((row) => groupOf(row) === group && row.layer === layer && row.token_position === position)
            .sort((a, b) => a.rank - b.rank);
          expect(listed(found, group, layer, position)).toEqual(
            own.map((row) => [
              row.rank,
              row.neighbor_token,
              row.caption,
              row.caption_position,
              row.bank_layer,
              row.similarity,
            ]),
          );
        }
    expect([...found.impact!]).toEqual(
      LAYERS.flatMap((layer) => POSITIONS.map((position) => (layer === 8 ? NaN : layer + position / 8))),
    );
  }
});

test("only five columns have to be there", async () => {
  const found = await neighborsOf(
    file("token_position,layer,similarity,rank,neighbor_token\n3,1,0.5,1,dog\n3,1,0.25,2,cat\n", "a.csv"),
  );
  expect(found).toMatchObject({ groups: ["merged"], bankLayers: [], impact: null });
  expect(listed(found, "merged", 1, 3).map(([, token]) => token)).toEqual(["dog", "cat"]);
  expect(wins(found, 1)).toBeNull();
  expect(await failure(file("token_position,layer,rank,neighbor_token\n3,1,1,dog\n", "a.csv"))).toBe(
    "a.csv: not a table of neighbours: the column similarity is missing; found token_position, layer, rank, neighbor_token",
  );
  expect(await failure(file("token_position,layer,similarity,rank,neighbor_token\n", "a.csv"))).toContain("no rows");
});

test("scales, wins and hits are those of the rows", async () => {
  const rows = table(7),
    found = await neighborsOf(file(columns(rows), "a_neighbors.json"));
  const first = (group: string) => rows.filter((row) => groupOf(row) === group && row.rank === 1);
  for (const near of found.groups) {
    const scene = sceneOf(found, { near }),
      own = first(near).map(({ similarity }) => similarity);
    expect(scaleOf(scene)).toEqual([Math.min(...own), Math.max(...own)]);
    expect([...tints(scene, 3)]).toEqual(
      POSITIONS.map(
        (position) => first(near).find((row) => row.layer === 3 && row.token_position === position)!.similarity,
      ),
    );
  }
  expect(scaleOf(sceneOf(found, { tint: "impact" }))).toEqual([0, 4]);
  for (const layer of LAYERS)
    expect(wins(found, layer)).toEqual(
      BANK.map((bank) => first("merged").filter((row) => row.layer === layer && row.bank_layer === bank).length),
    );
  const hits = matching(sceneOf(found, { near: "4", find: " BLUE " }))!;
  LAYERS.forEach((layer, i) => {
    const wanted = new Set(
      rows
        .filter((row) => groupOf(row) === "4" && row.layer === layer && row.neighbor_token === " Blue")
        .map((row) => row.token_position),
    );
    expect([...hits[i].keys()].map((token) => POSITIONS[token])).toEqual([...wanted].sort((a, b) => a - b));
  });
  expect(matching(sceneOf(found, { find: " " }))).toBeNull();
  // Of the patches whose nearest token in the shown layer is a word, the one with the largest impact in any layer.
  const { layer } = sceneOf(found).state;
  const says = rows.filter(
    (row) => row.kind === "merged" && row.rank === 1 && row.layer === layer && /[a-z]{2}/i.test(row.neighbor_token),
  );
  const impact = (position: number) =>
    Math.max(...rows.filter((row) => row.token_position === position).map((row) => row.masking_impact ?? -1));
  const best = says.map((row) => row.token_position).sort((a, b) => impact(b) - impact(a))[0];
  expect(says.length).toBeLessThan(POSITIONS.length);
  expect(shownPatch(sceneOf(found))).toEqual({ token: POSITIONS.indexOf(best), why: "the largest masking impact" });
});

/** A table whose static rows have this similarity. */
const withStatic = (similarity: number, rows = table()) =>
  rows.map((row) => (row.kind === "static" ? { ...row, similarity } : row));

test("a scene has what there is: layer, group and colour", async () => {
  const found = await neighborsOf(file(columns(withStatic(-1)), "a_neighbors.json"));
  expect(sceneOf(found).state).toMatchObject({ layer: 3, near: "merged", tint: "similarity" });
  expect(sceneOf(found, { layer: 2, near: "99", tint: "bank" }).state).toMatchObject({
    layer: 3,
    near: "merged",
    tint: "bank",
  });
  expect(sceneOf(found, { near: "static", tint: "bank", patch: 7 })).toMatchObject({
    group: 3,
    patch: 2,
    state: { tint: "similarity" },
  });
  const chosen: Partial<State> = { patch: 7, near: "4", tint: "impact", ranks: true, find: "re&d", lens: 1 };
  expect(fromFragment(toFragment({ ...DEFAULTS, ...chosen }))).toEqual({ ...DEFAULTS, ...chosen });
  expect(fromFragment("near=x&tint=y&patch=-1&lens=z")).toEqual(DEFAULTS);
});

test("a patch is the token of the same picture, row and column in a run", async () => {
  const found = await neighborsOf(file(columns(table()), "a_neighbors.json"));
  const images = [{ sha256: "p" }, { sha256: "q" }],
    manifest: Manifest = { images };
  const token = (position: number, image: number, col: number) => ({ position, kind: "image", image, row: 0, col });
  const run = { manifest, tokens: [token(11, 0, 1), token(12, 1, 0)] } as unknown as Run;
  const scene = (token: number | null, of: Run = run) => ({ run: of, state: { token } }) as Scene;
  expect(sceneOf({ ...found, manifest }, {}, scene(12))).toMatchObject({ twin: [-1, 11, 12, -1], patch: 2 });
  expect(sceneOf({ ...found, manifest }, { patch: 5 }, scene(null)).patch).toBe(-1); // the run's selection is the selection
  const other = { ...run, manifest: { images: [{ sha256: "p" }, { sha256: "r" }] } };
  expect(sceneOf({ ...found, manifest }, { patch: 5 }, scene(12, other))).toMatchObject({ twin: null, patch: 0 });
});

test("a token is marked where it stands in its caption", async () => {
  const caption = "a yellow cross, a blue square and a pink circle";
  const marked = async (token: string, position: number) => {
    const rows = [
      {
        ...table()[0],
        neighbor_token: token,
        caption,
        caption_position: position,
        layer: 0,
        token_position: 5,
        rank: 1,
      },
    ];
    const found = await neighborsOf(file(columns(rows), "a_neighbors.json"));
    const parts = sentence(found, 0);
    return (
      parts && [parts.before.length, parts.token, parts.others, parts.before + parts.token + parts.after === caption]
    );
  };
  expect(await marked(" blue", 5)).toEqual([18, "blue", 0, true]);
  expect(await marked(" a", 4)).toEqual([16, "a", 2, true]); // also in " and" and " a pink"
  expect(await marked(" a", 8)).toEqual([34, "a", 2, true]);
  expect(await marked("\u0120blue", 5)).toEqual([18, "blue", 0, true]); // as a vocabulary writes it
  expect(await marked(" green", 5)).toBeNull();
});

/** A manifest. */
const describing = (tokens: object[], rows: number) => ({
  schema_version: 1,
  name: "a",
  model: { name: "m" },
  prompt: "P",
  prompt_length: 20,
  tokens,
  images: [{ path: "x/Cat.png", size: [4, 2] }, { path: "dog.png" }],
  bank: { rows: 3 },
  rows,
  files: [],
  tables: ["a_neighbors.csv"],
});

test("table, manifest and picture find each other", async () => {
  const rows = table(),
    tokens = POSITIONS.map((position, i) => ({
      position,
      kind: "image",
      text: "<i>",
      image: i >> 1,
      row: 0,
      col: i & 1,
      box: [i, 0, i + 1, 2],
    }));
  const about = describing(tokens, rows.length);
  const manifest = await load(file(JSON.stringify(about), "a_neighbors_run.json"));
  const picture: Loaded = {
    kind: "image",
    picture: { fileName: "cat.png", blob: new Blob(["x"]) },
    source: { fileName: "cat.png", format: "image", bytes: 1 },
  };
  const run = await load(fixture("every_results.csv")); // takes no manifest that is not its own
  const all = (items: Loaded[]): Library => items.reduce((library, item) => add(library, item).library, emptyLibrary);
  expect(waiting(all([manifest]))).toEqual([
    "a_neighbors_run.json tells of neighbours of image tokens; they are in a_neighbors.csv: drop that file, too.",
  ]);
  const item = await load(file(csv(rows), "a_neighbors.csv"));
  for (const items of [
    [item, manifest, picture, run],
    [run, picture, manifest, item],
  ]) {
    const library = all(items),
      [found] = resolveNeighbors(library);
    expect(found.manifest).toMatchObject({ prompt: "P", bank: { rows: 3 } });
    expect(found.pictures.map((each) => each?.fileName)).toEqual(["cat.png", undefined]);
    expect([found.boxed, found.tokens.map(({ box }) => box)]).toEqual([true, tokens.map(({ box }) => box)]);
    expect([found.notes, waiting(library)]).toEqual([[], []]);
  }
  const unplaced = await load(
    file(
      JSON.stringify({ ...about, tokens: tokens.map((token) => ({ ...token, box: null })) }),
      "a_neighbors_run.json",
    ),
  );
  expect(resolveNeighbors(all([item, unplaced]))[0]).toMatchObject({
    boxed: false,
    tokens: [{ box: [0, 0, 1, 1] }, { box: [1, 0, 2, 1] }, {}, {}],
  });
  const fewer = all([await load(file(csv(rows.slice(1)), "a_neighbors.csv")), manifest]);
  expect(resolveNeighbors(fewer)[0].notes[0]).toContain("143 rows and its manifest names 144");
  const twice = add(all([item]), await load(file(columns(rows), "a_neighbors.json")));
  expect([twice.message, twice.library.neighbors.length]).toEqual([
    "a_neighbors.json takes the place of a_neighbors.csv.",
    1,
  ]);
});

test("a page has table, manifest and pictures", async () => {
  const rows = table(),
    about = {
      schema_version: 1,
      name: "a",
      model: { name: "m" },
      prompt_length: 20,
      images: [{ path: "x/Cat.png" }, { path: "dog.png" }],
    };
  const embedded = (packed: string) =>
    `<html><script type="text/plain" id="mask-impact-data">${JSON.stringify({ format: 1, name: "a_neighbors", neighbors: packed, manifest: about, images: [{ name: "Cat.png", data: "data:image/png;base64,AAAA" }, null] })}</script></html>`;
  const packed = deflateSync(columns(rows)).toString("base64");
  const found = await neighborsOf(file(embedded(packed), "a_neighbors.html"));
  expect(found.rows).toEqual((await neighborsOf(file(columns(rows), "a_neighbors.json"))).rows);
  const { library } = add(emptyLibrary, { kind: "neighbors", neighbors: found });
  expect(resolveNeighbors(library)[0].pictures.map((each) => each?.fileName)).toEqual(["Cat.png", undefined]);
  expect(await failure(file(embedded(packed.slice(0, 400)), "a_neighbors.html"))).toContain("damaged");
});

test("opens on the static vocabulary only where that is nearer on average, and on a patch that names something", async () => {
  const scene = async (rows: Row[]) => sceneOf(await neighborsOf(file(columns(rows), "a_neighbors.json")));
  const merged = table().filter(({ kind, rank }) => kind === "merged" && rank === 1);
  const mean = merged.reduce((sum, { similarity }) => sum + similarity, 0) / merged.length;
  expect((await scene(withStatic(mean + 0.01))).state.near).toBe("static");
  expect((await scene(withStatic(mean - 0.01))).state.near).toBe("merged");
  const one = withStatic(-1).map((row) => ({ ...row, neighbor_token: row.token_position === 7 ? " red" : " the" }));
  const found = await scene(one);
  expect(found.found.tokens[shownPatch(found).token].position).toBe(7);
});
