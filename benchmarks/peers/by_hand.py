"""What one writes by hand: a hook in a loop, and a loop over the cached input of each layer. Time of both.

The hook loop runs the whole model once for every layer and token, with the token's column at -inf in the attention mask
of that layer. The layer loop runs only that layer, on its cached input. Both run the whole prompt. Of all layers x
tokens, a few are run, spread evenly, and their time is multiplied.

    python -m benchmarks.peers.by_hand FOLDER 16=3,64=3
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.peers import timed

LAYERS, TOKENS = 3, 3  # that are run


def some(count: int, of: int) -> list[int]:
    """`count` of range(of), spread evenly."""
    return sorted({(2 * place + 1) * of // (2 * count) for place in range(count)})


def masked_column(length: int, token: int) -> torch.Tensor:
    """[1, 1, N, N] an additive causal mask without the column of `token`."""
    mask = torch.full((length, length), float("-inf")).triu(1)
    mask[:, token] = torch.finfo(mask.dtype).min  # a position that may read nothing else reads all alike, not NaN
    return mask[None, None]


class ByHand:
    """The two loops on one model of Llama's kind."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.layers: nn.ModuleList = model.model.layers

    def _ids(self, prompt: str) -> torch.Tensor:
        ids: torch.Tensor = self.tokenizer(prompt, return_tensors="pt")["input_ids"]  # [1, N]
        return ids

    def _chosen(self, length: int) -> Iterator[tuple[nn.Module, int]]:
        return (
            (self.layers[layer], token) for layer in some(LAYERS, len(self.layers)) for token in some(TOKENS, length)
        )

    def _all_of(self, length: int) -> float:
        """By how much the time of the chosen ones is to be multiplied."""
        return len(self.layers) * length / len(list(self._chosen(length)))

    def hook_loop(self, prompt: str) -> float:
        ids = self._ids(prompt)
        length = ids.shape[1]

        def masked(layer: nn.Module, token: int) -> None:
            def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
                return args, kwargs | {"attention_mask": masked_column(length, token)}

            updates: list[torch.Tensor] = []
            handles = [
                layer.register_forward_pre_hook(before, with_kwargs=True),
                layer.register_forward_hook(
                    lambda module, args, output: updates.append(output[0, -1] - args[0][0, -1])
                ),
            ]
            self.model(ids, use_cache=False, logits_to_keep=1)
            for handle in handles:
                handle.remove()

        def loop() -> None:
            for layer, token in self._chosen(length):
                masked(layer, token)

        with torch.no_grad():
            return timed.seconds(loop) * self._all_of(length)

    def layer_loop(self, prompt: str) -> float:
        ids = self._ids(prompt)
        length = ids.shape[1]
        calls: dict[nn.Module, tuple[Any, Any]] = {}

        def fill() -> None:
            def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
                calls[module] = args, kwargs

            handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in self.layers]
            self.model(ids, use_cache=False, logits_to_keep=1)
            for handle in handles:
                handle.remove()

        def masked(layer: nn.Module, token: int) -> torch.Tensor:
            args, kwargs = calls[layer]
            output = layer(*args, **kwargs | {"attention_mask": masked_column(length, token)})
            update: torch.Tensor = output[0, -1] - args[0][0, -1]
            return update

        with torch.no_grad():
            filling = timed.seconds(fill)
            spent = timed.seconds(lambda: [masked(*each) for each in self._chosen(length)])
        return filling + spent * self._all_of(length)


def main() -> int:
    folder, lengths = timed.asked()
    model, tokenizer = timed.loaded(folder)
    loops = ByHand(model, tokenizer)
    tools = {"hook loop": loops.hook_loop, "layer loop": loops.layer_loop}
    return timed.tell({"times": timed.ratios(model, tokenizer, tools, lengths)})


if __name__ == "__main__":
    sys.exit(main())
