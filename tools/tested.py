#!/usr/bin/env python3
"""What was tested, and what was found: versions, and which families were measured or refused.

In: pytest's reports (JUnit XML) in a folder, .venv/tested. Out: a JSON file for each run beside them, and from these
docs/tested/*.json, docs/families.md and the README's table of versions.

    python tools/tested.py versions .venv/with-node            # the versions here; the argument runs node and npm
    python tools/tested.py keep oldest .venv/tested            # oldest.xml and these versions -> oldest.json
    python tools/tested.py check .venv/tested                  # is the documentation what the runs found?
    python tools/tested.py write .venv/tested .venv-newest/tested
    python tools/tested.py compare .venv-newest/tested         # the newest releases beside the locked ones
"""

import json
import platform
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "tested"
PAGE = ROOT / "docs" / "families.md"
README = ROOT / "README.md"
RUNS = ("oldest", "locked", "newest")
MEASURED = "measured"
KINDS = {
    "text": "Decoders",
    "encoder-decoder": "Encoder-decoders",
    "picture": "Vision-language models, pixels in",
}
PACKAGE = re.compile(r"^([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)", re.MULTILINE)
BLOCK = re.compile(r"(?<=<!-- tested -->\n).*(?=\n<!-- /tested -->)", re.DOTALL)

Run = dict[str, Any]  # "date", "versions", "tests", "families": {kind: {row: {"model_type", "outcome"}}}


def versions() -> dict[str, str]:
    """The versions of Python and of every installed package of the lock, without local labels (+cpu)."""
    found = {"python": platform.python_version()}
    for name in dict.fromkeys(name for name, _ in PACKAGE.findall((ROOT / "requirements.lock").read_text("utf-8"))):
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:  # it is for another system
            continue
    return found


def print_versions(with_node: str) -> None:
    """Everything that the tests run on: system, Python's packages, Node, the viewer's packages, Chromium."""
    print(f"{platform.platform()}, {platform.machine()}")
    print(" ".join(f"{name} {found}" for name, found in versions().items()))
    commands = {name: [with_node, name, "--version"] for name in ("node", "npm")}
    for name, command in (commands | {"browser": [sys.executable, "tests/chromium.py"]}).items():
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(f"{name} {(done.stdout or done.stderr).strip()}")
    packages = json.loads((ROOT / "viewer" / "package-lock.json").read_text("utf-8"))["packages"]
    names = {
        path.rpartition("node_modules/")[2]: each["version"]
        for path, each in packages.items()
        if path and not each.get("optional")  # builds for one system each
    }
    print("viewer/package-lock.json: " + " ".join(f"{name} {found}" for name, found in sorted(names.items())))


def read_report(path: Path) -> Run:
    """A run from pytest's report."""
    families: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    tests: Counter[str] = Counter()
    failed = []
    for case in ET.parse(path).getroot().iter("testcase"):
        tags = {child.tag for child in case}
        ended = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        tests[ended] += 1
        if ended == "failed":
            failed.append(f"{case.get('classname')}.{case.get('name')}")
        for each in case.iter("property"):
            if each.get("name") == "family":
                found = json.loads(each.get("value", ""))
                rows, name = families[found.pop("kind")], found.pop("name")
                if name not in rows or rows[name]["outcome"] == MEASURED:  # one refusal among several tests counts
                    rows[name] = found
    return {"tests": dict(tests), "failed": sorted(failed), "families": families}


def keep(name: str, folder: Path) -> None:
    run: Run = {"date": date.today().isoformat(), "versions": versions(), **read_report(folder / f"{name}.xml")}
    (folder / f"{name}.json").write_text(json.dumps(run, indent=1) + "\n", "utf-8")
    print(f"{name}: {' '.join(f'{count} {state}' for state, count in run['tests'].items())}, {heading(run)}")


def load(folder: Path, name: str) -> Run:
    return json.loads((folder / f"{name}.json").read_text("utf-8"))


