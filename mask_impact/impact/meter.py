"""How far one layer's update moves under each mask: replayed rows to distances, with the checks that keep them true."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from mask_impact.distances import DEFAULT_METRICS, METRICS, compare
from mask_impact.impact.masking import Masks, QueryAttention
from mask_impact.impact.record import LayerRecord, QueryRecord
from mask_impact.impact.replay import Replay, Rows, head_shares, rows_at_once
from mask_impact.model.memory import Portion, explained
from mask_impact.model.rounding import ROUNDING
from mask_impact.model.towers import refusing, unsupported


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
    values: torch.Tensor  # [P, V, M] float32 (float64 for float64 models)
    lengths: torch.Tensor  # [V] lengths of the unmasked vectors, the same dtype
    noise: dict[str, tuple[float, float]]  # Full, Head: L2 of the no-mask replay from the record, and relative to it
    heads: int  # query heads H
    blind: bool  # some mask left the query nothing to attend to; zeroed values leave the weights

    @property
    def l2(self) -> torch.Tensor:
        """[P, V] L2 distances. They are always there: they tell whether a mask changed anything."""
        return self.values[..., self.metrics.index("l2")]

    @property
    def cosine(self) -> torch.Tensor:
        """[P, V] cosine distances. Raises ValueError where they were not chosen."""
        return self.values[..., self.metrics.index("cosine")]


class Meter:
    """Measures recorded layers of one model."""

    way = "rows"  # how layers are called again; in the manifest
    failure = "it cannot be called on single rows"

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
        self.wanted = wanted
        self.ablation = ablation
        self.replay = Replay()
        self.replayed = Portion()  # masked rows in one call of a layer
        self.attended = Portion()  # rows in one call of its attention

    def attention(self, record: LayerRecord, query: QueryRecord) -> QueryAttention:
        """The layer's attention at `query`, for any set of masked positions."""
        assert record.attention is not None, "only layers with attention are measured"
        with explained(f"the attention of layer {record.index} over {query.bias.shape[-1]} tokens"):
            return QueryAttention(record.attention, query, self.attended, self.ablation)

    def memory_notes(self) -> list[str]:
        """What to say where rows did not fit at once. A call of a layer has its row without a mask besides."""
        kinds = (("rows", self.replayed, 1), ("rows of attention", self.attended, 0))
        return [
            f"memory ran out with {portion.too_many + more} {rows} at once; {portion.most + more} were used"
            for rows, portion, more in kinds
            if portion.too_many
        ]

    def impact(self, record: LayerRecord, query: QueryRecord, masks: Masks) -> Impact:
        """Distances of `record`'s update at `query` under each of P masks.

        A mask of positions that the query cannot see changes nothing: its distances are exactly 0.
        Raises UnsupportedModel when the replay without a mask does not reproduce what the model computed, OutOfMemory
        when not even one mask fits.
        """
        attention = self.attention(record, query)
        visible = set(attention.visible().nonzero().flatten().tolist())
        seen = [[position for position in mask if position in visible] for mask in masks]
        rows = [index for index, mask in enumerate(seen) if mask]
        todo = [seen[index] for index in rows] or [[]]

        def measured(part: Masks) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
            # every call has its own no-mask row: matrix products may round differently for another number of rows
            replayed = self._replayed(record, query, attention, [[], *part])
            return *self._compare(record, replayed, self._weights(attention, part)), replayed.update[0].clone()

        with explained(f"the replay of layer {record.index} with one masked row of {len(todo)}"):
            parts, unmasked, bases = zip(
                *self.replayed.pieces(todo, self.rows_at_once(record, query) - 1, measured), strict=True
            )
        values = torch.cat(parts)[: len(rows)]
        if len(rows) < len(masks):
            places = torch.tensor(rows, dtype=torch.int64, device=values.device)
            none = self._weights(attention, [[]])
            same = [self._columns(base, torch.zeros_like(base)[None], none) for base in unmasked[0]]
            values = torch.cat(same, dim=1).repeat(len(masks), 1, 1).index_copy_(0, places, values)
        return Impact(
            metrics=self.metrics,
            values=values,
            lengths=torch.cat([base.norm(dim=-1).view(-1) for base in unmasked[0]]),
            noise=self._check(record, query, bases, attention),
            heads=attention.heads,
            blind=self.ablation == "neg-inf" and any(len(mask) == len(visible) for mask in seen),
        )

    def _replayed(self, record: LayerRecord, query: QueryRecord, attention: QueryAttention, masks: Masks) -> Rows:
        """The layer on one row for each mask, or a refusal."""
        with refusing(self.model, self.failure, record.index):
            return self._rows(record, query, attention, masks)

    def _rows(self, record: LayerRecord, query: QueryRecord, attention: QueryAttention, masks: Masks) -> Rows:
        return self.replay.rows(record, query, attention.output, attention.changes(masks))

    def rows_at_once(self, record: LayerRecord, query: QueryRecord) -> int:
        """How many rows fit the memory budget."""
        return rows_at_once(query)

    def _weights(self, attention: QueryAttention, masks: Masks) -> torch.Tensor | None:
        """[R, H] the attention weight that each mask removes; None where it is not known, and no metric needs it."""
        if attention.weights is None or not any(METRICS[name].needs_weights for name in self.metrics):
            return None
        return torch.stack([attention.weights[:, list(mask)].sum(dim=1) for mask in masks])

    def _compare(
        self, record: LayerRecord, rows: Rows, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Each row against the first, which is without a mask and not among the R.

        Returns:
            [R, V, M] the metrics.
            The vectors without a mask: [C] of Full and Attn, [H, D] or [H, C] of the heads.
        """
        pairs = []
        if self.wanted.full:
            pairs.append(_base_and_change(rows.update))
        if self.wanted.attn:
            if rows.attention is None:
                raise unsupported(
                    self.model,
                    record.index,
                    "no addition of attention alone to the residual stream was found; measure it with `variants` full",
                )
            pairs.append(_base_and_change(rows.attention))
        if self.wanted.heads:
            if rows.heads is None:
                what = "its heads cannot be told apart before an output projection; measure it with `variants` full"
                raise unsupported(self.model, record.index, what)
            change = rows.heads - rows.heads[0] if rows.head_change is None else rows.head_change
            base = self._heads(record, rows, rows.heads[:1])[0]
            pairs.append((base, self._heads(record, rows, change[1:])))
        # clones: a view of one row would keep the rows of the whole replay
        return torch.cat([self._columns(*pair, weights) for pair in pairs], dim=1), [base.clone() for base, _ in pairs]

    def _columns(self, base: torch.Tensor, change: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """[R, 1, M] for base [C] and change [R, C]; [R, H, M] for heads."""
        found = compare(self.metrics, base, change, weights)
        return found.unsqueeze(1) if base.ndim == 1 else found

    def _heads(self, record: LayerRecord, rows: Rows, heads: torch.Tensor) -> torch.Tensor:
        if self.wanted.head_space == "output":
            return heads
        if rows.projection is None:
            raise unsupported(
                self.model, record.index, "--head-space residual needs an output projection with a weight"
            )
        return head_shares(heads, rows.projection)

    def _check(
        self, record: LayerRecord, query: QueryRecord, bases: Sequence[torch.Tensor], attention: QueryAttention
    ) -> dict[str, tuple[float, float]]:
        """The no-mask replays (updates [C]) against the record: the noise floor, or a refusal."""
        precise = bases[0].dtype
        output, heads = query.output.to(precise).flatten(), query.heads.to(precise)
        recorded = output - query.hidden.to(precise).flatten()
        limit = ROUNDING[query.hidden.dtype]
        cases = [("Full", base, recorded, output) for base in bases]
        if heads.numel():
            cases.append(("Head", attention.output, heads, heads))
        norms = [vector.norm() for _, ours, theirs, scale in cases for vector in (ours - theirs, theirs, scale)]
        read = iter(torch.stack(norms).tolist())  # one transfer from the device
        noise: dict[str, tuple[float, float]] = {}
        for (name, *_), l2, length, scale in zip(cases, read, read, read, strict=True):
            relative = l2 / max(length, 1e-30)
            noise[name] = max(noise.get(name, (0.0, 0.0)), (l2, relative))
            if not l2 <= limit * max(length, scale):
                raise unsupported(
                    self.model,
                    record.index,
                    f"replayed without a mask, its {name} update differs from the model's own by {relative:.2g} of its "
                    f"length (rounding in {query.hidden.dtype} explains {limit:.2g} at most)",
                )
        return noise


def _base_and_change(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[C] the first row of [1 + R, C], and [R, C] how the others differ from it; float32 or better."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return rows[0], rows[1:] - rows[0]
