/** The keys of the page: what they do, and the dialog that lists them and says what the numbers are. */

import "./help.css";

import { h } from "../core/dom.ts";
import { metricsOf } from "../core/metrics.ts";
import type { Scene } from "../core/scene.ts";
import type { Store } from "../core/store.ts";
import { isDifference } from "../core/words.ts";

/** What keys can do that is not a change of the state. */
export interface Actions {
  open(): void;
  help(): void;
  exports(): void;
  step(by: number): void;
  query(by: number): void;
  move(scene: Scene, across: number, down: number): void;
}

interface Key {
  keys: string[];
  text: string;
  /** Also without a run, when there is no scene. */
  always?: boolean;
  run(scene: Scene, store: Store, actions: Actions, key: string, inGrid: boolean): unknown;
}

const KEYS: Key[] = [
  {
    keys: ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"],
    text: "layer ← →, output token ↑ ↓; in the heat map: move the selection",
    run: (scene, store, actions, key, inGrid) => {
      const across = key === "ArrowLeft" ? -1 : key === "ArrowRight" ? 1 : 0,
        down = key === "ArrowUp" ? -1 : key === "ArrowDown" ? 1 : 0;
      if (inGrid) actions.move(scene, across, down);
      else if (down) actions.step(down);
      else store.set({ layer: layerAt(scene, across) });
    },
  },
  {
    keys: ["Home", "End", "PageUp", "PageDown"],
    text: "in the heat map: to the ends of a row, ten rows up and down",
    run: (scene, _, actions, key) =>
      actions.move(
        scene,
        key === "Home" ? -Infinity : key === "End" ? Infinity : 0,
        key === "PageUp" ? -10 : key === "PageDown" ? 10 : 0,
      ),
  },
  {
    keys: ["Escape"],
    text: "clear the selection",
    always: true,
    run: (_, store) => store.set({ token: null, layer: null, patch: null, region: [] }),
  },
  {
    keys: ["[", "]"],
    text: "previous and next generation step",
    run: (_, __, actions, key) => actions.step(key === "[" ? -1 : 1),
  },
  {
    keys: ["q", "Q"],
    text: "next and previous position that reads, where others than the predicting one were measured",
    run: (_, __, actions, key) => actions.query(key === "q" ? 1 : -1),
  },
  {
    keys: ["m"],
    text: "metric: L2 or cosine, or another that the run has",
    run: ({ runs, state }, store) => {
      const names = metricsOf(runs).map(({ name }) => name);
      store.set({ metric: names[(names.indexOf(state.metric) + 1) % names.length] });
    },
  },
  {
    keys: ["v", "V"],
    text: "next and previous of Full, Attn, heads",
    run: ({ run, state }, store, _, key) => {
      const { variants } = run,
        by = key === "v" ? 1 : variants.length - 1;
      store.set({ variant: variants[(variants.indexOf(state.variant) + by) % variants.length] });
    },
  },
  {
    keys: ["s"],
    text: "scale: each row or all",
    run: ({ state }, store) => store.set({ range: state.range === "all" ? "row" : "all" }),
  },
  {
    keys: ["l"],
    text: "curve: linear, square root or percentile",
    run: ({ state }, store) => store.set({ curve: CURVES[(CURVES.indexOf(state.curve) + 1) % CURVES.length] }),
  },
  {
    keys: ["0"],
    text: "position 0 in or out of the scale",
    run: ({ state }, store) => store.set({ first: !state.first }),
  },
  {
    keys: ["r"],
    text: "rows: layers or tokens",
    run: ({ state }, store) => store.set({ rows: state.rows === "layers" ? "tokens" : "layers" }),
  },
  { keys: ["f"], text: "fold or unfold pictures", run: ({ state }, store) => store.set({ fold: !state.fold }) },
  {
    keys: ["p"],
    text: "palette",
    always: true,
    run: (scene, store) =>
      (scene && isDifference(scene.state, scene.runs)) ||
      store.set({ palette: PALETTES[(PALETTES.indexOf(store.state.palette) + 1) % PALETTES.length] }),
  },
  {
    keys: ["c"],
    text: "two runs: side by side or difference",
    run: ({ state, runs }, store) =>
      runs.length > 1 && store.set({ compare: state.compare === "side" ? "difference" : "side" }),
  },
  {
    keys: ["n"],
    text: "next loaded run",
    run: ({ library, run }, store) => store.set({ runs: [(library.indexOf(run) + 1) % library.length] }),
  },
  { keys: ["o"], text: "open files", always: true, run: (_, __, actions) => actions.open() },
  { keys: ["e"], text: "export", always: true, run: (_, __, actions) => actions.exports() },
  {
    keys: ["t"],
    text: "light or dark",
    always: true,
    run: (_, store) => store.set({ theme: store.dark ? "light" : "dark" }),
  },
  { keys: ["?"], text: "this list", always: true, run: (_, __, actions) => actions.help() },
];

