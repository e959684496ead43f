/** What things are called on the page, the same everywhere. */

import { plainToken } from "../data/cube.ts";
import type { Run } from "../data/types.ts";
import { overLayers } from "./aggregate.ts";
import { inText, titleOf } from "./metrics.ts";
import type { State } from "./state.ts";
import { label, unspaced } from "./tokens.ts";

/** The runs that are shown, and how. */
interface Shown {
  runs: readonly Run[];
  state: State;
}

/** What the metrics that everybody knows measure, as a verb. */
const MOVES: Record<string, string> = { l2: "moves (length of the difference)", cosine: "turns (1 − cosine)" };

export const moves = (run: Run, state: State) => MOVES[state.metric] ?? `changes (${inText(titleOf(run, state))})`;

/** As at the beginning of a sentence. */
export const capital = (text: string) => text[0].toUpperCase() + text.slice(1);

/** One head, also of cross-attention: "Head_3", "CrossHead_3". */
export const isHead = (variant: string) => /^(Cross)?Head_\d+$/.test(variant);

/** "Cross" of a variant of cross-attention, else "". */
export const crossing = (variant: string) => /^Cross/.exec(variant)?.[0] ?? "";

/** "Head 3" of "Head_3". */
export const variantName = (variant: string) => variant.replace("_", " ");

/** A local folder without its path, which is nobody else's business. */
export const modelName = (run: Pick<Run, "manifest">) => {
  const name = run.manifest?.model?.name ?? run.manifest?.model?.path_or_id ?? "";
  return /^[/~.]|^\w:|\\/.test(name)
    ? (name
        .split(/[\\/]+/)
        .filter(Boolean)
        .pop() ?? name)
    : name;
};

/** The output token that a step predicts, if the manifest tells. */
export const predicted = (run: Run, step: number) => run.manifest?.generated?.find((token) => token.step === step);

/** The same for a sentence, cut where it is long; null: the manifest does not tell. */
export function predictedText(run: Run, step: number): string | null {
  const text = predicted(run, step)?.text;
  return text === undefined ? null : unspaced(label(plainToken(0, text), 20));
}

/** "2.3 %", "99.99 %": never rounded up to certainty. */
export function percent(part: number): string {
  const digits = part > 0.9995 || part < 0.001 ? 3 : 1;
  const shown = Math.min(part === 1 ? 100 : 99.999, 100 * part);
  return `${Number(shown.toFixed(digits))} %`;
}

/** Where a run is read, for a sentence. */
export const readAt = ({ query }: State) => (query === null ? "at the predicting position" : `at position ${query}`);

/** "layer 3", or how layers are joined: "mean over layers 2 to 5". */
export function layerText(state: State): string {
  if (state.layer !== null) return `layer ${state.layer}`;
  const all = state.from === null && state.to === null;
  return overLayers(state.join, all ? "all layers" : `layers ${state.from ?? "first"} to ${state.to ?? "last"}`);
}

/** Whose change the numbers are, for a sentence. */
export function whose(name: string, run?: Run): string {
  const variant = name.replace(/^Cross/, "");
  if (variant === "Full") return "a layer's update";
  if (variant === "Attn") return "what a layer's attention adds";
  const part = run?.manifest?.head_space === "residual" ? "share of the attention's addition by" : "output of";
  return `the ${part} ${variantName(variant).toLowerCase()} in a layer`;
}

/** The line that says what colour means. */
export function meaning({ runs, state }: Shown): string {
  const what = runs[0].manifest?.tower === "vision" ? inPatches({ runs, state }) : inDecoder({ runs, state });
  if (!isDifference(state, runs)) return `Colour: ${what}.`;
  return `Colour: ${runs[1].name} minus ${runs[0].name}, of ${what}. ${MATCHED[state.align]}`;
}

/** What is subtracted from what. */
const MATCHED: Record<State["align"], string> = {
  token: "By token: the same tokens are compared, in their order.",
  position: "By position: what stands at the same position is compared, whatever it is.",
};

function inPatches({ runs, state }: Shown): string {
  const readers = runs[0].manifest?.vision?.readers ? "all patches" : "the chosen patches";
  const moved = `${whose(state.variant, runs[0])} ${moves(runs[0], state)}`;
  return `how far, in the vision tower, ${moved} over ${readers} of the picture when the others do not read this token's patches`;
}

function inDecoder({ runs, state }: Shown): string {
  return `how far ${whose(state.variant, runs[0])} ${moves(runs[0], state)} ${readAt(state)} when this token is hidden from ${crossing(state.variant) ? "its cross-attention" : "it"}`;
}

/** Of two runs alone: one of three is subtracted from none. */
export const isDifference = (state: Pick<State, "compare">, runs: readonly Run[]) =>
  state.compare === "difference" && runs.length === 2;

/** Whose numbers a view has that shows one run or one difference: "b − a", or the run in front. */
export const subject = ({ runs, run, state }: Shown & { run: Run }) =>
  isDifference(state, runs) ? `${runs[1].name} − ${runs[0].name}` : run.name;

/** The sign of a difference, in words. */
export const moreOrLess = ({ runs }: Pick<Shown, "runs">, value: number) =>
  value === 0 ? "the same in both" : `${value > 0 ? "more" : "less"} in ${runs[1].name}`;

/** Why a run has no numbers for some tokens or layers; sentences. */
export function limits(run: Run): string[] {
  const { mask_mode: mode, images, skipped_layers: skipped = [] } = run.manifest ?? {};
  const patches = run.tokens.some(({ kind }) => kind === "image");
  const out: string[] = [];
  if (run.manifest?.vision_attention === "bidirectional")
    out.push("The tokens of a picture see each other in every layer: not the trained model.");
  if (run.manifest?.head_space === "residual") out.push("Heads are measured by their shares of what attention adds.");
  if (mode === "vision") out.push("Only image tokens were masked in this run; text tokens have no values.");
  if (mode === "text" && images?.length && !patches)
    out.push("Image tokens were not masked in this run; they have no values.");
  if (skipped.length) {
    const layers = skipped.map(({ layer }) => layer).join(", ");
    out.push(`Not measured: layer ${layers} (${skipped[0].reason ?? "no softmax attention"}).`);
  }
  return out;
}
