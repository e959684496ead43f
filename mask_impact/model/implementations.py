"""Which attention a checkpoint asks for, and with which it is loaded.

In: a config. Out: one that asks for no kernel that is not everywhere, and notes on what it had asked for.
"""

import copy
from collections.abc import Iterator
from typing import Any

EVERYWHERE = (None, "sdpa", "eager")


def without_kernels(config: Any) -> tuple[Any, list[str]]:
    """A copy of `config` with which transformers takes sdpa for the model and all its towers, or eager where the family
    has no sdpa, and notes for the manifest.

    A config may name a kernel (flash, flex, one from the hub) that this machine does not have. It describes windows and
    padding in other ways than a mask, so the model would be measured without it all the same.
    """
    config, asked = copy.deepcopy(config), []
    for part in parts_of(config):
        name = getattr(part, "_attn_implementation_internal", None)
        if name != "eager":  # sdpa as well: the family may not have it
            part._attn_implementation_internal = None
        if name not in EVERYWHERE and name not in asked:
            asked.append(name)
    return config, [
        f"the checkpoint's config asks for attention by {name}; it was loaded with sdpa (eager where there is none)"
        for name in asked
    ]


def parts_of(config: Any) -> Iterator[Any]:
    """A config, and the configs of its towers."""
    yield config
    for name in getattr(config, "sub_configs", None) or ():
        if (part := getattr(config, name, None)) is not None and hasattr(part, "to_dict"):
            yield from parts_of(part)
