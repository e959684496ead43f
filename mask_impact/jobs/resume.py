"""What a run was made from. Its manifest keeps this, so that a later run can tell whether the results still hold."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict
from pathlib import Path
from typing import Any

import mask_impact
from mask_impact.errors import UserError
from mask_impact.files.checksums import changed
from mask_impact.files.results import SCHEMA_VERSION, existing_files
from mask_impact.files.stored import FinishedRun, Unreadable, stored
from mask_impact.impact.null import Null
from mask_impact.jobs.session import Session
from mask_impact.model.towers import ignored_options
from mask_impact.options import Request, options_of
from mask_impact.prompt.images import file_sha256
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.messages import as_recorded, images_of

NEW = "new"  # no results yet

# Where only a hash is kept, what it stands for.
HASHED = {
    "prompt_sha256": "the prompt", "images_sha256": "an image", "videos_sha256": "a video",
    "model_fingerprint": "the model", "null_sha256": "the null distribution",
    "messages_sha256": "the conversation", "tokens_sha256": "the list of the prompt's tokens",
}  # fmt: skip
NOT_OPTIONS = ("prompt", "images", "videos", "messages")  # fields of which only a hash is kept


def identity(session: Session, request: Request, inputs: ModelInputs, null: Null | None = None) -> dict[str, Any]:
    """Everything the numbers depend on: hashes of model, prompt, images, tokens and null distribution, and the options.

    Raises UserError for an image that cannot be read.
    """
    images: Sequence[Any] = images_of(request.messages) if request.messages else request.images
    found = {
        "mask_impact": mask_impact.__version__,
        **session.identity,
        "prompt_sha256": hashlib.sha256(request.prompt.encode()).hexdigest(),
        "images_sha256": [file_sha256(path) for path in images],
    }
    if inputs.videos:
        found["videos_sha256"] = [video["sha256"] for video in inputs.videos]
    if null is not None:
        found["null_sha256"] = null.digest
    if request.messages:
        found["messages_sha256"] = _sha256(as_recorded(request.messages))
    # The tokens last: if an option changed them, too, the option is the reason
    return as_json(found) | options_as_json(request) | {"tokens_sha256": _sha256([each.id for each in inputs.tokens])}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def options_as_json(request: Request) -> dict[str, Any]:
    """The options of a request, without its prompt, images and messages, as a manifest has them. Those that say nothing
    of the tower have their defaults."""
    unused = ignored_options(request.tower)
    counted = {name: value for name, value in asdict(request).items() if name not in (*NOT_OPTIONS, *unused)}
    return as_json(counted) | {name: value for name, value in defaults(type(request)).items() if name in unused}


def why_again(session: Session, request: Request, name: str, wanted: dict[str, Any]) -> str | None:
    """Whether the files under `name` were made from `request` and are complete: None if so, NEW if there are none,
    else why they have to be made again.

    Args:
        wanted: the identity of `request`.
    """
    folder = session.settings.output_dir
    manifest = folder / f"{name}_run.json"
    if not existing_files(folder, name):
        return NEW
    try:
        found = stored(manifest, FinishedRun)
    except FileNotFoundError:
        return f"no {manifest.name}, so it was not finished"
    except Unreadable as error:
        return f"{manifest.name} cannot be read ({error})"
    if found["schema_version"] != SCHEMA_VERSION:
        return f"{manifest.name} is of another version of this program"
    left_out = " ".join(found["notes"])
    for file in (*found["files"], *found["tables"], *(f"{name}_results.{form}" for form in session.settings.formats)):
        if not (folder / file).is_file():
            if f"{file} was not written" not in left_out:  # a report may be too large
                return f"{file} is missing"
        elif why := changed(folder / file, found):
            return why
    # null once stood for some defaults; and manifests of before there was a hash of the tokens have the tokens
    said = {key: value for key, value in found["request"].items() if value is not None}
    tokens = {"tokens_sha256": _sha256([each["id"] for each in found["tokens"][: found["prompt_length"]]])}
    return _difference(defaults(type(request)) | said | tokens, wanted)


def defaults(request_type: type[Request]) -> dict[str, Any]:
    """The default of every option: the value in a manifest that was written before there was the option."""
    known = {name: each.default for name, each in options_of(request_type).items() if each.default is not MISSING}
    return as_json({name: value for name, value in known.items() if name not in NOT_OPTIONS})


def _difference(before: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    for key in dict.fromkeys((*wanted, *before)):
        if wanted.get(key) != before.get(key):
            what = f"{key} was {before.get(key)}, is {wanted.get(key)}"
            return f"{HASHED[key]} has changed" if key in HASHED else what
    return None


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """`values` as they are when they are read back: tuples become lists."""
    read: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return read


def check_kept(folder: Path, names: Sequence[str]) -> None:
    """Raises UserError for names under which there are results."""
    existing = [found[0] for name in names if (found := existing_files(folder, name))]
    if existing:
        others = f" and results of {len(existing) - 1} more exist" if existing[1:] else " exists"
        raise UserError(
            f"{existing[0]}{others} already; choose another name, keep what is done with `resume`, or replace it with "
            "`overwrite`"
        )
