"""What each way of scoring says of each token of a prompt: the program's aggregates, and what others use.

In:  a model, a prompt's token ids and the id of its answer.
Out: for each way its scores [n], one for each position; larger means that the token matters more.

Shapes: n positions, T layers, H heads, C hidden, K steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mask_impact import run_masking_experiment
from validation.real import Real

STEPS = 20  # of integrated gradients
AGGREGATES = {  # [T, n] values of single layers -> [n]
    "largest": lambda values: values.max(axis=0),
    "mean": lambda values: values.mean(axis=0),  # the same order as the sum
    "root of squares": lambda values: np.sqrt((values**2).sum(axis=0)),
    "mean share": lambda values: (values / values[:, 1:].sum(axis=1, keepdims=True)).mean(axis=0),
}


def of_tables(real: Real, text: str, ablation: str = "neg-inf") -> dict[str, np.ndarray]:
    """Of one results table, each metric of Full and Attn: [T, n] by "Full l2" and so on."""
    table = run_masking_experiment(
        text, real.name, model=real.model, tokenizer=real.tokenizer, variants="full,attn", metrics="l2,cosine,relative",
        ablation=ablation, no_check=True,
    )  # fmt: skip
    return {
        f"{variant} {column.removesuffix('_distance')}": rows.pivot(
            index="layer", columns="token_position", values=column
        ).to_numpy(np.float64)
        for variant, rows in table.groupby("variant")
        for column in ("l2_distance", "cosine_distance", "relative_distance")
    }


def aggregated(tables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every metric by every aggregate."""
    return {f"{name}, {how}": f(values) for name, values in tables.items() for how, f in AGGREGATES.items()}


@torch.inference_mode()
def of_attention(model: Any, ids: torch.Tensor) -> dict[str, np.ndarray]:
    """Attention weights of the last position, and attention rollout (Abnar and Zuidema 2020)."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        output = model(ids, output_attentions=True, output_hidden_states=True)
    finally:
        model.set_attn_implementation(before)
    weights = torch.stack(output.attentions)[:, 0].double()  # [T, H, n, n]
    last = weights[:, :, -1]
    return {
        "attention weight, mean": last.mean(dim=(0, 1)).numpy(),
        "attention weight, largest": last.amax(dim=(0, 1)).numpy(),
        "attention rollout": rolled_out(weights.mean(dim=1)),
    }


def rolled_out(matrices: torch.Tensor) -> np.ndarray:
    """[T, n, n] what each position reads, half of it its own residual stream -> [n] of the last position."""
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
    matrices = matrices / matrices.sum(dim=-1, keepdim=True).clamp_min(1e-30)
    row = eye[-1]
    for matrix in matrices.flip(0):
        row = row @ (matrix + eye) / 2
    return row.numpy()


@torch.inference_mode()
def value_zeroing(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """[T, n, n] cosine distance of each layer's output at i when the value vector of j is zeroed (Mohebbi et al. 2023).

    Without the engine: in a batch of n prompts, v_proj gives prompt j a zero at position j.
    """
    n = ids.shape[1]
    layers, inputs, undo = model.model.layers, [], []
    for layer in layers:
        undo.append(layer.register_forward_pre_hook(lambda _, a, k: inputs.append((a, k)), with_kwargs=True))
    output = model(ids, use_cache=False)
    del output
    for each in undo:
        each.remove()
    here = torch.arange(n)

    def zeroed(module: Any, args: Any, values: torch.Tensor) -> torch.Tensor:
        values[here, here] = 0
        return values

    found = []
    for layer, (args, keywords) in zip(layers, inputs, strict=True):
        base = first_of(layer(*args, **keywords)).double()  # [1, n, C]
        hook = layer.self_attn.v_proj.register_forward_hook(zeroed)
        hidden = args[0].expand(n, -1, -1)
        changed = first_of(layer(hidden, *args[1:], **keywords)).double()  # [n (zeroed), n (read), C]
        hook.remove()
        found.append(1 - torch.cosine_similarity(base, changed, dim=-1).T)
    return torch.stack(found).clamp_min(0)


def first_of(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def integrated_gradients(
    model: Any, ids: torch.Tensor, answer: int, baseline: torch.Tensor, steps: int
) -> tuple[torch.Tensor, float]:
    """Integrated gradients (Sundararajan et al. 2017) of ln p(answer), at the middle of `steps` equal steps.

    Args:
        ids: [1, n]; baseline: [C] the embedding that stands for nothing.

    Returns [n] attributions, and ln p(answer) minus the same with the baseline at every position: the more steps, the
    nearer the sum of the attributions comes to it (completeness).
    """
    embedded = model.get_input_embeddings()(ids).detach()  # [1, n, C]
    way = embedded - baseline
    shares = (torch.arange(steps) + 0.5) / steps
    inputs = (baseline + shares.view(-1, 1, 1) * way).requires_grad_()

    def logprobs(inputs: torch.Tensor) -> torch.Tensor:
        return model(inputs_embeds=inputs, logits_to_keep=1).logits[:, -1].log_softmax(dim=-1)[:, answer]

    (gradient,) = torch.autograd.grad(logprobs(inputs).sum(), inputs)
    with torch.no_grad():
        with_all, without = logprobs(torch.cat([embedded, embedded - way])).tolist()
    return (gradient.mean(dim=0) * way[0]).sum(dim=-1).detach(), with_all - without


def gradient_times_input(model: Any, ids: torch.Tensor, answer: int) -> np.ndarray:
    """[n] the gradient of ln p(answer) at the embeddings, times the embeddings."""
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, logits_to_keep=1).logits[0, -1]
    (gradient,) = torch.autograd.grad(logits.log_softmax(dim=-1)[answer], embedded)
    return (gradient * embedded).sum(dim=-1)[0].detach().double().numpy()


def of_others(real: Real, text: str, answer: int, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """What others use, and scores that know nothing; and what integrated gradients miss of completeness."""
    ids = torch.tensor([real.ids(text)])
    n = ids.shape[1]
    zeroing = value_zeroing(real.model, ids)
    baseline = real.model.get_input_embeddings().weight[real.tokenizer.eos_token_id].detach()
    integrated, change = integrated_gradients(real.model, ids, answer, baseline, STEPS)
    product = gradient_times_input(real.model, ids, answer)
    scores = {
        **of_attention(real.model, ids),
        "value zeroing, mean": zeroing[:, -1].mean(dim=0).numpy(),
        "value zeroing, rollout": rolled_out(zeroing),
        "gradient x input": product,
        "gradient x input, size": np.abs(product),
        "integrated gradients": integrated.double().numpy(),
        "integrated gradients, size": integrated.abs().double().numpy(),
        "random": np.random.default_rng(seed).random(n),
        "position, later first": np.arange(n, dtype=np.float64),
        "position, earlier first": -np.arange(n, dtype=np.float64),
    }
    return scores, abs(float(integrated.sum()) - change)
