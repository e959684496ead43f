/**
 * What image tokens say: a picture with the nearest text token in each patch, and the neighbours of one patch by layer.
 *
 * It stands above the runs and needs none. With a run of the same picture in front, a patch that is selected here is
 * selected there, and the other way round.
 */

import { colourAt, css, isLight } from "../core/colour.ts";
import { h, onKeys, same } from "../core/dom.ts";
import { ink } from "../core/ink.ts";
import {
  bankCss,
  best,
  groupName,
  impactOf,
  matching,
  nearest,
  scaleOf,
  sentence,
  shownPatch,
  tokenText,
  wins,
  type LensScene,
} from "../core/lens.ts";
import { CanvasPainter } from "../core/painter.ts";
import { DEFAULTS, type State } from "../core/state.ts";
import type { Store } from "../core/store.ts";
import { number, visible } from "../core/tokens.ts";
import { exact, modelName } from "../core/words.ts";
import { plural } from "../data/errors.ts";
import type { Neighbors, TokenInfo } from "../data/types.ts";
import type { Export } from "./exports.ts";
import { gradient } from "./figure.ts";
import { evolutionDrawing, highest, lensDrawing, paintLens, short, WIDEST, type LensFigure } from "./lens-paint.ts";
import { neighbour, patchAt, patchesOf, type Patch } from "./patches.ts";
import { loadPicture } from "./picture-base.ts";
import { fitted, sizeOf } from "./picture-paint.ts";
import { LayerPlayer, setSlider, setText, slider } from "./slider.ts";
import "./lens.css";

const TINTS = { similarity: "similarity", bank: "bank layer", impact: "masking impact" };
const NARROWEST = 260; // CSS pixels of one of several pictures

interface Place {
  figure: LensFigure;
  canvas: HTMLCanvasElement;
  frame: HTMLElement;
  width: number;
  height: number;
}

export class LensView {
  readonly element: HTMLElement;
  /** Where the page puts its buttons while no run has them. */
  readonly always = h("span.buttons");
  #store: Store;
  #scene: LensScene | null = null;
  #places: Place[] = [];
  #built: Neighbors | null = null;
  #hover: number | null = null; // position
  #listed = "";
  #drawn: unknown[] = [];

