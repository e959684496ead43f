"""Results of single prompts in a file, one line each, so that a run that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path("output/validation")


class Store:
    """FOLDER/NAME.jsonl, each line a key and what was found for it."""

    def __init__(self, name: str) -> None:
        self.path = FOLDER / f"{name}.jsonl"
        self.known: dict[str, Any] = {}
        if self.path.exists():
            *lines, cut_off = self.path.read_text(encoding="utf-8").split("\n")
            self.known = {row["key"]: row["found"] for row in map(json.loads, lines)}
            if cut_off:  # else it stays as it is: another process may be adding to it
                self.path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """What was found for the key; measured and kept if it was not yet."""
        if key not in self.known:
            self.known[key] = measure()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "found": self.known[key]}) + "\n")
        return self.known[key]
