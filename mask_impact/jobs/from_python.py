"""What both scripts' Python functions share: from keywords and a model's name, or a loaded model, to a DataFrame."""

import argparse
import contextlib
import difflib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mask_impact.errors import OutOfMemory, UserError
from mask_impact.files import results
from mask_impact.impact.null import Null
from mask_impact.jobs import session
from mask_impact.jobs.null import Nulls, facts
from mask_impact.jobs.prepared import Prepared, prepare
from mask_impact.jobs.resume import options_as_json
from mask_impact.model import find, load
from mask_impact.model.handed_over import measurable, unwrapped
from mask_impact.model.quiet import quiet_libraries
from mask_impact.options import Option, Request, Settings, check_extension, named, options_of
from mask_impact.parsers import positive, whole
from mask_impact.prompt.messages import given_messages
from mask_impact.prompt.vision import picture_list

if TYPE_CHECKING:
    import pandas as pd

SPELLINGS = {  # what a field or flag is called elsewhere -> here
    "num_tokens": ["num_output_tokens"], "span": ["spans"], "block": ["blocks"], "region": ["regions"],
    "region_mask": ["region_masks"], "images": ["image_path"], "image": ["image_path"],
}  # fmt: skip
ARGUMENTS = ("prompt", "images", "num_tokens", "mask_mode")  # fields that the functions take under names of their own

FUNCTIONS_TAKE = ("model", "device", "dtype")  # of the fields of Settings
NAMES = {  # what messages call a field
    **{name: f"the command's {each.flag}" for name, each in options_of(Settings).items() if name not in FUNCTIONS_TAKE},
    "model": "`model_name`", "num_tokens": "`num_output_tokens`", "images": "`image_path`",
}  # fmt: skip


@contextlib.contextmanager
def as_keywords() -> Iterator[None]:
    """Errors call the options as the functions do."""
    try:
        yield
    except (UserError, OutOfMemory) as error:
        error.args = (named(str(error), NAMES),)
        raise


def keywords_of(request_type: type[Request], vision: bool, effects: bool) -> dict[str, Option]:
    """The fields that a function for results, or for effects, takes as keywords."""
    scopes, tables = ("both", "vision" if vision else "text"), ("both", "effects" if effects else "results")
    return {
        name: each
        for name, each in options_of(request_type).items()
        if each.scope in scopes and each.table in tables and name not in ARGUMENTS
    }


@as_keywords()
def as_request(
    given: Mapping[str, Any],
    request_type: type[Request] | None = None,
    *,
    vision: bool,
    effects: bool,
    images: Any = None,
    **arguments: Any,
) -> Request:
    """The request of a Python call.

    Args:
        given: its further keywords.
        arguments: fields that stand among its own arguments.

    Raises UserError for an unknown keyword, and for a value that is none of its field's.
    """
    request_type = request_type or Request
    check_extension(request_type, ("device", "dtype", "model", "model_name", "processor", "request_type", "tokenizer"))
    arguments["num_tokens"] = _one_or_more("num_output_tokens", arguments["num_tokens"])
    if not isinstance(prompt := arguments["prompt"], str):
        raise UserError(f"prompt is {prompt!r}; it must be a text")
    known = keywords_of(request_type, vision, effects)
    for name in given:
        if name not in known:
            hint = _hint(name, known, options_of(request_type))
            raise UserError(f"unknown keyword {name!r}; {hint}valid keywords: {', '.join(known)}")
    values = {name: value_of(known[name], value) for name, value in given.items()}
    if "messages" in values:
        values["messages"] = given_messages(values["messages"])
    return request_type(images=tuple(picture_list(images)), effects=effects, **arguments, **values)


def _hint(name: str, known: Mapping[str, Option], options: Mapping[str, Option]) -> str:
    """What was meant by a keyword that is not known: a field of other functions, or another spelling."""
    if (option := options.get(name)) and name not in ARGUMENTS:
        where = f"functions for {option.table}" if option.table not in ("", "both") else f"{option.scope} models"
        return f"it is for {where if option.table else f'the command alone, as {option.flag}'}; "
    near = SPELLINGS.get(name, difflib.get_close_matches(name, known, 1))
    return f"did you mean {near[0]}? " if near else ""


