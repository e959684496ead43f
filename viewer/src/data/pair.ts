/**
 * What belongs together: runs, manifests and pictures, dropped in any order and in any number of goes.
 *
 * A Library keeps everything as it was loaded; `resolve` puts it together anew each time. So the result cannot depend
 * on the order, and a picture that fits better later takes its place. Nothing is copied: arrays are shared.
 */

import { runName } from "./load.ts";
import { disagreements, withManifest } from "./manifest.ts";
import { misfit } from "./effects.ts";
import { withPlaces } from "./neighbors.ts";
import { withRoutes } from "./routes.ts";
import type { Effects, Loaded, Manifest, Neighbors, Picture, Run, Source } from "./types.ts";

export interface Library {
  runs: Run[];
  manifests: { manifest: Manifest; source: Source }[];
  pictures: Picture[];
  effects: Effects[];
  neighbors: Neighbors[];
}

export const emptyLibrary: Library = { runs: [], manifests: [], pictures: [], effects: [], neighbors: [] };

export interface Added {
  library: Library;
  /** The run that came in, or the one that was there already. */
  runId: string | null;
  /** What to tell the user, or null. */
  message: string | null;
}

/** A run gets its id here. The same run in a second format is kept once. */
export function add(library: Library, item: Loaded): Added {
  if (item.kind === "index") return { library, runId: null, message: null }; // it is of no run
  if (item.kind === "manifest") {
    const { manifest, source } = item;
    return {
      library: { ...library, manifests: [...library.manifests, { manifest, source }] },
      runId: null,
      message: null,
    };
  }
  if (item.kind === "effects") {
    const { name, injections } = item.effects;
    const others = library.effects.filter((each) => each.name !== name || !each.injections !== !injections);
    return { library: { ...library, effects: [...others, item.effects] }, runId: null, message: null };
  }
  if (item.kind === "neighbors") {
    const { neighbors } = item,
      twin = library.neighbors.find(({ name }) => name === neighbors.name);
    // The same in a second format: what one brings along is kept.
    const joined = twin
      ? {
          ...neighbors,
          manifest: neighbors.manifest ?? twin.manifest,
          pictures: neighbors.pictures.length ? neighbors.pictures : twin.pictures,
        }
      : neighbors;
    const message = twin ? `${neighbors.source.fileName} takes the place of ${twin.source.fileName}.` : null;
    return {
      library: { ...library, neighbors: [...library.neighbors.filter((each) => each !== twin), joined] },
      runId: null,
      message,
    };
  }
  if (item.kind === "image") {
    const others = library.pictures.filter(({ fileName }) => fileName !== item.picture.fileName);
    return { library: { ...library, pictures: [...others, item.picture] }, runId: null, message: null };
  }
  const { run } = item;
  const twin = library.runs.find((each) => sameNumbers(each, run));
  if (twin) {
    const kept = twin.manifest || !run.manifest ? twin : { ...run, id: twin.id };
    const runs = library.runs.map((each) => (each === twin ? kept : each));
    const message = `${run.source.fileName} holds the same run as ${twin.source.fileName}; it is shown once.`;
    return { library: { ...library, runs }, runId: twin.id, message };
  }
  const id = `run-${1 + Math.max(0, ...library.runs.map(({ id }) => Number(id.slice(4))))}`;
  return { library: { ...library, runs: [...library.runs, { ...run, id }] }, runId: id, message: null };
}

export function remove(library: Library, runId: string): Library {
  return { ...library, runs: library.runs.filter(({ id }) => id !== runId) };
}

/** The runs with their manifests and pictures. */
export function resolve(library: Library): Run[] {
  const manifests = pairManifests(library);
  const runs = library.runs.map((run) => {
    const manifest = manifests.get(run.id);
    return manifest ? withManifest(run, manifest) : run;
  });
  return withPictures(runs, library.pictures).map((run) => {
    const own = library.effects.filter(({ name }) => name === run.name);
    const effects = run.effects ?? own.find(({ injections }) => !injections) ?? null,
      deepstack = run.deepstack ?? own.find(({ injections }) => injections) ?? null;
    const notes = [...(effects ? [...effects.notes, ...misfit(run, effects)] : []), ...(deepstack?.notes ?? [])];
    return {
      ...run,
      effects: effects && withRoutes(effects, run.manifest),
      deepstack,
      notes: [...run.notes, ...notes],
    };
  });
}

/** Neighbours with their manifests and pictures. */
export function resolveNeighbors({ neighbors, manifests, pictures }: Library): Neighbors[] {
  const paired = neighbors.map((each) => {
    const found = each.manifest ?? manifests.findLast(({ source }) => runName(source.fileName) === each.name)?.manifest;
    return found ? withPlaces(each, found) : each;
  });
  return withPictures(paired, pictures);
}

