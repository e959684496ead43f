/** The metrics of runs, and how they are called on the page. */

import { at, type Metric, type Run } from "../data/types.ts";
import type { State } from "./state.ts";
import { exact } from "./tokens.ts";

/** The chosen one; of one that the run does not have, only the name is known. */
export const metricOf = ({ metrics }: Pick<Run, "metrics">, { metric }: Pick<State, "metric">): Metric =>
  metrics.find(({ name }) => name === metric) ?? { name: metric, column: "", title: metric, unit: "", range: [] };

/** Those that all of the runs have: only they can be compared. Where they share none, those of the first. */
export function metricsOf(runs: readonly Pick<Run, "metrics">[]): Metric[] {
  const [first, ...others] = runs;
  const shared = first.metrics.filter(({ name }) =>
    others.every(({ metrics }) => metrics.some((other) => other.name === name)),
  );
  return shared.length ? shared : first.metrics;
}

export const titleOf = (run: Pick<Run, "metrics">, state: Pick<State, "metric">) => metricOf(run, state).title;

/** "L2" of "L2 distance": for a button. */
export const brief = ({ title }: Metric) => title.replace(/ distance$/, "");

/** In the middle of a sentence: "cosine distance", but "L2 distance". */
export const inText = (title: string) => title.replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase());

/** "L2 0.5, cosine 0.01": all metrics of one cell. Null: it has no value. */
export function valuesAt(
  run: Run,
  ...cell: [step: number, variant: number, layer: number, token: number]
): string | null {
  const values = run.metrics.map((metric) => ({ metric, value: at(run, metric.name, ...cell) }));
  if (values.every(({ value }) => isNaN(value))) return null;
  return values.map(({ metric, value }) => `${inText(brief(metric))} ${exact(value)}`).join(", ");
}

/** What follows the title on a scale. */
export const unitOf = ({ unit, range: [low = null, high = null] }: Metric) =>
  unit || (low !== null && high !== null ? `${low} to ${high}` : "");

/** Whether numbers of different models cannot be compared. */
export const isOfModel = ({ unit }: Metric) => /\bmodel/.test(unit);
