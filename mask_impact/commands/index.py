"""The index of a folder of runs: one row for each finished run, in index.html.

    python -m mask_impact index output      # also written at the end of every batch

In:  the manifests of a folder, and its tables of effects where units had names. Out: index.html, and the same rows for
     NAME_batch.json.
"""

import argparse
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask_impact.commands.exit_codes import guarded
from mask_impact.commands.first_lines import CHANGES, Names, costly, probabilities
from mask_impact.commands.summary import counted
from mask_impact.commands.terminal import show
from mask_impact.errors import UserError
from mask_impact.files.folder import writing
from mask_impact.files.index_page import INDEX, write_index
from mask_impact.files.side_readers import read
from mask_impact.files.stored import LENS, FinishedRun, Unreadable, stored
from mask_impact.prompt.template import template_positions

PROMPT = 400  # characters of it in a row
UNITS = 50  # with a value in a row


def main(argv: Sequence[str]) -> int:
    """`python -m mask_impact index DIR`."""
    parser = argparse.ArgumentParser(
        prog="python -m mask_impact index", description="Write the index of a folder of runs."
    )
    parser.add_argument("folder", type=Path, help="where the runs are")
    args = parser.parse_args(argv)
    args.flags, args.verbose = {"output_dir": "--output-dir"}, False
    return guarded(_command, args)


def _command(args: argparse.Namespace) -> None:
    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is not a folder; give the output folder of runs")
    path, count, unread = index_folder(args.folder)
    for line in unread:
        show(f"note  {line}")
    show(f"{counted(count, 'run')}\nopen {path}")


def index_folder(folder: Path) -> tuple[Path, int, list[str]]:
    """Write the folder's index; where it is, how many runs it has, and a line for each manifest that cannot be read.

    Raises UserError for a folder without runs, and where index.html is a page of something else.
    """
    rows, unread = index_rows(sorted(folder.glob("*_run.json")))
    if not rows:
        why = f" ({unread[0]})" if unread else ""
        raise UserError(
            f"no finished run in {folder}: no NAME_run.json that can be read{why}; run a prompt with it as `output_dir`"
        )
    path = folder / INDEX
    with writing(folder):
        write_index(path, folder.resolve().name, rows)
    return path, len(rows), unread


def index_rows(paths: Iterable[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each manifest, and a line for each that cannot be read, except those of the lens."""
    rows, unread = [], []
    for path in paths:
        try:
            rows.append(row_of(path, stored(path, FinishedRun)))
        except (Unreadable, FileNotFoundError) as error:
            if not path.name.endswith(LENS):
                unread.append(f"{path.name} is left out: {error}")
        except (LookupError, TypeError, ValueError, AttributeError):  # whatever a value is that no schema has
            unread.append(f"{path.name} is left out: it is damaged, or of an older version; measure it again")
    return rows, unread


def row_of(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the index shows of a run. `path`: of its manifest."""
    folder, name = path.parent, path.name.removesuffix("_run.json")
    reads = (manifest.get("reads") or [{}])[0]  # of the first output token; older manifests have none
    names = Names(manifest)
    return {
        "name": name,
        "report": f"{name}_results.html" if (folder / f"{name}_results.html").exists() else None,
        "prompt": _prompt(manifest)[:PROMPT],
        "answer": "".join(each["text"] for each in manifest["generated"])[:PROMPT],
        "probability": manifest["generated"][0]["probability"] if manifest["generated"] else None,
        "model": manifest["model"]["name"],
        "metric": manifest["metrics"][0]["title"] if manifest.get("metrics") else None,  # older manifests have none
        "top": _top(manifest, reads, names),
        "effect": _effect(manifest, names),
        "by_layer": reads.get("by_layer") or [],
        "units": _units(folder, name, manifest, reads) if manifest["units"] else None,
    }


def _prompt(manifest: Mapping[str, Any]) -> str:
    if manifest["prompt"]:
        return str(manifest["prompt"])
    inside = manifest["tokens"][: manifest["prompt_length"]]
    return "".join(each["text"] for each in inside if each["kind"] == "text").strip()


def _top(manifest: Mapping[str, Any], reads: Mapping[str, Any], names: Names) -> dict[str, Any] | None:
    """The most read word; without any, the most read token."""
    template, found = template_positions(manifest), reads.get("tokens") or []
    row = next((each for each in found if not names.is_of(each, template)), found[0] if found else None)
    text = row and names.at(row["position"], row["text"])
    return row and {"text": text, "layer": row["layer"], "value": row["value"]}


def _effect(manifest: Mapping[str, Any], names: Names) -> dict[str, Any] | None:
    """What costs the answer most; null where effects were not measured. `text` null: nothing changes it."""
    if not manifest["effects"]:
        return None
    found = costly(manifest)
    if not found:
        return {"text": None, "before": None, "after": None, "then": None, "least": CHANGES}
    before, after = probabilities(found[0])
    what = names.at(found[0]["token_position"], found[0]["token_masked"])
    return {"text": what, "before": before, "after": after, "then": found[0]["top_token"], "least": CHANGES}


def _units(folder: Path, name: str, manifest: Mapping[str, Any], reads: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was masked together, by its name: how much it is read, and what its strongest mask does to the answer."""
    read_by = {each["text"]: each["value"] for each in reads.get("tokens") or []}
    effects = _lowest(folder / next((t for t in manifest["tables"] if t.startswith(f"{name}_effects.")), ""))
    labels = dict.fromkeys([*(unit["label"] for unit in manifest["units"][:UNITS]), *list(effects)[:UNITS]])
    return [{"name": label, "read": read_by.get(label), "effect": effects.get(label)} for label in labels]


def _lowest(path: Path) -> dict[str, float]:
    """Of each unit, the lowest change of the answer's log-probability in any layers, at the first step."""
    found: dict[str, float] = {}
    with contextlib.suppress(Exception):  # gone, or damaged: the index has no effects then
        columns = read(path)[0].select(["generation_step", "token_masked", "logprob_change"]).to_pydict()
        first = min(step for step in columns["generation_step"] if step >= 0)
        for step, label, change in zip(*columns.values(), strict=True):
            if step == first and change is not None:
                found[label] = min(change, found.get(label, change))
    return found
