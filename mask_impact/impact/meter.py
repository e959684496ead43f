"""How far one layer's update moves under each mask: replayed rows to distances, with the checks that keep them true."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from mask_impact.distances import distances
from mask_impact.impact.masking import Masks, QueryAttention
from mask_impact.impact.record import LayerRecord, Query
from mask_impact.impact.replay import Replay, Rows, head_shares, rows_at_once
from mask_impact.model.memory import Portion, explained, is_out_of_memory
from mask_impact.model.rounding import ROUNDING
from mask_impact.model.towers import unsupported


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

    l2: torch.Tensor  # [P, V] float32 (float64 for float64 models)
    cosine: torch.Tensor  # [P, V] the same
    noise: dict[str, tuple[float, float]]  # Full, Head: L2 of the no-mask replay from the record, and relative to it
    heads: int  # query heads H
    blind: bool  # some mask left the query nothing to attend to; zeroed values leave the weights


class Meter:
    """Measures recorded layers of one model."""

    def __init__(self, model: PreTrainedModel, wanted: Wanted, ablation: str = "neg-inf") -> None:
        """`ablation`: one of options.ABLATIONS."""
        self.model = model
        self.wanted = wanted
        self.ablation = ablation
        self.replay = Replay(model)
        self.replayed = Portion()  # masked rows in one call of a layer
        self.attended = Portion()  # rows in one call of its attention

    def attention(self, record: LayerRecord, query: Query) -> QueryAttention:
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

    def impact(self, record: LayerRecord, query: Query, masks: Masks) -> Impact:
        """Distances of `record`'s update at `query` under each of P masks.

        A mask of positions that the query cannot see has distance exactly 0. Raises UnsupportedModel when the replay
        without a mask does not reproduce what the model computed, OutOfMemory when not even one mask fits.
        """
        attention = self.attention(record, query)
        visible = set(attention.visible().nonzero().flatten().tolist())
        seen = [[position for position in mask if position in visible] for mask in masks]
        rows = [index for index, mask in enumerate(seen) if mask]
        todo = [seen[index] for index in rows] or [[]]

        def measured(part: Masks) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            # every call has its own no-mask row: matrix products may round differently for another number of rows
            change = attention.changes([[], *part])
            replayed = self._replayed(record, query, attention.output, change)
            return *self._compare(record, replayed), replayed.update[0].clone()

        with explained(f"the replay of layer {record.index} with one masked row of {len(todo)}"):
            l2_parts, cosine_parts, bases = zip(
                *self.replayed.pieces(todo, rows_at_once(query) - 1, measured), strict=True
            )
        noise = self._check(record, query, bases, attention)
        found = [torch.cat(column)[: len(rows)] for column in (l2_parts, cosine_parts)]
        if len(rows) == len(masks):
            l2, cosine = found
        else:
            places = torch.tensor(rows, dtype=torch.int64, device=found[0].device)
            l2, cosine = (
                column.new_zeros(len(masks), column.shape[1]).index_copy(0, places, column) for column in found
            )
        return Impact(
            l2=l2,
            cosine=cosine,
            noise=noise,
            heads=attention.output.shape[0],
            blind=self.ablation == "neg-inf" and any(len(mask) == len(visible) for mask in seen),
        )

    def _replayed(self, record: LayerRecord, query: Query, base: torch.Tensor, change: torch.Tensor) -> Rows:
        """The layer on one row per change, or a refusal."""
        try:
            return self.replay.rows(record, query, base, change)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            if is_out_of_memory(error):
                raise
            what = f"it cannot be called on single rows ({' '.join(str(error).split())[:200]})"
            raise unsupported(self.model, record.index, what) from error

    def _compare(self, record: LayerRecord, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """[R, V] L2 and cosine distance of each row from the first, which is without a mask and not among the R."""
        columns = []
        if self.wanted.full:
            columns.append(_column(rows.update))
        if self.wanted.attn:
            if rows.attention is None:
                raise unsupported(self.model, record.index, "no addition of attention to the residual stream was found")
            columns.append(_column(rows.attention))
        if self.wanted.heads:
            change = rows.heads - rows.heads[0] if rows.head_change is None else rows.head_change
            base = self._heads(record, rows, rows.heads[:1])[0]
            columns.append(distances(base, self._heads(record, rows, change[1:])))
        l2, cosine = zip(*columns, strict=True)
        return torch.cat(l2, dim=1), torch.cat(cosine, dim=1)

    def _heads(self, record: LayerRecord, rows: Rows, heads: torch.Tensor) -> torch.Tensor:
        if self.wanted.head_space == "output":
            return heads
        if rows.projection is None:
            raise unsupported(
                self.model, record.index, "--head-space residual needs an output projection with a weight"
            )
        return head_shares(heads, rows.projection)

    def _check(
        self, record: LayerRecord, query: Query, bases: Sequence[torch.Tensor], attention: QueryAttention
    ) -> dict[str, tuple[float, float]]:
        """The no-mask replays (updates [C]) against the record: the noise floor, or a refusal."""
        precise = bases[0].dtype
        output, heads = query.output.to(precise).flatten(), query.heads.to(precise)
        recorded = output - query.hidden.to(precise).flatten()
        limit = ROUNDING[query.hidden.dtype]
        cases = [("Full", base, recorded, output) for base in bases] + [("Head", attention.output, heads, heads)]
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


def _column(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[R, 1] distances of each row of [1 + R, C] from the first."""
    precise = torch.promote_types(rows.dtype, torch.float32)
    l2, cosine = distances(rows[0], rows[1:].to(precise) - rows[0].to(precise))
    return l2.unsqueeze(-1), cosine.unsqueeze(-1)
