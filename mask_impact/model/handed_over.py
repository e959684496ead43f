"""A model that the caller has loaded, wrapped or trained: made ready to be measured, and given back as it came.

In: what was passed as `model`. Out: the transformers model inside of its wrappers; and, while `measurable` is open,
that model without dropout, autocast and compiled code, its adapters merged into its weights; or a UserError.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.model.adapters import is_adapted, is_tied
from mask_impact.model.generation import evaluating
from mask_impact.model.layers import replaced_forward

DENSE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPILED = torch._dynamo.OptimizedModule
PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: Any) -> PreTrainedModel:
    """The transformers model that `model` wraps, or is. Raises UserError where there is none, or not all of it here."""
    while not isinstance(model, PreTrainedModel):
        if isinstance(model, COMPILED):
            model = model._orig_mod
        elif isinstance(model, PARALLEL):
            model = model.module
        elif _peft() and isinstance(model, _peft().PeftModel):
            _check_adapters(model)
            model = model.get_base_model()
        else:
            raise UserError(
                "model is neither a transformers model nor one wrapped by peft, DataParallel or torch.compile; pass "
                "what from_pretrained gave"
            )
    if not model.can_generate():
        raise UserError(
            f"model has no output head for tokens ({type(model).__name__}); pass the whole model, as "
            "AutoModelForCausalLM gives it, not the part of it that computes states"
        )
    if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):  # a DTensor
        raise UserError("the weights of the model are spread over processes; pass a model that is whole in one process")
    return model


def _peft() -> Any:
    """The package peft, where the caller has imported it."""
    return sys.modules.get("peft")


def _check_adapters(model: Any) -> None:
    """Refuse adapters that act outside of the layers, or not on every prompt in the same way."""
    for config in (model.peft_config[name] for name in model.active_adapters):
        kind = config.peft_type.value
        if config.is_prompt_learning or kind == "XLORA" or getattr(config, "alora_invocation_tokens", None):
            what = "adds virtual tokens to the prompt" if config.is_prompt_learning else "depends on the prompt"
            raise UserError(f"the adapter of the model ({kind}) {what}, and cannot be measured; pass its base model")


@contextmanager
def measurable(model: PreTrainedModel) -> Iterator[list[str]]:
    """Without dropout, autocast and compiled code, and with its adapters merged, until the block ends, also after an
    exception. Yields notes for the manifest."""
    notes: list[str] = []
    with evaluating(model), ExitStack() as undo:
        for enter in (_hooks_told, _plain_outputs, _in_its_own_dtype, _not_compiled, _adapters_merged):
            notes += undo.enter_context(enter(model))
        yield notes


@contextmanager
def _hooks_told(model: PreTrainedModel) -> Iterator[list[str]]:
    """Hooks of the caller's own take part, and a refusal names them: it may be theirs and not the family's."""
    hooked = [name or "the model" for name, module in model.named_modules() if _has_hooks(module)]
    count = "1 module" if len(hooked) == 1 else f"{len(hooked)} modules"
    has = f"the model has hooks of its own on {count} ({', '.join(hooked[:3])})"
    try:
        yield [f"{has}; they took part"] if hooked else []
    except UnsupportedModel as error:
        if not hooked:
            raise
        what = "take them off if they act across positions"
        raise UnsupportedModel(f"{has}; {what}. Measured with them: {error}") from error


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


@contextmanager
def _plain_outputs(model: PreTrainedModel) -> Iterator[list[str]]:
    """Without what the caller has set about outputs: sdpa has no attention weights to give, and tuples no names."""
    wanted = {"_output_attentions": False, "return_dict": True}
    configs = {id(module.config): module.config for module in model.modules() if isinstance(module, PreTrainedModel)}
    with ExitStack() as undo:
        for values in (config.__dict__ for config in configs.values()):
            undo.callback(values.update, {name: values[name] for name in wanted if name in values})
            values.update({name: value for name, value in wanted.items() if name in values})
        yield []


@contextmanager
def _in_its_own_dtype(model: PreTrainedModel) -> Iterator[list[str]]:
    """Without the caller's autocast, and without the one that accelerate puts around a prepared model's forward."""
    devices = {parameter.device.type for parameter in model.parameters()} - {"meta"}
    casting = [device for device in sorted(devices) if torch.is_autocast_enabled(device)]
    with ExitStack() as undo:
        for device in casting:
            undo.enter_context(torch.autocast(device, enabled=False))
        if wrapped := vars(model).get("_original_forward"):
            undo.enter_context(replaced_forward(model, wrapped))
        yield ["autocast was on; the model was measured without it"] if casting or wrapped else []


@contextmanager
def _not_compiled(model: PreTrainedModel) -> Iterator[list[str]]:
    """Compiled code does not call hooks: the same code runs as it was written."""
    with ExitStack() as undo:
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, COMPILED):
                    undo.callback(setattr, parent, name, child)
                    setattr(parent, name, child._orig_mod)
        undo.enter_context(torch.compiler.set_stance("force_eager"))
        yield []


@contextmanager
def _adapters_merged(model: PreTrainedModel) -> Iterator[list[str]]:
    """Add what peft's active adapters add, to the weights themselves, so that the matrix that the heads pass through is
    the adapted one. Adapters of quantised weights, which would be rounded anew, and of tied ones stay beside them."""
    adapted = [module for module in model.modules() if is_adapted(module) and not module.disable_adapters]
    names = sorted({name for module in adapted for name in module.active_adapters})
    dense = [module for module in adapted if _can_merge(module, model)]
    before = [
        (parameter, parameter.detach().to("cpu", copy=True))
        for module in dense
        for parameter in module.get_base_layer().parameters(recurse=False)
    ]
    try:
        for module in dense:
            module.merge()
        yield [f"the model's adapters ({', '.join(names)}) took part; they were merged for the run"] if names else []
    finally:
        for module in dense:
            if module.merged:
                module.unmerge()
        for parameter, value in before:
            parameter.data.copy_(value)  # what is added and taken off again is rounded


def _can_merge(module: Any, model: PreTrainedModel) -> bool:
    weight = getattr(module.get_base_layer(), "weight", None)
    there = weight is not None and not weight.is_meta and weight.dtype in DENSE
    return there and not module.merged and bool(module.active_adapters) and not is_tied(module, model)
