"""Shared by all tests: no network, one thread for tiny models (several only wait for each other)."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import prepared
import torch

torch.set_num_threads(1)
if prepared.NAME not in os.environ:  # pytest itself; its workers have it from there
    prepared.start()
