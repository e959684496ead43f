"""docs/reliability.md: how often each thing was tried, and how often it held. Rows of parts that were not run stay."""

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
ROW = re.compile(r"\| (?P<name>[^|]+) \| (?P<tried>[\d,]+) \| (?P<held>[\d,]+) \|")


class Row(NamedTuple):
    tried: int
    failed: int


def keep(name: str, row: Row) -> None:
    """Put a row into the page's table. Kills of several runs are added up."""
    adds_up = name.startswith("kill: ")
    text = PAGE.read_text("utf-8")
    known = {found["name"]: _row(found) for found in ROW.finditer(text)}
    before = known.get(name, Row(0, 0)) if adds_up else Row(0, 0)
    known[name] = Row(before.tried + row.tried, before.failed + row.failed)
    lines = [f"| {name} | {row.tried:,} | {row.tried - row.failed:,} |" for name, row in sorted(known.items())]
    total = Row(sum(row.tried for row in known.values()), sum(row.failed for row in known.values()))
    lines.append(f"| **all** | **{total.tried:,}** | **{total.tried - total.failed:,}** |")
    start, end = text.index("| what was tried"), text.index("\n\n", text.index("| what was tried"))
    head = "| what was tried | times | held |\n|---|---:|---:|"
    PAGE.write_text(text[:start] + "\n".join([head, *lines]) + text[end:], "utf-8")


def _row(found: re.Match[str]) -> Row:
    tried, held = (int(found[name].replace(",", "")) for name in ("tried", "held"))
    return Row(tried, tried - held)
