"""From a request to `Prepared`: all checks against the model and its inputs, before the weights are loaded."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mask_impact.distances import in_order
from mask_impact.effects import asked as asking
from mask_impact.effects.deepstack import with_injections
from mask_impact.effects.refine import check_refine
from mask_impact.effects.routes import names_in, notes_of, routes_of
from mask_impact.effects.work import effects_work
from mask_impact.errors import UserError
from mask_impact.files.formats import bytes_needed
from mask_impact.jobs import vision
from mask_impact.model import lengths
from mask_impact.model.costs import NOMINAL, Costs
from mask_impact.model.towers import Tower, tower_of
from mask_impact.options import Request, check_choices, chosen_layers
from mask_impact.prompt.clips import Clip, Sampling, open_clips
from mask_impact.prompt.given import given_ids, read_as
from mask_impact.prompt.inputs import ModelInputs, Token, text_inputs
from mask_impact.prompt.messages import images_of, videos_of
from mask_impact.prompt.prepared import Prepared
from mask_impact.prompt.sets import Sets
from mask_impact.prompt.unit_syntax import TAKEN, Chosen, by_name
from mask_impact.prompt.units import Unit, units
from mask_impact.prompt.video_part import video_part
from mask_impact.prompt.vision import open_pictures, vision_inputs

__all__ = ["Prepared", "fitted", "output_bytes", "prepare"]


def prepare(reader: Any, config: Any, request: Request, vision: bool, speed: float = NOMINAL) -> Prepared:
    """Read the inputs of `request` with the model's tokenizer, or processor where `vision`. Raises UserError.

    `speed`: of the machine, see `model/costs.py`.
    """
    prompt, system, messages = request.prompt, request.system, request.messages
    for given, what in ((prompt, "a prompt"), (request.images, "images"), (request.videos, "videos")):
        if messages and given:
            raise UserError(f"`messages` and {what} were both given; leave one of the two out")
    if not vision:
        continued = not is_encoder_decoder(config)
        inputs = text_inputs(reader, prompt, request.chat, system, messages, continued)
        return fitted(reader, config, inputs, request, speed)
    pictures = open_pictures(images_of(messages) if messages else request.images)
    clips = clips_of(reader, config, request)
    inputs = vision_inputs(reader, config, prompt, pictures, request.max_pixels, system, messages, clips)
    return fitted(reader.tokenizer, config, inputs, request, speed)


def clips_of(processor: Any, config: Any, request: Request) -> list[Clip]:
    """The request's videos. Raises UserError."""
    videos = videos_of(request.messages) if request.messages else request.videos
    if videos:
        part, positions = video_part(processor, config), lengths.max_positions(config.get_text_config(decoder=True))
        return open_clips(videos, part, Sampling(request.fps, request.max_frames, request.max_pixels, positions))
    for name, value in (("fps", request.fps), ("max_frames", request.max_frames)):
        if value is not None:
            raise UserError(f"`{name}` {value:g} needs a video, but none was given; add `videos`, or leave it out")
    return []


def fitted(tokenizer: Any, config: Any, inputs: ModelInputs, request: Request, speed: float = NOMINAL) -> Prepared:
    """`request` on inputs that were read before. Raises UserError for what does not fit the model or the inputs."""
    check_vocabulary(config, inputs.tokens)
    tower, layers, heads = check_model(config, request)
    given = given_answer(tokenizer, config, inputs, request, tower)
    if given:
        request = replace(request, num_tokens=len(given))
        if said := read_as(tokenizer, given, request.answer or ""):
            inputs = replace(inputs, notes=[*inputs.notes, f"the tokenizer reads `answer` as {said!r}"])
    text_config = config.get_text_config(decoder=True)
    lengths.check_length(text_config, len(inputs.tokens), request.num_tokens, "answer" if given else "")
    if tower.of_patches:
        request = replace(request, metrics=ordered_metrics(request))
        asking.check_needed(replace(request, readers=()))  # which readers are compared is asked here, too
        return vision.fitted(tokenizer, config, inputs, request, (layers, heads), given, speed)
    vision.check_left_out(request)
    asking.check_needed(request)
    asked = asked_units(request)
    check_refine(request, asked.plain)
    check_images(inputs, request)
    places = tower.positions(len(inputs.tokens), request.num_tokens)
    request = replace(request, metrics=ordered_metrics(request))
    if request.queries is None:
        request = replace(request, queries="all" if tower.only_reads else "last")
    places.queries(request.queries or ())
    in_prompt = units(asked, tokenizer, inputs, inputs.tokens, request.mask_mode)

    def together(tokens: Sequence[Token]) -> Sequence[Unit]:
        if asked.given:  # spans and regions are the same at every step, and finding them can mean to open a picture
            return in_prompt
        return units(asked, tokenizer, inputs, tokens, request.mask_mode)

    if not in_prompt:
        raise UserError(f"nothing is masked: the prompt has no {asked.unit} in mask mode {request.mask_mode}")
    sets = Sets(tokenizer, inputs, places, named_spans(tokenizer, inputs, request), _sees_ahead(request))
    routes = routes_of(request, sets, in_prompt) if request.effects else ()
    notes = notes_of(routes, sets, in_prompt)
    effects = asking.asked(request, tokenizer, tower.size(config), sets, routes, notes)
    if effects:
        effects.check_fits(text_config)
    model_layers, work, costs = tower.size(config)[0], 0.0, Costs.of(text_config, speed)
    if effects:
        length = len(inputs.tokens)
        starts = [length if is_encoder_decoder(config) else unit.positions[0] for unit in in_prompt]
        work = effects_work(effects, costs, starts, length, request.num_tokens, model_layers)
    prepared = Prepared(
        request, tokenizer, inputs, places, layers, heads, together, asked.plain, len(in_prompt), effects,
        work / model_layers, model_layers, given, costs=costs, tower=tower,
    )  # fmt: skip
    return with_injections(prepared, config) if request.deepstack else prepared


