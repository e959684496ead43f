"""A run of mask_impact_vl.py on the same image and prompt, to show its impact beside the neighbours.

In:  NAME_run.json, the model and the inputs of the lens. Out: the masking impact of each token in each layer.

Decoder layer k reads the state that the lens calls layer k, so its masking impact belongs to that state. The last
state, after all blocks, is read by no layer.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask_impact.errors import UserError
from mask_impact.files.reading import load
from mask_impact.files.stored import PictureRun, Unreadable, typed
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.table import QUERY_POSITION

PREFERRED = ("Full", "Attn")  # if neither was measured, the first variant


@dataclass(frozen=True)
class Masking:
    """For each (layer, position) the largest l2_distance of all generation steps."""

    path: Path
    sha256: str
    variant: str
    steps: int
    impact: dict[tuple[int, int], float]

    def of(self, layer: int, position: int) -> float | None:
        return self.impact.get((layer, position))

    @property
    def manifest(self) -> dict[str, Any]:
        """For the page: for each position the largest value of all layers, and its layer."""
        largest: dict[int, tuple[float, int]] = {}
        for (layer, position), value in self.impact.items():
            largest[position] = max(largest.get(position, (-1.0, 0)), (value, layer))
        return {
            "run": self.path.name,
            "sha256": self.sha256,
            "variant": self.variant,
            "steps": self.steps,
            "largest": [
                {"position": position, "value": value, "layer": layer}
                for position, (value, layer) in sorted(largest.items())
            ],
        }


def read_masking(path: Path, fingerprint: str, inputs: ModelInputs) -> Masking:
    """The impact of masking image tokens. Raises UserError for a run of another model, image or prompt."""
    if not path.name.endswith("_run.json"):
        raise UserError(f"--run {path} is not a manifest; give NAME_run.json, which mask_impact_vl.py writes")
    df = load(path)
    try:
        run = typed(df.attrs["run"], PictureRun)
    except Unreadable as error:
        raise UserError(f"--run {path} is no manifest of mask_impact_vl.py, or damaged ({error})") from error
    _check_same(path, run, fingerprint, inputs)
    positions = {token.position for token in inputs.tokens if token.kind == "image"}
    variants = df["variant"].unique().tolist()
    variant = next((name for name in PREFERRED if name in variants), variants[0])
    df = df[(df["variant"] == variant) & df["token_position"].isin(positions)]
    if QUERY_POSITION in df.columns:
        df = df[df[QUERY_POSITION] == len(inputs.tokens) - 1 + df["generation_step"]]
    if df.empty:
        raise UserError(f"--run {path} masks no image token; run mask_impact_vl.py with --mask-mode vision or both")
    if "l2_distance" not in df.columns:
        raise UserError(f"--run {path} has no l2_distance; run mask_impact_vl.py with --metrics l2")
    largest = df.groupby(["layer", "token_position"], as_index=False)["l2_distance"].max()
    cells = zip(largest["layer"].tolist(), largest["token_position"].tolist(), strict=True)
    impact = dict(zip(cells, largest["l2_distance"].tolist(), strict=True))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Masking(path, digest, variant, int(df["generation_step"].max()) + 1, impact)


def _check_same(path: Path, run: PictureRun, fingerprint: str, inputs: ModelInputs) -> None:
    """Raises UserError for a run of something else, or one that masks in another way."""
    made, images = run["request"]["model_fingerprint"], [found["sha256"] for found in run["images"]]
    ids = [token["id"] for token in run["tokens"][: run["prompt_length"]]]
    prompt, together, attention = run["prompt"], run["masks"], run["vision_attention"]
    what = f"--run {path} is of another"
    if made != fingerprint:
        raise UserError(f"{what} model ({run['model'].get('name')}, {made}); give a run of this one ({fingerprint})")
    if images != [found["sha256"] for found in inputs.images]:
        raise UserError(f"{what} image; give a run on the same file")
    if prompt != inputs.prompt:
        raise UserError(f"{what} prompt, {prompt!r}; give --prompt with it, or a run with {inputs.prompt!r}")
    if ids != [token.id for token in inputs.tokens]:
        raise UserError(f"{what} size of the image, {len(ids)} tokens, not {len(inputs.tokens)}; use its --max-pixels")
    if [video["sampled"] for video in run.get("videos", ())] != [video["sampled"] for video in inputs.videos]:
        raise UserError(f"{what} choice of frames; use its --fps and --max-frames")
    if attention != "model":
        raise UserError(f"--run {path} has --vision-attention {attention}, which the lens does not use; leave it out")
    if together != "every token by itself":
        raise UserError(f"--run {path} masks {together}; give a run that masks image tokens one at a time")
