"""Where a layer reads the prompt's tokens, in families that add rows of their own: found by trying.

In: a layer, a call of it, and the `Layout` of its rows. Out: the places of softmax that a predicting row's output comes
from, each with the row of every head there and the column of each token.

A token's column is the one that becomes NaN where the token does, in the rows of others. A head's row is the one whose
weights, doubled, change the output. Then every token's column is taken out, and the tokens are exchanged for others: an
output that still changes reads them elsewhere, too, and the family is refused.

n rows and K columns of a softmax, G its heads with all axes before them, H of these that predict, T tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mask_impact.model.call_rows import changed
from mask_impact.model.layers import layer_input
from mask_impact.model.layout import Layout, marked_sets, numbers_of
from mask_impact.model.rounding import ROUNDING
from mask_impact.model.softmax import INVISIBLE, Reading, Site, Slots, SoftmaxMasks, Watching, argument, sdpa_logits
from mask_impact.model.towers import unsupported
from mask_impact.model.whole_calls import WholeCall

UNKNOWN = "which of its attention weights are those of its tokens was not found"


@dataclass
class MarkedSite(Site):
    """An attention of which some rows predict."""

    readings: dict[int, Reading] = field(default_factory=dict)  # by row of the stream that predicts

    def reading(self, row: int) -> Reading:
        return self.readings[row]


def marked_sites(
    model: PreTrainedModel, index: int, layer: nn.Module, call: WholeCall, layout: Layout, rows: Iterable[int]
) -> list[MarkedSite]:
    """The sites that `rows` of a layer's predicting stream read at. Raises UnsupportedModel."""
    trial = _Trial(layer, call, layout)
    logits = trial.logits()
    columns = _columns(trial, logits)
    sites: dict[int, MarkedSite] = {}
    for row in rows:
        found: list[Reading] = []
        for place, tokens in columns.items():
            heads = _heads(trial, place, logits[place].shape[:2], row)
            if heads is None or (heads.any() and tokens is None):
                raise unsupported(model, index, UNKNOWN)
            if tokens is not None and heads.any():
                found.append(_reading(place, logits[place], heads, tokens))
                none = logits[place][:, :0]
                sites.setdefault(place, MarkedSite(place, none, none)).readings[row] = found[-1]
        _check(model, index, trial, found, row)
    return list(sites.values())


