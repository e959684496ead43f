/**
 * The page: what is on it, in which order, and what keeps it up to date. Every view gets every scene (core/scene.ts);
 * which files are loaded and what is chosen is the Store's.
 */

import "./style.css";

import { h } from "./core/dom.ts";
import type { View } from "./core/scene.ts";
import { Store } from "./core/store.ts";
import { decodeEmbedded, ELEMENT_ID } from "./data/embed.ts";
import type { Run } from "./data/types.ts";
import example from "./example.json?raw";
import { ControlsView } from "./views/controls.ts";
import { EffectsView } from "./views/effects.ts";
import { emptyPage } from "./views/empty.ts";
import { ExportMenu, ofRuns, type NamedView } from "./views/exports.ts";
import { HeaderView } from "./views/header.ts";
import { HeadsView } from "./views/heads.ts";
import { HeatmapView } from "./views/heatmap.ts";
import { helpDialog, listenToKeys } from "./views/help.ts";
import { LensView } from "./views/lens.ts";
import { LinesView } from "./views/lines.ts";
import { Loading } from "./views/loading.ts";
import { PictureView } from "./views/picture.ts";
import { ReadsView } from "./views/reads.ts";
import { PromptView } from "./views/prompt.ts";
import { RankingView } from "./views/ranking.ts";
import { RunsView } from "./views/runs.ts";
import { SelectionView } from "./views/selection.ts";

const FRAME_MS = 40; // for drawing views, before the others wait for the next frame
const ADDRESS_MS = 250; // browsers refuse to change the address more often than about 6 times a second

export function startPage(): void {
  const store = new Store(location.hash, update);
  const loading = new Loading(store);
  const help = helpDialog();

  const heatmap = new HeatmapView(store);
  const columns: [name: string, views: NamedView[]][] = [
    [
      "side",
      [
        ["Prompt", new PromptView(store)],
        ["Ranking", new RankingView(store)],
      ],
    ],
    [
      "middle",
      [
        ["Heat map", heatmap],
        ["Reads", new ReadsView(store)],
        ["Effects", new EffectsView(store)],
        ["Picture", new PictureView(store)],
      ],
    ],
    [
      "selected",
      [
        ["Selection", new SelectionView(store)],
        ["Layers", new LinesView(store)],
        ["Heads", new HeadsView(store)],
      ],
    ],
  ];
  const named = columns.flatMap(([, views]) => views);
  const lens = new LensView(store);
  const ordered = [named.find(([name]) => name === "Heat map")!, ...named.filter(([name]) => name !== "Heat map")];
  const exports = new ExportMenu([...lens.exports(), ...ordered.map((view) => ofRuns(store, view))]);

  const button = (text: string, act: () => void, label = text) =>
    h(
      "button.quiet",
      { "aria-label": label === text ? null : label, title: label === text ? null : label, onclick: act },
      text,
    );
  const theme = button("◐", () => store.set({ theme: store.dark ? "light" : "dark" }), "Dark theme");
  const buttons = (...more: HTMLElement[]) =>
    h(
      "div.buttons",
      {},
      ...more,
      theme,
      button("?", () => help.showModal(), "Keys"),
    );
  const opening = () => loading.pick();

  const files = h("span.buttons", {}, button("Open files…", opening), exports.button);
  const header = new HeaderView(store, h("div.buttons header-always"));
  const runs = new RunsView(store),
    controls = new ControlsView(store);
  const first: View[] = [header, runs, controls, heatmap]; // drawn at once, the others as soon as there is time
  const others: View[] = [...named.map(([, view]) => view).filter((view) => view !== heatmap), heatmap.minimap];
  let late: View[] = [];
  let waiting = false; // for the next frame
  let drawn: Run | null = null;
  let fresh = false; // a run is drawn for the first time
  const shell = h(
    "div.shell",
    { hidden: true },
    header.element,
    runs.element,
    controls.element,
    h(
      "div.columns",
      {},
      ...columns.map(([name, list]) => h("div", { class: `column-${name}` }, ...list.map(([, view]) => view.element))),
    ),
  );
  const empty = emptyPage(opening, () => void show(example, true));
  const always = buttons();
  document.getElementById("page")!.append(loading.element, empty, shell, exports.menu, help);
  empty.prepend(always);
  let holder: Element = empty; // of the buttons

  function update(): void {
    const { scene, lens: said } = store,
      start = performance.now();
    document.documentElement.dataset.theme = store.dark ? "dark" : "light";
    theme.setAttribute("aria-pressed", String(store.dark));
    loading.update();
    empty.hidden = !!(scene || said);
    shell.hidden = !scene;
    const now = said ? lens.always : scene ? header.element.querySelector(".header-always")! : empty;
    if (now !== holder) (holder = now).prepend(...(now === empty ? [always] : [files, always]));
    const name = said?.found.name ?? scene?.run.name;
    document.title = name ? `${name} · Mask impact` : "Mask impact";
    keepAddress();
    if (said && !lens.element.isConnected) shell.before(lens.element); // before there are neighbours, nothing of them is in the page
    if (!said) lens.element.remove();
    lens.update(said);
    if (!scene) return;
    fresh ||= scene.run !== drawn;
    drawn = scene.run;
    for (const view of first) view.update(scene);
    late = [...late, ...others.filter((view) => !late.includes(view))];
    if (!waiting || store.printing) drawLate(start);
  }

  /**
   * One after the other, and the rest in the next frame if they take long: the page answers while much is drawn anew.
   * The frames of a new run are the longest ones: between two of them, one is left to input and timers.
   */
  function drawLate(start = performance.now()): void {
    const { scene } = store;
    while (scene && late.length && (store.printing || performance.now() - start < FRAME_MS))
      late.shift()!.update(scene);
    waiting = !!scene && late.length > 0;
    if (!waiting) fresh = false;
    else requestAnimationFrame(() => (fresh ? requestAnimationFrame(() => drawLate()) : drawLate()));
  }

  /** A run, or neighbours, inside of the page. */
  async function show(text: string, bundled = false): Promise<void> {
    try {
      const item = await decodeEmbedded(text);
      if (bundled && item.kind === "run")
        item.run.notes.push("This is the example inside of the page: the demo model of mask-impact on a short prompt.");
      store.add(item);
    } catch (error) {
      loading.say(`The results inside of this page cannot be shown: ${(error as Error).message}.`, true);
    }
  }

  let timer: ReturnType<typeof setTimeout> | undefined;
  function keepAddress(): void {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const fragment = store.fragment;
      if (location.hash.slice(1) === fragment) return;
      try {
        history.replaceState(null, "", fragment ? `#${fragment}` : location.href.replace(/#.*/, ""));
      } catch {
        // A page without an address of its own, as in a notebook: the state stays in the page.
      }
    }, ADDRESS_MS);
  }

  // Not location.hash: keepAddress may have written the former state there meanwhile.
  addEventListener("hashchange", ({ newURL }) => store.read(new URL(newURL).hash));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => store.set({}));
  for (const when of ["beforeprint", "afterprint"]) {
    addEventListener(when, () => {
      store.printing = when === "beforeprint";
      update();
    });
  }
  listenToKeys(store, {
    open: opening,
    help: () => help.showModal(),
    exports: () => (store.scene ?? store.lens) && exports.toggle(),
    step: (by) => header.step(by),
    query: (by) => header.query(by),
    move: (scene, across, down) => heatmap.move(scene, across, down),
  });

  const inside = document.getElementById(ELEMENT_ID)?.textContent?.trim();
  if (inside) void show(inside).then(update);
  else update();
}
