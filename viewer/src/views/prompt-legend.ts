/** What the shades of the prompt stand for. */

import { isFirst } from "../core/aggregate.ts";
import { h } from "../core/dom.ts";
import type { PromptText, Scores } from "../core/prompt-text.ts";
import { isNoise, type Scene } from "../core/scene.ts";
import { CURVES } from "../core/colour.ts";
import { ends, gradient } from "./figure.ts";
import { measured } from "./shade.ts";

export function legend(scene: Scene, found: Scores, { tokens }: PromptText): Node[] {
  const { run, state } = scene;
  const scale = (largest: number, of: string) => {
    const bar = h("i");
    bar.style.background = gradient(state, found.signed);
    const [low, high] = ends(largest, found.signed);
    return h("span.prompt__scale", {}, low, bar, `${high} ${of}`);
  };
  const kinds = new Set(run.tokens.map(({ kind }) => (kind === "image" ? "image" : "text")));
  const below = found.value.some((value) => isNoise(value, found.floor));
  const hatched = [
    !state.first && run.tokens.some(isFirst) && "position 0, outside of the scale",
    below && "below the noise floor",
  ];
  const parts: (Node | string | false)[] = [
    `Shade: ${found.what ?? measured(scene)}${CURVES[state.curve] && `, ${CURVES[state.curve]}`}`,
    kinds.has("text") && scale(found.text, kinds.size > 1 ? "text" : ""),
    kinds.has("image") && scale(found.image, kinds.size > 1 ? "image patches" : ""),
    hatched.some(Boolean) && `not shaded: ${hatched.filter(Boolean).join("; ")}`,
    tokens.some(({ place, step }) => step === null && isNaN(found.value[place] ?? NaN)) &&
      (found.signed && !found.what
        ? "underlined: not the same token in both runs"
        : `underlined: not masked in this run${state.query === null ? "" : ", or after the position that reads"}`),
  ];
  return parts
    .filter((part): part is Node | string => part !== false)
    .map((part) => (typeof part === "string" ? h("span", {}, part) : part));
}
