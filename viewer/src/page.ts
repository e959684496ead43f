/**
 * The page: what is on it, in which order, and what keeps it up to date. Every view gets every scene (core/scene.ts);
 * which files are loaded and what is chosen is the Store's.
 */

import "./style.css";

import { besideScene } from "./core/beside.ts";
import { commandFor } from "./core/command.ts";
import { h } from "./core/dom.ts";
import type { LensScene } from "./core/lens.ts";
import { onPaper, type Scene, type View } from "./core/scene.ts";
import { Store } from "./core/store.ts";
import { decodeEmbedded, ELEMENT_ID } from "./data/embed.ts";
import type { Run } from "./data/types.ts";
import example from "./example.json?raw";
import { AnsweredView } from "./views/answered.ts";
import { ControlsView } from "./views/controls.ts";
import { DeepstackView } from "./views/deepstack.ts";
import { EachView } from "./views/each.ts";
import { EffectsView } from "./views/effects.ts";
import { emptyPage } from "./views/empty.ts";
import { ExportMenu, ofRuns, type NamedView } from "./views/exports.ts";
import { HeaderView, toQuery, toStep } from "./views/header.ts";
import { HeadsView } from "./views/heads.ts";
import { HeatmapView } from "./views/heatmap.ts";
import { helpDialog, listenToKeys } from "./views/help.ts";
import { IndexView } from "./views/index-page.ts";
import { LensView } from "./views/lens.ts";
import { LinesView } from "./views/lines.ts";
import { Loading } from "./views/loading.ts";
import { PictureView } from "./views/picture.ts";
import { ReadsView } from "./views/reads.ts";
import { RankingView } from "./views/ranking.ts";
import { RoutesView } from "./views/routes.ts";
import { RunsView } from "./views/runs.ts";
import { SelectionView } from "./views/selection.ts";
import { paperFigure } from "./views/paper.ts";
import { MeaningView } from "./views/story.ts";
import { TabsView, tabsOf } from "./views/tabs.ts";
import { pointerTip } from "./views/tip.ts";
import { TraceView } from "./views/trace.ts";

const IN_FIGURE = ["Prompt", "Effects", "Routes", "Picture", "Trace", "Heat map"];
const FRAME_MS = 40; // for drawing views, before the others wait for the next frame
const ADDRESS_MS = 250; // browsers refuse to change the address more often than about 6 times a second

export function startPage(): void {
  new Page().start();
}

type Column = [name: string, views: NamedView[]];

/** The views of runs, as they stand on the page: what matters most on top. */
function columnsOf(store: Store, prompt: EachView, heatmap: HeatmapView): Column[] {
  return [
    ["top", [["Prompt", prompt]]],
    [
      "main",
      [
        ["Effects", new EachView(store, (run) => new EffectsView(run))],
        ["Routes", new EachView(store, (run) => new RoutesView(run))],
        ["Picture", new PictureView(store)],
        ["DeepStack", new DeepstackView(store)],
        ["Trace", new EachView(store, (run) => new TraceView(run))],
        ["Heat map", heatmap],
        ["Reads", new ReadsView(store)],
      ],
    ],
    [
      "side",
      [
        ["Ranking", new EachView(store, (run) => new RankingView(run))],
        ["Selection", new EachView(store, (run) => new SelectionView(run))],
      ],
    ],
    [
      "more",
      [
        ["Layers", new LinesView(store)],
        ["Heads", new EachView(store, (run) => new HeadsView(run))],
      ],
    ],
  ];
}

class Page {
  #store = new Store(location.hash, () => this.#update());
  #loading = new Loading(this.#store);
  #help = helpDialog();
  #lens = new LensView(this.#store);
  #tabs = new TabsView(this.#store);
  #index = new IndexView(this.#store, (files) => void this.#loading.load(files));
  // The prompt before the heat map: once the page is laid out, it asks where its tokens are before the other changes the page.
  #prompt = new EachView(this.#store, (run) => new AnsweredView(run));
  #heatmap = new HeatmapView(this.#store);
  #header = new HeaderView(h("div.buttons header-always"));
  #first: View[]; // drawn at once, the others as soon as there is time
  #others: View[];
  #exports: ExportMenu;

