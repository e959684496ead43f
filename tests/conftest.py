"""Shared by all tests: no network, one thread for tiny models (several only wait for each other)."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import prepared
import torch

torch.set_num_threads(1)
if prepared.POSSIBLE and prepared.NAME not in os.environ:  # pytest itself; its workers have it from there
    prepared.start()


def pytest_collection_finish() -> None:
    """What is imported by now stays: nobody who collects garbage, as after running out of memory, looks through it."""
    gc.freeze()