/** What is loaded and shown nowhere yet, as sentences. */
export function waiting(library: Library): string[] {
  const neighbors = resolveNeighbors(library);
  const used = new Set([...pairManifests(library).values(), ...neighbors.map(({ manifest }) => manifest)]);
  const withOwn = library.runs.filter((run) => run.manifest);
  const lone = library.manifests.filter(
    ({ manifest }) => !used.has(manifest) && !withOwn.some(({ name }) => name === manifest.name),
  );
  const shown = new Set(
    [...resolve(library), ...neighbors].flatMap(({ pictures }) => pictures.map((picture) => picture?.fileName)),
  );
  return [
    ...lone.map(({ manifest, source }) => {
      if (manifest.bank)
        return `${source.fileName} tells of neighbours of image tokens; they are in ${manifest.tables?.join(" or ")}: drop that file, too.`;
      const files =
        manifest.files?.filter((file) => !file.endsWith(".html")).join(" or ") ||
        `${runName(source.fileName)}_results.csv`;
      return `${source.fileName} is the manifest of a run; its numbers are in ${files}: drop that file, too.`;
    }),
    ...library.effects
      .filter((effects) => !library.runs.some(({ name }) => name === effects.name))
      .map(
        ({ name, fileName }) =>
          `${fileName} holds effects on the answer; the results of their run are in ${name}_results.csv, .json or .parquet: drop that file, too.`,
      ),
    ...library.pictures
      .filter(({ fileName }) => !shown.has(fileName))
      .map(
        ({ fileName }) =>
          `${fileName} is a picture, and no loaded run has a place for it (a manifest names the pictures of a run).`,
      ),
  ];
}

// --- manifests --------------------------------------------------------------------------------------------
/** By run id. Runs that brought their own manifest (Parquet, report) keep it. */
function pairManifests({ runs, manifests }: Library): Map<string, Manifest> {
  const pairs = new Map<string, Manifest>();
  const open = runs.filter((run) => !run.manifest);
  for (const run of open) {
    const found = manifests.findLast(({ source }) => runName(source.fileName) === run.name);
    if (found) pairs.set(run.id, found.manifest);
  }
  // One of each is left, with other names (renamed files): a pair if what they say is the same.
  const runsLeft = open.filter((run) => !pairs.has(run.id));
  const used = new Set(pairs.values());
  const manifestsLeft = manifests.filter(({ manifest }) => !used.has(manifest) && !manifest.bank);
  if (runsLeft.length === 1 && manifestsLeft.length === 1) {
    const [run] = runsLeft,
      [{ manifest }] = manifestsLeft;
    if (manifest.rows === run.rows && manifest.tokens?.length && !disagreements(run, manifest).length)
      pairs.set(run.id, manifest);
  }
  return pairs;
}

// --- pictures ---------------------------------------------------------------------------------------------
/** First by file name, then those whose name fits no run, in the order they came. Embedded pictures stay. */
function withPictures<Of extends Pictured>(runs: Of[], pictures: Picture[]): Of[] {
  const named = new Set(runs.flatMap((run) => pathsOf(run).map(baseName)));
  const unnamed = pictures.filter(({ fileName }) => !named.has(baseName(fileName)));
  return runs.map((run) => {
    if (!run.pictures.length) return run;
    const spare = [...unnamed];
    const paths = pathsOf(run);
    const byName = run.pictures.map(
      (own, i) => own ?? pictures.find(({ fileName }) => baseName(fileName) === baseName(paths[i])) ?? null,
    );
    return { ...run, pictures: byName.map((picture) => picture ?? spare.shift() ?? null) };
  });
}

type Pictured = Pick<Run, "manifest" | "pictures">;
const pathsOf = (run: Pictured) => (run.manifest?.images ?? []).map(({ path }) => path ?? "");
const baseName = (path: string) => path.replace(/^.*[/\\]/, "").toLowerCase();

// --- the same run twice -----------------------------------------------------------------------------------
function sameNumbers(a: Run, b: Run): boolean {
  const [x, y] = [a.queries ?? a, b.queries ?? b];
  if (a.name !== b.name || a.tokens.length !== b.tokens.length) return false;
  const tokens = (run: Run) => run.tokens.map(({ position, text }) => [position, text]);
  const lists = (run: Run) =>
    JSON.stringify([run.queries?.positions, run.steps, run.layers, run.variants, tokens(run)]);
  // Only what is in the files: names, titles and computed metrics may come from the manifest of one of the two.
  const measured = (run: Run, { values }: Pick<Run, "values">) =>
    new Map(run.metrics.filter(({ column }) => column).map(({ name, column }) => [column, values[name]]));
  const [one, two] = [measured(a, x), measured(b, y)];
  return (
    lists(a) === lists(b) &&
    one.size === two.size &&
    [...one].every(([column, values]) => sameBits(values, two.get(column)))
  );
}

/** As bits: a missing value (NaN) is the same as a missing value. */
function sameBits(a: Float32Array, b: Float32Array | undefined): boolean {
  if (a.length !== b?.length) return false;
  const x = new Int32Array(a.buffer, a.byteOffset, a.length),
    y = new Int32Array(b.buffer, b.byteOffset, b.length);
  for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) return false;
  return true;
}