def value_of(option: Option, value: Any) -> Any:
    """A keyword's value as its field holds it: lists become tuples, and a text is read as on the command line.

    Raises UserError.
    """
    try:
        if option.parse is positive:
            return _whole(option, value)
        if isinstance(value, bool) and option.kind != "switch":
            raise TypeError
        if option.from_python is not None:
            return option.from_python(value)
        if value is None and option.default is None:
            return None
        if option.kind in ("repeated", "pair"):
            return _texts(value)
        if option.kind == "list":
            return option.parse(value) if isinstance(value, str) else _texts(value)
        if option.kind == "switch" and not isinstance(value, bool):
            raise TypeError
        if option.choices and value is not None and not isinstance(value, str):
            raise TypeError
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{option.name} {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{option.name} cannot be {value!r}; docs/python.md has what it takes") from error
    return value


def _whole(option: Option, value: Any) -> int | None:
    """Raises UserError."""
    if value is None or (value == option.default and not isinstance(value, bool)):
        found: int | None = option.default
        return found
    return _one_or_more(option.name, value)


def _one_or_more(name: str, value: Any) -> int:
    """Raises UserError."""
    try:
        count = whole(value)
    except TypeError:
        count = 0
    if count < 1:
        raise UserError(f"{name} is {value!r}; it must be a whole number of 1 or more")
    return count


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    return texts


def prepared_model(
    request: Request, model_name: str, model: Any, reader: Any, *, device: str, dtype: str, vision: bool
) -> tuple[Any, Prepared, Null | None, dict[str, Any]]:
    """The model, the request that fits it, its null distribution, and what the manifest says of where the model is
    from.

    What is wrong is reported before the weights are loaded.

    Args:
        model, reader: a loaded model with its tokenizer or processor; None and None for `model_name`.
    """
    if (model is None) != (reader is None):
        raise UserError(f"give both model and {'processor' if vision else 'tokenizer'}, or neither and a model_name")
    if model is not None:
        model = unwrapped(model)
        _check_reader(reader, vision)
        prepared = prepare(reader, model.config, request, vision)
        return model, prepared, Nulls().of(prepared, facts(model.config, prepared, model.dtype)), {}
    if not isinstance(model_name, str | os.PathLike):
        raise UserError(f"`model` is {model_name!r}; it must be {find.NAMES}")
    source = find.find_model(os.fspath(model_name), vision=vision)
    prepared = prepare(session.load_reader(source), source.config, request, vision)
    chosen = load.choose_device(device)
    number = load.choose_dtype(dtype, chosen)
    null = Nulls().of(prepared, facts(source.config, prepared, number, find.fingerprint(source)))
    return load.load_model(source, chosen, number), prepared, null, source.manifest


def _check_reader(reader: Any, vision: bool) -> None:
    """Raises UserError for a tokenizer that is none, as the path of one."""
    name, makes = ("processor", "AutoProcessor") if vision else ("tokenizer", "AutoTokenizer")
    if not callable(reader) or not hasattr(getattr(reader, "tokenizer", None) if vision else reader, "get_vocab"):
        raise UserError(f"{name} is {str(reader)[:100]!r}; pass what {makes}.from_pretrained gives")


@as_keywords()
@quiet_libraries(verbose=False)
def measured_table(request: Request, model_name: str, model: Any, reader: Any, **where: Any) -> "pd.DataFrame":
    """The table of the effects where the request has any, else of the results; `attrs["run"]` is the manifest.

    Args:
        where: device, dtype and vision of `prepared_model`.
    """
    import pandas as pd

    model, prepared, null, source = prepared_model(request, model_name, model, reader, **where)
    with measurable(model) as notes:
        if request.effects:
            manifest, tables = session.effects_alone(model, prepared)
            table = pd.DataFrame(tables["effects"])
        else:
            blocks: list[results.Block] = []
            run, _ = session.run_prepared(model, prepared, blocks.append, null=null)
            manifest, table = run.manifest, results.to_dataframe(blocks)
    manifest["notes"] = [*notes, *manifest["notes"]]
    manifest["model"] |= source
    manifest["request"] = options_as_json(request)
    session.name_options(manifest, NAMES)
    table.attrs["run"] = manifest
    return table