  #theme: HTMLButtonElement;
  #files: HTMLElement;
  #back: HTMLElement; // to the index
  #always: HTMLElement; // the buttons of every page
  #shell: HTMLElement; // of runs
  #empty: HTMLElement;
  #holder: Element; // of the buttons

  /** For the keyboard: past the prompt and all controls. */
  #skip = h("button.skip", { hidden: true, onclick: () => this.#heatmap.focus() }, "Skip to the heat map");

  #late: View[] = [];
  #isWaiting = false; // for the next frame
  #drawn: Run | null = null;
  #isFresh = false; // a run is drawn for the first time
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    const store = this.#store,
      prompt = this.#prompt,
      heatmap = this.#heatmap;
    const columns = columnsOf(store, prompt, heatmap);
    const named = columns.flatMap(([, views]) => views);
    const runs = new RunsView(store),
      controls = new ControlsView(store),
      meaning = new MeaningView();
    this.#first = [this.#header, runs, prompt, meaning, controls, heatmap];
    this.#others = [
      ...named.map(([, view]) => view).filter((view) => view !== heatmap && view !== prompt),
      heatmap.minimap,
    ];
    const ordered = named.toSorted(([a], [b]) => Number(b === "Heat map") - Number(a === "Heat map"));
    const commands = () => {
      const shown = store.scene?.beside ?? [];
      return shown.flatMap((run, place): [string, string][] => {
        const command = commandFor(run, besideScene(store.scene!, place).state);
        return command ? [[shown.length > 1 ? run.name : "", command]] : [];
      });
    };
    const figure = {
      name: "Figure",
      of: () => store.scene!.runs.map((run) => run.name).join(" "),
      drawing: () => {
        const { scene } = store,
          views = named.filter(([name]) => IN_FIGURE.includes(name)).map(([, view]) => view);
        return (
          scene &&
          paperFigure(
            scene,
            views.flatMap((view) => view.drawing?.({ ...onPaper(scene), isPanel: true }) ?? []),
          )
        );
      },
      table: () => null,
    };
    this.#exports = new ExportMenu(
      [...this.#lens.exports(), figure, ...ordered.map((view) => ofRuns(store, view))],
      commands,
    );

    const button = (text: string, act: () => void, label = text) => {
      const said = label === text ? null : label;
      return h("button.quiet", { "aria-label": said, title: said, onclick: act }, text);
    };
    this.#theme = button("◐", () => store.set({ theme: store.dark ? "light" : "dark" }), "Dark theme");
    this.#always = h(
      "div.buttons",
      {},
      this.#theme,
      button("?", () => this.#help.showModal(), "Keys"),
    );
    this.#back = button("← All runs", () => store.clear());
    this.#files = h(
      "span.buttons",
      {},
      this.#back,
      button("Open files…", () => this.#loading.pick()),
      this.#exports.button,
    );
    const column = ([name, views]: Column) =>
      h("div", { class: `column-${name}` }, ...views.map(([, view]) => view.element));
    const above = [this.#header, runs, prompt, meaning, controls].map(({ element }) => element);
    this.#shell = h("div.shell", { hidden: true }, ...above, h("div.columns", {}, ...columns.slice(1).map(column)));
    this.#empty = emptyPage(
      () => this.#loading.pick(),
      () => void this.#show(example, true),
    );
    this.#holder = this.#empty;
  }

  start(): void {
    const shown = [this.#loading.element, this.#tabs.element, this.#empty, this.#index.element, this.#shell];
    const parts = [this.#skip, ...shown, this.#exports.menu, this.#help, pointerTip()];
    document.getElementById("page")!.append(...parts);
    this.#empty.prepend(this.#always);
    this.#listen();
    const inside = document.getElementById(ELEMENT_ID)?.textContent?.trim();
    if (inside) void this.#show(inside).then(() => this.#update());
    else this.#update();
  }

  #update(): void {
    const store = this.#store,
      { scene, lens: said } = store,
      start = performance.now();
    document.documentElement.dataset.theme = store.dark ? "dark" : "light";
    this.#theme.setAttribute("aria-pressed", String(store.dark));
    this.#loading.update();
    this.#frame(scene, said);
    this.#lens.update(said);
    if (!scene) return;
    const begins = scene.run !== this.#drawn;
    this.#isFresh ||= begins;
    this.#drawn = scene.run;
    this.#shell.classList.toggle("shell--several", scene.beside.length > 1);
    for (const view of this.#first) view.update(scene);
    this.#late = [...this.#late, ...this.#others.filter((view) => !this.#late.includes(view))];
    if (store.printing) this.#drawLate(start);
    else if (begins && !this.#isWaiting)
      this.#drawLater(); // the heat map of a new run is not kept waiting
    else if (!this.#isWaiting) this.#drawLate(start);
  }

  /** What is there at all: the empty page, runs, neighbours above them; with the buttons and the title. */
  #frame(scene: Scene | null, said: LensScene | null): void {
    const { index } = this.#store;
    this.#empty.hidden = !!(scene || said || index);
    this.#index.update(index);
    this.#back.hidden = !index || !scene;
    this.#index.element.hidden = !index || !!scene;
    const { tab } = this.#store.state,
      isLens = said && !(scene && tab === "runs"),
      isRuns = scene && !(said && tab === "lens");
    this.#tabs.update(tabsOf(scene, said, tab));
    this.#shell.hidden = this.#skip.hidden = !isRuns;
    const above = isRuns ? this.#header.element.querySelector(".header-always")! : this.#empty;
    const now = isLens ? this.#lens.always : index && !scene ? this.#index.always : above;
    if (now !== this.#holder)
      (this.#holder = now).prepend(...(now === this.#empty ? [this.#always] : [this.#files, this.#always]));
    const name = said?.found.name ?? scene?.run.name ?? index?.name;
    document.title = name ? `${name} · Mask impact` : "Mask impact";
    this.#keepAddress();
    if (isLens && !this.#lens.element.isConnected) this.#shell.before(this.#lens.element); // before there are neighbours, nothing of them is in the page
    if (!isLens) this.#lens.element.remove();
  }

  /**
   * One after the other, and the rest in the next frame if they take long: the page answers while much is drawn anew.
   * The frames of a new run are the longest ones: between two of them, one is left to input and timers.
   */
  #drawLate(start = performance.now()): void {
    const { scene, printing } = this.#store;
    const hasTime = () => printing || performance.now() - start < FRAME_MS;
    while (scene && this.#late.length && hasTime()) this.#late.shift()!.update(scene);
    this.#isWaiting = !!scene && this.#late.length > 0;
    if (this.#isWaiting) this.#drawLater();
    else this.#isFresh = false;
  }

  #drawLater(): void {
    this.#isWaiting = true;
    requestAnimationFrame(() => (this.#isFresh ? requestAnimationFrame(() => this.#drawLate()) : this.#drawLate()));
  }

  /** A run, or neighbours, inside of the page. */
  async #show(text: string, bundled = false): Promise<void> {
    try {
      const item = await decodeEmbedded(text);
      if (bundled && item.kind === "run") {
        item.run.notes.push("This is the example inside of the page: the demo model of mask-impact on a short prompt.");
      }
      this.#store.add(item);
    } catch (error) {
      this.#loading.say(`The results inside of this page cannot be shown: ${(error as Error).message}.`, true);
    }
  }

  #keepAddress(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const { fragment } = this.#store;
      if (location.hash.slice(1) === fragment) return;
      try {
        history.replaceState(null, "", fragment ? `#${fragment}` : location.href.replace(/#.*/, ""));
      } catch {
        // A page without an address of its own, as in a notebook: the state stays in the page.
      }
    }, ADDRESS_MS);
  }

  #listen(): void {
    const store = this.#store;
    // Not location.hash: #keepAddress may have written the former state there meanwhile.
    addEventListener("hashchange", ({ newURL }) => store.read(new URL(newURL).hash));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => store.set({}));
    for (const when of ["beforeprint", "afterprint"]) {
      addEventListener(when, () => {
        store.printing = when === "beforeprint";
        this.#update();
      });
    }
    listenToKeys(store, {
      open: () => this.#loading.pick(),
      help: () => this.#help.showModal(),
      exports: () => (store.scene ?? store.lens) && this.#exports.toggle(),
      step: (by) => toStep(store, by),
      query: (by) => toQuery(store, by),
      move: (scene, across, down) => this.#heatmap.move(scene, across, down),
    });
  }
}
