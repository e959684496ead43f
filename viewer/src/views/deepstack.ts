/** DeepStack: what the answer needs of the image features that are added between decoder layers, as a table and as small maps. */

import { changesOf, injectionText, levels, wholes, type AddedSet } from "../core/deepstack.ts";
import { h } from "../core/dom.ts";
import type { Line } from "../core/export.ts";
import { isNoise, type Scene, type View } from "../core/scene.ts";
import type { Store } from "../core/store.ts";
import { exact, signed, unspaced, visible } from "../core/tokens.ts";
import { Drawn } from "../core/track.ts";
import { percent } from "../core/words.ts";
import { shown } from "./patches.ts";
import { loadPicture } from "./picture-base.ts";
import { ofInjections, Strip } from "./picture-strip.ts";
import { Player } from "./slider.ts";

const title = "DeepStack";
const COLUMNS = [
  "injections",
  "of vision layers",
  "added after decoder layers",
  "taken away",
  "change of log-probability",
  "p of the answer",
  "then",
];

export class DeepstackView extends Drawn<Scene> implements View {
  readonly element: HTMLElement;
  #said = h("p.matrix__what");
  #rows = h("tbody");
  #strip: Strip;
  #player: Player;
  readonly #own = this.watched({ width: 0, pictures: 0 });
  readonly #pictureReady = () => void this.#own.pictures++;

  constructor(store: Store) {
    super();
    this.#strip = new Strip(store);
    this.#player = new Player("deepstack-injection", "Injection", "injections", () => {
      const { run, state } = store.scene!;
      const choose = (place: number) => store.set({ injection: place ? place - 1 : null });
      return { places: levels(run).length + 1, at: placeOf(state), first: 1, choose };
    });
    const head = h("tr", {}, ...COLUMNS.map((name) => h("th", { scope: "col" }, name)));
    const room = h("div.matrix__plot", {}, this.#strip.element);
    this.element = h(
      "section.matrix deepstack",
      { "aria-label": title, hidden: true },
      h("h2", {}, title),
      this.#said,
      h(
        "div.matrix__numbers",
        { tabindex: 0, role: "region", "aria-label": "Sets of injections" },
        h("table", {}, h("thead", {}, head), this.#rows),
      ),
      room,
      h("div.sliders", {}, ...this.#player.elements),
    );
    new ResizeObserver(([{ contentRect }]) => {
      this.#own.width = contentRect.width;
    }).observe(room);
    this.draws((scene) => this.#tell(scene));
    this.draws((scene) => this.#map(scene));
  }

  #tell(scene: Scene): void {
    const { run, state } = scene,
      sets = wholes(run, state.step);
    this.element.hidden = !sets.length;
    if (!sets.length) return this.#player.stop();
    const floor = run.manifest?.effects?.noise?.logit ?? 0;
    const strongest = sets
      .filter(({ action }) => action === "removed")
      .reduce((most, each) => (Math.abs(each.change) > Math.abs(most.change) ? each : most));
    const noise = isNoise(strongest.change, floor) ? " (below the noise)" : "";
    this.#said.textContent =
      "Features of the vision tower's layers, added to the image tokens between decoder layers; what the answer does without them. " +
      `Most without ${strongest.injection}: log-probability ${signed(strongest.change)}${noise}.`;
    this.#rows.replaceChildren(...sets.map(rowOf));
  }

  #map(scene: Scene): void {
    const { run, state } = scene,
      found = levels(run);
    void this.#own.pictures;
    const figure = shown(scene).figures.find(({ run: of, patches }) => of === run && patches.length);
    if (figure) void loadPicture(figure, this.#pictureReady);
    const maps = figure && this.#own.width ? ofInjections(scene, figure) : null;
    this.#strip.update(maps, scene, this.#own.width);
    this.#player.hidden = !maps;
    const at = placeOf(state);
    if (maps) this.#player.show(found.length + 1, at, at ? injectionText(found[at - 1]) : "none over the picture");
  }

  /** One line for each injection and patch. */
  lines({ run, state }: Scene): Line[] | null {
    const found = levels(run);
    if (!found.length) return null;
    return found.flatMap((level) => {
      const { injection, vision, decoder, action } = level;
      const more = { injection, vision_layer: vision, decoder_layer: decoder, action };
      return [...changesOf(run, state.step, level)].flatMap((value, place) =>
        isNaN(value)
          ? []
          : [{ run: run.name, metric: "logprob_change", variant: "", more, token: run.tokens[place], value }],
      );
    });
  }
}

const placeOf = ({ injection }: Pick<Scene["state"], "injection">) => (injection === null ? 0 : injection + 1);

function rowOf({ injection, vision, decoder, action, change, before, after, top }: AddedSet): HTMLElement {
  const texts = [
    vision,
    decoder,
    action === "removed" ? "these" : "all others",
    signed(change),
    `${percent(before)} → ${percent(after)}`,
    unspaced(visible(top)),
  ];
  return h(
    "tr",
    { "data-injection": injection, "data-action": action },
    h("th", { scope: "row" }, injection),
    ...texts.map((text) => h("td", text === signed(change) ? { title: exact(change) } : {}, text)),
  );
}
