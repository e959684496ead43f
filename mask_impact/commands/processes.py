"""The processes that `accelerate launch` (or torchrun) started for one command; one if none did.

Splitting, waiting and gathering are accelerate's: https://huggingface.co/docs/accelerate/concept_guides/big_model_inference
"""

import datetime
import os
from collections.abc import Sequence
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from mask_impact.errors import UserError
from mask_impact.model.load import choose_device

T = TypeVar("T")

# Processes that are done wait for the slowest one; torch's own limit of 10 or 30 minutes would end the batch.
PATIENCE = datetime.timedelta(days=30)


class Processes:
    """This process among those of the command."""

    def __init__(self, device: str, device_map: str | None = None) -> None:
        """Raises UserError for a device, or devices, that several processes cannot share."""
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched > 1 and device not in ("auto", "cpu", "cuda"):
            raise UserError(
                f"{launched} processes were started, each for a device of its own, but --device {device} is one device "
                "for all; use --device auto"
            )
        # Without an accelerator and without being told, PartialState takes itself for the only process.
        self.state = PartialState(cpu=choose_device(device).type == "cpu", timeout=PATIENCE)
        self.count = self.state.num_processes
        self.first = self.state.is_main_process
        if device_map and self.count > 1:
            raise UserError(
                f"--device-map spreads one model over all devices, but {self.count} processes were started, each with "
                "a model of its own; use one or the other"
            )
        self.device = str(self.state.device) if self.count > 1 and self.state.device.type == "cuda" else device

    def from_first(self, value: T) -> T:
        """What the first process has; the others wait for it."""
        if self.count == 1:
            return value
        values = [value]
        broadcast_object_list(values)
        return values[0]

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of `items`."""
        with self.state.split_between_processes(list(items)) as mine:
            return list(mine)

    def gathered(self, items: list[Any]) -> list[Any]:
        """The lists of all processes joined, in every process."""
        return gather_object(items) if self.count > 1 else items

    def end(self) -> None:
        if self.count > 1:
            self.state.destroy_process_group()
