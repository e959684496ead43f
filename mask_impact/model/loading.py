"""What transformers raises for a model that cannot be loaded, as a UserError of one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers
from huggingface_hub import try_to_load_from_cache

from mask_impact.errors import UserError, plain_words
from mask_impact.model.checkpoint_files import fault
from mask_impact.model.memory import LOADING, explained, is_out_of_memory
from mask_impact.model.packages import missing_packages

# Of what transformers says where there are none, by family and by what is installed
NO_TOKENIZER_FILES = (
    "protobuf library", "sentencepiece", "build an autotokenizer", "os.pathlike object, not nonetype",
    "either model_file or model_proto",
)  # fmt: skip


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Turn what transformers raises for a model that cannot be loaded into a UserError of one line."""
    with explained(f"loading {name}", LOADING):
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # of many classes: OSError, ValueError, SafetensorError, validation errors, ...
            if is_out_of_memory(error):
                raise
            raise UserError(_loading_message(name, error)) from error


def _loading_message(name: str, error: Exception) -> str:
    text = plain_words(error)
    low = text.lower()
    if not Path(name).exists() and ("connect" in low or "offline" in low):
        return (
            f"there is no folder {name!r} here, and the model hub cannot be reached; use a local checkpoint folder or "
            "`model` demo"
        )
    folder = checkpoint_folder(name)
    if folder and (wrong := fault(folder, text[:300])):
        return f"model {name!r} cannot be loaded: {wrong}"
    if "trust_remote_code" in low:
        return f"model {name!r} runs its own Python code; read that code first, then allow it with `trust_remote_code`"
    if "safetensors" in low and ("no file named" in low or "does not appear" in low):
        return (
            f"model {name!r} has no safetensors weights; convert it, or give `allow_pickle` if you trust its author (a "
            "pickle can run any code when it is loaded)"
        )
    if "is not a valid git identifier" in low:
        revision = text.partition(" is not a valid")[0].split()[-1]
        return f"model {name!r} has no revision {revision!r}; give a branch, a tag or a commit of it as `revision`"
    if "not a local folder" in low or "not a valid model identifier" in low:
        return f"no model {name!r}, neither a folder here nor on the hub; give a checkpoint folder, a hub name, or demo"
    if missing := missing_packages(error, folder):
        what = "the package" if len(missing) == 1 else "the packages"
        return f"model {name!r} needs {what} {' and '.join(missing)}; install with: pip install {' '.join(missing)}"
    if any(words in low for words in NO_TOKENIZER_FILES):
        return f"model {name!r} has no tokenizer files; add them to the checkpoint"
    if "device disk is invalid" in low:  # what transformers 4 says where not even one part fits in memory
        return (
            f"model {name!r} would have to stay on disk as a whole, which transformers {transformers.__version__} "
            "cannot do; raise `max_memory` to twice its largest part (a layer, or the embeddings) or more"
        )
    if "does not recognize this architecture" in low:
        return f"model {name!r} is of a family that transformers {transformers.__version__} does not know; update it"
    return f"model {name!r} cannot be loaded: {text[:300]}"


def checkpoint_folder(name: str, revision: str | None = None) -> Path | None:
    """Where a model's files are: a folder, or for a model from the hub the one in the cache; None if there is none."""
    if name == "demo" or Path(name).is_dir():
        return None if name == "demo" else Path(name)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        return None
    config = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None
