/** What was read, traced back from the predicted token: tokens across, layers up. A click on a line shows its heads. */

import type { Line as Exported } from "../core/export.ts";
import { chain, type Line } from "../core/graph.ts";
import { titleOf } from "../core/metrics.ts";
import type { Scene } from "../core/scene.ts";
import type { Scenes } from "../core/store.ts";
import { exact, number } from "../core/tokens.ts";
import { anyToken, headsOf, trace, type Edge, type Trace } from "../core/trace.ts";
import { predictedText, variantName } from "../core/words.ts";
import { columnText, endingIn, GraphView, type HeadValue, type LineRow } from "./graph.ts";

export class TraceView extends GraphView<Edge, Trace> {
  constructor(store: Scenes) {
    super(store, {
      title: "What was read, traced back",
      least: "Reads of at least",
      threshold: "edges",
      table: "Reads as a table",
      columns: ["layer", "position", "reads", "value"],
    });
  }

  protected find(scene: Scene): Trace | null {
    return trace(scene);
  }

  protected words(scene: Scene, found: Trace) {
    const { run, state } = scene;
    return {
      what: sentence(scene, found),
      how:
        `A line: a position reads a token in a layer; thicker, the larger the ${titleOf(run, state)} of ${variantName(state.variant)}. ` +
        "Only what the predicting position has read is followed further down. Click a line for its heads.",
      least: found.isShared ? "of the largest in these runs" : "of its largest",
    };
  }

  /** "layer 3: is (15) reads cup (10), 74.8" */
  protected lineText({ run }: Scene, _: Trace, { of: { layer, to, from, value } }: Line<Edge>): string {
    return `layer ${layer}: ${columnText(anyToken(run, to))} reads ${columnText(from)}, ${number(value)}`;
  }

  protected row({ run }: Scene, _: Trace, { of: { layer, to, from, value } }: Line<Edge>): LineRow {
    return {
      name: String(layer),
      cells: [columnText(anyToken(run, to)), columnText(from), exact(value)],
      mark: { "data-layer": layer, "data-to": to, "data-from": from.position },
    };
  }

  protected headsOf({ run, state }: Scene, { of }: Line<Edge>): HeadValue[] {
    return headsOf(run, state, of);
  }

  /** What the predicting position reads most. */
  protected first(found: Trace) {
    return endingIn(found, found.says.column)[0];
  }

  protected chosen({ of: { from, layer } }: Line<Edge>) {
    return { token: from.position, layer };
  }

  protected exported({ run }: Scene, _: Trace, { of: { layer, to, from, value } }: Line<Edge>): Exported {
    const more = { query_position: to, query_token: anyToken(run, to).text, layer };
    return { run: run.name, more, token: from, value };
  }
}

/** "To say blue, is (15) reads cup (10) in layer 3, which has read blue (9) in layer 1; and cup (14) in layer 1." */
function sentence({ run, state }: Scene, found: Trace): string {
  const told = found.lines
    .filter(({ to }) => to === found.says.column) // the last layer first
    .slice(0, 3)
    .map((line) => chain(found.lines, line).map(({ of }) => `${columnText(of.from)} in layer ${of.layer}`));
  const answer = state.query === null ? predictedText(run, state.step) : null;
  const who = columnText(anyToken(run, found.start));
  const begin = answer === null ? who : `To say ${answer}, ${who}`;
  if (!told.length) return `${begin} reads no other token that much.`;
  return `${begin} reads ${told.map((reads) => reads.join(", which has read ")).join("; and ")}.`;
}
