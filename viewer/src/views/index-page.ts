/** A folder of runs as a table: search it, sort it, open one, compare two; and means over prompts of units with a name. */

import "./index-page.css";

import { h } from "../core/dom.ts";
import type { Store } from "../core/store.ts";
import { number, signed, unspaced, visible } from "../core/tokens.ts";
import { percent } from "../core/words.ts";
import { unitMeans, type Mean } from "../data/index-rows.ts";
import type { IndexRow, RunIndex } from "../data/types.ts";

const SHOWN = 200; // rows at first
const WIDE = 90,
  HIGH = 22; // pixels of a line over the layers

interface Column {
  title: string;
  /** Sorted by; texts upwards, numbers downwards. */
  key: (row: IndexRow) => string | number;
}

const COLUMNS: Column[] = [
  { title: "name", key: ({ name = "" }) => name },
  { title: "prompt", key: ({ prompt = "" }) => prompt },
  { title: "answer", key: ({ answer = "" }) => answer },
  { title: "reads most", key: ({ top }) => top?.text ?? "" },
  { title: "what the answer needs", key: ({ effect }) => (effect?.before ?? 0) - (effect?.after ?? 0) },
  { title: "layers", key: ({ by_layer: layers = [] }) => layers.indexOf(Math.max(...layers)) },
];

export class IndexView {
  readonly element: HTMLElement;
  readonly always = h("span.buttons");
  #load: (files: File[]) => void;
  #index: RunIndex | null = null;
  #files = new Map<string, File>(); // of the folder, once it was chosen
  #wanted: string[] = []; // reports to be opened when it is
  #ticked: string[] = [];
  #order: { column: number; down: boolean } | null = null;
  #most = SHOWN;

