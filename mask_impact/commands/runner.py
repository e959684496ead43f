"""Run prompts one after the other with one model: decide what each needs, run it, and keep its outcome.

A single prompt is a batch of one. What is printed, and when a failure ends the command, is up to `telling`.
"""

import argparse
import contextlib
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from mask_impact.commands import summary
from mask_impact.commands.processes import Processes
from mask_impact.commands.terminal import ProgressBar, described
from mask_impact.errors import panics_as_errors
from mask_impact.files.folder import output_folder, writing
from mask_impact.files.results import existing_files
from mask_impact.files.stored import FinishedRun, stored
from mask_impact.files.temporaries import check_replaceable
from mask_impact.impact.null import Null
from mask_impact.impact.run import Run
from mask_impact.jobs import resume
from mask_impact.jobs.footprint import peak_bytes
from mask_impact.jobs.null import Nulls, facts
from mask_impact.jobs.prepared import Prepared, output_bytes
from mask_impact.jobs.session import Session
from mask_impact.model.memory import free_memory
from mask_impact.options import Request, Settings

TO_DO = ("run", "redo")


@dataclass(frozen=True)
class Task:
    """One prompt."""

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
    forwards: float = 0.0  # of the prompt, as long as which the effects take
    seconds: float = 0.0  # about, once the weights are loaded
    tower_forwards: float = 0.0  # of the vision tower, as long as which its masks take
    memory: int = 0  # bytes beside the weights, about
    prepared: Prepared | None = None  # kept for a single prompt in a single process


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


class Telling(Protocol):
    """What the user is told; `telling` has one for a single prompt and one for a batch."""

    @property
    def survivable(self) -> tuple[type[Exception], ...]:
        """Failures of one prompt after which the command continues with the next."""

    @property
    def writes(self) -> Sequence[Path]:
        """Files that it writes beside those of the prompts."""

    @property
    def bar(self) -> ProgressBar | None:
        """The bar for the whole command; None if each prompt has its own."""

    def starts(self) -> None: ...
    def planned(self, plan: Plan) -> None: ...
    def begins(self, plan: Plan, prepared: Prepared, progress: ProgressBar) -> None: ...
    def done(self, plan: Plan, run: Run, paths: dict[str, Path], seconds: float) -> None: ...
    def ended(self, outcome: Outcome, title: str) -> None: ...
    def report(self, tasks: Sequence[Task], outcomes: Sequence[Outcome], session: Session, processes: int) -> None: ...


