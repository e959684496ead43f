/** What the picture view says. */

import { CURVES } from "../core/colour.ts";
import { titleOf } from "../core/metrics.ts";
import { isNoise, type Scene } from "../core/scene.ts";
import { exact, label, named, number } from "../core/tokens.ts";
import { capital, isDifference, layerText, predicted, variantName } from "../core/words.ts";
import { floorOf, patchesOf, type Figure, type Patch, type Scale, type Shown } from "./patches.ts";
import { base, type LoadedPicture } from "./picture-base.ts";

export function stepText({ run, state }: Scene): string {
  const token = predicted(run, state.step)?.text;
  const place = `${run.steps.indexOf(state.step) + 1} of ${run.steps.length}`;
  return token === undefined ? place : `${place}: ${label({ text: token, kind: "text" } as Patch["token"], 16)}`;
}

export function scaleText({ state, runs }: Scene, { signed, scales, effect }: Shown, scale: Scale): string {
  const root = CURVES[state.curve] && `, ${CURVES[state.curve]}`;
  if (effect !== null)
    return `${capital(effect)}${scales.length > 1 ? ` (${scale.runs[0].name})` : ""}; ${signed ? "below 0 the mask costs the answer; " : ""}a scale apart from the text’s${root}`;
  const what = `${titleOf(runs[0], state)} of ${variantName(state.variant)}, ${layerText(state)}`;
  const names = scale.runs.map(({ name }) => name).join(", ");
  const of = signed ? `, ${runs[1].name} minus ${runs[0].name}` : scales.length > 1 ? ` (${names})` : "";
  return `${what}${of}; a scale apart from the text’s${root}`;
}

export function figuresWithPatches({ figures }: Shown): boolean {
  return figures.some(({ patches }) => patches.length);
}

export function caption(figure: Figure, { runs }: Scene, { figures }: Shown): string {
  const run = runs.length > 1 ? `${figure.run.name}, ` : "";
  return `${figures.length > 1 ? `${run}image ${figure.image}: ` : ""}${about(figure)}`;
}

/** "testimg.png, 128 x 128 pixels, 4 x 4 grid" */
export function about({ about: { path, size, layout } }: Figure): string {
  const name = path?.replace(/^.*[/\\]/, "");
  return [name, size?.length === 2 && `${size[0]} × ${size[1]} pixels`, layout?.replace(/(\d) x (\d)/, "$1 × $2")]
    .filter((part) => part)
    .join(", ");
}

/** What a reader has to know or do about one picture; "" if all is well. */
export function trouble(figure: Figure): string {
  const { run, image, tokens, patches } = figure;
  const picture: LoadedPicture | undefined = base.get(figure);
  const lines: string[] = [];
  const name = figure.about.path?.replace(/^.*[/\\]/, "");
  if (!run.pictures[image])
    lines.push(
      `The picture is not in these files: drop ${name && !name.startsWith("<") ? name : "the picture file"} here to see it.`,
    );
  else if (picture?.failed) lines.push(`This browser cannot show ${run.pictures[image].fileName}.`);
  else if (picture?.otherShape)
    lines.push(
      `${run.pictures[image].fileName} is ${picture.size!.join(" × ")} pixels, another shape than the picture of the run: is it the right one?`,
    );
  if (tokens > patches.length && !patches.length)
    lines.push(`The ${tokens} tokens of this picture have no simple grid; their values are in the ranking.`);
  else if (tokens > patches.length)
    lines.push(`${tokens - patches.length} of its ${tokens} tokens lie in padding outside of it.`);
  return lines.join(" ");
}

export function unmasked({ figures }: Shown): string {
  return figures.some(({ tokens }) => tokens)
    ? ""
    : "Image tokens were not masked in this run, so there is nothing to show over the picture.";
}

export function described(figure: Figure, scene: Scene, found: Shown): string {
  const what = `Image ${figure.image}, ${about(figure)}`;
  const best = figure.patches.length ? strongest([figure], found) : null;
  return best
    ? `${what}. ${found.effect ?? layerText(scene.state)}. Strongest patch: ${valueText(best.patch, best.figure, scene, found)}`
    : what;
}

function strongest(figures: Figure[], { values }: Shown): { figure: Figure; patch: Patch } | null {
  let best: { figure: Figure; patch: Patch } | null = null,
    most = -1;
  for (const figure of figures) {
    for (const patch of figure.patches) {
      const size = Math.abs(values.get(figure.run)!.of[patch.place]);
      if (size > most) [best, most] = [{ figure, patch }, size];
    }
  }
  return best;
}

function valueText(patch: Patch, figure: Figure, { state, runs }: Scene, found: Shown): string {
  const value = found.values.get(figure.run)!.of[patch.place];
  const floor = floorOf(found, figure.run, state);
  const noise = isNoise(value, floor) ? `, below the noise floor (${number(floor)})` : "";
  const run = runs.length > 1 && !isDifference(state, runs) ? `${figure.run.name}: ` : "";
  const where = named(figure.run.tokens[patch.place])
    .replace(/^patch /, "")
    .replace(found.figures.length === 1 ? / of image \d+$/ : /$^/, "");
  const layer = found.values.get(figure.run)!.peak[patch.place] ?? -1;
  return `${run}${where}: ${(found.signed && value > 0 ? "+" : "") + exact(value).replace(/^-/, "−") || "not measured"}${layer < 0 ? "" : state.join === "max" ? ` in layer ${layer}` : `, most in layer ${layer}`}${noise}`;
}

/** Under the pointer, else selected, else the strongest. */
export function readout(scene: Scene, found: Shown): string {
  const { beside, runs } = scene;
  const of = (positions: (number | null)[]) =>
    found.figures
      .flatMap((figure) =>
        patchesOf(figure, positions[Math.max(0, beside.indexOf(figure.run))])
          .slice(0, 1)
          .map((patch) => valueText(patch, figure, scene, found)),
      )
      .join("; ");
  const pointed = of(scene.pointed);
  if (pointed) return `Patch ${pointed}`;
  const selected = of(scene.selected.map(([position]) => position));
  if (selected) return `Selected: ${selected}`;
  const best = strongest(found.figures, found);
  if (!best) return "";
  const difference =
    found.effect !== null
      ? "Largest effect"
      : found.signed
        ? `Largest difference (${runs[1].name} minus ${runs[0].name})`
        : "Strongest patch";
  return `${difference}: ${valueText(best.patch, best.figure, scene, found)}`;
}

/** Whose picture it is, and what is shown of it: a title in two lines. */
export function halves(title: string, { run, state }: Scene): [string, string] {
  const parts = title.split(" · ");
  const cut = parts.findIndex((part) => part.startsWith(titleOf(run, state)));
  return [parts.slice(0, cut).join(" · "), parts.slice(cut).join(" · ")];
}
