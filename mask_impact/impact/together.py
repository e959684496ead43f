"""Several recorded queries of a layer as one, so that the layer is called once for all of them.

In: records of single queries. Out: the record of Q queries.

A layer takes a sequence of tokens, and with its attention answered it does the rest to each of them alone. So Q
recorded rows become a sequence of Q tokens: their states and rotary tables are laid side by side where they were cut
apart. What does not fit together that way is said (`Apart`), and then each query has a call of its own. Whether a layer
does treat its tokens alone needs no belief: the replay without a mask must give what was recorded, at every query.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mask_impact.impact.record import QueryRecord
from mask_impact.model.call_rows import sequence_axis


class Apart(Exception):
    """What was recorded for several queries does not make one call."""


Joins = dict[tuple[int, ...], tuple[Any, Any]]  # by the ids of tensors: the joined one, and they


def together(queries: Sequence[QueryRecord]) -> QueryRecord:
    """One record of all `queries`, whose `position` is the last one's. Raises Apart."""
    if len(queries) == 1:
        return queries[0]
    seen: Joins = {}
    length = max(query.bias.shape[-1] for query in queries)
    options, by_query = _options([query.options for query in queries])
    return QueryRecord(
        position=queries[-1].position,
        args=side_by_side([query.args for query in queries], seen),
        kwargs=side_by_side([query.kwargs for query in queries], seen),
        hidden=side_by_side([query.hidden for query in queries], seen),
        query=torch.cat([query.query for query in queries]),
        bias=torch.cat([_longer(query.bias, length, float("-inf")) for query in queries]),
        options=options,
        heads=torch.cat([query.heads for query in queries]),
        output=torch.cat([query.output for query in queries], dim=1),
        branches=[branch for query in queries for branch in query.branches],
        options_by_query=by_query,
    )


def side_by_side(values: Sequence[Any], seen: Joins) -> Any:
    """Arguments of calls on one token each as those of one call on all; tensors are joined where they were cut.

    A tensor that is in several arguments is still one tensor afterwards: `seen` remembers those joined.
    """
    first = values[0]
    if isinstance(first, torch.Tensor):
        key = tuple(map(id, values))
        if key not in seen:
            seen[key] = (_joined(values), values)  # the originals are held, so that their ids stay their own
        return seen[key][0]
    if isinstance(first, Mapping):
        if any(each.keys() != first.keys() for each in values):
            raise Apart
        return {name: side_by_side([each[name] for each in values], seen) for name in first}
    if isinstance(first, tuple | list):
        if any(len(each) != len(first) for each in values):
            raise Apart
        return type(first)(side_by_side(items, seen) for items in zip(*values, strict=True))
    if any(each is not first and each != first for each in values):
        raise Apart
    return first


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor of all tokens; where they have one row each, along the sequence, and else the same for all."""
    first, axis = tensors[0], sequence_axis(tensors[0])
    if any(each.ndim != first.ndim for each in tensors):
        raise Apart
    if first.ndim >= -axis and all(each.shape[axis] == 1 for each in tensors):
        longest = max(each.shape[-1] for each in tensors)
        if axis == -2:  # a mask is as long as its token's context: nobody reads it, since attention is answered
            tensors = [_longer(each, longest, 0) for each in tensors]
        if all(each.shape == tensors[0].shape for each in tensors):
            return torch.cat(list(tensors), dim=axis)
    if _equal(tensors):
        return first
    raise Apart


def _equal(tensors: Sequence[torch.Tensor]) -> bool:
    first = tensors[0]
    return all(each is first or (each.shape == first.shape and torch.equal(each, first)) for each in tensors)


def _longer(tensor: torch.Tensor, length: int, value: float) -> torch.Tensor:
    """Up to `length` in the last axis."""
    missing = length - tensor.shape[-1]
    return nn.functional.pad(tensor, (0, missing), value=value) if missing else tensor


def _options(options: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The further arguments of the attention calls, in which queries are a batch, and the names of those that have an
    entry for each query."""
    if any(each.keys() != options[0].keys() for each in options):
        raise Apart
    found, by_query = dict(options[0]), []
    for name, first in options[0].items():
        values = [each[name] for each in options]
        if not isinstance(first, torch.Tensor):
            found[name] = side_by_side(values, {})
        elif not _equal(values):
            if any(each.shape != first.shape for each in values) or first.ndim == 0 or len(first) != 1:
                raise Apart
            found[name] = torch.cat(values)
            by_query.append(name)
    return found, tuple(by_query)
