/** What cutting routes costs the answer: sets of positions across, layers up. A click on a line shows what becomes of the answer. */

import { effectOn, effectWords, layersOf, maskText, MEASURES } from "../core/effects.ts";
import type { Line as Exported } from "../core/export.ts";
import { bySize, chain, type Line } from "../core/graph.ts";
import { routes, type Cut, type Routes } from "../core/routes.ts";
import type { Scene } from "../core/scene.ts";
import type { Scenes } from "../core/store.ts";
import { exact, label, signed, unspaced, visible } from "../core/tokens.ts";
import { percent } from "../core/words.ts";
import { plainToken } from "../data/cube.ts";
import { partsOf } from "../data/effects.ts";
import { endingIn, GraphView, type LineRow } from "./graph.ts";

export class RoutesView extends GraphView<Cut, Routes> {
  constructor(store: Scenes) {
    super(store, {
      title: "Routes to the answer",
      least: "Effects of at least",
      threshold: "routes",
      table: "Routes as a table",
      columns: ["layers", "who reads", "what", "effect", "p of the answer", "then"],
    });
  }

  protected find(scene: Scene): Routes | null {
    return routes(scene);
  }

  protected words(scene: Scene, found: Routes) {
    const byHead = found.lines.some(({ of }) => of.heads.length);
    const heads = byHead ? "Each is of its strongest head. " : "";
    return {
      what: sentence(scene, found),
      how:
        `A line: what is below is hidden from what is above, in the layers between; thicker, the larger the ${MEASURES[found.shown.measure]}` +
        `${found.signed ? "; below 0 the answer needs the route" : ""}. ${heads}Click a line for what becomes of the answer.`,
      least: "of the largest",
    };
  }

  protected lineText(scene: Scene, { shown }: Routes, { of: { unit, window } }: Line<Cut>): string {
    return maskText(scene, shown, unit, window);
  }

  protected row(_: Scene, { shown, columns }: Routes, { from, to, value, of: { unit, window } }: Line<Cut>): LineRow {
    const become = effectOn(shown, unit.key, window);
    return {
      name: layersOf(window).replace(/^layers? /, ""),
      cells: [
        ...[to, from].map((column) => label(columns[column])),
        exact(value),
        become ? `${percent(become.before)} → ${percent(become.after)}` : "",
        become ? unspaced(visible(become.top)) : "",
      ],
      mark: { "data-route": unit.label, "data-layers": window },
    };
  }

  protected headsOf(_: Scene, { of }: Line<Cut>) {
    return of.heads;
  }

  /** What the answer needs most. */
  protected first(found: Routes) {
    return endingIn(found, found.says.column)[0] ?? found.lines[0];
  }

  protected chosen({ of: { unit, window } }: Line<Cut>) {
    return { token: unit.position, layer: partsOf(window)[0] };
  }

  protected exported({ run }: Scene, { shown }: Routes, { value, of: { unit, window } }: Line<Cut>): Exported {
    const [first_layer, last_layer, head = ""] = partsOf(window),
      { source, block } = unit.route!;
    const more = { generation_step: shown.step, first_layer, last_layer, head, block };
    return {
      run: run.name,
      metric: shown.measure,
      variant: "",
      more,
      token: plainToken(unit.position, source.name),
      value,
    };
  }
}

const NAMES: Record<string, string> = { last: "the last position", later: "every later position" };

/** "To say red, the last position needs question in layers 0 to 1 (−6.33), and image in layers 1 to 2 (−5.37)." */
function sentence({ run }: Scene, found: Routes): string {
  const { shown, columns, lines, says } = found;
  const name = (column: number) => unspaced(NAMES[columns[column].text] ?? label(columns[column]));
  const said = ({ from, value, of }: Line<Cut>) => `${name(from)} in ${layersOf(of.window)} (${signed(value)})`;
  const needed = lines.filter(({ value }) => value < 0 || !shown.signed);
  const isPassedOn = ({ to, top }: Line<Cut>) => needed.some(({ from, bottom }) => from === to && bottom >= top);
  const ends = needed.filter((line) => !isPassedOn(line)).sort(bySize);
  const told = ends.filter(({ of }, i) => ends.findIndex((other) => other.of.unit === of.unit) === i).slice(0, 3);
  const begin = `To say ${says.text.replace("→ ", "")}, `;
  if (!told.length) return `${begin}no route is needed that much.`;
  const clauses = told.map((line, i) => {
    const who = line.to === told[i - 1]?.to ? "and " : `${name(line.to)} needs `;
    return who + chain(needed, line).map(said).join(", which needs ");
  });
  return `${begin}${clauses.join("; ")}. In brackets: ${effectWords(shown, run, "there")}.`;
}