  #title = h("h1");
  #facts = h("p.muted");
  #tables = h("select", {
    "aria-label": "Which table of neighbours",
    onchange: () => this.#store.set({ lens: Number(this.#tables.value), patch: null }),
  });
  #away = h(
    "button.quiet",
    { "aria-label": "Close these neighbours", title: "Close", onclick: () => this.#store.removeLens() },
    "×",
  );
  #notes = h("ul.header-limits");
  #near = h("select", { onchange: () => this.#store.set({ near: this.#near.value }) });
  #tint = h("select", { onchange: () => this.#store.set({ tint: this.#tint.value as State["tint"] }) });
  #ranks = h("input", { type: "checkbox", onchange: () => this.#store.set({ ranks: this.#ranks.checked }) });
  #find = h("input", {
    type: "search",
    placeholder: "red",
    oninput: () => this.#store.set({ find: this.#find.value }),
  });
  #hits = h("output.muted");
  #layer: LayerPlayer;
  #opacity = slider("lens-opacity", "Colour over picture");
  #before = DEFAULTS.opacity; // of the colour, before the picture was alone
  #alone = h("button", { onclick: () => this.#toggle() }, "Picture and words alone");
  #what = h("p.lens-what");
  #figures = h("div.lens-figures");
  #legend = h("div.lens-legend");
  #said = h("p.lens-said steady", { "aria-live": "polite" });
  #table = h("div.lens-scroll", { tabindex: 0, role: "region", "aria-label": "Neighbours of the patch by layer" });
  #won = h("p.lens-what", { id: "lens-wins" });
  #wins = h("div.lens-scroll", { tabindex: 0, role: "region", "aria-label": "Layer evolution" });

  constructor(store: Store) {
    this.#store = store;
    this.#layer = new LayerPlayer(
      store,
      "lens-layer",
      () => ({ run: store.lens!.found, state: store.lens!.state }),
      false,
    );
    this.#opacity.input.oninput = () => store.set({ opacity: this.#opacity.input.valueAsNumber / 100 });
    Object.assign(this.#opacity.input, { min: "0", max: "100", step: "5" });
    this.#opacity.output.className = "picture-share";
    const label = (text: string, control: HTMLElement) => h("label", {}, text, control);
    this.element = h(
      "section.lens",
      { "aria-label": "What image tokens say", hidden: true },
      h("div.lens-head", {}, this.#title, this.#facts, this.#tables, this.#away, this.always),
      this.#notes,
      h(
        "div.lens-controls",
        {},
        label("Neighbours in", this.#near),
        label("Colour by", this.#tint),
        h("label", {}, this.#ranks, "all ranks in every layer"),
        label("Find a token", this.#find),
        this.#hits,
      ),
      h("div.sliders", {}, ...this.#layer.elements, this.#opacity.label, this.#alone),
      this.#what,
      h(
        "div.lens-columns",
        {},
        h("div", {}, this.#figures, this.#legend, this.#said, this.#won, this.#wins),
        h("div", {}, this.#table),
      ),
    );
    new ResizeObserver(() => this.#paint()).observe(this.#figures);
  }

  update(scene: LensScene | null): void {
    this.#scene = scene;
    this.element.hidden = !scene;
    if (!scene) {
      this.#drawn = [];
      return this.#layer.stop();
    }
    const { found, state, all, group, patch, dark } = scene;
    const { layer, tint, ranks, find, opacity, palette } = state;
    const shown = [
      found,
      all,
      !!this.#store.scene,
      group,
      patch,
      dark,
      layer,
      tint,
      ranks,
      find,
      opacity,
      palette,
      this.#hover,
    ];
    if (same(shown, this.#drawn)) return;
    this.#drawn = shown;
    if (found !== this.#built) this.#build(found);
    setText(this.#title, `${subject(found)}: what image tokens say`);
    setText(this.#facts, facts(found));
    this.#tables.hidden = all.length < 2;
    this.#away.hidden = all.length < 2 && !this.#store.scene;
    this.#tables.replaceChildren(
      ...all.map((each, i) => h("option", { value: i, selected: each === found }, subject(each))),
    );
    options(
      this.#near,
      found.groups.map((group) => [group, groupName(group)]),
      state.near,
    );
    options(
      this.#tint,
      Object.entries(TINTS).filter(([key]) =>
        key === "impact" ? found.impact : key !== "bank" || state.near === "merged",
      ),
      state.tint,
    );
    this.#ranks.checked = state.ranks;
    if (this.#find.value !== state.find) this.#find.value = state.find;
    this.#layer.update({ run: found, state }, `layer ${state.layer}`);
    this.#alone.setAttribute("aria-pressed", String(state.opacity === 0));
    this.#alone.hidden = this.#opacity.label.hidden = !found.boxed || !found.pictures.some((picture) => picture);
    setSlider(this.#opacity, 100, Math.round(100 * state.opacity), `${Math.round(100 * state.opacity)} %`);
    setText(this.#what, whatText(scene));
    this.#explain(scene);
    this.#paint();
    this.#list(scene);
  }

  #toggle(): void {
    const { opacity } = this.#store.state;
    if (opacity > 0) this.#before = opacity;
    this.#store.set({ opacity: opacity > 0 ? 0 : this.#before });
  }

  // --- the picture ----------------------------------------------------------------------------------------
  #build(found: Neighbors): void {
    this.#built = found;
    this.#notes.replaceChildren(...found.notes.map((note) => h("li", {}, note)));
    this.#places = figuresOf(found).map((figure) => {
      const canvas = h("canvas", { role: "img" });
      const frame = h("div.picture-frame", { role: "application", tabindex: 0 }, canvas);
      const place = { figure, canvas, frame, width: 0, height: 0 };
      this.#listen(place);
      if (found.boxed) void loadPicture(figure, () => this.#paint());
      return place;
    });
    this.#figures.replaceChildren(
      ...this.#places.map(({ frame, figure }) => h("figure", {}, frame, h("figcaption", {}, captionOf(figure)))),
    );
  }

  #listen(place: Place): void {
    const { frame, canvas, figure } = place;
    const under = ({ clientX, clientY }: MouseEvent) => {
      const { left, top } = canvas.getBoundingClientRect(),
        [width, height] = sizeOf(figure);
      return patchAt(figure, ((clientX - left) / place.width) * width, ((clientY - top) / place.height) * height);
    };
    const point = (patch: Patch | null) => {
      const position = patch?.token.position ?? null;
      if (position === this.#hover) return;
      this.#hover = position;
      const { twin } = this.#store.lens!;
      if (twin) this.#store.hover({ token: patch ? twin[patch.place] : null, layer: null });
      if (this.#scene) this.update(this.#scene);
    };
    frame.onpointermove = (event) => point(under(event));
    frame.onpointerleave = frame.onblur = () => point(null);
    frame.onclick = (event) => this.#select(under(event));
    onKeys(frame, ({ key }) => {
      const {
        found,
        patch,
        state: { layer },
      } = this.#store.lens!;
      point(null); // or a pointer that rests here would hide what is selected
      if (key.startsWith("Arrow"))
        this.#select(neighbour(figure, patchesOf(figure, found.tokens[patch]?.position ?? null)[0] ?? null, key), true);
      else if (key === "PageUp" || key === "PageDown") {
        const next = found.layers[found.layers.indexOf(layer) + (key === "PageUp" ? 1 : -1)];
        if (next !== undefined) this.#store.set({ layer: next });
      } else if (key === "Escape") this.#select(null);
      else return false;
      return true;
    });
  }

  /** A second click takes the selection away, a key never does. */
  #select(patch: Patch | null, keep = false): void {
    const { twin, found, patch: before } = this.#store.lens!;
    const chosen = patch && (keep || patch.place !== before) ? patch.place : null;
    const token = chosen === null ? null : (twin?.[chosen] ?? -1);
    this.#store.set({
      patch: chosen === null ? null : found.tokens[chosen].position,
      ...(twin && token !== -1 ? { token } : {}),
    });
  }

  #paint(): void {
    const scene = this.#scene;
    if (!scene || this.element.hidden) return;
    const whole = this.#figures.clientWidth || WIDEST;
    const available = this.#places.length > 1 && whole > 2 * NARROWEST + 16 ? (whole - 16) / 2 : whole;
    const selected = scene.found.tokens[shownPatch(scene).token].position;
    for (const place of this.#places) {
      const { figure, canvas, frame } = place;
      [place.width, place.height] = fitted(sizeOf(figure), available, WIDEST, highest(figure));
      Object.assign(canvas.style, { width: `${place.width}px`, height: `${place.height}px` });
      paintLens(
        new CanvasPainter(canvas, place.width, place.height, devicePixelRatio),
        figure,
        scene,
        [0, 0, place.width, place.height],
        ink(scene.dark),
        selected,
        this.#hover,
      );
      frame.setAttribute(
        "aria-label",
        `Patches of image ${figure.image}: arrow keys select, page keys go through the layers`,
      );
      canvas.setAttribute(
        "aria-label",
        `Image ${figure.image} with ${plural(figure.patches.length, "image token")}. ${whatText(scene)}`,
      );
    }
    const pointed = scene.found.tokens.findIndex(({ position }) => position === this.#hover);
    setText(this.#said, patchText(scene, pointed >= 0 ? pointed : shownPatch(scene).token));
  }

  #explain(scene: LensScene): void {
    const { found, state } = scene,
      hits = matching(scene);
    const any = new Set(hits?.flatMap((layer) => [...layer.keys()]));
    setText(
      this.#hits,
      hits
        ? `in ${hits[found.layers.indexOf(state.layer)].size} of ${found.tokens.length} patches; in any layer, ${any.size}`
        : "",
    );
    if (state.tint === "bank") {
      return this.#legend.replaceChildren(
        legendText(scene),
        ...found.bankLayers.map((layer) => h("span", {}, swatch(scene, layer, "i"), String(layer))),
      );
    }
    const bar = h("i"),
      [low, high] = scaleOf(scene);
    bar.style.background = gradient(state, false);
    this.#legend.replaceChildren(number(low), bar, number(high), h("span", {}, legendText(scene)));
  }

  // --- the tables -----------------------------------------------------------------------------------------
  #list(scene: LensScene): void {
    const { found, state, group } = scene,
      shown = shownPatch(scene);
    const pointed = found.tokens.findIndex(({ position }) => position === this.#hover);
    const token = pointed >= 0 ? pointed : shown.token;
    const key = JSON.stringify([
      token,
      shown.why,
      group,
      state.layer,
      state.ranks,
      state.find,
      state.palette,
      found.name,
      found.rows.length,
      !!found.manifest,
      scene.dark,
    ]);
    if (key === this.#listed) return;
    this.#listed = key;
    const focused = (document.activeElement as HTMLElement | null)?.dataset.layer,
      inside = document.activeElement?.closest(".lens-scroll");
    const evolution = this.#evolution(scene);
    this.#table.replaceChildren(this.#neighbours(scene, token, pointed >= 0 ? "" : shown.why));
    this.#wins.replaceChildren(...(evolution ? [evolution] : []));
    setText(
      this.#won,
      `Layer evolution: of how many of the ${found.tokens.length} patches in a layer (last on top) the nearest text token is in which bank layer (across).`,
    );
    this.#won.hidden = this.#wins.hidden = !this.#wins.firstChild;
    if (focused && inside) inside.querySelector<HTMLElement>(`[data-layer="${focused}"]`)?.focus();
  }

  #layerButton(layer: number): HTMLElement {
    return h(
      "button",
      { "data-layer": layer, "aria-label": `Show layer ${layer}`, onclick: () => this.#store.set({ layer }) },
      String(layer),
    );
  }

  #neighbours(scene: LensScene, token: number, why: string): HTMLElement {
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
          i ? h("td") : h("th", { scope: "row" }, this.#layerButton(layer)),
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

  #evolution(scene: LensScene): HTMLElement | null {
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
        h("th", { scope: "row" }, this.#layerButton(layer)),
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

  // --- export ---------------------------------------------------------------------------------------------
  exports(): Export[] {
    const scene = () => this.#store.lens,
      of = () => scene()!.found.name;
    const lines = (now: LensScene) => [facts(now.found), whatText(now)];
    return [
      {
        name: "Neighbours",
        of,
        drawing: () => {
          const now = scene();
          return now && lensDrawing(now, figuresOf(now.found), this.#title.textContent!, lines(now), legendText(now));
        },
        table: () => {
          const now = scene();
          return now && listing(now, [now.state.layer], [...now.found.tokens.keys()]);
        },
      },
      {
        name: "Patch",
        of,
        drawing: () => null,
        table: () => {
          const now = scene();
          return now && listing(now, now.found.layers, [shownPatch(now).token]);
        },
      },
      {
        name: "Layer evolution",
        of,
        drawing: () => {
          const now = scene();
          return (
            now &&
            evolutionDrawing(now, "Layer evolution", [
              facts(now.found),
              "Of how many image tokens in a layer (upwards) the nearest text token is in which bank layer (across).",
            ])
          );
        },
        table: () => {
          const now = scene();
          return (
            now &&
            wins(now.found, now.found.layers[0]) && [
              ["run", "layer", "bank_layer", "image_tokens"],
              ...now.found.layers.flatMap((layer) =>
                wins(now.found, layer)!.map((count, i) =>
                  [now.found.name, layer, now.found.bankLayers[i], count].map(String),
                ),
              ),
            ]
          );
        },
      },
    ];
  }
}

const known = new WeakMap<Neighbors, LensFigure[]>();

function figuresOf(found: Neighbors): LensFigure[] {
  let figures = known.get(found);
  if (!figures) {
    const images = [...new Set(found.tokens.map(({ image }) => image ?? 0))].sort((a, b) => a - b);
    figures = images.map((image) => {
      const patches = found.tokens.flatMap((token, place) =>
        token.image === image ? [{ token, place, box: token.box! }] : [],
      );
      const [width, height] = found.manifest?.images?.[image]?.size ?? [],
        far = (side: number) => Math.max(...patches.map(({ box }) => box[side]));
      return {
        run: found,
        image,
        about: found.manifest?.images?.[image] ?? {},
        size: found.boxed && width > 0 ? [width, height] : [far(2), far(3)],
        patches,
        tokens: patches.length,
      };
    });
    known.set(found, figures);
  }
  return figures;
}

function options(select: HTMLSelectElement, list: string[][], value: string): void {
  if (select.dataset.list !== list.join())
    select.replaceChildren(...list.map(([key, text]) => h("option", { value: key }, text)));
  select.dataset.list = list.join();
  select.value = value;
  select.parentElement!.hidden = list.length < 2;
}

// --- words ------------------------------------------------------------------------------------------------
const subject = ({ name }: Neighbors) => name.replace(/_neighbors$/, "");

const capital = (text: string) => text[0].toUpperCase() + text.slice(1);

function facts(found: Neighbors): string {
  const { manifest, tokens, layers } = found,
    { captions, rows } = manifest?.bank ?? {};
  return [
    modelName(found),
    `${plural(tokens.length, "image token")} in ${plural(layers.length, "layer")}`,
    captions?.file &&
      `bank of ${captions.count === undefined ? "" : `${plural(captions.count, "caption")}, `}${captions.file}${rows === undefined ? "" : ` (${plural(rows, "context")})`}`,
    manifest?.search === "approximate" && "approximate search",
    manifest?.prompt && `prompt “${manifest.prompt}”`,
    !manifest && `no manifest (${found.name}_run.json), so no picture, model or bank`,
  ]
    .filter(Boolean)
    .join(" · ");
}

const captionOf = ({ about, run, image }: LensFigure) =>
  [
    about.path?.replace(/^.*[/\\]/, ""),
    about.grid?.length === 2 && `${about.grid[0]} × ${about.grid[1]} patches`,
    about.path &&
      (!run.boxed
        ? "where the image tokens lie in it is not known"
        : !run.pictures[image] && "drop the picture on the page to see it"),
  ]
    .filter(Boolean)
    .join(" · ");

function whatText({ state, found }: LensScene): string {
  const last =
    state.layer === found.layers.at(-1) && state.tint === "impact"
      ? " No block reads the last state, so it has no masking impact."
      : "";
  const where =
    state.near === "static"
      ? "row of the static vocabulary nearest to"
      : `text token${state.near === "merged" ? "" : ` of ${groupName(state.near)}`} whose hidden state is nearest to`;
  const colour = {
    similarity: "cosine similarity of the two",
    bank: "bank layer of that text token",
    impact: "masking impact of the patch in this layer",
  }[state.tint];
  return `In each patch: the ${where} that of the image token in layer ${state.layer}. Colour: ${colour}.${last}`;
}

const legendText = ({ state, found }: LensScene) =>
  state.tint === "bank"
    ? "nearest in bank layer"
    : state.tint === "impact"
      ? `masking impact, L2 of ${found.manifest?.masking?.variant ?? "Full"}; one scale for all layers`
      : "cosine similarity; one scale for all layers";

const place = ({ image, row, col, position }: TokenInfo, found: Neighbors) =>
  `${row === null ? "image token" : `patch row ${row}, column ${col}`}${figuresOf(found).length > 1 ? ` of image ${image}` : ""} (position ${position})`;

function patchText(scene: LensScene, token: number): string {
  const {
      found,
      group,
      state: { layer },
    } = scene,
    row = best(found, group, layer, token);
  const impact = impactOf(found, layer, token);
  const said =
    row < 0
      ? "no neighbour"
      : [
          `“${visible(tokenText(found, row))}”`,
          `similarity ${found.similarity[row].toFixed(3)}`,
          found.bankLayer[row] >= 0 && `bank layer ${found.bankLayer[row]}`,
        ]
          .filter(Boolean)
          .join(", ");
  return `${capital(place(found.tokens[token], found))}, layer ${layer}: ${said}${isNaN(impact) ? "" : `, masking impact ${number(impact)}`}.`;
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

function swatch(scene: LensScene, layer: number, element: "i" | "i.lens-bank" = "i.lens-bank"): HTMLElement {
  const mark = h(element);
  mark.style.background = bankCss(scene, layer);
  return mark;
}

function impactCell(value: number, most: number): HTMLElement {
  const bar = h("i.lens-bar");
  bar.style.width = `${isNaN(value) || !most ? 0 : Math.max(1, (36 * value) / most)}px`;
  return h("td", { title: isNaN(value) ? "no block reads this state" : null }, bar, number(value));
}

/** The rows of the file for some layers and tokens, as it has them. */
function listing({ found, group, state }: LensScene, layers: number[], tokens: number[]): string[][] {
  const kind = /^\d/.test(state.near) ? "layer" : state.near;
  const lines = layers.flatMap((layer) =>
    tokens.flatMap((token) =>
      [...nearest(found, group, layer, token)].map((row) => {
        const { image, row: down, col, position } = found.tokens[token];
        const impact = found.impact ? [exact(impactOf(found, layer, token))] : [];
        return [
          found.name,
          kind,
          layer,
          image,
          down ?? "",
          col ?? "",
          position,
          found.rank[row],
          found.texts[found.token[row]],
          found.texts[found.caption[row]],
          found.captionPosition[row],
          found.bankLayer[row],
          exact(found.similarity[row]),
          ...impact,
        ].map(String);
      }),
    ),
  );
  return [
    [
      "run",
      "kind",
      "layer",
      "image",
      "row",
      "col",
      "token_position",
      "rank",
      "neighbor_token",
      "caption",
      "caption_position",
      "bank_layer",
      "similarity",
      ...(found.impact ? ["masking_impact"] : []),
    ],
    ...lines,
  ];
}
