/** The tables of the view of neighbours: those of one patch by layer, and the evolution over the layers. */

import { colourAt, css, isLight } from "../core/colour.ts";
import { h } from "../core/dom.ts";
import {
  bankCss,
  groupName,
  impactOf,
  matching,
  nearest,
  sentence,
  tokenText,
  wins,
  type LensScene,
} from "../core/lens.ts";
import { number, visible } from "../core/tokens.ts";
import { capital } from "../core/words.ts";
import type { Neighbors } from "../data/types.ts";
import { short } from "./lens-paint.ts";
import { place } from "./lens-words.ts";

/** Makes the button that shows a layer. */
type LayerButton = (layer: number) => HTMLElement;

export function neighbourTable(scene: LensScene, token: number, why: string, layerButton: LayerButton): HTMLElement {
  const { found, group, state } = scene,
    { layers, impact, tokens, bankLayer } = found;
  const own = impact && layers.map((layer) => impactOf(found, layer, token)),
    most = Math.max(...(own ?? []).filter((value) => value > 0), 0);
  const fixed = state.near !== "merged"; // one bank layer or none: no column for it
  const head = h(
    "tr",
    {},
    ...[
      ["layer"],
      own && ["masking impact"],
      ["rank"],
      [fixed && state.near === "static" ? "token" : "token in its caption", "lens-text"],
      !fixed && ["bank layer"],
      ["similarity"],
    ]
      .filter((each) => !!each)
      .map(([text, name]) => h("th", { scope: "col", class: name ?? null }, text)),
  );
  const body = layers.toReversed().flatMap((layer) => {
    const rows = nearest(found, group, layer, token),
      listed = state.ranks || layer === state.layer ? rows : rows.subarray(0, 1);
    return [...listed].map((row, i) => {
      const current = layer === state.layer ? "true" : null;
      return h(
        "tr",
        { "aria-current": current, class: i < listed.length - 1 ? "lens-more" : null },
        i ? h("td") : h("th", { scope: "row" }, layerButton(layer)),
        own && (i ? h("td") : impactCell(own[layers.indexOf(layer)], most)),
        h("td", {}, String(found.rank[row])),
        h("td.lens-text", {}, ...captioned(found, row, state.find)),
        !fixed && h("td", {}, swatch(scene, bankLayer[row]), String(bankLayer[row])),
        h("td", {}, found.similarity[row].toFixed(3)),
      );
    });
  });
  const { masking } = found.manifest ?? {};
  const about = [
    `${capital(place(tokens[token], found))}${why && `, the patch with ${why} (select another)`}. Its nearest ${state.near === "static" ? "rows of the" : "text tokens in"} ${groupName(state.near)}, last layer on top.`,
    own &&
      `Masking impact: how far the layer's update moves without this patch${masking?.run ? `, L2 of ${masking.variant ?? "Full"} in ${masking.run}` : ""}.`,
  ];
  return h(
    "table.lens-table",
    {},
    h("caption", {}, about.filter(Boolean).join(" ")),
    h("thead", {}, head),
    h("tbody", {}, ...body),
  );
}

export function evolutionTable(scene: LensScene, layerButton: LayerButton): HTMLElement | null {
  const { found, state } = scene;
  if (!wins(found, found.layers[0])) return null;
  const hits = matching(scene);
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "layer"),
    ...found.bankLayers.map((layer) => h("th", { scope: "col" }, String(layer), swatch(scene, layer, "i"))),
    state.find.trim() && h("th", { scope: "col" }, `“${state.find.trim()}”`),
  );
  const body = found.layers.toReversed().map((layer) =>
    h(
      "tr",
      { "aria-current": layer === state.layer ? "true" : null },
      h("th", { scope: "row" }, layerButton(layer)),
      ...wins(found, layer)!.map((count) => {
        const cell = h("td", {}, count ? String(count) : ""),
          colour = colourAt(state.palette, count / found.tokens.length);
        cell.style.background = count ? css(colour) : "var(--empty)";
        cell.style.color = isLight(colour) ? "black" : "white";
        return cell;
      }),
      hits && h("td", {}, String(hits[found.layers.indexOf(layer)].size)),
    ),
  );
  return h("table.lens-wins", { "aria-labelledby": "lens-wins" }, h("thead", {}, head), h("tbody", {}, ...body));
}

/** The sentence with the token marked; what comes after it the model had not read. */
function captioned(found: Neighbors, row: number, find: string): (Node | string)[] {
  const parts = sentence(found, row),
    text = tokenText(found, row),
    hit = find.trim() !== "" && text.toLowerCase().includes(find.trim().toLowerCase());
  const names = [parts?.others && "lens-unsure", hit && "lens-hit"].filter(Boolean).join(" ") || null;
  const at = found.captionPosition[row];
  const title = parts?.others
    ? `token ${at} of the caption; “${short(parts.token)}” stands in it ${parts.others + 1} times, marked is the likeliest place`
    : at >= 0
      ? `token ${at} of the caption`
      : null;
  const mark = h("mark", { class: names, title }, parts ? parts.token : visible(text));
  if (parts) return [parts.before, mark, h("span.lens-later", {}, parts.after)];
  const caption = found.texts[found.caption[row]];
  return [mark, ...(caption ? [h("span.muted", {}, `  in “${caption}”`)] : [])];
}

export function swatch(scene: LensScene, layer: number, element: "i" | "i.lens-bank" = "i.lens-bank"): HTMLElement {
  const mark = h(element);
  mark.style.background = bankCss(scene, layer);
  return mark;
}

function impactCell(value: number, most: number): HTMLElement {
  const bar = h("i.lens-bar");
  bar.style.width = `${isNaN(value) || !most ? 0 : Math.max(1, (36 * value) / most)}px`;
  return h("td", { title: isNaN(value) ? "no block reads this state" : null }, bar, number(value));
}
