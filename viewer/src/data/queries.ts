/**
 * Runs in which other query positions were measured than those that predict the output.
 *
 * All of them are in `run.queries`. What the run itself shows, as any other run, is one query position for each step: the
 * last one of the step, which is the one that predicts, or a single one that was chosen. So no view has to know.
 */

import { LoadError } from "./errors.ts";
import type { Queries, Run } from "./types.ts";

type Numbers = Pick<Run, "steps" | "layers" | "variants" | "tokens" | "metrics" | "values" | "queries">;

/** A cube with queries in the place of steps -> the same with `queries`, and the last query of each step as its numbers. */
export function lastOfSteps<Cube extends Numbers>(cube: Cube, positions: number[], steps: number[]): Cube {
  const order = steps.every(
    (step, i) => !i || step > steps[i - 1] || (step === steps[i - 1] && positions[i] > positions[i - 1]),
  );
  if (!order) throw new LoadError("the query positions are out of order");
  return lastQueries({ ...cube, queries: { positions, steps, values: cube.values } });
}

/** With the numbers of the last query of each step. */
export function lastQueries<Cube extends Numbers>(cube: Cube): Cube {
  const { steps } = cube.queries!;
  const last = [...steps.keys()].filter((i) => steps[i] !== steps[i + 1]);
  return of(cube, cube.queries!, last);
}

/** What is shown without a choice: null, the position that predicts at each step, or if they were not measured the last one. */
export function usualQuery({ queries, manifest }: Run): number | null {
  const length = manifest?.prompt_length;
  if (!queries || length === undefined) return null;
  const { positions, steps } = queries;
  return steps.every((step, i) => step === steps[i + 1] || positions[i] === length - 1 + step)
    ? null
    : positions[positions.length - 1];
}

const known = new WeakMap<Run, Map<number, Run>>();

/** The run as one query position saw it; with null, or if it has none of its own, as it is. */
export function atQuery(run: Run, position: number | null): Run {
  const { queries } = run;
  if (position === null) return run;
  let found = known.get(run);
  if (!found) known.set(run, (found = new Map()));
  let one = found.get(position);
  if (!one) {
    // A run of predicting positions alone may have this one, too: at some step.
    const step = position + 1 - (run.manifest?.prompt_length ?? Infinity);
    one = queries
      ? of(
          run,
          queries,
          [...queries.positions.keys()].filter((i) => queries.positions[i] === position),
        )
      : of(run, { positions: [], ...run }, run.steps.includes(step) ? [run.steps.indexOf(step)] : []);
    found.set(position, one);
  }
  return one;
}

/** The run with the numbers of some queries, which are no copy if it is one query. */
function of<Cube extends Numbers>(run: Cube, queries: Queries, places: number[]): Cube {
  const size = run.variants.length * run.layers.length * run.tokens.length;
  const part = (values: Float32Array, place: number) => values.subarray(place * size, (place + 1) * size);
  const joined = (values: Float32Array) => {
    if (places.length === 1) return part(values, places[0]);
    const out = new Float32Array(places.length * size);
    places.forEach((place, i) => out.set(part(values, place), i * size));
    return out;
  };
  return {
    ...run,
    steps: places.map((place) => queries.steps[place]),
    values: Object.fromEntries(Object.entries(queries.values).map(([name, values]) => [name, joined(values)])),
  };
}
