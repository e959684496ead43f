/**
 * Which metrics a run has: every column of numbers of its table, with what the manifest says about it; and the relative
 * distance, which follows from the L2 distance where the manifest has the lengths of the unmasked updates.
 */

import { lastQueries } from "./queries.ts";
import { index, type Manifest, type Metric, type Run } from "./types.ts";

/** What is known of columns where no manifest tells; the same as METRICS in mask_impact/distances.py. */
const KNOWN: Metric[] = [
  { name: "l2", column: "l2_distance", title: "L2 distance", unit: "model units", range: [0, null] },
  { name: "cosine", column: "cosine_distance", title: "Cosine distance", unit: "", range: [0, 2] },
  { name: "relative", column: "relative_distance", title: "Relative distance", unit: "", range: [0, null] },
  { name: "attention", column: "attention_weight", title: "Attention weight", unit: "", range: [0, 1] },
];

/** It has no column in a file: its numbers are computed here. */
const RELATIVE: Metric = {
  name: "relative",
  column: "",
  title: "Relative distance",
  unit: "L2 / length of the unmasked update",
  range: [0, null],
};

/** "toy_distance" is the metric toy. */
export function metricOf(column: string): Metric {
  const name = column.replace(/(.)_distance$/, "$1");
  const title = name.replaceAll("_", " ");
  return KNOWN.find((each) => each.column === column) ?? { name, column, title, unit: "", range: [null, null] };
}

/** Of the columns of a file: L2 and cosine distance first, then the others in the order of the file. */
export function metricsOf(columns: readonly string[]): Metric[] {
  const rank = ({ column }: Metric) => KNOWN.findIndex((each) => each.column === column) + 1 || Infinity;
  return columns.map(metricOf).sort((a, b) => rank(a) - rank(b) || 0);
}

type Measured = Pick<Run, "metrics" | "values" | "queries">;

/** With the manifest's names, titles, units and ranges, in its order. A name that another metric has is not taken over. */
export function withTitles<Of extends Measured>(run: Of, { metrics: said = [] }: Manifest): Of {
  const order = (metric: Metric) => said.findIndex(({ column }) => column === metric.column) + 1 || Infinity;
  const renamed = run.metrics.map((metric) => {
    const {
      name = metric.name,
      title = metric.title,
      unit = metric.unit,
      range,
    } = said.find(({ column }) => column === metric.column) ?? {};
    const free = name !== "" && !run.metrics.some((other) => other !== metric && other.name === name);
    return {
      from: metric.name,
      metric: {
        ...metric,
        name: free ? name : metric.name,
        title,
        unit,
        range: range?.length === 2 ? range : metric.range,
      },
    };
  });
  renamed.sort((a, b) => order(a.metric) - order(b.metric) || 0);
  const values = (of: Run["values"]) => Object.fromEntries(renamed.map(({ from, metric }) => [metric.name, of[from]]));
  const metrics = renamed.map(({ metric }) => metric);
  return {
    ...run,
    metrics,
    values: values(run.values),
    queries: run.queries && { ...run.queries, values: values(run.queries.values) },
  };
}

const isRelative = ({ name, column }: Metric) => name === RELATIVE.name || column === "relative_distance";

const known = new WeakMap<Float32Array, { manifest: Manifest; relative: Float32Array | null }>();

/**
 * With the relative distance added, where it is missing and can be computed. Lengths are known only for the query
 * positions that predict the output, so the others have no value.
 */
export function withRelative(run: Run, manifest: Manifest): Run {
  const l2 = run.metrics.find(({ column }) => column === "l2_distance");
  if (!l2 || !manifest.unmasked_length || run.metrics.some(isRelative)) return run;
  const all = run.queries?.values[l2.name] ?? run.values[l2.name];
  let found = known.get(all);
  if (found?.manifest !== manifest) known.set(all, (found = { manifest, relative: relative(run, all, manifest) }));
  if (!found.relative) return run;
  return added(run, found.relative);
}

function added(run: Run, relative: Float32Array): Run {
  const metrics = [...run.metrics, RELATIVE],
    { queries } = run;
  if (!queries) return { ...run, metrics, values: { ...run.values, [RELATIVE.name]: relative } };
  const more = { ...queries, values: { ...queries.values, [RELATIVE.name]: relative } };
  return lastQueries({ ...run, metrics, queries: more });
}

/** L2 divided by the length; null if no length fits. */
function relative(run: Run, l2: Float32Array, manifest: Manifest): Float32Array | null {
  const { layers = [], variants = [], values = [] } = manifest.unmasked_length!;
  const steps = [...new Set(run.queries?.steps ?? run.steps)];
  const rows = run.queries
    ? run.queries.positions.map((position, i) => ({ step: run.queries!.steps[i], position }))
    : run.steps.map((step) => ({ step, position: null }));
  const out = new Float32Array(l2.length).fill(NaN),
    T = run.tokens.length;
  const [atLayer, atVariant] = [
    run.layers.map((layer) => layers.indexOf(layer)),
    run.variants.map((variant) => variants.indexOf(variant)),
  ];
  let any = false;
  rows.forEach(({ step, position }, s) => {
    if (position !== null && position !== (manifest.prompt_length ?? NaN) - 1 + step) return;
    run.variants.forEach((_, v) =>
      run.layers.forEach((_, l) => {
        const length = values[steps.indexOf(step)]?.[atLayer[l]]?.[atVariant[v]];
        if (!(length! > 0)) return;
        any = true;
        const start = index(run, s, v, l, 0);
        for (let cell = start; cell < start + T; cell++) out[cell] = l2[cell] / length!;
      }),
    );
  });
  return any ? out : null;
}
