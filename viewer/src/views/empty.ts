/** The page before anything is loaded: what to drop, and an example. */

import "./empty.css";

import { h } from "../core/dom.ts";

export function emptyPage(pick: () => void, example: () => void): HTMLElement {
  return h(
    "section.empty",
    {},
    h("h1", {}, "Which tokens did the model use, and in which layers?"),
    h(
      "p.empty-drop",
      {},
      "Drop the files of a run anywhere on this page, or ",
      h("button.main", { onclick: pick }, "Open files…"),
    ),
    h(
      "dl",
      {},
      h("dt.mono", {}, "NAME_results.csv, .json, .json.gz, .parquet or .html"),
      h("dd", {}, "the numbers of a run; one of them is enough"),
      h("dt.mono", {}, "NAME_run.json"),
      h("dd", {}, "its manifest: model, prompt, predicted tokens, where image tokens lie"),
      h("dt", {}, "the pictures of the run"),
      h("dd", {}, "to see the numbers on them"),
      h("dt.mono", {}, "NAME_neighbors.csv, .json, .parquet or .html, with NAME_neighbors_run.json"),
      h("dd", {}, "what image tokens say"),
    ),
    h(
      "p.muted",
      {},
      "Several runs can be loaded and compared. Everything stays on this computer: the page has no network access.",
    ),
    h(
      "p",
      {},
      h("button", { onclick: example }, "Show an example"),
      h("span.muted", {}, " a real run of the small demo model that comes with mask-impact"),
    ),
  );
}
