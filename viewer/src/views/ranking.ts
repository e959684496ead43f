/** The most important tokens, largest first, with the layer where each peaks: text and image patches by themselves. */

import { isFirst, overLayers } from "../core/aggregate.ts";
import { h } from "../core/dom.ts";
import { CHANGES, effectOn, kindOf, shownEffects, type Shown } from "../core/effects.ts";
import type { Line } from "../core/export.ts";
import { LIGHT } from "../core/ink.ts";
import { brief, metricOf } from "../core/metrics.ts";
import { percentileOf, sinkText } from "../core/null.ts";
import type { Drawing, Painter } from "../core/painter.ts";
import { otherToken, over, ranked, scores, type Scores } from "../core/prompt-text.ts";
import { isNoise, type Scene, type View } from "../core/scene.ts";
import { picked, selectedIn } from "../core/select.ts";
import type { Scenes } from "../core/store.ts";
import { templatePositions } from "../core/template.ts";
import { Drawn } from "../core/track.ts";
import { label, named } from "../core/tokens.ts";
import { capital, isDifference, moreOrLess, percent, subject } from "../core/words.ts";
import type { TokenInfo } from "../data/types.ts";
import { captions, cut, heading } from "./figure.ts";
import { measured, shadeOf, shownValue } from "./shade.ts";
import "./ranking.css";

const FEW = 10;
type Wanted = (token: TokenInfo, template: Set<number>) => boolean;
const KINDS: { title: string; wanted: Wanted; few: number }[] = [
  {
    title: "Text tokens",
    wanted: ({ kind, position }, template) => kind !== "image" && !template.has(position),
    few: FEW,
  },
  { title: "Image patches", wanted: ({ kind }) => kind === "image", few: FEW },
  {
    title: "Tokens of the template",
    wanted: ({ kind, position }, template) => kind !== "image" && template.has(position),
    few: 3,
  },
];
const ofKind = (scene: Scene, wanted: Wanted) => {
  const template = templatePositions(scene.run);
  return ranked(scene, (token) => wanted(token, template));
};