def check_vocabulary(config: Any, tokens: Sequence[Token]) -> None:
    """Raises UserError for a token that the model has no embedding for."""
    size = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    largest = max(tokens, key=lambda token: token.id)
    if isinstance(size, int) and largest.id >= size:
        raise UserError(
            f"the tokenizer makes token {largest.id} ({largest.text!r}) of the prompt, and the model knows 0 to "
            f"{size - 1}; use the model's own tokenizer"
        )


def given_answer(tokenizer: Any, config: Any, inputs: ModelInputs, request: Request, tower: Tower) -> tuple[int, ...]:
    """The ids of `answer`, none if it is to be generated. Raises UserError."""
    if request.answer is None:
        return ()
    if request.num_tokens != 1:
        raise UserError(
            f"`answer` and `num_tokens` {request.num_tokens} were both given; the answer says how many tokens there "
            "are, so leave `num_tokens` out"
        )
    if tower.only_reads and not request.effects:
        way = "add `effects`, or leave" if tower.carried else "leave"
        raise UserError(
            f"`answer` is the decoder's, and `tower` {tower.name} only reads the prompt; {way} one of the two out"
        )
    return tuple(given_ids("answer", request.answer, tokenizer, inputs, is_encoder_decoder(config)))


def is_encoder_decoder(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def check_model(config: Any, request: Request) -> tuple[Tower, tuple[int, ...], int]:
    """The tower that is measured, its chosen layers, and its heads. Raises UserError for a request that does not fit
    the model, whatever its inputs are."""
    check_choices(request)
    tower = tower_of(config, request.tower, request.attention, request.num_tokens, request.effects)
    count, heads = tower.size(config)
    return tower, chosen_layers(request.layers, count) or tuple(range(count)), heads


def ordered_metrics(request: Request) -> tuple[str, ...]:
    """The chosen metrics in the order of their columns. Raises UserError for two that have the same column."""
    try:
        return in_order(request.metrics)
    except ValueError as error:
        raise UserError(str(error)) from None


def check_images(inputs: ModelInputs, request: Request) -> None:
    """Raises UserError for options about images when there is none."""
    for name, value, plain in (
        ("mask_mode", request.mask_mode, "text"),
        ("vision_attention", request.vision_attention, "model"),
    ):
        if value != plain and not inputs.images:
            raise UserError(
                f"`{name}` {value} needs an image, but none was given; add `images`, or `videos`, or use {plain}"
            )


def asked_units(request: Request) -> Chosen:
    """What is masked together. Raises UserError for spans and regions that are not written as such.

    Those that readers or a route name are sets of positions, and no units.
    """
    Chosen.of(None, **_places(request))
    own, sets = by_name(_places(request), names_in(request) if request.effects else ())
    for _, place in Chosen.of(None, **sets).parsed():
        if place.name in TAKEN:  # elsewhere it is only a label
            raise UserError(
                f"a span or region has the name {place.name!r}, which is also that of a set of positions, so it is not "
                "known which one `readers` or `routes` mean; give it another"
            )
    return Chosen.of(request.mask_unit, **own)


def named_spans(tokenizer: Any, inputs: ModelInputs, request: Request) -> dict[str, tuple[int, ...]]:
    """The positions of the spans and regions that readers or a route name. Raises UserError."""
    _, sets = by_name(_places(request), names_in(request) if request.effects else ())
    if not any(sets.values()):
        return {}
    found = units(Chosen.of(None, **sets), tokenizer, inputs, inputs.tokens, request.mask_mode)
    return {unit.label: unit.positions for unit in found}


def _places(request: Request) -> dict[str, tuple[str, ...]]:
    return {"spans": request.spans, "regions": request.regions, "region_masks": request.region_masks}


def _sees_ahead(request: Request) -> bool:
    return request.vision_attention == "bidirectional"


def output_bytes(prepared: Prepared, formats: Sequence[str]) -> int:
    """The size of the result tables in bytes, at most."""
    return int(bytes_needed(prepared.rows, formats, len(prepared.request.metrics)))
