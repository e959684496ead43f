"""How far one layer's update moves under each mask: replayed rows to distances, with the checks that keep them true."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from mask_impact.distances import DEFAULT_METRICS, METRICS
from mask_impact.impact.masking import SHORT, Masked, Masks, QueryAttention
from mask_impact.impact.record import LayerRecord, QueryRecord
from mask_impact.impact.replay import Replay, Rows, head_shares, rows_at_once
from mask_impact.impact.together import together
from mask_impact.impact.vectors import Rounding, Vectors
from mask_impact.model.memory import Portion, explained
from mask_impact.model.rounding import ROUNDING
from mask_impact.model.towers import refusing, unsupported
from mask_impact.model.weights import check_finite


@dataclass(frozen=True)
class Wanted:
    """Which vectors are compared: any of Full, Attn and the heads, the heads in output or residual space."""

    full: bool = True
    attn: bool = True
    heads: bool = True
    head_space: str = "output"

    def names(self, head_count: int) -> list[str]:
        """The variants in table order: Full, Attn, Head_0, ..."""
        heads = [f"Head_{head}" for head in range(head_count)] if self.heads else []
        return ["Full"] * self.full + ["Attn"] * self.attn + heads


@dataclass
class Impact:
    """One layer at one query position, P masks, V variants."""

    metrics: tuple[str, ...]  # [M] the chosen ones, as in distances.METRICS; L2 comes last where it was not chosen
    values: torch.Tensor  # [P, V, M] float32 (float64 for float64 models), on the CPU as all of them
    floors: torch.Tensor  # [V, M] values that rounding alone can give, the same dtype
    lengths: torch.Tensor  # [V] lengths of the unmasked vectors, the same dtype
    noise: dict[str, tuple[float, float]]  # Full, Head: L2 of the no-mask replay from the record, and relative to it
    heads: int  # query heads H
    blind: bool  # some mask left the query nothing to attend to; zeroed values leave the weights
    reading: torch.Tensor | None = None  # [2, T] see masking.reading; only where a metric needs attention weights

    @property
    def l2(self) -> torch.Tensor:
        """[P, V] L2 distances. They are always there: they tell whether a mask changed anything."""
        return self.values[..., self.metrics.index("l2")]

    @property
    def cosine(self) -> torch.Tensor:
        """[P, V] cosine distances. Raises ValueError where they were not chosen."""
        return self.values[..., self.metrics.index("cosine")]


UNMOVED = -1  # the row of a mask that changes nothing: the last
Acting = tuple[Sequence[int], Sequence[bool]]  # a mask, and at which of Q queries it changes something


class Chosen:
    """What each of Q queries sees of its masks, and all their masks, each once."""

    def __init__(self, visible: torch.Tensor, masks: Sequence[Masks]) -> None:
        """`visible` [Q, T] bool, on the CPU: the positions that a query sees; `masks`: of each query."""
        self.visible, self.masks = visible, masks
        self.row_of: list[list[int]] = []  # of each query's masks
        self.blind: list[bool] = []  # some mask hides all that the query sees
        sees: list[set[int]] = [set() for _ in masks]
        for place, position in visible.nonzero().tolist():
            sees[place].add(position)
        ever = set().union(*sees)
        rows: dict[tuple[int, ...], int] = {}
        for seen, mine in zip(sees, masks, strict=True):
            acting = [sum(each in seen for each in mask) for mask in mine]
            kept = [tuple(each for each in mask if each in ever) for mask in mine]
            pairs = zip(kept, acting, strict=True)
            self.blind.append(len(seen) in acting)
            self.row_of.append([rows.setdefault(mask, len(rows)) if acts else UNMOVED for mask, acts in pairs])
        self.rows: Masks = list(rows)  # those that change something
        self.acts = [[not seen.isdisjoint(mask) for seen in sees] for mask in self.rows]  # [R][Q]

    def fits(self, visible: torch.Tensor, masks: Sequence[Masks]) -> bool:
        """Whether it was made of these. From layer to layer they are mostly the same."""
        same = len(masks) == len(self.masks) and all(map(operator.is_, masks, self.masks))
        return same and torch.equal(visible, self.visible)


class Meter:
    """Measures recorded layers of one model."""

    way = "rows"  # how layers are called again; in the manifest
    takes_several = True  # queries in one call

    def __init__(
        self,
        model: PreTrainedModel,
        wanted: Wanted,
        ablation: str = "neg-inf",
        metrics: tuple[str, ...] = DEFAULT_METRICS,
    ) -> None:
        """`ablation` is one of options.ABLATIONS; `metrics` are those to compute, of distances.METRICS."""
        self.model = model
        self.metrics = metrics if "l2" in metrics else (*metrics, "l2")
        self.of_weights = [METRICS[name].needs_weights for name in self.metrics]  # [M]
        self.wanted = wanted
        self.ablation = ablation
        self.replay = Replay(model)
        self.one_by_one: set[type[nn.Module]] = set()  # layers that do not take several queries in one call
        self.chosen: Chosen | None = None  # in the layer before
        self.replayed = Portion()  # masked rows in one call of a layer
        self.attended = Portion()  # rows in one call of its attention

    def attention(self, record: LayerRecord, query: QueryRecord) -> QueryAttention:
        """The layer's attention at `query`, for any set of masked positions."""
        assert record.attention is not None, "only layers with attention are measured"
        with explained(f"the attention of layer {record.index} over {query.bias.shape[-1]} tokens"):
            return QueryAttention(record.attention, query, self.attended, self.ablation)

    def memory_notes(self) -> list[str]:
        """What to say where rows did not fit at once. A call of a layer has two rows without a mask besides."""
        kinds = (("rows", self.replayed, 2), ("rows of attention", self.attended, 0))
        return [
            f"memory ran out with {portion.too_many + more} {rows} at once; {portion.most + more} were used"
            for rows, portion, more in kinds
            if portion.too_many
        ]

    def impact(self, record: LayerRecord, query: QueryRecord, masks: Masks) -> Impact:
        """As `impacts`, at one query."""
        return self._impacts(record, query, [masks])[0]

    def impacts(self, record: LayerRecord, queries: Sequence[QueryRecord], masks: Sequence[Masks]) -> list[Impact]:
        """Distances of `record`'s update at each query under each of its masks.

        A mask of positions that the query cannot see changes nothing: its distances are exactly 0. Queries are measured
        in one call of the layer where it takes them so, and else one after the other.
        Raises UnsupportedModel when the replay without a mask does not reproduce what the model computed, OutOfMemory
        when not even one mask fits.
        """
        several = self.takes_several and record.other is None and type(record.layer) not in self.one_by_one
        if several and len(queries) > 1:
            try:
                return self._impacts(record, together(queries), masks)
            except Exception:  # what is wrong with more than the way they are joined is found again below
                self.one_by_one.add(type(record.layer))
        return [self.impact(record, query, mine) for query, mine in zip(queries, masks, strict=True)]

    def _impacts(self, record: LayerRecord, query: QueryRecord, masks: Sequence[Masks]) -> list[Impact]:
        """The same for Q queries in one record, each with its masks."""
        attention = self.attention(record, query)
        self._check_weights(record, attention)
        visible = attention.visible().cpu()
        if self.chosen is None or not self.chosen.fits(visible, masks):
            self.chosen = Chosen(visible, masks)
        chosen = self.chosen
        todo = list(zip(chosen.rows, chosen.acts, strict=True)) or [((), [False] * len(masks))]
        dtype = self.dtype(record, query)

        def measured(part: Sequence[Acting]) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor]:
            # every call has its own no-mask row: matrix products may round differently for another number of rows
            return self._measured(record, query, attention, part, Rounding(dtype))

        with explained(f"the replay of layer {record.index} with one masked row of {len(todo)}"):
            at_once = max(1, self.rows_at_once(record, query) - 2)  # two rows are no masks
            parts, floors, unmasked, bases = zip(*self.replayed.pieces(todo, at_once, measured), strict=True)
        if any(UNMOVED in rows for rows in chosen.row_of):
            none = self._weights(attention, [[]])
            same = [Vectors(base, torch.zeros_like(base)[None]).metrics(self.metrics, none) for base in unmasked[0]]
            parts = (*parts, torch.cat(same, dim=2))
        values = torch.cat(parts).cpu()  # [R, Q, V, M]
        floor = torch.stack(floors).amax(dim=0).cpu()
        lengths = torch.cat([base.norm(dim=-1).view(len(masks), -1) for base in unmasked[0]], dim=1).cpu()
        noise = self._check(record, query, bases, attention)
        reading = attention.reading() if any(self.of_weights) else None
        reading = None if reading is None else reading.cpu()
        return [
            Impact(
                metrics=self.metrics,
                values=values[:, place] if rows == list(range(len(values))) else values[rows, place],
                floors=floor[place],
                lengths=lengths[place],
                noise=noise[place],
                heads=attention.heads,
                blind=self.ablation == "neg-inf" and chosen.blind[place],
                reading=None if reading is None else reading[place],
            )
            for place, rows in enumerate(chosen.row_of)
        ]

    def _replayed(self, record: LayerRecord, query: QueryRecord, masked: Masked) -> Rows:
        """The layer on one row per mask, or a refusal."""
        with refusing(self.model, "it cannot be called on single rows", record.index):
            return self.replay.rows(record, query, masked)

    def _rows(
        self, record: LayerRecord, query: QueryRecord, attention: QueryAttention, masks: Masks, rounding: Rounding
    ) -> Rows:
        """The layer without a mask, under each, and once more without one, rounded in another way."""
        return self._replayed(record, query, rounding.into_last(attention.masked([[], *masks, []])))

    def rows_at_once(self, record: LayerRecord, query: QueryRecord) -> int:
        """How many rows fit the memory budget."""
        return rows_at_once(query)

    def dtype(self, record: LayerRecord, query: QueryRecord) -> torch.dtype:
        """What the layer is called again in."""
        return self.replay.dtype(record, query)

    def _check_weights(self, record: LayerRecord, attention: QueryAttention) -> None:
        """Raises UnsupportedModel for a metric that cannot do without attention weights that are not known."""
        without = next((why for name in self.metrics if (why := METRICS[name].without_weights)), "")
        if attention.weights is None and without:
            refusal = unsupported(self.model, record.index, without)
            refusal.final = True
            raise refusal

    def _weights(self, attention: QueryAttention, masks: Masks) -> torch.Tensor | None:
        """[R, Q, H] the attention weight that each mask removes; None where it is not known, or no metric needs it."""
        if attention.weights is None or not any(self.of_weights):
            return None
        return torch.stack([attention.weights[:, :, list(mask)].sum(dim=2) for mask in masks])

    def _measured(
        self,
        record: LayerRecord,
        query: QueryRecord,
        attention: QueryAttention,
        part: Sequence[Acting],
        rounding: Rounding,
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """One call of the layer.

        Returns:
            [R, Q, V, M] the metrics of R masks, and [Q, V, M] their noise floors.
            The vectors without a mask: [Q, C] of Full and Attn, [Q, H, D] or [Q, H, C] of the heads.
            [Q, C] the update without a mask.
        """
        masks = [mask for mask, _ in part]
        rows = self._rows(record, query, attention, masks, rounding)
        vectors = self._vectors(record, rows)
        if self.wanted.full:
            rounding.of_stream(vectors[0], query.output.view(vectors[0].base.shape).to(vectors[0].change))
        for each in vectors:
            rounding.widen(each)
        weights = self._weights(attention, [*masks, []])
        values = torch.cat([each.metrics(self.metrics, weights) for each in vectors], dim=2)
        values, floors = values[:-1], values[-1].nan_to_num(0.0, posinf=0.0)
        self._move_the_unmoved(record, query, attention, part, values, floors)
        # clones: a view of one row would keep the rows of the whole replay
        return values, floors, [each.base.clone() for each in vectors], rows.update[0].clone()

    def _vectors(self, record: LayerRecord, rows: Rows) -> list[Vectors]:
        """Each row against the first, which is without a mask and not among the R."""
        found = []
        if self.wanted.full:
            found.append(Vectors.of(rows.update, sums=True))
        if self.wanted.attn:
            if rows.attention is None:
                raise unsupported(
                    self.model,
                    record.index,
                    "no addition of attention alone to the residual stream was found; measure it with `variants` full",
                )
            found.append(Vectors.of(rows.attention))
        if self.wanted.heads:
            if rows.heads is None:
                what = "its heads cannot be told apart before an output projection; measure it with `variants` full"
                raise unsupported(self.model, record.index, what)
            change = rows.heads - rows.heads[0] if rows.head_change is None else rows.head_change
            base = self._heads(record, rows, rows.heads[:1])[0]
            found.append(Vectors(base, self._heads(record, rows, change[1:]), rows.heads[1:]))
            if self.wanted.head_space == "residual":
                found[-1].masked = self._shares_left(record, rows, found[-1])
        return found

    def _shares_left(self, record: LayerRecord, rows: Rows, shares: Vectors) -> torch.Tensor:
        """[R, Q, H, C] the shares under each mask; computed by themselves where that little is left of one."""
        left = shares.base + shares.change
        short = (left.norm(dim=-1) < SHORT * shares.base.norm(dim=-1)).any(dim=2).nonzero(as_tuple=True)
        if len(short[0]) and rows.heads is not None:
            left[short] = self._heads(record, rows, rows.heads[1:][short])
        return left

    def _move_the_unmoved(
        self,
        record: LayerRecord,
        query: QueryRecord,
        attention: QueryAttention,
        part: Sequence[Acting],
        values: torch.Tensor,
        floors: torch.Tensor,
    ) -> None:
        """Give rows of `values` [R, Q, V, M] that are 0 what their masks change below rounding.

        Only a mask that changes nothing has distance 0. Where a change is too small for the layer's arithmetic, it is
        replayed magnified, and what comes out is made smaller by as much; it stays below the noise floor [Q, V, M].
        """
        l2 = values[..., self.metrics.index("l2")]
        still = (l2[..., : self.wanted.full + self.wanted.attn] == 0).any(dim=2).nonzero().tolist()
        rows = sorted({row for row, place in still if part[row][1][place]})
        if not rows:
            return
        masks = [part[row][0] for row in rows]
        rounding = Rounding(self.replay.dtype(record, query))
        small = attention.masked([[], *masks])
        magnified, factor = rounding.magnified(small, attention.output)
        again = self._vectors(record, self._replayed(record, query, magnified))
        for each in again:
            each.change /= factor[1:].view(*each.change.shape[:2], *[1] * (each.base.ndim - 1))
            each.masked = None
        weights = self._weights(attention, masks)
        limits = floors.masked_fill(torch.tensor(self.of_weights, device=floors.device), float("inf"))  # known exactly
        found = torch.cat([each.metrics(self.metrics, weights) for each in again], dim=2).minimum(limits)
        values[rows] = torch.where((l2[rows] == 0).unsqueeze(-1), found, values[rows])

    def _heads(self, record: LayerRecord, rows: Rows, heads: torch.Tensor) -> torch.Tensor:
        if self.wanted.head_space == "output":
            return heads
        if rows.projection is None:
            what = "`head_space` residual needs an output projection with a weight"
            refusal = unsupported(self.model, record.index, what)
            refusal.final = True
            raise refusal
        return head_shares(heads, rows.projection)

    def _check(
        self, record: LayerRecord, query: QueryRecord, bases: Sequence[torch.Tensor], attention: QueryAttention
    ) -> list[dict[str, tuple[float, float]]]:
        """The no-mask replays (updates [Q, C]) against the record: the noise floor of each query, or a refusal."""
        precise = bases[0].dtype
        output, heads = query.output.view(bases[0].shape).to(precise), query.heads.to(precise).flatten(1)
        recorded = output - query.hidden.view(bases[0].shape).to(precise)
        limit = ROUNDING[query.hidden.dtype]
        cases = [("Full", base, recorded, output) for base in bases]
        if heads.numel():
            cases.append(("Head", attention.output.flatten(1), heads, heads))
        norms = [vector.norm(dim=-1) for _, ours, theirs, scale in cases for vector in (ours - theirs, theirs, scale)]
        read = torch.stack(norms).T.tolist()  # one transfer from the device
        noise: list[dict[str, tuple[float, float]]] = [{} for _ in read]
        for found, numbers in zip(noise, map(iter, read), strict=True):
            for (name, *_), l2, length, scale in zip(cases, numbers, numbers, numbers, strict=True):
                relative = l2 / max(length, 1e-30)
                found[name] = max(found.get(name, (0.0, 0.0)), (l2, relative))
                if not l2 <= limit * max(length, scale):
                    check_finite(self.model)
                    raise unsupported(
                        self.model,
                        record.index,
                        f"replayed without a mask, its {name} update differs from the model's own by {relative:.2g} of "
                        f"its length (rounding in {query.hidden.dtype} explains {limit:.2g} at most)",
                    )
        return noise
