/**
 * What the predicted token was made of, traced back: which token its position reads in each layer, what that one's position
 * has read in the layers before, and so on. Only what is reached from the predicted token is in it, and only reads of at least
 * a part of what the position itself reads most.
 */

import { plainToken } from "../data/cube.ts";
import type { Run, TokenInfo } from "../data/types.ts";
import { isFirst } from "./aggregate.ts";
import { onOneScale } from "./beside.ts";
import { bySize, fewEnough, type Graph, type Line } from "./graph.ts";
import { promptText } from "./prompt-text.ts";
import { noiseFloor, tokenIndex } from "./scene.ts";
import type { State } from "./state.ts";
import { remembered } from "./track.ts";
import { isHead, predictedText } from "./words.ts";

/** In `layer`, position `to` reads the token `from`. */
export interface Edge {
  layer: number;
  to: number;
  from: TokenInfo;
  value: number;
}

/** Lines are reads, the last layer first; columns are tokens. */
export interface Trace extends Graph<Edge> {
  /** The position that predicts, or the one that was chosen. */
  start: number;
  /** Of the largest, from which on a read counts; and whether it is that of all runs that are shown on one scale. */
  part: number;
  isShared: boolean;
}

const FEW = 48; // tokens that are all named; of more, those that are reached

interface Traced {
  run: Run;
  state: State;
  /** What the position reads most, also that of runs that are shown on one scale with this one. */
  largest: number;
  isShared: boolean;
}

/** Null: only predicting positions were measured. */
export function trace({ run, state, beside }: { run: Run; state: State; beside?: Run[] }): Trace | null {
  if (!run.queries || startOf(run, state) === null) return null;
  const peers = onOneScale({ run, beside }).filter(({ queries }) => queries);
  const largest = Math.max(...peers.map((peer) => mostRead({ run: peer, state })));
  return made({ run, state, largest, isShared: peers.length > 1 });
}

const made = remembered(makeTrace, ({ run }: Traced) => run.queries!);

function startOf({ queries }: Run, state: State): number | null {
  const ofStep = queries!.positions.filter((_, place) => queries!.steps[place] === state.step);
  const start = state.query ?? ofStep.at(-1);
  return start !== undefined && queries!.positions.includes(start) ? start : null;
}

const mostRead = remembered(
  ({ run, state }: Pick<Traced, "run" | "state">) => {
    const start = startOf(run, state),
      reads = readsOf(run, state);
    const own = start === null ? [] : run.layers.flatMap((_, layer) => reads(start, layer));
    return own.reduce((most, { value }) => Math.max(most, Math.abs(value)), 0);
  },
  ({ run }) => run.queries!,
);

function makeTrace({ run, state, largest, isShared }: Traced): Trace {
  const start = startOf(run, state)!,
    reads = readsOf(run, state);
  const follows = (part: number) => follow(run, start, reads, Math.max(part * largest, Number.MIN_VALUE));
  const { found, part } = fewEnough(state.edges, follows, ({ edges }) => edges.length);
  return { start, part, largest, isShared, signed: false, ...graphOf(run, state, start, found) };
}

type Reads = (position: number, layer: number) => Edge[];

/** What a position reads in a layer, by the layer's place; without itself and what can be rounding. */
function readsOf(run: Run, state: State): Reads {
  const { layers, tokens, variants } = run,
    { metric, variant, first } = state,
    queries = run.queries!;
  const T = tokens.length,
    values = queries.values[metric],
    floors = layers.map((layer) => noiseFloor(run, state, layer));
  return (position, layer) => {
    const query = queries.positions.indexOf(position);
    if (query < 0 || !values) return [];
    const begin = ((query * variants.length + variants.indexOf(variant)) * layers.length + layer) * T,
      own = tokenIndex(run, position);
    const edges: Edge[] = [];
    for (let token = 0; token < T; token++) {
      const value = values[begin + token];
      if (!(Math.abs(value) > floors[layer]) || token === own || (!first && isFirst(tokens[token]))) continue;
      edges.push({ layer: layers[layer], to: position, from: tokens[token], value });
    }
    return edges;
  };
}

interface Followed {
  edges: Edge[];
  /** Every position that is reached, with the number of layers below the point where it is first used. */
  reached: Map<number, number>;
}

const ENOUGH = 300; // edges: following more is of no use

function follow({ layers }: Run, start: number, reads: Reads, least: number): Followed {
  const edges: Edge[] = [],
    reached = new Map([[start, layers.length]]);
  for (let layer = layers.length - 1; layer >= 0 && edges.length <= ENOUGH; layer--) {
    const strong = [...reached.keys()].flatMap((each) =>
      reads(each, layer).filter(({ value }) => Math.abs(value) >= least),
    );
    edges.push(...strong.sort(bySize));
    for (const { from } of strong)
      for (const position of from.members ?? [from.position]) if (!reached.has(position)) reached.set(position, layer);
  }
  return { edges, reached };
}

/** As it is drawn. A way goes as far up as the token is read, or as what it has read is. */
function graphOf(run: Run, state: State, start: number, { edges, reached }: Followed) {
  const { layers } = run,
    columns = columnsOf(run, start, { edges, reached });
  const places = new Map(columns.flatMap((token, i) => (token.members ?? [token.position]).map((each) => [each, i])));
  const lines = edges.map((edge): Line<Edge> => {
    const [bottom, from, to] = [layers.indexOf(edge.layer), places.get(edge.from.position)!, places.get(edge.to)!];
    return {
      key: [edge.layer, edge.to, edge.from.position].join(),
      from,
      bottom,
      to,
      top: bottom + 1,
      value: edge.value,
      of: edge,
    };
  });
  const ways = new Map<number, number>();
  const follows = (column: number, level: number) => ways.set(column, Math.max(level, ways.get(column) ?? 0));
  for (const [position, level] of reached) follows(places.get(position)!, level);
  for (const { from, bottom } of lines) follows(from, bottom);
  const answer = state.query === null ? predictedText(run, state.step) : null;
  return {
    columns,
    layers,
    lines,
    ways,
    says: { column: places.get(start)!, text: answer === null ? "reads" : `→ ${answer}` },
  };
}

/** Tokens that have been there when the position read, all of them or those that are reached. */
function columnsOf(run: Run, start: number, { edges, reached }: Followed): TokenInfo[] {
  const read = new Set(edges.map(({ from }) => from));
  const masked = run.tokens.filter(({ position }) => position <= start);
  const named =
    masked.length <= FEW ? masked : masked.filter((token) => read.has(token) || reached.has(token.position));
  const others = [...reached.keys()].filter((position) => tokenIndex(run, position) < 0);
  return [...named, ...others.map((position) => anyToken(run, position))].sort((a, b) => a.position - b.position);
}

/** A token of the text, whether it was masked or not. */
export const anyToken = (run: Run, position: number): TokenInfo =>
  run.tokens.find((token) => token.position === position) ??
  promptText(run).tokens.find(({ info }) => info.position === position)?.info ??
  plainToken(position, "");

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
    .sort(bySize);
}