class Runner:
    """The tasks of one command."""

    def __init__(
        self, settings: Settings, tasks: Sequence[Task], args: argparse.Namespace, telling: Telling, started: float
    ) -> None:
        """
        Args:
            args: argv, config, output, resume, overwrite, quiet and verbose of the command.
            started: when the command started, by time.perf_counter.

        Raises UserError for a model or a device that is not available.
        """
        self.tasks, self.args, self.telling, self.started = list(tasks), args, telling, started
        self.alone = args.config is None
        self.processes = Processes(settings.device, settings.device_map)
        self.settings = replace(settings, device=self.processes.device)
        self.folder = settings.output_dir
        self.session, self.nulls = Session(self.settings, args.flags), Nulls()

    def run(self) -> int:
        """0 if every enabled prompt has its results, 1 if any has not. Raises UserError if nothing can be started."""
        with output_folder(self.folder, lock=self.processes.first) as self.held:
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

    def preview(self) -> list[Plan]:
        """What would be run."""
        return [self._plan(task) for task in self.tasks]

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        self.telling.report(self.tasks, outcomes, self.session, self.processes.count)

    # --- before ------------------------------------------------------------------------------------------
    def _plans(self) -> list[Plan]:
        """Raises UserError for results that must be kept, and for too small a disk."""
        scratch = self.alone and not self.args.output  # the default name, which every run may replace
        if not (self.args.resume or self.args.overwrite or scratch):
            resume.check_kept(self.folder, [task.name for task in self.tasks if task.enabled])
        plans = [self._plan(task) for task in self.tasks]
        for plan in plans:
            if plan.action in TO_DO:
                check_replaceable(existing_files(self.folder, plan.task.name))
        check_replaceable(self.telling.writes)
        self.session.check_room(sum(plan.bytes for plan in plans))
        self.telling.starts()
        for plan in plans:
            self.telling.planned(plan)
        return plans

    def _plan(self, task: Task) -> Plan:
        if not task.enabled:
            return Plan(task, "disabled")
        try:
            with panics_as_errors():
                prepared = self.session.prepare(task.request)
                self.session.check_report(prepared)
                identity = resume.identity(self.session, task.request, prepared.inputs, self._null(prepared))
        except self.telling.survivable as error:
            return Plan(task, "failed", described(error, self.args.flags))
        action, reason = "run", None
        if self.args.resume:
            reason = resume.why_again(self.session, task.request, task.name, identity)
            if reason is None:
                return Plan(task, "kept")
            action, reason = ("run", None) if reason == resume.NEW else ("redo", reason)
        size = output_bytes(prepared, self.settings.formats)
        tokens, kept = len(prepared.inputs.tokens), prepared if self.alone and self.processes.count == 1 else None
        memory = peak_bytes(prepared, self.session.source.config, self.session.dtype, self.session.device)
        work = prepared.effects_forwards, prepared.seconds, prepared.tower_forwards, memory
        return Plan(task, action, reason, identity, tokens, prepared.rows, size, *work, kept)

    # --- the work ----------------------------------------------------------------------------------------
    def _outcomes(self, work: Sequence[Plan]) -> Iterator[Outcome]:
        """Of this process's share of the work, one after the other."""
        mine = self.processes.share(list(enumerate(work, 1)))
        if not self.alone:
            try:
                with ProgressBar(f"loading {self.settings.model}", self.args.quiet or not mine):
                    _ = mine and self.session.model
            except Exception as error:
                if self.processes.count == 1:
                    raise  # nothing was started
                yield from (
                    Outcome(plan.task.name, "failed", error=described(error, self.args.flags)) for _, plan in mine
                )
                return
        for number, plan in mine:
            title = f"{number}/{len(work)} {plan.task.name}"
            outcome = self._outcome(plan, title)
            self.telling.ended(outcome, title)
            yield outcome

    def _outcome(self, plan: Plan, title: str) -> Outcome:
        started = self.started if self.alone else time.perf_counter()
        name, config = plan.task.name, self.args.config
        about = {"argv": self.args.argv, "config": str(config) if config else None, "request": plan.identity}
        try:
            self.held.check()
            with panics_as_errors(), writing(self.folder), self._progress(title) as progress:
                prepared = plan.prepared or self.session.prepare(plan.task.request)
                self.telling.begins(plan, prepared, progress)
                progress.expect(prepared.units_of_work)
                spent = {"prepare": time.perf_counter() - started}
                run, paths = self.session.run(name, prepared, about, spent, progress, self._null(prepared))
        except self.telling.survivable as error:
            if self.args.verbose:
                traceback.print_exc()
            failed = described(error, self.args.flags)
        else:
            seconds = time.perf_counter() - started
            self.telling.done(plan, run, paths, seconds)
            return _finished(name, "done", run.manifest, paths["run"], seconds)
        free_memory()  # not before: the error holds what was computed
        return Outcome(name, "failed", seconds=time.perf_counter() - started, error=failed)

    def _null(self, prepared: Prepared) -> Null | None:
        """Raises UserError."""
        session = self.session
        return self.nulls.of(prepared, facts(session.source.config, prepared, session.dtype, session.fingerprint))

    def _progress(self, title: str) -> contextlib.AbstractContextManager[ProgressBar]:
        if self.telling.bar is not None:
            return self.telling.bar
        return ProgressBar(title, self.args.quiet)


def _left(plan: Plan, folder: Path) -> Outcome:
    """Of a task that is not run."""
    name = plan.task.name
    if plan.action != "kept":
        return Outcome(name, plan.action, error=plan.reason)
    path = folder / f"{name}_run.json"
    return _finished(name, "kept", stored(path, FinishedRun), path)


def _finished(name: str, status: str, manifest: Mapping[str, Any], path: Path, seconds: float | None = None) -> Outcome:
    tokens = manifest["prompt_length"] + len(manifest["generated"])
    return Outcome(name, status, tokens, seconds, summary.top_token(manifest), str(path))