const CURVES: Store["state"]["curve"][] = ["linear", "sqrt", "rank"];
const PALETTES: Store["state"]["palette"][] = ["tint", "cividis", "viridis"];
const MOVES = /^(Arrow|Page|Home$|End$)/;
const NAMES: Record<string, string> = {
  PageUp: "Page ↑",
  PageDown: "Page ↓",
  ArrowLeft: "←",
  ArrowRight: "→",
  ArrowUp: "↑",
  ArrowDown: "↓",
  Escape: "Esc",
};

/** The layer before or after the present one; before the first one all of them together, which is none. */
function layerAt({ run, state }: Scene, by: number): number | null {
  const place = state.layer === null ? -1 : run.layers.indexOf(state.layer);
  return run.layers[Math.min(run.layers.length - 1, place + by)] ?? null;
}

/** Keys work everywhere but where they already mean something: in fields, lists and dialogs, and with Ctrl or Alt. */
export function listenToKeys(store: Store, actions: Actions): void {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open], :popover-open")) return; // what is open has the keys
    const target = event.target as HTMLElement;
    if (target.closest("select, textarea, input:not([type=checkbox], [type=file])") && event.key.length > 1) return;
    if (target.closest("textarea, input:not([type=checkbox], [type=radio], [type=range], [type=file])")) return;
    const key = KEYS.find(({ keys }) => keys.includes(event.key));
    const { scene } = store;
    if (!key || (!scene && !key.always)) return;
    const arrow = event.key.startsWith("Arrow"),
      inGrid = !!target.closest("[data-arrows=selection]");
    if (MOVES.test(event.key) && !inGrid && !(arrow && target.matches("body, button, summary"))) return;
    event.preventDefault();
    key.run(scene!, store, actions, event.key, inGrid);
  });
}

const MEANING = [
  ["Full", "what a layer adds to the residual stream; Attn is its attention's part, Head N one query head."],
  ["L2", "how long the change is, in the model's units; Cosine how far it turns, 0 to 2."],
  ["Neighbours", "are the text tokens in context whose hidden states are nearest to that of an image token (cosine)."],
  ["Read with care", "every layer is measured by itself: where it reads, not what the answer depends on in the end."],
  ["Position 0", "is often large in every prompt: heads rest there. Hatched under the noise floor: rounding."],
];

export function helpDialog(): HTMLDialogElement {
  const rows = KEYS.map(({ keys, text }) =>
    h("tr", {}, h("th", { scope: "row" }, ...keys.map((key) => h("kbd", {}, NAMES[key] ?? key))), h("td", {}, text)),
  );
  const dialog = h(
    "dialog.help",
    { "aria-labelledby": "help-title" },
    h("h2", { id: "help-title", tabindex: -1 }, "What the numbers mean, and keys"),
    ...MEANING.map(([name, text]) => h("p", {}, h("strong", {}, name), ` ${text}`)),
    h("table", {}, h("tbody", {}, ...rows)),
    h(
      "p.muted",
      {},
      "Arrow keys work as soon as the page is there. Shift and a click adds a token to those that are selected.",
    ),
    h("form", { method: "dialog" }, h("button.main", { type: "submit" }, "Close")),
  );
  dialog.ontoggle = () => dialog.open && dialog.querySelector("h2")!.focus(); // and so it opens at its top
  return dialog;
}