  #title = h("h1");
  #said = h("p.muted", { role: "status" });
  #find = h("input", {
    type: "search",
    "aria-label": "Search runs",
    placeholder: "Search names, prompts, answers, tokens",
    oninput: () => this.#fill(),
  });
  #compare = h("button", { disabled: true, onclick: () => this.#open(this.#ticked) }, "Compare two");
  #means = h("div.index-means");
  #head = h("tr");
  #body = h("tbody");
  #more = h("button.quiet", {
    onclick: () => {
      this.#most += 5 * SHOWN;
      this.#fill();
    },
  });
  #folder = h("input.visually-hidden", {
    type: "file",
    multiple: true,
    webkitdirectory: "",
    tabindex: -1,
    "aria-label": "Folder of the runs",
  });

  constructor(_store: Store, load: (files: File[]) => void) {
    this.#load = load;
    this.element = h(
      "section.index",
      { "aria-label": "Index of runs" },
      h("div.header-top", {}, this.#title, this.#said, this.always),
      h("div.index-tools", {}, this.#find, this.#compare, this.#folder),
      this.#means,
      h(
        "div.index-scroll",
        { tabindex: 0, role: "region", "aria-label": "Runs" },
        h("table.index-runs", {}, h("thead", {}, this.#head), this.#body),
      ),
      this.#more,
    );
    this.#folder.onchange = () => {
      for (const file of this.#folder.files ?? []) this.#files.set(file.name, file);
      this.#folder.value = "";
      this.#open(this.#wanted);
    };
  }

  update(index: RunIndex | null): void {
    if (index === this.#index) return;
    this.#index = index;
    [this.#ticked, this.#order, this.#most] = [[], null, SHOWN];
    if (!index) return;
    this.#title.textContent = index.name;
    this.#head.replaceChildren(
      h("th", {}, h("span.visually-hidden", {}, "compare")),
      ...COLUMNS.map(({ title }, column) =>
        h("th", { scope: "col" }, h("button.quiet", { onclick: () => this.#sort(column) }, title)),
      ),
    );
    this.#showMeans(index);
    this.#fill();
  }

  #sort(column: number): void {
    const down = this.#order?.column === column ? !this.#order.down : typeof COLUMNS[column].key({}) === "number";
    this.#order = { column, down };
    this.#fill();
  }

  #found(): IndexRow[] {
    const words = this.#find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = ({ name, prompt, answer, top, effect, model }: IndexRow) =>
      [name, prompt, answer, top?.text, effect?.text, effect?.then, model].join(" ").toLowerCase();
    const rows = this.#index!.rows.filter((row) => words.every((word) => text(row).includes(word)));
    if (!this.#order) return rows;
    const { column, down } = this.#order,
      { key } = COLUMNS[column];
    const compare = (a: string | number, b: string | number) => (a < b ? -1 : a > b ? 1 : 0);
    return rows.sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b)));
  }

  #fill(): void {
    const rows = this.#found(),
      all = this.#index!.rows.length;
    this.#said.textContent =
      rows.length === all ? `${all} run${all === 1 ? "" : "s"}` : `${rows.length} of ${all} runs`;
    this.#head.querySelectorAll("th").forEach((th, place) => {
      const sorted = this.#order?.column === place - 1;
      if (sorted) th.setAttribute("aria-sort", this.#order!.down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
    this.#body.replaceChildren(...rows.slice(0, this.#most).map((row) => this.#row(row)));
    this.#more.hidden = rows.length <= this.#most;
    this.#more.textContent = `${rows.length - this.#most} more`;
    this.#tick();
  }

  #row(row: IndexRow): HTMLElement {
    const { name = "", report, prompt = "", answer = "", probability, top, by_layer: layers = [] } = row;
    const tick = h("input", { type: "checkbox", "aria-label": `Compare ${name}`, disabled: !report });
    tick.checked = this.#ticked.includes(report ?? "");
    tick.onchange = () => {
      this.#ticked = this.#ticked.filter((each) => each !== report);
      if (tick.checked) this.#ticked.push(report!);
      this.#tick();
    };
    const opened = !report
      ? name
      : this.#index!.inPlace
        ? h("a", { href: encodeURIComponent(report) }, name)
        : h("button.index-open", { onclick: () => this.#open([report]) }, name);
    return h(
      "tr",
      {},
      h("td", {}, tick),
      h("th", { scope: "row" }, opened),
      h(
        "td.index-text",
        { title: prompt },
        prompt.length > 160 ? `${prompt.slice(0, 100)} … ${prompt.slice(-50)}` : prompt,
      ),
      h(
        "td.mono",
        { title: probability === undefined ? null : `p ${percent(probability)}` },
        unspaced(visible(answer.slice(0, 40))),
      ),
      h("td", {}, top && h("span.mono", {}, plain(top.text ?? "")), top && h("span.muted", {}, ` layer ${top.layer}`)),
      h("td", {}, ...effectText(row)),
      h("td", {}, layers.length > 1 && spark(layers)),
    );
  }

  #tick(): void {
    this.#compare.disabled = this.#ticked.length !== 2;
  }

  /** Reports of the folder, inside of this page: a page may not read files that nobody has given it. */
  #open(reports: string[]): void {
    const files = reports.map((report) => this.#files.get(report));
    if (files.every((file) => file !== undefined)) return this.#load(files);
    if (this.#wanted === reports && this.#files.size) {
      this.#said.textContent = `There is no ${reports.find((report) => !this.#files.has(report))} in that folder.`;
      this.#wanted = [];
      return;
    }
    this.#wanted = reports;
    this.#said.textContent = "Choose the folder of these runs: a page may read only what it is given.";
    this.#folder.click();
  }

  #showMeans(index: RunIndex): void {
    const found = unitMeans(index);
    this.#means.hidden = !found.length;
    const cell = ({ count, mean, half }: Mean, show = number) =>
      h(
        "td",
        {},
        count ? `${show(mean)}${isNaN(half) ? "" : ` ± ${number(half)}`}` : "–",
        h("span.muted", {}, count ? ` n ${count}` : ""),
      );
    this.#means.replaceChildren(
      h(
        "table",
        {},
        h("caption", {}, "Means over prompts by unit, with 95 % intervals"),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ...["unit", "change of log-probability", index.rows.find(({ metric }) => metric)?.metric ?? "read"].map(
              (each) => h("th", { scope: "col" }, each),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          ...found.map(({ name, read, effect }) =>
            h("tr", {}, h("th", { scope: "row", class: "mono" }, name), cell(effect, signed), cell(read)),
          ),
        ),
      ),
    );
  }
}

function effectText({ effect }: IndexRow): (Node | string)[] {
  if (!effect) return [h("span.muted", {}, "not measured")];
  if (effect.text === undefined) return [h("span.muted", {}, `no unit changes p by ${effect.least ?? 0.001}`)];
  const then = unspaced(visible(effect.then ?? ""));
  return [
    h("span.mono", {}, plain(effect.text)),
    ` ${percent(effect.before ?? NaN)} → ${percent(effect.after ?? NaN)}`,
    h("span.muted", {}, " then "),
    h("span.mono", {}, then),
  ];
}

/** "' cup'@14" -> "cup (14)" */
const plain = (text: string) => text.replace(/^(['"]) ?(.*)\1@(-?\d+)$/s, "$2 ($3)").replace(/@(-?\d+)$/, " ($1)");

const SVG = "http://www.w3.org/2000/svg";

/** The largest value of every layer, as a line. */
function spark(layers: number[]): SVGSVGElement {
  const most = Math.max(...layers) || 1,
    peak = layers.indexOf(Math.max(...layers));
  const at = (value: number, layer: number) =>
    `${((layer / (layers.length - 1)) * (WIDE - 4) + 2).toFixed(1)},${(HIGH - 2 - (value / most) * (HIGH - 4)).toFixed(1)}`;
  const made = (name: string, attributes: Record<string, string>) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const svg = made("svg", {
    width: String(WIDE),
    height: String(HIGH),
    role: "img",
    "aria-label": `largest in layer ${peak} of ${layers.length}`,
  });
  svg.append(made("polyline", { points: layers.map(at).join(" "), class: "index-line" }));
  return svg as SVGSVGElement;
}
