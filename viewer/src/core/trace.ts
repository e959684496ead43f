/**
 * What the predicted token was made of, traced back: which token its position reads in each layer, what that one's position
 * has read in the layers before, and so on. Only what is reached from the predicted token is in it, and only reads of at least
 * a part of what the position itself reads most.
 */

import type { Queries, Run, TokenInfo } from "../data/types.ts";
import { isFirst } from "./aggregate.ts";
import { noiseFloor, tokenIndex } from "./scene.ts";
import type { State } from "./state.ts";
import { remembered } from "./track.ts";
import { isHead } from "./words.ts";

/** In `layer`, position `to` reads the token `from`. */
export interface Edge {
  layer: number;
  to: number;
  from: TokenInfo;
  value: number;
}

export interface Trace {
  /** The position that predicts, or the one that was chosen. */
  start: number;
  /** The last layer first. */
  edges: Edge[];
  /** Every position that is reached, with the number of layers below the point where it is first used. */
  reached: Map<number, number>;
  /** What the position itself reads most, in any layer, and the part of it from which on an edge counts. */
  largest: number;
  part: number;
}

const MOST = 150; // edges: more are a tangle

interface Traced {
  queries: Queries;
  layers: number[];
  tokens: TokenInfo[];
  variants: string[];
  manifest: Run["manifest"];
  state: State;
}

/** Null: only predicting positions were measured. */
export function trace({ run, state }: { run: Run; state: State }): Trace | null {
  const { queries, layers, tokens, variants, manifest } = run;
  return queries && made({ queries, layers, tokens, variants, manifest, state });
}

const made = remembered(makeTrace, ({ queries }: Traced) => queries);

function makeTrace(from: Traced): Trace | null {
  const { queries, state } = from;
  const ofStep = queries.positions.filter((_, place) => queries.steps[place] === state.step);
  const start = state.query ?? ofStep.at(-1);
  if (start === undefined || !queries.positions.includes(start)) return null;
  const reads = readsOf(from);
  const own = from.layers.flatMap((_, layer) => reads(start, layer).map(({ value }) => Math.abs(value)));
  const largest = own.reduce((most, value) => Math.max(most, value), 0);
  for (let part = state.edges; ; part = Math.min(1, part * 1.2)) {
    const found = follow(from, start, reads, Math.max(part * largest, Number.MIN_VALUE));
    if (found.edges.length <= MOST || part === 1) return { start, ...found, largest, part };
  }
}

type Reads = (position: number, layer: number) => Edge[];

/** What a position reads in a layer, by the layer's place; without itself and what can be rounding. */
function readsOf(from: Traced): Reads {
  const { queries, layers, tokens, variants, state } = from,
    { metric, variant, first } = state;
  const T = tokens.length,
    values = queries.values[metric],
    floors = layers.map((layer) => noiseFloor(from, state, layer));
  return (position, layer) => {
    const query = queries.positions.indexOf(position);
    if (query < 0 || !values) return [];
    const begin = ((query * variants.length + variants.indexOf(variant)) * layers.length + layer) * T,
      own = tokenIndex(from, position);
    const edges: Edge[] = [];
    for (let token = 0; token < T; token++) {
      const value = values[begin + token];
      if (!(Math.abs(value) > floors[layer]) || token === own || (!first && isFirst(tokens[token]))) continue;
      edges.push({ layer: layers[layer], to: position, from: tokens[token], value });
    }
    return edges;
  };
}

function follow({ layers }: Traced, start: number, reads: Reads, least: number): Pick<Trace, "edges" | "reached"> {
  const edges: Edge[] = [],
    reached = new Map([[start, layers.length]]);
  for (let layer = layers.length - 1; layer >= 0 && edges.length <= 2 * MOST; layer--) {
    const strong = [...reached.keys()].flatMap((each) =>
      reads(each, layer).filter(({ value }) => Math.abs(value) >= least),
    );
    edges.push(...strong.sort((a, b) => Math.abs(b.value) - Math.abs(a.value)));
    for (const { from } of strong)
      for (const position of from.members ?? [from.position]) if (!reached.has(position)) reached.set(position, layer);
  }
  return { edges, reached };
}

/** What each head reads of an edge, the most first. */
export function headsOf(run: Run, { metric }: State, { layer, to, from }: Edge): { head: string; value: number }[] {
  const { queries, variants, layers, tokens } = run;
  const query = queries?.positions.indexOf(to) ?? -1;
  const at = (variant: number) =>
    ((query * variants.length + variant) * layers.length + layers.indexOf(layer)) * tokens.length +
    tokens.indexOf(from);
  return variants
    .flatMap((name, variant) => (isHead(name) ? [{ head: name, value: queries!.values[metric][at(variant)] }] : []))
    .filter(({ value }) => !isNaN(value))
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
}

/** An edge with what its token had read before, along the strongest edges. */
export function chain({ edges }: Trace, edge: Edge): Edge[] {
  const found = [edge];
  for (;;) {
    const { layer, from } = found.at(-1)!;
    const positions = from.members ?? [from.position];
    const [next] = edges
      .filter((each) => each.layer < layer && positions.includes(each.to))
      .sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    if (!next) return found;
    found.push(next);
  }
}