def heading(run: Run) -> str:
    return f"transformers {run['versions']['transformers']}, torch {run['versions']['torch']}"


def outcomes(run: Run) -> dict[str, str]:
    """Row -> "measured" or "refused"."""
    return {
        f"{kind}: {name}": MEASURED if row["outcome"] == MEASURED else "refused"
        for kind, rows in run["families"].items()
        for name, row in rows.items()
    }


def differences(before: dict[str, str], after: dict[str, str]) -> list[tuple[str, str, str]]:
    return [
        (name, before.get(name, "-"), after.get(name, "-"))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def check(folder: Path) -> int:
    """Whether the documentation says what the locked and the oldest run found."""
    stale = []
    for name, made in (("locked", "here"), ("oldest", "oldest")):
        found, written = load(folder, made), load(KEPT, name)
        stale += [(name, *row) for row in differences(outcomes(written), outcomes(found))]
        for package in ("transformers", "torch"):
            if written["versions"][package] != found["versions"][package]:
                stale.append((name, package, written["versions"][package], found["versions"][package]))
    for run, what, before, after in stale:
        print(f"{run}: {what} is documented as {before}, and was found {after}", file=sys.stderr)
    if stale:
        print("docs/tested is not what the tests found; if it should be, run: make tested", file=sys.stderr)
    return 1 if stale else 0


def compare(folder: Path) -> int:
    """Print one table of what differs between the newest releases and the locked ones."""
    newest, locked = load(folder, "here"), load(KEPT, "locked")
    rows = differences(locked["versions"], newest["versions"])
    rows += differences(outcomes(locked), outcomes(newest))
    rows += [(name, "passed", "FAILED") for name in newest["failed"]]
    width = max([len(name) for name, *_ in rows], default=20)
    print(f"\n{'what differs':{width}}  {'locked':12}  newest")
    for name, before, after in rows or [("nothing", "", "")]:
        print(f"{name:{width}}  {before:12}  {after}")
    return 0


def write(folder: Path, newest: Path) -> int:
    """Write docs/tested, docs/families.md and the README's table from the runs in these folders."""
    KEPT.mkdir(exist_ok=True)
    for name, path in zip(RUNS, (folder / "oldest", folder / "here", newest / "here"), strict=True):
        run = json.loads(path.with_suffix(".json").read_text("utf-8"))
        kept = {key: run[key] for key in ("date", "versions", "families")}
        (KEPT / f"{name}.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", "utf-8")
    runs = {name: load(KEPT, name) for name in RUNS}
    PAGE.write_text(families_page(runs), "utf-8")
    README.write_text(BLOCK.sub(lambda _: readme_lines(runs), README.read_text("utf-8")), "utf-8")
    return 0


def readme_lines(runs: dict[str, Run]) -> str:
    """The README's table of tested versions."""
    rows = [
        f"| {name} | {' | '.join(run['versions'][package] for package in ('transformers', 'torch', 'python'))} |"
        for name, run in runs.items()
    ]
    return "\n".join(["| tested | transformers | torch | Python |", "|---|---|---|---|", *rows])


def families_page(runs: dict[str, Run]) -> str:
    """docs/families.md."""
    lines = [
        "# Families",
        "",
        "`make tested` makes this page from what the tests found. They compare a tiny random model of every row",
        "with brute force through the real model, in float64. *measured*: every layer, token and head agrees",
        "to 1e-9. *refused*: the program stops with the family's name and the reason. *-*: this version of",
        "transformers does not have the family, or cannot build it.",
        "",
        "Other families are measured too if their attention goes through transformers' `AttentionInterface`;",
        "every run checks its replay. `test_single_layer.py` compares one layer of any checkpoint with brute",
        "force.",
    ]
    for kind, title in KINDS.items():
        names = sorted({name for run in runs.values() for name in run["families"][kind]})
        columns = [f"{name}, {run['versions']['transformers']}" for name, run in runs.items()]
        lines += ["", f"## {title}", "", f"| model | model type | {' | '.join(columns)} |", "|---" * 5 + "|"]
        for name in names:
            rows = [run["families"][kind].get(name) for run in runs.values()]
            model_type = next(row["model_type"] for row in rows if row)
            cells = ["-" if row is None else in_words(row["outcome"]) for row in rows]
            lines.append(f"| {name} | `{model_type}` | {' | '.join(cells)} |")
        reasons = sorted(
            {
                (name, run["versions"]["transformers"], reason(row["outcome"]))
                for run in runs.values()
                for name, row in run["families"][kind].items()
                if row["outcome"] != MEASURED
            }
        )
        if reasons:
            lines += ["", "Reasons for refusal, in the program's words:", ""]
            lines += [f"- {name}, transformers {release}: {why}" for name, release, why in reasons]
    return "\n".join([*lines, *breadth_lines(json.loads((KEPT / "breadth.json").read_text("utf-8")))]) + "\n"


TEXT_TYPES = (
    "## Every causal language model",
    "",
    "`make breadth` tries every causal language model of transformers {release}: a tiny",
    "random model of it is measured on two output tokens, with both ablations, and `Full` compared with masked",
    "forwards of the whole model, in float64. *fallback*: its layers were called again on their whole input",
    "([method.md](method.md#layers-that-cannot-be-replayed-on-rows)). *not built*: transformers makes no tiny",
    "model of it from its config alone. Reasons stand below the table.",
)
IMAGE_TEXT_TYPES = (
    "## Every image-text model",
    "",
    "The same for every model of transformers {release} that reads pictures and text. **It was given text alone**:",
    "this checks its decoder, as it is loaded with its vision tower. *not built* is here also what takes no text alone",
    "(BLIP), or fails on it by its own code (Llama 4). Families that were given pixels are in the table",
    "[above](#vision-language-models-pixels-in).",
)


def breadth_lines(found: dict[str, Any]) -> list[str]:
    """What `tools/breadth.py` found."""
    lines: list[str] = []
    for kind, heading in (("text", TEXT_TYPES), ("image_text", IMAGE_TEXT_TYPES)):
        if kind not in found:  # it was not tried
            continue
        lines += [
            "",
            *(line.format(release=found["transformers"]) for line in heading),
            "",
            *outcome_lines(found[kind]),
        ]
    return lines


def outcome_lines(found: dict[str, dict[str, str]]) -> list[str]:
    """One row for each outcome, and a reason for each type that is not measured."""
    by_outcome: dict[str, list[str]] = {}
    for model_type, row in found.items():
        by_outcome.setdefault(row["outcome"], []).append(f"`{model_type}`")
    rows = [f"| {outcome} | {len(types)} | {', '.join(types)} |" for outcome, types in sorted(by_outcome.items())]
    reasons = [f"- {name}: {reason(row['reason'])}" for name, row in found.items() if "reason" in row]
    return ["| outcome | types | |", "|---|---|---|", *rows, "", *reasons]


def in_words(outcome: str) -> str:
    return MEASURED if outcome == MEASURED else "**refused**"


def reason(outcome: str) -> str:
    """A refusal without the family's name, which stands beside it."""
    refusal = r"^model family '[^']*' (is not supported|cannot be measured truthfully): "
    return re.sub(rf"{refusal}|^model '[^']*' is of family '[^']*', ", "", outcome)


def main(argv: Sequence[str]) -> int:
    if argv[0] == "versions":
        print_versions(argv[1])
    elif argv[0] == "keep":
        keep(argv[1], Path(argv[2]))
    elif argv[0] == "check":
        return check(Path(argv[1]))
    elif argv[0] == "compare":
        return compare(Path(argv[1]))
    elif argv[0] == "write":
        return write(Path(argv[1]), Path(argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
