"""What both scripts' commands do: one prompt, a batch, or a dry run."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mask_impact.commands.exit_codes import guarded
from mask_impact.commands.flags import PROMPT_FILE, Parser
from mask_impact.commands.terminal import (
    ProgressBar,
    quiet_libraries,
    show,
)
from mask_impact.errors import UserError
from mask_impact.options import (
    Request,
    Settings,
    merged,
)


def main(parser: Parser, argv: Sequence[str] | None) -> int:
    """A script's whole command; the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(argv)
    args.argv, args.given, args.flag = argv, parser.given(argv), parser.flag
    return guarded(command, args)


def command(args: argparse.Namespace) -> int | None:
    if args.config is not None:
        return run_batch(args)
    analyse(args)
    return None


def read_prompt(args: argparse.Namespace) -> str:
    """The prompt from --prompt, --prompt-file or prompt.txt. Raises UserError."""
    if args.prompt is not None:
        return str(args.prompt)
    path = args.prompt_file or Path(PROMPT_FILE)
    hint = "" if args.prompt_file else " (no --prompt was given, so prompt.txt in this folder is read)"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"the prompt file {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"the prompt file {path} cannot be read: {error.strerror}{hint}") from error
    if not text.strip():
        raise UserError(f"the prompt file {path} is empty{hint}; write the prompt into it or use --prompt")
    return text.removesuffix("\n")


def analyse(args: argparse.Namespace) -> None:
    """One prompt: check, load, measure, write, summarise."""
    started = time.perf_counter()
    settings = Settings(**merged(Settings, vars(args)))
    request = Request(**merged(Request, vars(args), {"prompt": read_prompt(args)}))
    name = args.output or args.default_name
    if args.dry_run:
        preview(args, settings, name, request)
        return
    with ProgressBar(f"loading {args.model}", args.quiet) as progress, quiet_libraries(args.verbose):
        from mask_impact.commands import summary
        from mask_impact.files.folder import output_folder
        from mask_impact.jobs import resume
        from mask_impact.jobs.session import Session

        tell: Callable[[str], None] = (lambda text: None) if args.quiet else progress.say
        session = Session(settings)
        prepared = session.prepare(request)
        about = {"argv": args.argv, "config": None, "request": resume.identity(session, request)}
        with output_folder(settings.output_dir):
            again: str | None = resume.NEW
            if args.resume:
                again = resume.why_again(settings.output_dir, name, about["request"], settings.formats)
            if again is None:
                tell(f"kept       {settings.output_dir / name}_run.json: same model, prompt and options")
                return
            if args.output and not (args.overwrite or args.resume):
                resume.check_kept(settings.output_dir, [name])
            session.check_room(prepared.bytes(settings.formats))
            session.check_report(prepared)
            if again != resume.NEW:
                tell(f"redone     {again}")
            if args.vision:
                tell(summary.plan(prepared.inputs, request.mask_mode))
            spent = {"prepare": time.perf_counter() - started}
            progress.expect(prepared.units_of_work)
            run, paths = session.measure(name, prepared, about, spent, progress)
    if not args.quiet:
        show(summary.summary(run, paths, time.perf_counter() - started))


def run_batch(args: argparse.Namespace) -> int:
    """The prompts of a YAML file; the exit code."""
    from mask_impact.commands.batch_file import read_config

    file = read_config(args.config, args.vision)
    defaults = {"model": args.model, "vision": args.vision}
    settings = Settings(**merged(Settings, defaults, file.settings, args.given))
    entries = [(entry, merged(Request, {"prompt": ""}, entry.values, args.given)) for entry in file.entries]
    with quiet_libraries(args.verbose):
        from mask_impact.commands.batch import Batch, Task

        tasks = [Task(entry.name, Request(**values), entry.enabled) for entry, values in entries]
        said = [file.settings, *(entry.values for entry in file.entries)]
        given = merged(Settings, args.given) | merged(Request, args.given)
        overriding = [
            args.flag(name) for name in given if any(name in each and each[name] != given[name] for each in said)
        ]
        batch = Batch(args.output or args.config.stem, settings, tasks, args, overriding)
        return batch.preview() if args.dry_run else batch.run()


def preview(args: argparse.Namespace, settings: Settings, name: str, request: Request) -> None:
    """--dry-run of one prompt."""
    with quiet_libraries(args.verbose):
        from mask_impact.commands.batch import Batch, Task

        Batch(name, settings, [Task(name, request)], args).preview()
