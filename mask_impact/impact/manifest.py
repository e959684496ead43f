"""What a run has to say about itself, beside its table: the manifest (docs/output-format.md)."""

import datetime
import functools
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

import mask_impact
from mask_impact.distances import DEFAULT_METRICS, METRICS
from mask_impact.impact.noise_floors import NoiseFloors
from mask_impact.impact.unmasked import UnmaskedLengths
from mask_impact.model.attention import implementation
from mask_impact.model.load import input_device, notes_of, place_name
from mask_impact.model.towers import decoder_layers, family, named
from mask_impact.prompt.inputs import ModelInputs, Token, tokens_of
from mask_impact.prompt.token_text import token_text


@dataclass
class Findings:
    """What a run gathers on its way."""

    tokens: list[Token]  # prompt, then output
    metrics: tuple[str, ...] = DEFAULT_METRICS
    generated: list[dict[str, Any]] = field(default_factory=list)
    stop_reason: str = "length"
    replay: str = "rows"  # or "fallback": how layers were called again
    layers: list[int] = field(default_factory=list)  # measured ones
    skipped_layers: list[dict[str, Any]] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)
    lengths: UnmaskedLengths = field(default_factory=UnmaskedLengths)
    noise_floor: dict[str, dict[str, float]] = field(default_factory=dict)
    floors: NoiseFloors = field(init=False)
    sinks: list[dict[str, Any]] | None = None  # None: attention weights were not asked for
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.floors = NoiseFloors(self.metrics)

    def note(self, text: str) -> None:
        """Keep `text`, once."""
        if text not in self.notes:
            self.notes.append(text)

    def add_answer(
        self,
        tokenizer: Any,
        ids: Sequence[int],
        probabilities: Sequence[float],
        own: Sequence[tuple[int, float]],
        stops: Sequence[int],
        given: bool,
    ) -> None:
        """Take over the tokens of the answer.

        Args:
            own: what the model itself would have chosen at each, and its probability.
            stops: ids that end a text.
            given: whether the answer was given; each token then has the model's own choice beside it.
        """
        new, first = tokens_of(tokenizer, ids, first=len(self.tokens)), len(self.generated)
        for step, (token, probability) in enumerate(zip(new, probabilities, strict=True)):
            said: dict[str, Any] = {
                "step": first + step,
                "id": token.id,
                "text": token.text,
                "probability": probability,
            }
            if given:
                choice, chance = own[step]
                choice_said = {"id": choice, "text": token_text(tokenizer, choice), "probability": chance}
                said |= {"given": True, "own_choice": choice_said}
            self.generated.append(said)
        self.tokens += new
        self.stop_reason = "given" if given else "end of text" if ids[-1] in stops else "length"

    def noise(self, found: dict[str, tuple[float, float]]) -> None:
        """Keep the largest (l2, relative) of each kind."""
        for name, (l2, relative) in found.items():
            worst = self.noise_floor.setdefault(name, {"l2": 0.0, "relative": 0.0})
            self.noise_floor[name] = {"l2": max(worst["l2"], l2), "relative": max(worst["relative"], relative)}


def manifest(
    model: PreTrainedModel,
    inputs: ModelInputs,
    chosen: Mapping[str, Any],
    findings: Findings,
    predicting: Sequence[int],
) -> dict[str, Any]:
    """The run's manifest, to which jobs/ adds the command line, the output name and where the model came from.

    `chosen` are the options; `predicting` has the query position that predicts each step's token.
    """
    config = model.config.get_text_config(decoder=True)
    layers, heads = named(model.config, chosen["tower"] or "decoder").size(model.config)
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": {
            "family": family(model),
            "architecture": type(model).__name__,
            "layers": layers,
            "heads": heads,
            "hidden_size": config.hidden_size,
            "parameters": parameter_count(model),
        },
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention_implementation": implementation(model),
        "replay": findings.replay,
        "device": str(input_device(model)),
        "device_map": device_map(model),
        "versions": {
            "mask_impact": mask_impact.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "git_commit": git_commit(),
        "prompt": inputs.prompt,
        "chat": inputs.chat,
        "messages": inputs.messages,
        "prompt_length": len(inputs.tokens),
        "tokens": [token.described for token in findings.tokens],
        "images": inputs.images,
        "videos": inputs.videos,
        "generated": findings.generated,
        "stop_reason": findings.stop_reason,
        "layers": findings.layers,
        "variants": findings.variants,
        "metrics": [METRICS[name].described for name in findings.metrics],
        "masks": "every token by itself",
        **chosen,
        "unmasked_length": findings.lengths.described(predicting, findings.layers, findings.variants),
        "noise_floor": findings.noise_floor
        | {"by_layer": findings.floors.described(findings.layers, findings.variants)},
        "sinks": findings.sinks,
        "skipped_layers": findings.skipped_layers,
        "notes": [*notes_of(model), *findings.notes],
        "seconds": findings.seconds,
        "peak_memory_mb": peak_memory_mb(),
    }


def parameter_count(model: PreTrainedModel) -> int:
    """The number of weights, tied ones once, also where accelerate took them apart to offload them, or bitsandbytes
    packed several into one."""
    tied = getattr(model, "all_tied_weights_keys", ())  # of transformers 5; 4 keeps them together
    own = [weight for name, weight in model.named_parameters(remove_duplicate=False) if name not in tied]
    packed = {id(weight): weight.quant_state.shape for weight in own if hasattr(weight, "quant_state")}
    return sum({id(weight): packed.get(id(weight), weight.shape).numel() for weight in own}.values())


def device_map(model: PreTrainedModel) -> str | None:
    """Where the layers' weights are, "layers 0-11: cuda:0, 12-27: cpu"; None for a model that was not spread.

    A layer's weights are moved to where it is computed once in every forward and once in every replay: where all rows
    fit the memory, twice for each generation step.
    """
    places = getattr(model, "hf_device_map", None) or {}
    if len(set(places.values())) < 2 and "disk" not in places.values():
        return None
    names = {id(module): name for name, module in model.named_modules()}
    devices = [_place(names[id(layer)], places) for layer in decoder_layers(model)]
    starts = [layer for layer, device in enumerate(devices) if layer == 0 or device != devices[layer - 1]]
    ends = [start - 1 for start in starts[1:]] + [len(devices) - 1]
    spans = zip(starts, ends, strict=True)
    return "layers " + ", ".join(f"{a}-{b}: {devices[a]}" if a < b else f"{a}: {devices[a]}" for a, b in spans)


def _place(layer: str, places: Mapping[str, Any]) -> str:
    """The device of a layer: of the part of the model it belongs to, or of its own parts."""
    above = [name for name in places if not name or f"{layer}.".startswith(f"{name}.")]
    inside = [name for name in places if name.startswith(f"{layer}.")]
    return " and ".join(dict.fromkeys(place_name(places[name]) for name in inside or [max(above, key=len)]))


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout this runs from, None outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def peak_memory_mb() -> float | None:
    """The largest memory this process has had, in MB (10^6 bytes): on the GPUs where it used any, else resident.

    None where the system does not tell.
    """
    if torch.cuda.is_initialized():
        used = sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
        if used:
            return used / 1e6
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
