"""What both scripts' commands do: one prompt, a batch, or a dry run."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mask_impact.commands.exit_codes import guarded
from mask_impact.commands.flags import PROMPT_FILE, Parser
from mask_impact.commands.terminal import ProgressBar, show
from mask_impact.errors import UserError
from mask_impact.model.quiet import quiet_libraries
from mask_impact.options import Request, Settings, merged
from mask_impact.prompt.messages import read_messages
from mask_impact.prompt.text_files import read_text


@dataclass(frozen=True)
class Wanted:
    """What the command line and the YAML file ask for, before anything is loaded."""

    name: str
    settings: Settings
    prompts: list[tuple[str, Request, bool]]  # name, request, enabled
    overriding: list[str]  # flags that are used instead of what the YAML file says


def main(parser: Parser, argv: Sequence[str] | None) -> int:
    """A script's whole command; the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(argv)
    args.argv, args.given = argv, parser.given(argv)
    return guarded(command, args)


def command(args: argparse.Namespace) -> int:
    """A single prompt is a batch of one."""
    started = time.perf_counter()
    wanted = single(args) if args.config is None else batch(args)
    bar = ProgressBar(f"{wanted.settings.model}: loading libraries", args.quiet)
    with bar, quiet_libraries(args.verbose):
        from mask_impact.commands import telling
        from mask_impact.commands.runner import Runner, Task

        settings = wanted.settings
        tasks = [Task(*prompt) for prompt in wanted.prompts]
        if args.config is None:
            bar.describe(f"loading {settings.model}")
            found: telling.Single | telling.Batch = telling.Single(args, settings, bar)
        else:
            bar.close()
            found = telling.Batch(wanted.name, args, settings, wanted.overriding)
        if args.dry_run:
            bar.close()
        runner = Runner(settings, tasks, args, found, started)
        if not args.dry_run:
            return runner.run()
        plans = runner.preview()
        if runner.processes.first:
            show(telling.preview(plans, settings))
        return int(any(plan.action == "failed" for plan in plans))


def read_prompt(args: argparse.Namespace) -> str:
    """The prompt from --prompt, --prompt-file or prompt.txt. Raises UserError."""
    if args.prompt is not None:
        return str(args.prompt)
    path = args.prompt_file or Path(PROMPT_FILE)
    hint = "" if args.prompt_file else " (no --prompt was given, so prompt.txt in this folder is read)"
    text = read_text(path, f"the prompt file {path}", hint)
    if not text.strip():
        raise UserError(f"the prompt file {path} is empty{hint}; write the prompt into it or use --prompt")
    return text.removesuffix("\n")


def single(args: argparse.Namespace) -> Wanted:
    """The prompt of the command line. Raises UserError."""
    settings = Settings(**merged(Settings, vars(args)))
    given = read_messages(args.messages) if args.messages else ()
    said = {"prompt": "" if given else read_prompt(args), "messages": given}
    request = args.request(**merged(args.request, vars(args), said))
    name = args.output or args.default_name
    return Wanted(name, settings, [(name, request, True)], [])


def batch(args: argparse.Namespace) -> Wanted:
    """The prompts of a YAML file, flags over what it says. Raises ConfigError."""
    from mask_impact.commands.batch_file import read_config

    file = read_config(args.config, args.vision, args.request)
    defaults = {"model": args.model, "vision": args.vision}
    settings = Settings(**merged(Settings, defaults, file.settings, args.given))
    prompts = []
    for entry in file.entries:
        values = merged(args.request, {"prompt": ""}, entry.values, args.given)
        prompts.append((entry.name, args.request(**values), entry.enabled))
    said = [file.settings, *(entry.values for entry in file.entries)]
    given = merged(Settings, args.given) | merged(args.request, args.given)
    overriding = [
        args.flags[name] for name in given if any(name in each and each[name] != given[name] for each in said)
    ]
    return Wanted(args.output or args.config.stem, settings, prompts, overriding)
