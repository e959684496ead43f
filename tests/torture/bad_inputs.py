"""All bad inputs, and the messages that were seen for them: messages.txt.

In:  nothing, or names of groups. Out: which outcomes do not hold, and which messages are others than the kept ones.
"""

import re
from pathlib import Path

from torture import broken_models, flags, pictures, results_read, runs
from torture.case import Case, Outcome

MESSAGES = Path(__file__).with_name("messages.txt")
# They change with the page that a report holds, and with how a processor rounds the numbers in a file.
SIZES = re.compile(r"\d+ bytes, and \d+ were written|[0-9a-f]{12}\.\.\.|line \d+ column \d+ \(char \d+\)")
GROUPS: dict[str, list[Case]] = {
    "flags, names, prompts, YAML": flags.CASES,
    "checkpoints": broken_models.CASES,
    "pictures and videos": pictures.CASES,
    "result files that are read": results_read.CASES,
    "earlier files of every command": runs.CASES,
}
BY_NAME = {case.name: case for cases in GROUPS.values() for case in cases}
assert len(BY_NAME) == sum(map(len, GROUPS.values())), "two cases have the same name"


def kept() -> dict[str, str]:
    """{name: exit code and messages} as they are committed."""
    blocks = MESSAGES.read_text("utf-8").split("\n\n") if MESSAGES.exists() else []
    return dict(block.rstrip("\n").split("\n", 1) for block in blocks if block.strip())  # type: ignore[misc]


def keep(found: dict[str, str]) -> None:
    blocks = (f"{name}\n{found[name]}\n" for name in BY_NAME if name in found)
    MESSAGES.write_text("\n".join(blocks), "utf-8")


def wrong(case: Case, outcome: Outcome, known: dict[str, str]) -> str | None:
    """What does not hold of an outcome, in a line."""
    what = f"{case.name}: exit code {outcome.code}, {outcome.seconds:.1f} s, {outcome.memory / 1e6:.0f} MB"
    if not outcome.held:
        return f"{what}: {outcome.err[-300:].strip() or outcome.out[-100:].strip()}"
    if case.name in known and SIZES.sub("", known[case.name]) != SIZES.sub("", outcome.shown):
        return f"{what}: it said {outcome.shown!r}, and {known[case.name]!r} is kept"
    return None
