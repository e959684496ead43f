/** The command that measures what is shown: that of the run, in the chosen layers and variant, with the box as a region. */

import type { Run } from "../data/types.ts";
import type { State } from "./state.ts";

/** Flags with a value that belong to the run itself, and flags without one. */
const OWN = ["--output", "--layers", "--variants"],
  SWITCHES = ["--quiet", "--verbose", "--overwrite", "--resume", "--dry-run"];

/** Null: nothing tells how the run was made. */
export function commandFor(
  run: Run,
  state: Pick<State, "layer" | "from" | "to" | "variant" | "region">,
): string | null {
  const { argv, config, images, name } = run.manifest ?? {};
  const asked = argv?.length && !config ? without(argv) : rebuilt(run);
  if (!asked) return null;
  const script = images?.length || asked.includes("--image") ? "mask_impact_vl.py" : "mask_impact_analysis.py";
  const region = regionFlag(run, state.region);
  return [
    "python",
    script,
    ...asked,
    ...layersOf(run, state),
    ...variantOf(state.variant),
    ...(region ? ["--region", region] : []),
    "--output",
    `${name ?? run.name}_view`,
  ]
    .map(quoted)
    .join(" ");
}

/** What was asked, without what the view says anew. */
function without(argv: string[]): string[] {
  const out: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    if (OWN.includes(argv[i])) i++;
    else if (!SWITCHES.includes(argv[i]) && !OWN.some((flag) => argv[i].startsWith(`${flag}=`))) out.push(argv[i]);
  }
  return out;
}

/** Of a run made from Python, or by a batch: the model, the prompt, the pictures. */
function rebuilt({ manifest }: Run): string[] | null {
  const { model, prompt, images = [], chat, mask_mode: mode, generated = [] } = manifest ?? {};
  const name = model?.path_or_id ?? model?.name;
  if (!name || !prompt) return null;
  const pictures = images.flatMap(({ path }) => (path ? ["--image", path] : []));
  return [
    ...["--model", name, "--prompt", prompt, ...pictures, "--num-tokens", String(generated.length || 1)],
    ...(images.length ? (mode ? ["--mask-mode", mode] : []) : chat ? ["--chat"] : []),
  ];
}

function layersOf({ layers }: Run, { layer, from, to }: Pick<State, "layer" | "from" | "to">): string[] {
  if (layer !== null) return ["--layers", String(layer)];
  if (from === null && to === null) return [];
  return ["--layers", `${from ?? layers[0]}-${to ?? layers.at(-1)}`];
}

function variantOf(variant: string): string[] {
  const found = /^(?:Cross)?(Full|Attn|Head)/.exec(variant)?.[1];
  return found ? ["--variants", found.toLowerCase()] : [];
}

/** Picture, and the corners' rows and columns, in whichever order they were drawn; null: there is no box. */
export function cornersOf(
  region: readonly number[],
): [image: number, top: number, left: number, bottom: number, right: number] | null {
  if (region.length !== 5) return null;
  const [image, row, col, toRow, toCol] = region;
  return [image, Math.min(row, toRow), Math.min(col, toCol), Math.max(row, toRow), Math.max(col, toCol)];
}

/** "0,0,2,3", of one of several pictures "1:0,0,2,3"; "": there is no box. */
export function regionFlag(run: Run, region: readonly number[]): string {
  const [image, ...corners] = cornersOf(region) ?? [];
  if (image === undefined) return "";
  return `${(run.manifest?.images?.length ?? 1) > 1 ? `${image}:` : ""}${corners.join()}`;
}

/** For a POSIX shell. */
export const quoted = (text: string) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replace(/'/g, `'\\''`)}'`);
