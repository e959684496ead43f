"""Watch whole calls of layers: what each is called with on all tokens, and where in it attention is computed.

In:  a model, its layers, and a function. Out: nothing; while the block is open, the function is given a `WholeCall` for
     every call of a layer, after it.

    calls = {}
    with whole_calls(model, decoder_layers(model), ids.shape[1], lambda index, call: calls.update({index: call})):
        model(ids, use_cache=False)

This is for families whose layers cannot be called on single rows. Nothing of a family is needed but a softmax over its
tokens; forwards run without a cache, so that a layer can be called again as it was called here.

n rows of the call, which may be the last of T tokens alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mask_impact.errors import UnsupportedModel
from mask_impact.model.call_rows import changed
from mask_impact.model.layers import layer_input, layer_output
from mask_impact.model.layout import Layout
from mask_impact.model.softmax import Site, SoftmaxFinder
from mask_impact.model.towers import unsupported
from mask_impact.model.watching import inside


class OtherRows(UnsupportedModel):
    """A layer has other rows than the prompt's tokens."""


@dataclass
class WholeCall:
    """One call of a layer on one prompt."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    hidden: torch.Tensor  # one of the arguments: [1, n, C], or with further axes
    axes: tuple[int, int]  # of the hidden states: that of the one prompt, that of its tokens
    layout: Layout | None = None  # None: its rows are the tokens
    output: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    sites: list[Site] = field(default_factory=list)  # none: the layer has no softmax attention

    @property
    def rows(self) -> int:
        return self.hidden.shape[self.axes[1]]

    def of_output(self, output: Any) -> torch.Tensor:
        """The hidden states in what the layer returns."""
        return layer_output(output) if self.layout is None else self.layout.output(output)

    def at(self, states: torch.Tensor, row: int) -> torch.Tensor:
        """[B, C] one token of B copies of the prompt, of states laid out as the hidden ones; of a family with several
        streams, all of them side by side.
        """
        return states.movedim(self.axes, (0, 1))[:, row].flatten(1)

    def seen(self) -> torch.Tensor:
        """[n, T] bool: the keys that each row sees with any head. Only of a layer with attention."""
        return torch.cat([site.visible for site in self.sites]).any(dim=0)


@contextmanager
def whole_calls(
    model: PreTrainedModel,
    layers: Sequence[nn.Module],
    count: int,
    done: Callable[[int, WholeCall], None],
    layout: Layout | None = None,
) -> Iterator[None]:
    """See above; `count` is the number of tokens of a forward. Raises OtherRows where a layer's input has no axis of
    that length, UnsupportedModel where it attends to something else than these tokens.

    Args:
        layout: of layers with other rows; their calls then have no sites yet.
    """
    running: list[tuple[WholeCall, SoftmaxFinder | None]] = []
    finding = ExitStack()

    def entering(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        copies: dict[int, Any] = {}  # a cache that is passed all the same is empty, and none says so, too
        args, kwargs = (changed(each, torch.clone, copies, None) for each in (args, kwargs))
        if layout is not None:
            hidden = layout.hidden(layers[index], args, kwargs)
            running[:] = [(WholeCall(args, kwargs, hidden, layout.axes, layout), None)]
            return
        hidden = layer_input(layers[index], args, kwargs)
        axes = _axes(list(hidden.shape), count)
        if axes is None:
            what = f"its input has shape {list(hidden.shape)} where there are {count} tokens"
            refusal = unsupported(model, index, f"{what}: the model adds tokens of its own, or mixes them")
            raise OtherRows(str(refusal))
        finder = SoftmaxFinder(hidden.shape[axes[1]], count)
        running[:] = [(WholeCall(args, kwargs, hidden, axes), finder)]
        finding.enter_context(finder)

    def leaving(index: int, output: Any) -> None:
        finding.close()
        ((call, finder),) = running
        if finder is not None and finder.elsewhere:
            what = "it attends to something other than its tokens one by one (blocks, compressed or added keys)"
            raise unsupported(model, index, what)
        call.sites = [] if finder is None else list(finder.sites)
        call.output = call.of_output(output)
        done(index, call)

    with finding, inside(model, layers, entering=entering, leaving=leaving):
        yield


def _axes(sizes: list[int], count: int) -> tuple[int, int] | None:
    """The axis of the one prompt, and that of its tokens: the next one, as a rule. A layer may be called with the last
    token alone."""
    if 1 not in sizes[:-1]:
        return None
    copies = sizes.index(1)
    others = [axis for axis in (copies + 1, *range(len(sizes) - 1)) if axis not in (copies, len(sizes) - 1)]
    found = [(copies, axis) for length in (count, 1) for axis in others if sizes[axis] == length]
    return found[0] if found else None
