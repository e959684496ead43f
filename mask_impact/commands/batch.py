"""Many prompts with one model: what is to be done, one after the other, and a table of what became of each.

Every prompt has its own result files and manifest. One that fails is reported by name and the next goes on.
"""

import argparse
import contextlib
import datetime
import json
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mask_impact.commands import summary
from mask_impact.commands.processes import Processes
from mask_impact.commands.terminal import ProgressBar, complain, described, show
from mask_impact.files.folder import output_folder, writing
from mask_impact.files.results import write_text
from mask_impact.jobs import resume
from mask_impact.jobs.session import Session
from mask_impact.model.memory import free_memory
from mask_impact.options import Request, Settings

SCHEMA_VERSION = 1
TO_DO = ("run", "redo")


@dataclass(frozen=True)
class Task:
    """One prompt of a batch."""

    name: str
    request: Request
    enabled: bool = True


@dataclass(frozen=True)
class Plan:
    """What is to be done about a task."""

    task: Task
    action: str  # one of TO_DO, or the status of its Outcome: "kept", "disabled" or "failed"
    reason: str | None = None  # of a redo or a failure
    identity: dict[str, Any] = field(default_factory=dict)  # for the manifest
    tokens: int = 0  # in the prompt
    rows: int = 0  # at most
    bytes: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a task."""

    name: str
    status: str  # "done", "kept", "failed", "disabled" or "not run"
    tokens: int | None = None  # in the prompt and generated
    seconds: float | None = None
    top_token: str | None = None  # the most important one, position 0 apart
    output: str | None = None  # the manifest's file
    error: str | None = None


class Batch:
    """The tasks of one command."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        tasks: Sequence[Task],
        args: argparse.Namespace,
        overriding: Sequence[str] = (),
    ) -> None:
        """
        Args:
            args: argv, config, resume, overwrite, quiet and verbose of the command.
            overriding: flags that are used instead of what the YAML file says.
        """
        self.name, self.tasks, self.args, self.overriding = name, list(tasks), args, list(overriding)
        self.processes = Processes(settings.device, settings.device_map)
        self.settings = replace(settings, device=self.processes.device)
        self.folder = settings.output_dir
        self.session = Session(self.settings)
        self.started = time.perf_counter()

    def run(self) -> int:
        """0 if every enabled prompt has its results, 1 if any has not. Raises UserError if nothing can be started."""
        with output_folder(self.folder, lock=self.processes.first), _stopped_by_sigterm():
            plans = self.processes.from_first(self._plans() if self.processes.first else [])
            work = [plan for plan in plans if plan.action in TO_DO]
            outcomes = [_left(plan, self.folder) for plan in plans if plan.action not in TO_DO and self.processes.first]
            try:
                for outcome in self._outcomes(work):
                    outcomes.append(outcome)  # not all at once: it may be interrupted
            except KeyboardInterrupt:
                if self.processes.count == 1:
                    self._report(outcomes)
                raise
            outcomes = self.processes.gathered(outcomes)
            if self.processes.first:
                self._report(outcomes)
        self.processes.end()
        return int(self.processes.first and any(outcome.status == "failed" for outcome in outcomes))

    def preview(self) -> int:
        """--dry-run: print what would be run; 1 if a prompt cannot be."""
        plans = [self._plan(task) for task in self.tasks]
        if self.processes.first:
            show("\n".join(_preview(plans, self.settings)))
        return int(any(plan.action == "failed" for plan in plans))

    # --- before ------------------------------------------------------------------------------------------
    def _plans(self) -> list[Plan]:
        """Raises UserError for results that must be kept, and for too small a disk."""
        if not (self.args.resume or self.args.overwrite):
            resume.check_kept(self.folder, [task.name for task in self.tasks if task.enabled])
        plans = [self._plan(task) for task in self.tasks]
        self.session.check_room(sum(plan.bytes for plan in plans))
        for plan in plans:
            if plan.action == "failed":
                complain(f"cannot run {plan.task.name}: {plan.reason}")
            elif plan.action == "redo" and not self.args.quiet:
                show(f"redo {plan.task.name}: {plan.reason}")
        return plans

    def _plan(self, task: Task) -> Plan:
        if not task.enabled:
            return Plan(task, "disabled")
        try:
            prepared = self.session.prepare(task.request)
            self.session.check_report(prepared)
            identity = resume.identity(self.session, task.request)
        except Exception as error:
            return Plan(task, "failed", described(error))
        action, reason = "run", None
        if self.args.resume:
            reason = resume.why_again(self.folder, task.name, identity, self.settings.formats)
            if reason is None:
                return Plan(task, "kept")
            action, reason = ("run", None) if reason == resume.NEW else ("redo", reason)
        size = prepared.bytes(self.settings.formats)
        return Plan(task, action, reason, identity, len(prepared.inputs.tokens), prepared.rows, size)

    # --- the work ----------------------------------------------------------------------------------------
    def _outcomes(self, work: Sequence[Plan]) -> Iterator[Outcome]:
        """Of this process's share of the work, one after the other."""
        mine = self.processes.share(list(enumerate(work, 1)))
        try:
            with ProgressBar(f"loading {self.settings.model}", self.args.quiet or not mine):
                _ = mine and self.session.model
        except Exception as error:
            if self.processes.count == 1:
                raise  # nothing was started
            yield from (Outcome(plan.task.name, "failed", error=described(error)) for _, plan in mine)
            return
        for number, plan in mine:
            outcome = self._outcome(plan, f"{number}/{len(work)} {plan.task.name}")
            what = f"{outcome.status} {number}/{len(work)} {plan.task.name}"
            if outcome.error:
                complain(f"{what}: {outcome.error}")
            elif not self.args.quiet:
                show(f"{what}: {outcome.tokens} tokens, {outcome.seconds:.2f} s, top token {outcome.top_token}")
            yield outcome

    def _outcome(self, plan: Plan, title: str) -> Outcome:
        started = time.perf_counter()
        name = plan.task.name
        about = {"argv": self.args.argv, "config": str(self.args.config), "request": plan.identity}
        try:
            with writing(self.folder), ProgressBar(title, self.args.quiet) as progress:
                prepared = self.session.prepare(plan.task.request)
                progress.expect(prepared.units_of_work)
                spent = {"prepare": time.perf_counter() - started}
                run, paths = self.session.measure(name, prepared, about, spent, progress)
        except Exception as error:
            if self.args.verbose:
                traceback.print_exc()
            failed = described(error)
        else:
            return _finished(name, "done", run.manifest, paths["run"], time.perf_counter() - started)
        free_memory()  # not before: the error holds what was computed
        return Outcome(name, "failed", seconds=time.perf_counter() - started, error=failed)

    # --- after -------------------------------------------------------------------------------------------
    def _report(self, outcomes: Sequence[Outcome]) -> None:
        """NAME_batch.json, and the table on stdout."""
        found = {outcome.name: outcome for outcome in outcomes}
        ordered = [found.get(task.name, Outcome(task.name, "not run")) for task in self.tasks]
        path = self.folder / f"{self.name}_batch.json"
        written = {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "argv": self.args.argv,
            "config": str(self.args.config),
            "overriding": self.overriding,
            "model": self.session.source.manifest,
            "processes": self.processes.count,
            "seconds": time.perf_counter() - self.started,
            "prompts": [asdict(outcome) for outcome in ordered],
        }
        with writing(self.folder):
            write_text(path, json.dumps(written, indent=2, ensure_ascii=False) + "\n")
        if not self.args.quiet:
            if self.overriding:
                show(f"from the command line, whatever {self.args.config} says: {', '.join(self.overriding)}")
            states = [outcome.status for outcome in ordered]
            counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
            show("\n".join([*_table(ordered), f"{counts}; {written['seconds']:.1f} s; {path}"]))


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM, which job queues send before they kill, ends the batch as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _left(plan: Plan, folder: Path) -> Outcome:
    """Of a task that is not run."""
    name = plan.task.name
    if plan.action != "kept":
        return Outcome(name, plan.action, error=plan.reason)
    path = folder / f"{name}_run.json"
    return _finished(name, "kept", json.loads(path.read_text("utf-8")), path)


