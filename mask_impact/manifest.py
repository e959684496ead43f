"""What a run has to say about itself, beside its table: the manifest (docs/output-format.md)."""

import datetime
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

import mask_impact
from mask_impact.attention import decoder_layers, family, implementation
from mask_impact.inputs import ModelInputs, Token


@dataclass
class Findings:
    """What a run gathers on its way."""

    tokens: list[Token]  # prompt, then output
    generated: list[dict[str, Any]] = field(default_factory=list)
    stop_reason: str = "length"
    layers: list[int] = field(default_factory=list)  # measured ones
    skipped_layers: list[dict[str, Any]] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)
    noise_floor: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Keep `text`, once."""
        if text not in self.notes:
            self.notes.append(text)

    def noise(self, found: dict[str, tuple[float, float]]) -> None:
        """Keep the largest (l2, relative) of each kind."""
        for name, (l2, relative) in found.items():
            worst = self.noise_floor.setdefault(name, {"l2": 0.0, "relative": 0.0})
            self.noise_floor[name] = {"l2": max(worst["l2"], l2), "relative": max(worst["relative"], relative)}


def manifest(
    model: PreTrainedModel, inputs: ModelInputs, chosen: Mapping[str, Any], findings: Findings
) -> dict[str, Any]:
    """The run's manifest; `chosen` are the options, and `cli.py` adds argv, the output name and the model's source."""
    config = model.config.get_text_config(decoder=True)
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": {
            "family": family(model),
            "architecture": type(model).__name__,
            "layers": len(decoder_layers(model)),
            "heads": config.num_attention_heads,
            "hidden_size": config.hidden_size,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention_implementation": implementation(model),
        "device": str(model.device),
        "versions": {
            "mask_impact": mask_impact.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "git_commit": git_commit(),
        "prompt": inputs.prompt,
        "chat": inputs.chat,
        "prompt_length": len(inputs.tokens),
        "tokens": [asdict(token) for token in findings.tokens],
        "images": inputs.images,
        "generated": findings.generated,
        "stop_reason": findings.stop_reason,
        "layers": findings.layers,
        "variants": findings.variants,
        "masks": "every token by itself",
        **chosen,
        "noise_floor": findings.noise_floor,
        "skipped_layers": findings.skipped_layers,
        "notes": findings.notes,
        "seconds": findings.seconds,
        "peak_memory_mb": peak_memory_mb(),
    }


def git_commit() -> str | None:
    """The commit of the checkout this runs from, None outside one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def peak_memory_mb() -> float | None:
    """The largest memory this process has had, in MB (10^6 bytes): on the GPU where it used one, else resident.

    None where the system does not tell.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
