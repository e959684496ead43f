"""The hidden states that the lens reads are those the real model computes, image in, in every family.

The reference is the model's own `generate` with plain hooks on its blocks, found by each family's path in its modeling
file: preprocessing, positions, masks and what is added between blocks are the model's.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from families import decoder_layers, submodule
from test_device_map import WAYS
from test_vl_engine import PROMPT, Loaded, folders, images, load, row, tensors  # noqa: F401
from vl_families import available, picture

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.lens.ready import together
from mask_impact.lens.states import chosen, hidden_states, sees_ahead, text_decoder
from mask_impact.model import find
from mask_impact.model.load import load_model

DEEPSTACK = ("qwen3_vl", "qwen3_vl_moe")  # features of two vision blocks each
TEXT = torch.tensor([[30, 31, 32, 33, 34, 35], [40, 41, 42, 43, 0, 0]])
LABELS = {"paligemma"}  # these want to know which part of a text sees itself
# Transformers 5's PaliGemma lets a text see itself both ways, and masks padding only in part.
CAUSAL = [name for name in available() if name != "paligemma" or transformers.__version__ < "5"]
VISIBLE = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def whole(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs of texts without padding."""
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def brute(loaded: Loaded, name: str, run: Callable[[Any], Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What each block was given in `run`, and what it gave."""
    given: list[torch.Tensor] = []
    gave: list[torch.Tensor] = []
    blocks = decoder_layers(loaded.model, row(name))
    handles = []
    for block in blocks:
        handles.append(
            block.register_forward_pre_hook(
                lambda _, args, kwargs: given.append((args[0] if args else kwargs["hidden_states"]).clone()),
                with_kwargs=True,
            )
        )
        handles.append(block.register_forward_hook(lambda _, __, output: gave.append(first(output).clone())))
    try:
        with torch.no_grad():
            run(loaded.model)
    finally:
        for handle in handles:
            handle.remove()
    assert len(given) == len(gave) == len(blocks)
    return given, gave


def generated(loaded: Loaded, name: str, given: dict[str, torch.Tensor]) -> tuple[list[Any], list[Any]]:
    return brute(loaded, name, lambda model: model.generate(**given, max_new_tokens=1, do_sample=False))


def worst(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("name", available())
def test_they_are_what_the_next_block_receives(name: str, load: Any) -> None:  # noqa: F811
    loaded = load(name)
    inputs = loaded.inputs(PROMPT, *images())
    given, gave = generated(loaded, name, tensors(inputs))
    layers = chosen((), len(given))
    found = hidden_states(loaded.model, tensors(inputs), layers)
    for layer, wanted in zip(layers, [*given, gave[-1]], strict=True):
        error = worst(found[layer], wanted)
        assert error <= 1e-6, f"layer {layer} differs by {error:.3g}"


@pytest.mark.parametrize("name", available())
def test_images_of_one_size_in_one_forward(name: str, load: Any) -> None:  # noqa: F811
    """Equal to one at a time to rounding, with the rows of the tokens that were asked for in the images' order."""
    loaded = load(name)
    each = [loaded.inputs(PROMPT, picture(84, 112, seed=seed)) for seed in range(3)]
    pieces = torch.tensor([[token.kind == "image" for token in inputs.tokens] for inputs in each])
    found = hidden_states(loaded.model, together([tensors(inputs) for inputs in each]), (0, 2, 3), pieces)
    alone = [hidden_states(loaded.model, tensors(inputs), (0, 2, 3)) for inputs in each]
    for layer in (0, 2, 3):
        wanted = torch.cat([states[layer][0][mask] for states, mask in zip(alone, pieces, strict=True)])
        error = worst(found[layer], wanted)
        assert error <= 1e-5, f"layer {layer} differs by {error:.3g}"
    count = int(pieces[0].sum())
    assert worst(found[0][:count], found[0][count : 2 * count]) > 0.01  # it is not one image three times


@pytest.mark.parametrize("name", ["qwen2_vl", *DEEPSTACK])
def test_what_is_added_between_blocks_is_in(name: str, load: Any) -> None:  # noqa: F811
    loaded = load(name)
    inputs = loaded.inputs(PROMPT, *images())
    _, gave = generated(loaded, name, tensors(inputs))
    found = hidden_states(loaded.model, tensors(inputs), (1, 2, 3))
    image = torch.tensor([token.kind == "image" for token in inputs.tokens])
    added = {layer: (found[layer] - gave[layer - 1])[0].norm(dim=-1) for layer in (1, 2, 3)}
    for layer in (1, 2, 3):
        assert added[layer][~image].max() == 0
        assert (added[layer][image].min() > 0.1) == (name in DEEPSTACK and layer < 3), layer


@pytest.mark.parametrize("name", available())
def test_the_picture_is_in(name: str, load: Any) -> None:  # noqa: F811
    """Another picture changes the image tokens of the decoder's input, and no other token."""
    loaded = load(name)
    one, other = (loaded.inputs(PROMPT, picture(84, 112, seed=seed)) for seed in (0, 1))
    image = torch.tensor([token.kind == "image" for token in one.tokens])
    before, after = (hidden_states(loaded.model, tensors(inputs), [0])[0][0] for inputs in (one, other))
    moved = (before - after).norm(dim=-1) / before.norm(dim=-1)
    assert moved[image].median() > 0.1
    assert moved[~image].max() == 0


@pytest.mark.parametrize("name", CAUSAL)
def test_texts_padded_on_the_right(name: str, load: Any) -> None:  # noqa: F811
    """A text's states are those of the whole model on it alone, also after a picture, whatever it is padded with."""
    loaded = load(name)
    hidden_states(loaded.model, tensors(loaded.inputs(PROMPT, *images())), [0])
    decoder = text_decoder(loaded.model)
    padded = {"input_ids": TEXT, "attention_mask": VISIBLE}
    found = hidden_states(decoder, padded, (0, 1, 3), VISIBLE.bool())
    parts = [hidden_states(decoder, whole(ids), (0, 1, 3)) for ids in (TEXT[:1], TEXT[1:, :4])]
    for layer in (0, 1, 3):
        assert found[layer].shape == (10, loaded.model.config.get_text_config().hidden_size)
        assert worst(found[layer], torch.cat([part[layer][0] for part in parts])) <= 1e-5, layer
    if name not in LABELS:
        given, gave = generated(loaded, name, whole(TEXT[:1]))
        for layer, wanted in ((0, given[0]), (1, given[1]), (3, gave[2])):
            assert worst(parts[0][layer], wanted) <= 1e-6, layer


@pytest.mark.parametrize("name", available())
def test_which_families_see_ahead(name: str, load: Any) -> None:  # noqa: F811
    loaded = load(name)
    assert sees_ahead(loaded.model) == (name not in CAUSAL)
    decoder = text_decoder(loaded.model)
    one, other = TEXT[:1, :5], TEXT[:1, :5].clone()
    other[0, 4] = 36
    found = [hidden_states(decoder, whole(ids), [3])[3][0, :4] for ids in (one, other)]
    assert (worst(*found) > 1e-6) == sees_ahead(loaded.model)


def test_nothing_after_the_last_layer_is_computed(load: Any) -> None:  # noqa: F811
    loaded = load("qwen2_vl")
    given = tensors(loaded.inputs(PROMPT, *images()))
    blocks = decoder_layers(loaded.model, row("qwen2_vl"))
    parts = [*blocks, submodule(loaded.model, "model.language_model.norm"), loaded.model.lm_head]
    called: list[Any] = []
    handles = [part.mlp.register_forward_hook(lambda part, _, __: called.append(part)) for part in blocks]
    handles += [part.register_forward_hook(lambda part, _, __: called.append(part)) for part in parts[3:]]
    try:
        for layers, count in (([0], 0), ([0, 2], 2), ([3], 3)):
            called.clear()
            assert sorted(hidden_states(loaded.model, given, layers)) == layers
            assert called == [block.mlp for block in blocks[:count]]
    finally:
        for handle in handles:
            handle.remove()


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_the_model_is_left_as_it_was(load: Any) -> None:  # noqa: F811
    loaded = load("qwen2_vl")
    given = tensors(loaded.inputs(PROMPT, *images()))
    before = hooks(loaded.model)
    hidden_states(loaded.model, given, [0, 3])
    given["pixel_values"] = given["pixel_values"][:, :-1]
    with pytest.raises(RuntimeError):
        hidden_states(loaded.model, given, [0, 3])
    assert hooks(loaded.model) == before


def test_states_are_copies(load: Any) -> None:  # noqa: F811
    """A block that writes into its input must not change what was read of it."""
    loaded = load("qwen2_vl")
    given = tensors(loaded.inputs(PROMPT, *images()))
    wanted = hidden_states(loaded.model, given, [0])[0]
    block = decoder_layers(loaded.model, row("qwen2_vl"))[0]

    def zeroed(_: Any, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any], __: Any) -> None:
        (args[0] if args else kwargs["hidden_states"]).zero_()

    handle = block.register_forward_hook(zeroed, with_kwargs=True)
    try:
        assert torch.equal(hidden_states(loaded.model, given, [0, 2])[0], wanted)
    finally:
        handle.remove()


def test_a_model_that_passes_its_blocks_by(load: Any) -> None:  # noqa: F811
    loaded = load("qwen2_vl")
    given = tensors(loaded.inputs(PROMPT, *images()))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UnsupportedModel, match="does not reach layer 1"):
        patch.setattr(loaded.model, "forward", lambda **_: None)
        hidden_states(loaded.model, given, [1])


def test_layers_that_were_asked_for() -> None:
    assert chosen((), 3) == (0, 1, 2, 3)
    assert chosen(((2, 3), (0, 0), (2, 2)), 3) == (0, 2, 3)
    with pytest.raises(UserError, match="there is no layer 4; this model has layers 0 to 3"):
        chosen(((0, 4),), 3)


@pytest.mark.parametrize("name", ["qwen3_vl"])
def test_weights_that_wait_on_disk(name: str, load: Any, folders: Any) -> None:  # noqa: F811
    """A forward that is stopped in the middle leaves the next ones as they should be."""
    plain = load(name)
    given = tensors(plain.inputs(PROMPT, *images()))
    source = find.find_model(str(folders(name)), vision=True)
    spread = load_model(source, torch.device("cpu"), torch.float32, **WAYS["auto"](plain.model, "model"))
    assert "disk" in spread.hf_device_map.values()
    for layers in ([1], [0, 3], [0, 1, 2, 3]):
        wanted = hidden_states(plain.model, given, layers)
        found = hidden_states(spread, given, layers)
        assert all(torch.equal(found[layer], wanted[layer]) for layer in layers)