export class RankingView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #title = h("h2");
  #what = h("p.ranking__what");
  #note = h("p.ranking__note");
  #lists: RankedList[];

  constructor(store: Scenes) {
    super();
    this.#lists = KINDS.map((kind) => new RankedList(store, kind));
    this.element = h(
      "section.ranking",
      { "aria-label": "Most read tokens" },
      h("div.ranking__head", {}, this.#title, this.#what),
      h("div.ranking__lists", {}, ...this.#lists.map(({ element }) => element)),
      this.#note,
    );
    this.draws((scene) => this.#draw(scene));
  }

  override update(scene: Scene): void {
    for (const list of this.#lists) list.update(scene);
    super.update(scene);
  }

  #draw(scene: Scene): void {
    const apart = filled(scene).some(({ title }) => title === "Image patches")
      ? "; text and patches on scales of their own"
      : "";
    this.#title.textContent = titleText(scene);
    this.#what.textContent = `${isDifference(scene.state, scene.runs) ? measured(scene) : capital(measured(scene))}${apart}. Where single layers read, not what the answer needs.`;
    this.#note.textContent = firstNote(scene) ?? "";
    this.#note.hidden = !this.#note.textContent;
  }

  drawing(scene: Scene): Drawing {
    const title = titleText(scene);
    const lists = filled(scene).map((list) => ({ ...list, places: list.places.slice(0, 2 * FEW) }));
    const longest = Math.max(0, ...lists.map(({ places }) => places.length));
    return {
      title,
      width: lists.length > 1 ? 940 : 660,
      height: 150 + 20 * longest,
      draw: (painter) => drawRanking(painter, title, scene, lists),
    };
  }

  lines(scene: Scene): Line[] {
    const { value, peak } = scores(scene),
      { tokens } = scene.run;
    return ranked(scene, () => true, true).map((place, rank) => ({
      run: subject(scene),
      more: { ...over(scene), peak_layer: peak[place], kind: tokens[place].kind, rank: rank + 1 },
      token: tokens[place],
      value: value[place],
    }));
  }
}

const titleText = ({ runs, state }: Scene) =>
  isDifference(state, runs) ? "Read more or less" : `Most read, by ${overLayers(state.join)}`;

const peaks = ({ signed }: Scores) => (signed ? "most apart" : "peak");

function filled(scene: Scene): { title: string; places: number[] }[] {
  return KINDS.map(({ title, wanted }) => ({ title, places: ofKind(scene, wanted) })).filter(
    ({ places }) => places.length,
  );
}

/** Position 0 stands apart while it is not in the scale. */
function firstNote(scene: Scene): string | null {
  const { run, state } = scene;
  const place = run.tokens.findIndex(isFirst);
  const found = scores(scene);
  if (state.first || place < 0 || isNaN(found.value[place])) return null;
  const why = sinkText(run, 0)?.replace("sink", "A sink") ?? "The first position often just absorbs attention";
  return `Not ranked: ${named(run.tokens[place])}, ${shownValue(found, found.value[place])} (${peaks(found)} in layer ${found.peak[place]}). ${why}.`;
}

interface Row {
  element: HTMLLIElement;
  token: HTMLButtonElement;
  cells: HTMLElement[];
  layer: HTMLButtonElement;
  place: number;
}

/** One list. Its rows are kept and refilled, so that the keyboard's focus stays where it is. */
class RankedList extends Drawn<Scene> {
  readonly element: HTMLElement;
  #store: Scenes;
  #kind: (typeof KINDS)[number];
  #rows: Row[] = [];
  #heading = h("h3");
  #list = h("ol");
  #metric = h("span");
  #without = h("span", { title: "The answer’s probability when the token is masked" }, "p without");
  #large = h("span", {}, "pct.");
  #more: HTMLButtonElement;
  #run = "";
  readonly #own = this.watched({ count: 0 });

  constructor(store: Scenes, kind: (typeof KINDS)[number]) {
    super();
    this.#store = store;
    this.#kind = kind;
    this.#more = h("button.ranking__more", {
      onclick: () => {
        this.#own.count = this.#more.textContent === "fewer" ? kind.few : Math.min(this.#own.count * 3, 200);
      },
    });
    const names = h(
      "div.ranking__token",
      {},
      h("span"),
      h("span", {}, "token"),
      h("span", {}, "pos."),
      h("span"),
      this.#metric,
      this.#without,
      this.#large,
    );
    this.element = h(
      "div",
      { onpointerleave: () => store.hover() },
      this.#heading,
      h("div.ranking__names", { "aria-hidden": "true" }, names, h("span.ranking__layer", {}, "layer")),
      this.#list,
      this.#more,
    );
    this.draws((scene) => this.#draw(scene));
  }

  #draw(scene: Scene): void {
    const { run, state, hover } = scene;
    if (this.#run !== run.id) [this.#run, this.#own.count] = [run.id, this.#kind.few];
    const found = scores(scene);
    const places = ofKind(scene, this.#kind.wanted);
    this.element.hidden = !places.length;
    this.#heading.textContent = `${this.#kind.title} (${places.length})`;
    this.#metric.textContent = brief(metricOf(run, state));
    const effects = isDifference(state, scene.runs) ? null : shownEffects(scene);
    this.element.classList.toggle("ranking--effects", effects !== null && kindOf(effects) === "unit");
    const known = !!run.manifest?.null && !isDifference(state, scene.runs);
    this.element.classList.toggle("ranking--null", known);
    this.#large.title = `Percentile: how many in a hundred tokens of ${run.manifest?.null?.runs ?? 0} other runs have a smaller value`;
    const count = Math.min(this.#own.count, places.length);
    while (this.#rows.length < count) this.#rows.push(this.#row());
    this.#rows.splice(count).forEach(({ element }) => element.remove());
    // Next to another run the bars of both are on one scale.
    const [first] = places,
      own = first === undefined ? 0 : Math.abs(found.value[first]);
    const largest = scene.beside.length > 1 ? (run.tokens[first]?.kind === "image" ? found.image : found.text) : own;
    this.#rows.forEach((row, rank) => {
      const place = (row.place = places[rank]);
      const token = run.tokens[place];
      const shade = shadeOf(scene, found, place);
      const size = Math.abs(found.value[place]);
      const [rankCell, name, position, bar, value, without, large] = row.cells;
      without.textContent = effects ? probabilityWithout(effects, token) : "";
      large.textContent = known ? (percentileOf(run, token.position, found.value[place])?.toFixed(1) ?? "") : "";
      rankCell.textContent = String(rank + 1);
      const other = otherToken(scene, place),
        sink = sinkText(run, token.position);
      const text = label(token, 30) + (other ? ` → ${label(other, 30)}` : "");
      name.replaceChildren(text, ...(sink ? [h("span.ranking__sink", {}, "sink")] : []));
      name.title = [named(token), other && `${label(other)} in ${scene.runs[1].name}`, sink].filter(Boolean).join(", ");
      position.textContent = String(token.position);
      value.replaceChildren(
        shownValue(found, found.value[place]),
        ...(found.signed ? [h("span.visually-hidden", {}, `, ${moreOrLess(scene, found.value[place])}`)] : []),
      );
      const filledBar = bar.firstElementChild as HTMLElement;
      const long = ((found.signed ? 50 : 100) * size) / (largest || 1); // of a difference: from the middle to its side
      filledBar.style.width = `${long}%`;
      filledBar.style.marginLeft = `${!found.signed ? 0 : found.value[place] < 0 ? 50 - long : 50}%`;
      filledBar.style.backgroundColor = shade.fill ?? "";
      filledBar.className = `ranking__bar${shade.hatch ? " ranking__bar--hatched" : ""}`;
      row.layer.textContent = String(found.peak[place]);
      row.token.setAttribute("aria-pressed", String(selectedIn(state).includes(token.position)));
      row.token.title = [
        found.signed && moreOrLess(scene, found.value[place]),
        isNoise(size, found.floor) && "below the noise floor",
      ]
        .filter(Boolean)
        .join(", ");
      row.layer.setAttribute(
        "aria-pressed",
        String(state.token === token.position && state.layer === found.peak[place]),
      );
      row.layer.title = `Select it in layer ${found.peak[place]}, too: ${peaks(found)} there`;
      row.layer.setAttribute(
        "aria-label",
        `${named(token)}: select it in layer ${found.peak[place]}, ${found.signed ? "where the runs are most apart" : "where it peaks"}`,
      );
      row.element.toggleAttribute("data-hovered", hover.token === token.position);
    });
    this.#more.hidden = places.length <= this.#kind.few;
    this.#more.textContent = this.#rows.length < places.length && this.#own.count < 200 ? "more" : "fewer";
  }

  #row(): Row {
    const cells = [h("span"), h("span.mono"), h("span"), h("span", {}, h("div")), h("span"), h("span"), h("span")];
    const token = h("button.ranking__token", {}, ...cells);
    const layer = h("button.ranking__layer");
    const element = h("li", {}, token, layer);
    const row: Row = { element, token, cells, layer, place: -1 };
    const scene = () => this.#store.scene!;
    const position = () => scene().run.tokens[row.place].position;
    const peak = () => scores(scene()).peak[row.place];
    token.onclick = ({ shiftKey }) => this.#store.set(picked(scene().state, position(), shiftKey));
    layer.onclick = () => {
      const { state } = scene();
      const same = state.token === position() && state.layer === peak();
      this.#store.set(same ? { token: null, layer: null } : { token: position(), layer: peak() });
    };
    element.onpointerenter = () => this.#store.hover({ token: position() });
    layer.onpointerenter = () => this.#store.hover({ token: position(), layer: peak() });
    token.onpointerenter = () => this.#store.hover({ token: position() });
    this.#list.append(element);
    return row;
  }
}

/** Of the answer, where the token was masked by itself; "" where it was not. */
function probabilityWithout(shown: Shown, { position, text }: TokenInfo): string {
  const unit = shown.units.find((each) => each.position === position && each.label === text);
  const found = unit && effectOn(shown, unit.key, unit.strongest);
  return !found ? "" : Math.abs(found.before - found.after) < CHANGES ? "same" : percent(found.after);
}

function drawRanking(
  painter: Painter,
  title: string,
  scene: Scene,
  lists: { title: string; places: number[] }[],
): void {
  const { run } = scene;
  const ink = LIGHT;
  const found = scores(scene);
  const note = firstNote(scene);
  const top = heading(painter, ink, title, [...captions(scene), `By ${measured(scene)}`]) + 8;
  lists.forEach(({ title: name, places }, side) => {
    const width = (painter.width - 32 - 28 * (lists.length - 1)) / lists.length;
    const left = 16 + side * (width + 28);
    painter.text(left, top + 8, `${name}: top ${places.length}`, { size: 12, bold: true, colour: ink.muted });
    places.forEach((place, rank) => {
      const token = run.tokens[place];
      const y = top + 28 + 20 * rank;
      const room = width - 340;
      painter.text(left + 18, y, String(rank + 1), { size: 12, colour: ink.muted, align: "right" });
      painter.text(left + 26, y, cut(painter, label(token, 24), 130, { size: 12, mono: true }), {
        size: 12,
        mono: true,
        colour: ink.ink,
      });
      painter.text(left + 200, y, String(token.position), { size: 12, colour: ink.muted, align: "right" });
      const { fill, hatch } = shadeOf(scene, found, place);
      const long = Math.max(1, (room * Math.abs(found.value[place])) / (Math.abs(found.value[places[0]]) || 1));
      painter.rect(left + 210, y - 9, long, 11, fill ?? ink.empty);
      if (hatch) painter.hatch(left + 210, y - 9, long, 11, hatch);
      painter.text(left + width - 62, y, shownValue(found, found.value[place]), {
        size: 12,
        colour: ink.ink,
        align: "right",
      });
      painter.text(left + width, y, `layer ${found.peak[place]}`, { size: 12, colour: ink.muted, align: "right" });
    });
  });
  if (note)
    painter.text(16, painter.height - 14, cut(painter, note, painter.width - 32, { size: 12 }), {
      size: 12,
      colour: ink.muted,
    });
}