def _finished(name: str, status: str, manifest: dict[str, Any], path: Path, seconds: float | None = None) -> Outcome:
    tokens = manifest["prompt_length"] + len(manifest["generated"])
    return Outcome(name, status, tokens, seconds, summary.top_token(manifest), str(path))


def _table(outcomes: Sequence[Outcome]) -> list[str]:
    rows = [("name", "status", "tokens", "seconds", "top token", "output or error")]
    for found in outcomes:
        numbers = str(found.tokens or ""), "" if found.seconds is None else f"{found.seconds:.2f}"
        rows.append((found.name, found.status, *numbers, found.top_token or "", found.error or found.output or ""))
    return summary.aligned(rows, right=(2, 3))


def _preview(plans: Sequence[Plan], settings: Settings) -> list[str]:
    rows = [("name", "action", "prompt tokens", "rows", "MB", "why")]
    for plan in plans:
        sizes = (f"{plan.tokens:,}", f"{plan.rows:,}", f"{plan.bytes / 1e6:,.1f}") if plan.tokens else ("", "", "")
        rows.append((plan.task.name, plan.action, *sizes, plan.reason or ""))
    size = f"at most {sum(plan.rows for plan in plans):,} rows, {sum(plan.bytes for plan in plans) / 1e6:,.1f} MB"
    end = f"{size} as {', '.join(settings.formats)} in {settings.output_dir}; nothing was run"
    return [*summary.aligned(rows, right=(2, 3, 4)), end]