class _Logits(Watching):
    """Keeps the logits of every softmax and attention in a layer that is called on one prompt; changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.logits: dict[int, torch.Tensor] = {}  # [G, n, K] by place

    def _softmax(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        logits = argument(args, kwargs, 0, "input")
        if logits.ndim > 2 and argument(args, kwargs, 1, "dim") in (-1, logits.ndim - 1):
            self.logits[self.calls] = logits.reshape(-1, *logits.shape[-2:]).clone()
        return func(*args, **kwargs)

    def _attention(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        logits, _ = sdpa_logits(*args, **kwargs)
        self.logits[self.calls] = logits.reshape(-1, *logits.shape[-2:])
        return func(*args, **kwargs)


class _Doubled(Watching):
    """Doubles the weights of some heads and rows of one softmax."""

    def __init__(self, place: int, chosen: torch.Tensor) -> None:
        super().__init__()
        self.place, self.chosen = place, chosen  # [G, n] bool

    def _softmax(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        weights: torch.Tensor = func(*args, **kwargs)
        if self.calls != self.place:
            return weights
        factors = 1 + self.chosen.to(weights)
        return weights * factors.reshape(*weights.shape[:-1], 1)

    _attention = _softmax  # of whose output the rows are the same


class _Trial:
    """Calls a layer again, with something changed."""

    def __init__(self, layer: nn.Module, call: WholeCall, layout: Layout) -> None:
        self.layer, self.call, self.layout = layer, call, layout
        self.first = layer_input(layer, call.args, call.kwargs)  # the stream with the tokens

    def again(self, watching: Watching, change: Callable[[torch.Tensor], None] = lambda states: None) -> Any:
        """The layer's output, with a change made to the tokens' stream [R, C]."""

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            copied = tensor.clone()
            if tensor is self.first:
                change(copied.movedim(self.layout.axes, (0, 1))[0])
            return copied

        args, kwargs = changed((self.call.args, self.call.kwargs), copy, {}, None)
        with watching:
            return self.layer.forward(*args, **kwargs)

    def logits(self, chosen: torch.Tensor | None = None) -> dict[int, torch.Tensor]:
        """[G, n, K] of each place, where the chosen [T] tokens are NaN."""
        seen = _Logits()

        def mark(states: torch.Tensor) -> None:
            if chosen is not None:
                states[torch.tensor(self.layout.tokens)[chosen].to(states.device)] = torch.nan

        self.again(seen, mark)
        return seen.logits

    def given(
        self, row: int, watching: Watching, change: Callable[[torch.Tensor], None] = lambda states: None
    ) -> torch.Tensor:
        """[C] what the layer gives at a predicting row."""
        return self.call.at(self.layout.output(self.again(watching, change)), row)[0]


def _columns(trial: _Trial, logits: dict[int, torch.Tensor]) -> dict[int, torch.Tensor | None]:
    """[T] the column of each token by place, -1 where it has none; places where any has one. None: not found."""
    count = len(trial.layout.tokens)
    visible = {place: each >= INVISIBLE for place, each in logits.items()}
    marks: dict[int, list[torch.Tensor]] = {place: [] for place in logits}
    for chosen in marked_sets(count):
        for place, tried in trial.logits(chosen).items():
            nan = tried.isnan()
            own = (nan | ~visible[place]).all(dim=-1, keepdim=True)  # the rows that are computed from a marked token
            marks[place].append((nan & ~own).flatten(0, 1).any(dim=0))
    columns: dict[int, torch.Tensor | None] = {}
    for place, found in marks.items():
        numbers = numbers_of(found)
        if numbers is None:
            columns[place] = None
        elif (numbers >= 0).any():
            places = [(numbers == token).nonzero().flatten().tolist() for token in range(count)]
            alone = all(len(each) < 2 for each in places)
            columns[place] = torch.tensor([each[0] if each else -1 for each in places]) if alone else None
    return columns


def _heads(trial: _Trial, place: int, shape: Sequence[int], row: int) -> torch.Tensor | None:
    """[G, n] bool: the heads and rows of a softmax that the output of a predicting row comes from. None: not found."""
    before = trial.given(row, _Logits())

    def reads(chosen: torch.Tensor) -> torch.Tensor:
        return (trial.given(row, _Doubled(place, chosen)) != before).any()

    heads, rows = shape
    number = numbers_of([reads(chosen.expand(heads, rows)) for chosen in marked_sets(rows)])
    if number is None:
        return None
    found = torch.zeros(heads, rows, dtype=torch.bool)
    if number >= 0:
        each = torch.eye(heads, dtype=torch.bool).unsqueeze(-1) & (torch.arange(rows) == number.item())
        found[:, number] = torch.stack([reads(one) for one in each])
    return found


def _reading(place: int, logits: torch.Tensor, heads: torch.Tensor, columns: torch.Tensor) -> Reading:
    """What the rows `heads` [G, n] of a softmax read."""
    known, chosen = columns >= 0, columns.clamp_min(0)
    rows = logits[heads.to(logits.device)]  # [H, K]
    weights = rows.softmax(dim=-1)[:, chosen].masked_fill(~known.to(rows.device), 0.0)
    visible = (rows >= INVISIBLE)[:, chosen] & known.to(rows.device)
    return Reading(Slots(place, heads, columns, logits.shape[-1]), weights, visible)


def _check(model: PreTrainedModel, index: int, trial: _Trial, readings: Sequence[Reading], row: int) -> None:
    """Raises UnsupportedModel where a row reads tokens otherwise than at the places that were found."""
    tokens, hidden = trial.layout.tokens, trial.call.hidden
    own = hidden is trial.first and row in tokens
    if own and readings and not any(each.slots.columns[tokens.index(row)] >= 0 for each in readings):
        raise unsupported(model, index, UNKNOWN)
    others = [token for token in tokens if not own or token != row]
    masks = {each.slots.place: each.slots.hidden([range(len(tokens))]) for each in readings}

    def exchange(states: torch.Tensor) -> None:
        states[others] = -2 * states[others].roll(1, dims=0)

    kept, exchanged = (trial.given(row, SoftmaxMasks(masks), *change) for change in ((), (exchange,)))
    if readings and not (kept - exchanged).norm() <= ROUNDING[kept.dtype] * kept.norm():
        raise unsupported(model, index, "it reads its tokens otherwise than through a softmax over them")
