"""Read the null distribution of a run: the rankings of finished runs of other prompts, of the same model and settings.

In:  `null_runs`, a folder of runs or the manifest of one, and a checked request. Out: `Null` (impact/null.py).

Everything is read, and runs that do not fit are refused, before the model's weights are loaded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mask_impact.distances import METRICS
from mask_impact.errors import UserError
from mask_impact.files.reading import MANIFEST_END, load
from mask_impact.files.stored import LENS, RankedRun, Run, Unreadable, stored
from mask_impact.impact.null import Null, values_by_kind
from mask_impact.impact.top_tokens import TopTokens
from mask_impact.jobs.prepared import Prepared
from mask_impact.jobs.resume import as_json, defaults
from mask_impact.options import VARIANTS, Request
from mask_impact.table import CROSS

if TYPE_CHECKING:
    import pandas as pd

MODEL = ("family", "layers", "heads", "hidden_size", "dtype", "fingerprint")
SAME = ("num_tokens", "layers", "ablation", "tower", "attention", "vision_attention")  # options that change a ranking
GIVE = "give runs of other prompts, of the same model and settings"


def facts(config: Any, prepared: Prepared, dtype: Any, fingerprint: str | None = None) -> dict[str, Any]:
    """MODEL: what is known of a model before its weights are loaded; no fingerprint of one that was handed over."""
    text = config.get_text_config(decoder=True)
    size = prepared.tower.size(config)
    values = config.model_type, *size, text.hidden_size, str(dtype).removeprefix("torch."), fingerprint
    return dict(zip(MODEL, values, strict=True))


@dataclass(frozen=True)
class Other:
    """A finished run."""

    path: Path
    model: dict[str, Any]  # MODEL
    settings: dict[str, Any]
    inputs: list[Any]
    values: dict[str, list[float]]  # by kind


class Nulls:
    """The null distributions of a command's prompts. A folder is read once, for all of them."""

    def __init__(self) -> None:
        self._read: dict[Path, list[Other]] = {}

    def of(self, prepared: Prepared, model: Mapping[str, Any]) -> Null | None:
        """None where the request asks for none. `model` are the `facts`.

        Raises UserError for a path without runs of other prompts, and for runs of another model or other settings.
        """
        request, path = prepared.request, prepared.request.null_runs
        if path is None:
            return None
        if request.queries != "last" or prepared.tower.of_patches:
            raise UserError(
                "`null_runs` is for what predicts the output, in the decoder; leave `queries` and `tower` out, or "
                "leave it out"
            )
        if path not in self._read:
            self._read[path] = [read_run(each) for each in manifests(path)]
        wanted = settings_of(vars(request), prepared.inputs.chat)
        for other in self._read[path]:
            check_same(other, model, wanted)
        inputs = prepared.inputs
        own = [inputs_of(vars(token) for token in inputs.tokens), pictures_of(inputs.images)]
        others = [other.values for other in self._read[path] if other.inputs != own]
        if not others:
            raise UserError(f"`null_runs` {path} has no run but that of this prompt; {GIVE}")
        return Null.of(others)


def manifests(path: Path) -> list[Path]:
    """Raises UserError where there is none."""
    if path.is_file() and path.name.endswith(MANIFEST_END):
        return [path]
    if not path.is_dir():
        why = "is no folder, and no NAME_run.json" if path.exists() else "does not exist"
        raise UserError(f"`null_runs` {path} {why}; {GIVE}: a folder, or NAME_run.json of one run")
    found = [each for each in sorted(path.glob(f"[!.]*{MANIFEST_END}")) if not _is_of_the_lens(each)]
    if not found:
        raise UserError(f"`null_runs` {path} has no finished run, no NAME_run.json; {GIVE}")
    return found


def read_run(path: Path) -> Other:
    """Raises UserError for a manifest or a table that cannot be read."""
    try:
        manifest = stored(path, RankedRun)
    except Unreadable as error:
        raise UserError(f"{path} is no manifest of a run, or damaged ({error})") from error
    request, model = defaults(Request) | manifest["request"], manifest["model"]
    known = {"dtype": request["dtype"], "fingerprint": request["model_fingerprint"]}
    return Other(
        path,
        {name: known.get(name, model.get(name)) for name in MODEL},
        settings_of(request, manifest["chat"]),
        [inputs_of(manifest["tokens"][: manifest["prompt_length"]]), pictures_of(manifest["images"])],
        values_by_kind(manifest, ranking(load(path), manifest)),
    )


def ranking(table: "pd.DataFrame", manifest: Mapping[str, Any]) -> list[tuple[int, float, int]]:
    """That of the run which wrote the table, as TopTokens.ranked gives it: of the first variant and metric."""
    variant, column = manifest["variants"][0], manifest["metrics"][0]["column"]
    rows = table[table.variant.isin((variant, CROSS + variant))]
    top = TopTokens()
    for at, part in rows.groupby(["generation_step", "layer"], sort=True):
        step, layer = cast(tuple[int, int], at)
        top.add(step, layer, part.token_position.tolist(), part[column].tolist())
    return top.ranked()


# --- what has to be the same --------------------------------------------------------------------------------
def settings_of(request: Mapping[str, Any], chat: bool) -> dict[str, Any]:
    """The options of a request that a ranking depends on; of variants and metrics those that rank."""
    variant = next(name for name in VARIANTS if name in request["variants"])
    spans = any(request[name] for name in ("spans", "regions", "region_masks"))
    found = {
        "variants": variant,
        "metrics": next(name for name in METRICS if name in request["metrics"]),
        "mask_unit": request["mask_unit"] or ("span" if spans else "token"),
        "queries": request["queries"] or "last",
        "chat": chat,
        "head_space": request["head_space"] if variant == "head" else "output",
        **{name: request[name] for name in SAME},
    }
    if request["answer"] is not None:  # it says how many tokens there are
        found["num_tokens"] = "those of an answer"
    return as_json(found)


def check_same(other: Other, model: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UserError for a run of another model or other settings."""
    for name in MODEL:
        theirs, ours = other.model[name], model[name]
        if theirs != ours and None not in (theirs, ours):
            what = "other weights" if name == "fingerprint" else f"{name} {theirs}, not {ours}"
            raise UserError(f"`null_runs`: {other.path} is of another model ({what}); {GIVE}")
    for name, ours in wanted.items():
        if other.settings[name] != ours:
            theirs = other.settings[name]
            raise UserError(f"`null_runs`: {other.path} was measured with `{name}` {theirs}, not {ours}; {GIVE}")


def inputs_of(tokens: Iterable[Mapping[str, Any]]) -> list[int]:
    return [token["id"] for token in tokens]


def pictures_of(images: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The hashes of the files; a picture that was given in memory has none."""
    return [image.get("sha256") for image in images]


def _is_of_the_lens(path: Path) -> bool:
    """Its manifests name no result files; a run may have such a name as well."""
    if not path.name.endswith(LENS):
        return False
    try:
        return not stored(path, Run)["files"]
    except (FileNotFoundError, Unreadable):
        return False
