/** Tabs, once files of several kinds are open: single layers and effects, the vision tower, what image tokens say. */

import "./tabs.css";

import { h } from "../core/dom.ts";
import type { LensScene } from "../core/lens.ts";
import type { Scene } from "../core/scene.ts";
import type { State } from "../core/state.ts";
import type { Store } from "../core/store.ts";
import type { Run } from "../data/types.ts";

interface Tab {
  title: string;
  chosen: boolean;
  state: Partial<State>;
}

const isTower = ({ manifest }: Run) => manifest?.tower === "vision";

/** None, if there is one kind alone. */
export function tabsOf(scene: Scene | null, lens: LensScene | null, tab: State["tab"]): Tab[] {
  const runs = scene?.library ?? [],
    both = scene !== null && lens !== null,
    above = both ? tab : scene ? "runs" : "lens";
  const ofRuns = [false, true].flatMap((tower): Tab[] => {
    const place = runs.findIndex((run) => isTower(run) === tower);
    if (place < 0) return [];
    const title = tower ? "Vision tower" : runs[place].effects ? "Impact and effects" : "Impact";
    const isFront = isTower(scene!.run) === tower;
    const front = isFront ? { runs: [runs.indexOf(scene!.run)] } : { runs: [place], token: null, layer: null };
    return [{ title, chosen: above === "runs" && isFront, state: { tab: "runs", ...front } }];
  });
  const all: Tab[] = both ? [{ title: "All", chosen: above === "all", state: { tab: "all" } }] : [];
  const said: Tab[] = lens
    ? [{ title: "What image tokens say", chosen: above === "lens", state: { tab: "lens" } }]
    : [];
  return ofRuns.length + said.length > 1 ? [...all, ...ofRuns, ...said] : [];
}

export class TabsView {
  readonly element = h("nav.tabs", { "aria-label": "What is shown of this prompt", hidden: true });
  #store: Store;
  #last = "";

  constructor(store: Store) {
    this.#store = store;
  }

  update(tabs: Tab[]): void {
    const now = JSON.stringify(tabs);
    if (now === this.#last) return;
    this.#last = now;
    this.element.hidden = !tabs.length;
    const focused = [...this.element.children].indexOf(document.activeElement!);
    this.element.replaceChildren(
      ...tabs.map(({ title, chosen, state }) =>
        h("button", { "aria-current": chosen ? "true" : null, onclick: () => this.#store.set(state) }, title),
      ),
    );
    (this.element.children[focused] as HTMLElement | undefined)?.focus();
  }
}
