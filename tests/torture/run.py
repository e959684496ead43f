"""Try to break mask-impact: bad inputs, kills, hostile contents, damaged files, a monkey on the page.

    python tests/torture/run.py                        # everything; about 20 minutes on an idle machine
    python tests/torture/run.py inputs --only flags    # a part of it
    python tests/torture/run.py kills --kills 1000     # as many, over all commands
    python tests/torture/run.py inputs --keep          # write messages.txt anew

Out: what does not hold, and docs/reliability.md: how often each thing was tried and how often it held.
"""

import argparse
import gc
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import prepared  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
for _name in prepared.EVERYTHING:
    importlib.import_module(_name)
gc.freeze()

from forking import exit_code, forked  # noqa: E402

from torture import bad_inputs, case, hostile, kills, report, stock  # noqa: E402

Rows = Iterator[tuple[str, report.Row]]


def inputs(folder: Path, args: argparse.Namespace) -> Rows:
    known, found = bad_inputs.kept(), dict[str, str]()
    for group, cases in bad_inputs.GROUPS.items():
        chosen = [each for each in cases if args.only in group or args.only in each.name]
        if not chosen:
            continue
        wrong = []
        for each in chosen:
            outcome = case.apart(each, folder / "stock", folder / "run")
            found[each.name] = outcome.shown
            if why := bad_inputs.wrong(each, outcome, {} if args.keep else known):
                wrong.append(why)
                print(f"  {why}", flush=True)
        yield f"bad input: {group}", report.Row(len(chosen), len(wrong))
    if args.keep:
        bad_inputs.keep(bad_inputs.kept() | found)


def killed(folder: Path, args: argparse.Namespace) -> Rows:
    each = -(-args.kills // len(kills.COMMANDS))
    for command in kills.COMMANDS:
        if args.only in command.name:
            found = kills.killed_everywhere(command, folder / "stock", folder / "kills", each, args.seed)
            for why in found.wrong:
                print(f"  {why}", flush=True)
            print(f"{command.name}: {found.kills} kills", flush=True)
            yield f"kill: {command.name}", report.Row(found.kills, found.failed)


def hostile_contents(folder: Path, args: argparse.Namespace) -> Rows:
    wrong = 0
    for each in hostile.CASES:
        outcome = case.apart(each, folder / "stock", folder / "run", hostile.watch)
        if not hostile.held(outcome):
            wrong += 1
            print(f"  {each.name}: exit code {outcome.code}, {outcome.err[-300:]}", flush=True)
    yield "hostile contents: no program, no connection, no file elsewhere", report.Row(len(hostile.CASES), wrong)


def damaged_files(folder: Path, args: argparse.Namespace) -> Rows:
    def part() -> tuple[int, list[str]]:
        from torture.damage import damaged  # in the fork, since pandas starts threads

        return damaged(folder / "stock", args.damages, args.seed)

    yield _in_a_fork(folder, "damaged result files: refused, or every number as written", part)


def damaged_on_the_page(folder: Path, args: argparse.Namespace) -> Rows:
    def part() -> tuple[int, list[str]]:
        from torture.page_damage import damaged_on_page

        return damaged_on_page(folder / "stock", max(1, args.damages // 4), args.seed)

    yield _in_a_fork(folder, "damaged files on the page: refused in a sentence, or the numbers that `load` reads", part)


def monkey_at_the_page(folder: Path, args: argparse.Namespace) -> Rows:
    def part() -> tuple[int, list[str]]:
        from torture.monkey import made, played

        known = [folder / "stock" / "runs" / "a_results.html", folder / "stock" / "near" / "n_neighbors.html"]
        return played([*known, *made(folder / "stock")], args.acts, args.seed)

    yield _in_a_fork(folder, "keys and clicks on the page without an error", part)


def _in_a_fork(folder: Path, name: str, part: Callable[[], tuple[int, list[str]]]) -> tuple[str, report.Row]:
    """This process must not have the threads that come with pandas and a browser."""
    answer, work = folder / "answer", Path(tempfile.mkdtemp(dir=folder))

    def act(argv: list[str]) -> int:
        os.chdir(work)
        answer.write_text(json.dumps(part()))
        return 0

    assert exit_code(forked(act, [])) == 0, f"{name}: it has ended with an error"
    tried, wrong = json.loads(answer.read_text())
    for why in wrong:
        print(f"  {why}", flush=True)
    return name, report.Row(tried, len(wrong))


PARTS: dict[str, Callable[[Path, argparse.Namespace], Rows]] = {
    "inputs": inputs, "hostile": hostile_contents, "damage": damaged_files, "dropped": damaged_on_the_page,
    "page": monkey_at_the_page, "kills": killed,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[], help="default: all")
    parser.add_argument("--only", default="", help="what has this in its name")
    parser.add_argument("--kills", type=int, default=300, help="over all commands (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--damages", type=int, default=120, help="of each file, a quarter on the page (default: %(default)s)"
    )
    parser.add_argument("--acts", type=int, default=500, help="keys and clicks on each page (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="write messages.txt anew")
    args = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        assert exit_code(forked(lambda argv: stock.make(folder / "stock") or 0, [])) == 0, "the stock cannot be made"
        for part in args.parts or PARTS:
            for title, row in PARTS[part](folder, args):
                if args.only in title:  # the whole of it
                    report.keep(title, row)
                wrong += row.failed
    print(f"{wrong} do not hold" if wrong else "everything holds")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
