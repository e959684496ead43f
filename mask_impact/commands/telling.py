"""What the user is told about the prompts of a command: one for a single prompt, one for a batch."""

import argparse
import datetime
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mask_impact.commands import summary
from mask_impact.commands.index import index_folder, index_rows
from mask_impact.commands.runner import Outcome, Plan, Task
from mask_impact.commands.terminal import ProgressBar, complain, show
from mask_impact.effects.routes import texts_of_units
from mask_impact.errors import UserError
from mask_impact.files.folder import writing
from mask_impact.files.index_page import INDEX, check_ours
from mask_impact.files.results import write_text
from mask_impact.impact.run import Run
from mask_impact.jobs.prepared import Prepared
from mask_impact.jobs.session import Session
from mask_impact.model.memory import readable
from mask_impact.options import Request, Settings, named

SCHEMA_VERSION = 1
HOUR = 3600  # seconds
MANY = 400  # forwards of a vision tower


class Single:
    """One prompt: a summary at its end. Every failure ends the command."""

    survivable: tuple[type[Exception], ...] = ()
    writes: Sequence[Path] = ()

    def __init__(self, args: argparse.Namespace, settings: Settings, bar: ProgressBar) -> None:
        self.args, self.folder, self.bar = args, settings.output_dir, bar

    def starts(self) -> None:
        pass

    def planned(self, plan: Plan) -> None:
        if plan.action == "kept":
            self.say(f"kept       {self.folder / plan.task.name}_run.json: same model, prompt and options")
        if plan.action == "redo":
            self.say(f"redone     {plan.reason}")

    def begins(self, plan: Plan, prepared: Prepared, progress: ProgressBar) -> None:
        progress.describe(f"loading {self.args.model}")
        if self.args.vision:
            request = prepared.request
            self.say(summary.plan(prepared.inputs, request.mask_mode, _units(request)))

    def done(self, plan: Plan, run: Run, paths: dict[str, Path], seconds: float) -> None:
        if not self.args.quiet:
            show(summary.summary(run, paths, seconds))

    def ended(self, outcome: Outcome, title: str) -> None:
        pass  # `done` has said it

    def report(self, tasks: Sequence[Task], outcomes: Sequence[Outcome], session: Session, processes: int) -> None:
        pass

    def say(self, line: str) -> None:
        if not self.args.quiet:
            self.bar.say(line)


def _units(request: Request) -> list[str]:
    """The spans and regions that are masked, as they were given."""
    kinds = {"spans": "", "regions": "region ", "region_masks": "region of "}
    return [f"{kinds[field]}{each}" for field, texts in texts_of_units(request).items() for each in texts]


class Batch:
    """Many prompts: a line for each, a table at the end, and NAME_batch.json. A failing prompt is reported and the
    others run."""

    survivable: tuple[type[Exception], ...] = (Exception,)
    bar: ProgressBar | None = None

    def __init__(self, name: str, args: argparse.Namespace, settings: Settings, overriding: Sequence[str]) -> None:
        """
        Args:
            overriding: flags that are used instead of what the YAML file says.
        """
        self.args, self.folder, self.overriding = args, settings.output_dir, list(overriding)
        self.path = settings.output_dir / f"{name}_batch.json"
        self.writes = [self.path]
        self.started = time.perf_counter()

    def starts(self) -> None:
        """What is known beforehand to be lacking at the end."""
        try:
            check_ours(self.folder / INDEX)
        except UserError as error:
            show(f"note  there will be no index: {named(str(error), self.args.flags)}")

    def planned(self, plan: Plan) -> None:
        if plan.action == "failed":
            complain(f"cannot run {plan.task.name}: {plan.reason}")
        elif plan.action == "redo" and not self.args.quiet:
            show(f"redo {plan.task.name}: {plan.reason}")

    def begins(self, plan: Plan, prepared: Prepared, progress: ProgressBar) -> None:
        if not self.args.quiet:
            for note in prepared.inputs.notes:
                show(f"note {plan.task.name}: {note}")

    def done(self, plan: Plan, run: Run, paths: dict[str, Path], seconds: float) -> None:
        pass

    def ended(self, outcome: Outcome, title: str) -> None:
        what = f"{outcome.status} {title}"
        if outcome.error:
            complain(f"{what}: {outcome.error}")
        elif not self.args.quiet:
            show(f"{what}: {outcome.tokens} tokens, {outcome.seconds:.2f} s, top token {outcome.top_token}")

    def report(self, tasks: Sequence[Task], outcomes: Sequence[Outcome], session: Session, processes: int) -> None:
        """NAME_batch.json, and the table on stdout."""
        found = {outcome.name: outcome for outcome in outcomes}
        ordered = [found.get(task.name, Outcome(task.name, "not run")) for task in tasks]
        written = {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "argv": self.args.argv,
            "config": str(self.args.config),
            "overriding": self.overriding,
            "model": session.source.manifest,
            "processes": processes,
            "seconds": time.perf_counter() - self.started,
            "prompts": [asdict(outcome) for outcome in ordered],
            "index": index_rows(Path(outcome.output) for outcome in ordered if outcome.output)[0],
        }
        with writing(self.folder):
            write_text(self.path, json.dumps(written, indent=2, ensure_ascii=False) + "\n")
        index = self._index()
        if not self.args.quiet:
            if self.overriding:
                show(f"from the command line, whatever {self.args.config} says: {', '.join(self.overriding)}")
            states = [outcome.status for outcome in ordered]
            counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
            show("\n".join([*_table(ordered), f"{counts}; {written['seconds']:.1f} s; {self.path}", *index]))

    def _index(self) -> list[str]:
        """The page of all runs in the folder, anew; a line that says where it is, or why it is not written."""
        try:
            return [f"open {index_folder(self.folder)[0]}"]
        except UserError as error:  # the runs are there all the same
            return [f"no index: {named(str(error), self.args.flags)}"]


