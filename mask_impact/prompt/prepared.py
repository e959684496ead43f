"""A request that was checked against its model and inputs: what every measuring function takes."""

from dataclasses import dataclass
from typing import Any

from mask_impact.options import Request
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.prompt.positions import QueryRange
from mask_impact.prompt.units import MASKED, Units

GENERATION, GENERATION_LATER = 1.5, 0.25  # recorded generation steps, in plain forwards of the prompt, about


@dataclass(frozen=True)
class Prepared:
    """A request that fits the model; `jobs.prepared` makes it and is the only place that checks."""

    request: Request  # with query positions chosen: `queries` is not None
    tokenizer: Any
    inputs: ModelInputs
    places: QueryRange
    layers: tuple[int, ...]  # chosen ones, rising
    heads: int  # query heads of a layer
    units: Units  # from the tokens a query sees to what is masked together
    plain: bool  # every token of the mask mode alone
    unit_count: int  # in the prompt
    effects: Any = None  # effects.asked.Asked, None for no effects
    effects_forwards: float = 0.0  # about as many forwards of the prompt as they take
    model_layers: int = 0  # of the tower that is measured
    given: tuple[int, ...] = ()  # the ids of a given answer, `request.num_tokens` of them; (): it is generated
    readers: frozenset[int] | None = None  # of a vision tower, the image tokens that are compared; None: all
    tower_forwards: float = 0.0  # about as many forwards of the vision tower as a run in it takes
    tower_layer: float = 0.0  # the work of one pass through a layer of the vision tower, as `units_of_work` counts
    decoder_layers: int = 0  # where another tower is measured
    costs: Any = None  # model.costs.Costs
    tower: Any = None  # model.towers.Tower, the one that is measured

    def masked(self, query: int) -> int:
        """The number of masks at a query position, the same in each layer and variant."""
        count = self.places.prompt if self.places.sees_all else query + 1
        tokens = self.inputs.tokens[:count]
        generated = count - len(tokens) if self.request.mask_mode != "vision" else 0
        if self.plain:
            return sum(map(MASKED[self.request.mask_mode], tokens)) + generated
        return self.unit_count + generated

    @property
    def queries(self) -> list[int]:
        """The query positions, if generation does not stop early."""
        return self.places.queries(self.request.queries or "last")

    @property
    def variants(self) -> int:
        """The number of variants in the table; `head` stands for one of each head."""
        return sum({"full": 1, "attn": 1, "head": self.heads}[variant] for variant in self.request.variants)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Queries, variants, layers and masked tokens of the table: all of them at the last query, fewer before it."""
        return len(self.queries), self.variants, len(self.layers), self.masked(max(self.queries))

    @property
    def rows(self) -> int:
        """The number of rows in the table at most; generation may stop early."""
        return self.variants * len(self.layers) * sum(map(self.masked, self.queries))

    @property
    def units_of_work(self) -> float:
        """For the progress: passes of the prompt through a layer, in generation, replays and effects."""
        generation = sum(self.generation(step) for step in range(self.request.num_tokens))
        replays = len(self.queries) * len(self.layers) * self.layer_work
        return generation + replays + self.effects_forwards * (self.decoder_layers or self.model_layers)

    @property
    def layer_work(self) -> float:
        """The work of all masks of a query position in one layer."""
        if not self.tower_layer:
            return 1.0
        return self.tower_forwards * self.model_layers * self.tower_layer / len(self.layers)

    @property
    def seconds(self) -> float:
        """About how long that takes on this machine; nothing is known of it without `costs`."""
        return float(self.costs.seconds(self.units_of_work, len(self.inputs.tokens))) if self.costs else 0.0

    def generation(self, step: int) -> float:
        """The work of recording one generation step: a forward and what is kept of it; then a row at a time."""
        return (self.decoder_layers or self.model_layers) * (GENERATION if step == 0 else GENERATION_LATER)
