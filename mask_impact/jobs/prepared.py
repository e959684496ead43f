"""A request checked against its model, before the weights are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mask_impact.distances import DEFAULT_METRICS
from mask_impact.effects import asked as asking
from mask_impact.effects.asked import Asked
from mask_impact.errors import UserError
from mask_impact.files.formats import bytes_needed
from mask_impact.impact import run
from mask_impact.impact.run import Options
from mask_impact.model import lengths
from mask_impact.model.towers import tower_of, tower_size
from mask_impact.options import Request, chosen_layers
from mask_impact.prompt.inputs import ModelInputs, Token, text_inputs
from mask_impact.prompt.positions import Places
from mask_impact.prompt.unit_syntax import Chosen
from mask_impact.prompt.units import MASKED, Unit, Units, units
from mask_impact.prompt.vision import open_pictures, vision_inputs


@dataclass(frozen=True)
class Prepared:
    """A request that fits the model."""

    tokenizer: Any
    inputs: ModelInputs
    options: Options
    places: Places
    layers: int  # how many are measured
    heads: int
    units: Units  # what is masked together
    plain: bool  # every token of the mask mode by itself
    unit_count: int  # in the prompt
    effects: Asked | None
    pairs: int  # of how many of the strongest units, all pairs are measured too

    def masked(self, query: int) -> int:
        """How many rows the query position has in each layer and variant."""
        count = self.places.prompt if self.places.tower == "encoder" else query + 1  # an encoder's query sees all
        tokens = self.inputs.tokens[:count]
        generated = count - len(tokens) if self.options.mask_mode != "vision" else 0
        if self.plain:
            return sum(map(MASKED[self.options.mask_mode], tokens)) + generated
        return self.unit_count + generated

    @property
    def queries(self) -> list[int]:
        """The query positions, if generation does not stop early."""
        return self.places.queries(self.options.queries)

    @property
    def variants(self) -> int:
        return sum({"full": 1, "attn": 1, "head": self.heads}[variant] for variant in self.options.variants)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Queries, variants, layers and masked tokens of the table: all of them at the last query, fewer before it."""
        return len(self.queries), self.variants, self.layers, self.masked(max(self.queries))

    @property
    def rows(self) -> int:
        """How many rows the table has at most; generation may stop early."""
        return self.variants * self.layers * sum(map(self.masked, self.queries))

    @property
    def units_of_work(self) -> int:
        """Forwards and replayed layers, for the progress."""
        return self.options.num_tokens * (1 + (self.effects is not None)) + len(self.queries) * self.layers

    def bytes(self, formats: Sequence[str]) -> int:
        """How much room the results need at most."""
        return int(bytes_needed(self.rows, formats, len(getattr(self.options, "metrics", DEFAULT_METRICS))))


def prepare(reader: Any, config: Any, request: Request, vision: bool) -> Prepared:
    """Read the inputs of `request` with the model's tokenizer or processor. Raises UserError."""
    tower = tower_of(config, request.tower, request.attention, request.num_tokens)
    if tower == "encoder" and request.effects:
        raise UserError("--effects are on the decoder's answer; leave --tower encoder or --effects away")
    count, heads = tower_size(config, tower)
    chosen = chosen_layers(request.layers or None, count)
    options = Options(
        num_tokens=request.num_tokens,
        layers=chosen,
        variants=request.variants,
        head_space=request.head_space,
        mask_mode=request.mask_mode,
        vision_attention=request.vision_attention,
        ablation=request.ablation,
        queries=request.queries if request.queries is not None else ("all" if tower == "encoder" else "last"),
        tower=request.tower,
        attention=request.attention,
    )
    options.wanted()
    asked = Chosen.of(request.mask_unit, request.spans, request.regions, request.region_masks)
    if vision:
        pictures = open_pictures(request.images)
        tokenizer = reader.tokenizer
        inputs = vision_inputs(reader, config, request.prompt, pictures, request.max_pixels)
    else:
        tokenizer, inputs = reader, text_inputs(reader, request.prompt, request.chat)
    run.check_masks(inputs, options)
    lengths.check_length(config.get_text_config(decoder=True), len(inputs.tokens), request.num_tokens)
    places = Places.of(len(inputs.tokens), request.num_tokens, tower)
    places.queries(options.queries)
    effects = asking.asked(request, tokenizer, count)

    in_prompt = units(asked, tokenizer, inputs, inputs.tokens, request.mask_mode)

    def together(tokens: Sequence[Token]) -> Sequence[Unit]:
        if asked.given:  # spans and regions are the same at every step, and finding them can mean to open a picture
            return in_prompt
        return units(asked, tokenizer, inputs, tokens, request.mask_mode)

    if not in_prompt:
        raise UserError(f"nothing is masked: the prompt has no {asked.unit} in mask mode {request.mask_mode}")
    return Prepared(
        tokenizer, inputs, options, places, len(chosen or range(count)), heads, together, asked.plain,
        len(in_prompt), effects, request.pairs,
    )  # fmt: skip