def _table(outcomes: Sequence[Outcome]) -> list[str]:
    rows = [("name", "status", "tokens", "seconds", "top token", "output or error")]
    for found in outcomes:
        numbers = str(found.tokens or ""), "" if found.seconds is None else f"{found.seconds:.2f}"
        rows.append((found.name, found.status, *numbers, found.top_token or "", found.error or found.output or ""))
    return summary.aligned(rows, right=(2, 3))


def preview(plans: Sequence[Plan], settings: Settings) -> str:
    """--dry-run: what would be run."""
    rows = [("name", "action", "prompt tokens", "rows", "MB", "why")]
    for plan in plans:
        sizes = (f"{plan.tokens:,}", f"{plan.rows:,}", f"{plan.bytes / 1e6:,.1f}") if plan.tokens else ("", "", "")
        rows.append((plan.task.name, plan.action, *sizes, plan.reason or ""))
    size = f"at most {sum(plan.rows for plan in plans):,} rows, {sum(plan.bytes for plan in plans) / 1e6:,.1f} MB"
    end = f"{size} as {', '.join(settings.formats)} in {settings.output_dir}; nothing was run"
    forwards = sum(plan.forwards for plan in plans)
    more = [f"effects: about as long as {forwards:,.0f} forwards of the prompt"] if forwards else []
    seconds = sum(plan.seconds for plan in plans)
    tower = _tower_work(plans)
    if (forwards or tower) and seconds:
        more.append(
            f"time: about {time_text(seconds)} after loading, an estimate from the model's shapes and matrix products "
            "timed on this machine"
        )
    if forwards and seconds > HOUR:
        region = ", --region (a rectangle as one unit)" if settings.vision else ""
        top = "" if tower else ", --top (what is read most)"
        more.append(f"shorter: --refine (from coarse to fine){top}{region}, --mask-layers")
    memory = max((plan.memory for plan in plans), default=0)
    more += [f"memory: about {readable(memory)} beside the model's weights"] if memory else []
    return "\n".join([*summary.aligned(rows, right=(2, 3, 4)), *tower, *more, end])


def _tower_work(plans: Sequence[Plan]) -> list[str]:
    """What masks in vision towers take."""
    forwards = sum(plan.tower_forwards for plan in plans)
    if not forwards:
        return []
    said = f"vision tower: about as long as {forwards:,.0f} forwards of it"
    if forwards > MANY:
        return [f"{said}; --region (a rectangle as one unit), --layers or --max-pixels shorten it"]
    return [said]


def time_text(seconds: float) -> str:
    """With the digits that an estimate has: "2 s", "15 min", "1.5 hours"."""
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 1.5 * HOUR else f"{seconds / HOUR:,.1f} hours"
