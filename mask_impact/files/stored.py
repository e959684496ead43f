"""What is read back from the JSON files that this program wrote, through one schema: every value that is used has its
type, whatever happened to the file meanwhile.

In:  a path and the type of what it holds, a TypedDict of this module. Keys that a type does not name are kept as they
     are. Out: the value, or `Unreadable` with the reason. The parser bounds the depth.
"""

from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

import msgspec
import orjson

from mask_impact.errors import UserError
from mask_impact.prompt.text_files import check_regular

LENS = ("_neighbors_run.json", "_scales_run.json")  # manifests of no run; a run may have such a name as well
T = TypeVar("T")
Count = Annotated[int, msgspec.Meta(ge=0)]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[^/\\]+$")]  # beside the file that names it


class Unreadable(UserError):
    """A file that holds something else than what was written; the message is the reason alone."""


# --- what a run leaves --------------------------------------------------------------------------------------
class StoredToken(TypedDict):
    id: int
    text: str
    position: int
    kind: str


class StoredUnit(TypedDict):
    label: str
    positions: list[int]


class TopToken(TypedDict):
    position: int


class Metric(TypedDict):
    name: str
    column: str


class LengthsByLayer(TypedDict):
    layers: list[int]
    variants: list[str]
    values: list[list[list[float | None]]]  # of each step, layer and variant


class FloorsByLayer(TypedDict):
    layers: list[int]
    variants: list[str]
    metrics: list[str]
    values: list[list[list[float] | None]]  # of each layer, variant and metric


class NoiseFloor(TypedDict):
    by_layer: NotRequired[FloorsByLayer]


class Run(TypedDict):
    """NAME_run.json: what a reader of the table uses. Older versions wrote less."""

    files: list[str]
    tables: NotRequired[list[str]]
    rows: NotRequired[Count]
    bytes: NotRequired[dict[str, Count]]  # of each file, as its checksum; old manifests do not have them
    checksums: NotRequired[dict[str, str]]
    metrics: NotRequired[list[Metric]]
    unmasked_length: NotRequired[LengthsByLayer | None]
    noise_floor: NotRequired[NoiseFloor]


class FinishedRun(Run):
    """NAME_run.json: what --resume and the batch table use. This version writes all of it."""

    schema_version: int
    request: dict[str, Any]
    tables: list[str]  # type: ignore[misc]
    notes: list[str]
    model: dict[str, Any]
    tokens: list[StoredToken]
    units: list[StoredUnit] | None
    prompt_length: Count
    generated: list[dict[str, Any]]
    top_tokens: list[TopToken]


class RankedRun(FinishedRun):
    """NAME_run.json of a run whose ranking is a part of a null distribution."""

    prompt: str
    chat: bool
    variants: list[str]
    metrics: list[Metric]  # type: ignore[misc]
    images: list[dict[str, Any]]
    decoder_start: int | None


class Identity(TypedDict):
    model_fingerprint: str


class StoredImage(TypedDict):
    sha256: str


class StoredVideo(TypedDict):
    sampled: list[int]


class PictureRun(Run):
    """NAME_run.json of a run about a picture, as the lens takes it."""

    request: Identity
    images: list[StoredImage]
    videos: NotRequired[list[StoredVideo]]
    tokens: list[StoredToken]
    prompt_length: int
    prompt: str
    masks: str
    vision_attention: str
    model: dict[str, Any]


# --- what the lens leaves -----------------------------------------------------------------------------------
class StoredFile(TypedDict):
    file: FileName
    bytes: Count
    sha256: str


class StoredShard(StoredFile):
    rows: Count


class StoredModel(TypedDict):
    name: str
    fingerprint: str


class BankBegun(TypedDict):
    """bank.json while the bank is built, and after."""

    schema_version: int
    request: dict[str, Any]
    shards: list[StoredShard] | None


class BankDone(BankBegun):
    layers: Annotated[list[Count], msgspec.Meta(min_length=1)]
    hidden_size: Count
    rows: Count
    contexts: StoredFile
    model: StoredModel
    captions: dict[str, Any]
    max_per_token: int | None
    seed: int


class ImageRecord(TypedDict):
    """A line of a journal, and an image in an extraction's summary."""

    path: str
    sha256: str
    token_count: Count
    rows: tuple[Count, Count]
    norm_mean: list[float]  # of each layer, and so on
    norm_std: list[float]
    norm_min: list[float]
    norm_max: list[float]
    mean_cosine: list[float] | None  # of one token there is none


class Extraction(TypedDict):
    """extraction_summary_NAME.json."""

    request: dict[str, Any]
    images: list[ImageRecord]


class LensTable(TypedDict):
    """NAME_neighbors_run.json, NAME_scales_run.json."""

    request: dict[str, Any]
    notes: NotRequired[list[str]]
    bytes: NotRequired[dict[str, Count]]
    checksums: NotRequired[dict[str, str]]


# --- reading ------------------------------------------------------------------------------------------------
def stored(path: Path, kind: type[T]) -> T:
    """What a file holds. Raises FileNotFoundError, and Unreadable for anything else that is not of this kind."""
    try:
        check_regular(path, "it", "a file that this program wrote")
        text = path.read_bytes()
    except FileNotFoundError:
        raise
    except UserError as error:
        raise Unreadable(str(error)) from error
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    return parsed(text, kind)


def parsed(text: bytes, kind: type[T]) -> T:
    """Raises Unreadable."""
    try:
        return typed(orjson.loads(text), kind)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"no JSON: {error}") from error


def typed(value: Any, kind: type[T]) -> T:
    """The value itself. Raises Unreadable if it is not of this kind."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Unreadable(" ".join(str(error).split())[:200]) from error
    found: T = value
    return found
