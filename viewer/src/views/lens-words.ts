/** What the view of neighbours says, and the rows that it gives away. */

import { best, groupName, impactOf, nearest, tokenText, type LensScene } from "../core/lens.ts";
import { exact, number, visible } from "../core/tokens.ts";
import { capital, modelName } from "../core/words.ts";
import { plural } from "../data/errors.ts";
import type { Neighbors, TokenInfo } from "../data/types.ts";
import type { LensFigure } from "./lens-paint.ts";

const known = new WeakMap<Neighbors, LensFigure[]>();

export function figuresOf(found: Neighbors): LensFigure[] {
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

export const subject = ({ name }: Neighbors) => name.replace(/_neighbors$/, "");

export function facts(found: Neighbors): string {
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

export const captionOf = ({ about, run, image }: LensFigure) =>
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

export function whatText({ state, found }: LensScene): string {
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

export const legendText = ({ state, found }: LensScene) =>
  state.tint === "bank"
    ? "nearest in bank layer"
    : state.tint === "impact"
      ? `masking impact, L2 of ${found.manifest?.masking?.variant ?? "Full"}; one scale for all layers`
      : "cosine similarity; one scale for all layers";

export const place = ({ image, row, col, position }: TokenInfo, found: Neighbors) =>
  `${row === null ? "image token" : `patch row ${row}, column ${col}`}${figuresOf(found).length > 1 ? ` of image ${image}` : ""} (position ${position})`;

export function patchText(scene: LensScene, token: number): string {
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

/** The rows of the file for some layers and tokens, as it has them. */
export function listing({ found, group, state }: LensScene, layers: number[], tokens: number[]): string[][] {
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
