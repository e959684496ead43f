/** Files come in here: picked, or dropped anywhere on the page. Progress, cancel, and what went wrong. */

import "./loading.css";

import { h } from "../core/dom.ts";
import type { Store } from "../core/store.ts";
import { Loader } from "../data/client.ts";
import { LoadError } from "../data/errors.ts";
import { waiting, type Library } from "../data/pair.ts";

const PATIENCE_MS = 150; // no progress bar for what is there at once

export class Loading {
  readonly element: HTMLElement;
  #store: Store;
  #loader = new Loader();
  #input: HTMLInputElement;
  #progress = h("div.loading-progress");
  #messages = h("ul.loading-messages", { "aria-label": "Messages" });
  #waiting = h("ul.loading-messages", { "aria-label": "What is not shown yet" });
  #drop = h("div.loading-drop", { "aria-hidden": "true" }, "Drop to load");

  constructor(store: Store) {
    this.#store = store;
    this.#input = h("input.visually-hidden", {
      type: "file",
      multiple: true,
      tabindex: -1,
      "aria-label": "Result files",
      onchange: () => this.#picked(),
    });
    this.element = h(
      "div.loading",
      {},
      this.#input,
      this.#progress,
      h("div", { role: "status" }, this.#messages),
      this.#waiting,
      this.#drop,
    );
    this.#listen();
    void this.#loader.prepare();
  }

  /** The dialog of the browser. */
  pick(): void {
    this.#input.click();
  }

  #library: Library | null = null;
  /** What is loaded and shown nowhere: manifests without numbers, pictures without a place. */
  update(): void {
    const { library } = this.#store;
    if (library === this.#library) return;
    this.#library = library;
    this.#waiting.replaceChildren(...waiting(library).map((text) => h("li", {}, text)));
  }

  say(text: string, bad = false): void {
    const item = h("li", { class: bad ? "loading-bad" : null }, h("span", {}, text));
    const away = h("button.quiet", { "aria-label": "Dismiss", title: "Dismiss", onclick: () => item.remove() }, "×");
    item.append(away);
    const same = [...this.#messages.children].find((each) => each.firstChild?.textContent === text);
    same?.remove();
    this.#messages.append(item);
  }

  async load(files: Iterable<File>): Promise<void> {
    for (const each of this.#messages.querySelectorAll("li:not(.loading-bad)")) each.remove();
    const before = new Set(this.#store.runs.map(({ id }) => id));
    await Promise.all([...files].map((file) => this.#load(file)));
    const fresh = this.#store.runs.flatMap(({ id }, place) => (before.has(id) ? [] : [place]));
    // several at once are there to be compared, unless the address has said which
    const [first, ...others] = fresh.map((place) => this.#store.runs[place].manifest?.tower === "vision");
    const oneKind = others.every((tower) => tower === first); // else there are tabs
    if (fresh.length > 1 && oneKind && this.#store.state.runs.length < 2) this.#store.set({ runs: fresh });
  }

  async #load(file: File): Promise<void> {
    const control = new AbortController();
    const bar = h("progress", { max: 1, "aria-label": `Loading ${file.name}` });
    const line = h(
      "p",
      {},
      h("span", {}, file.name),
      bar,
      h("button.quiet", { onclick: () => control.abort() }, "Cancel"),
    );
    const timer = setTimeout(() => this.#progress.append(line), PATIENCE_MS);
    try {
      const onProgress = (done: number, total: number) => (bar.value = total ? done / total : 0);
      const message = this.#store.add(await this.#loader.load(file, { signal: control.signal, onProgress }));
      if (message) this.say(message);
    } catch (error) {
      if (control.signal.aborted) this.say(`${file.name}: loading was cancelled.`);
      else
        this.say(
          error instanceof LoadError ? ended(error.message) : ended((error as Error).message || String(error)),
          true,
        );
    } finally {
      clearTimeout(timer);
      line.remove();
    }
  }

  #picked(): void {
    const files = [...(this.#input.files ?? [])];
    this.#input.value = "";
    void this.load(files);
  }

  #listen(): void {
    const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files");
    const over = (on: boolean) => this.#drop.classList.toggle("loading-over", on);
    addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      over(true);
    });
    addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) over(false);
    });
    addEventListener("drop", (event) => {
      over(false);
      if (!hasFiles(event)) return;
      event.preventDefault();
      void this.load(event.dataTransfer!.files);
    });
  }
}

const ended = (text: string) => (/[.!?)]$/.test(text) ? text : `${text}.`);
