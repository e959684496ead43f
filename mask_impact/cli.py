"""What both scripts' commands share: flags, checks before the long work, progress, exit codes.

torch and transformers are imported after the flags are parsed, so that `--help` answers at once. This is the only place
that turns errors into exit codes: 0 done, 1 failed while running, 2 bad input, 130 interrupted.
"""

import argparse
import io
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from mask_impact import __version__
from mask_impact.errors import UserError
from mask_impact.options import (
    ABLATIONS,
    DEFAULT_FORMATS,
    DTYPES,
    HEAD_SPACES,
    PARSERS,
    UNITS,
    VARIANTS,
    Request,
    Settings,
    output_name,
)
from mask_impact.terminal import ProgressBar, complain, described, let_the_first_speak, one_line, quiet_libraries, show

PROMPT_FILE = "prompt.txt"
REPEATED = ("images", "spans", "regions", "region_masks", "contrast")  # flags that can be given several times


class Parser(argparse.ArgumentParser):
    """Reports a wrong flag in one line, and knows which flags were given."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)} (see {self.prog} --help)\n")

    def add_option(self, flag: str, **details: Any) -> None:
        """A flag whose value a YAML file can give as well, parsed in the same way."""
        self.add_argument(flag, type=PARSERS[details.get("dest", flag[2:].replace("-", "_"))], **details)

    def given(self, argv: Sequence[str]) -> dict[str, Any]:
        """The values of the flags that are on the command line, without the defaults of the others."""
        nothing = argparse.Namespace(**{action.dest: None for action in self._actions})
        return {name: value for name, value in vars(self.parse_args(argv, nothing)).items() if value is not None}

    def flag(self, name: str) -> str:
        """ "num_tokens" -> "--num-tokens"."""
        return next(action.option_strings[-1] for action in self._actions if action.dest == name)


def build_parser(description: str, epilog: str, default_model: str, default_name: str) -> Parser:
    """The flags both scripts have."""
    parser = Parser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a later flag must not change what an old script means
    )  # fmt: skip
    parser.set_defaults(default_name=default_name, vision=False)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="the prompt")
    prompt.add_argument(
        "--prompt-file", metavar="FILE", type=Path, help=f"a UTF-8 text file with the prompt (default: {PROMPT_FILE})"
    )
    prompt.add_argument(
        "--config", metavar="FILE", type=Path, help="a YAML file with many prompts; other flags override what it says"
    )

    add_loading(parser, default_model)
    parser.add_option("--num-tokens", metavar="N", default=1, help="output tokens to analyse (default: 1)")
    parser.add_argument(
        "--output", metavar="NAME", type=output_name,
        help="files are OUTPUT_DIR/NAME_results.*; the default name is scratch and is replaced by the next run",
    )  # fmt: skip
    parser.add_argument("--output-dir", metavar="DIR", type=Path, default=Path("output"), help="default: output")
    formats = ",".join(DEFAULT_FORMATS)
    parser.add_option(
        "--format", metavar="LIST", dest="formats", default=formats,
        help=f"comma-separated: csv, json, parquet, html (default: {formats})",
    )  # fmt: skip
    parser.add_option("--layers", metavar="LIST", help="for example 0,8,20-27 (default: all)")
    parser.add_option(
        "--variants", metavar="LIST", default=",".join(VARIANTS),
        help="comma-separated: full (the layer), attn (its attention), head (every head) (default: all)",
    )  # fmt: skip
    parser.add_option(
        "--head-space", metavar="|".join(HEAD_SPACES), default="output",
        help="compare heads before the output projection, or their shares of it (default: output)",
    )  # fmt: skip
    parser.add_option(
        "--ablation", metavar="|".join(ABLATIONS), default="neg-inf",
        help="take a token out of the softmax, or keep its weight and zero its value (default: neg-inf)",
    )  # fmt: skip
    parser.add_option(
        "--queries", metavar="last|all|LIST",
        help="where masks are read: last (the predicting position; default), all, or positions such as 4,8-10",
    )  # fmt: skip
    parser.add_option(
        "--mask-unit", metavar="|".join(UNITS), help="what is masked together (default: token, or span with --span)"
    )
    parser.add_argument(
        "--span", metavar="TEXT|/REGEX/|12-18", dest="spans", action="append",
        help="mask this text of the prompt, or these positions, together; NAME=... names it; repeat it for more",
    )  # fmt: skip
    parser.add_argument(
        "--effects", action="store_true", help="also measure what masks do to the answer, carried on to the logits"
    )
    parser.add_argument(
        "--mask-layers", metavar="LIST", default="all",
        help="for --effects, the layers in which a mask holds: all, 0-5, window:3 (sliding) or from (default: all)",
    )  # fmt: skip
    parser.add_option(
        "--block", metavar="LIST", dest="blocks", default="all",
        help="for --effects, who stops reading it: last (the predicting position), all (every later one; default)",
    )  # fmt: skip
    parser.add_argument(
        "--contrast", metavar=("TOKEN", "TOKEN"), nargs=2,
        help="for --effects, also the difference of these two tokens' logits",
    )  # fmt: skip
    parser.add_argument(
        "--trace-layers", action="store_true",
        help="for --effects, also how far the state has moved after every later layer",
    )  # fmt: skip
    parser.add_option(
        "--pairs", metavar="K", default=0,
        help="also mask all pairs among the K strongest units, and report how they interact",
    )  # fmt: skip
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--overwrite", action="store_true", help="replace results that exist under the given name")
    earlier.add_argument(
        "--resume", action="store_true", help="keep results that exist and are of the same inputs; redo others"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be run, its tokens, rows and bytes, and stop"
    )
    add_volume(parser)
    return parser


def add_loading(parser: Parser, default_model: str) -> None:
    """The flags that say which model, and where and how it is computed."""
    parser.add_argument(
        "--model", metavar="NAME_OR_PATH", default=default_model,
        help="a hub name, a checkpoint folder, or demo for the bundled model (default: %(default)s)",
    )  # fmt: skip
    parser.add_option(
        "--device", metavar="DEVICE", default="auto",
        help="auto, cpu, cuda, cuda:N or mps; auto is CUDA, then MPS, then CPU (default: auto)",
    )  # fmt: skip
    parser.add_option(
        "--dtype", metavar="|".join(DTYPES), default="auto",
        help="default: the checkpoint's own on an accelerator, float32 on the CPU",
    )  # fmt: skip
    parser.add_option(
        "--device-map", metavar="auto",
        help="spread a model that does not fit one device over all of them, the CPU and the disk",
    )  # fmt: skip
    parser.add_option(
        "--max-memory", metavar="LIST", help="what --device-map may use, for example 0=20GiB,cpu=60GiB (default: all)"
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="let a model run the Python code that comes with it"
    )
    parser.add_argument(
        "--allow-pickle", action="store_true",
        help="also load pickled weights; a pickle can run any code when loaded, so only from authors you trust",
    )  # fmt: skip


def add_volume(parser: Parser) -> None:
    """How much is printed."""
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("--quiet", action="store_true", help="print nothing but errors")
    volume.add_argument("--verbose", action="store_true", help="print transformers' messages, and tracebacks of errors")
    parser.add_argument("--version", action="version", version=f"mask-impact {__version__}")


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


def guarded(main: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    """Run a command; every failure becomes a line on stderr and an exit code, which `main` may also give."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every console can print every token
    try:
        return main(args) or 0
    except KeyboardInterrupt:
        complain("interrupted: nothing of the unfinished run was written")
        return 130
    except Exception as error:
        let_the_first_speak()
        if args.verbose:
            traceback.print_exc()
        if isinstance(error, UserError):
            for line in getattr(error, "errors", [error]):  # a YAML file can have several
                complain(f"error: {one_line(line)}")
            return 2
        where = "" if args.verbose else " (--verbose shows where)"
        complain(f"error: {described(error)}{where}")
        return 1


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


def merged(kind: type[Any], *found: Mapping[str, Any]) -> dict[str, Any]:
    """What several sources say of a dataclass's fields, the last one first."""
    names = [field.name for field in fields(kind)]
    values = {name: source[name] for source in found for name in names if name in source}
    return values | {name: tuple(values[name] or ()) for name in REPEATED if name in values}


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
        from mask_impact import resume, summary
        from mask_impact.folder import output_folder
        from mask_impact.job import Session

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
    from mask_impact.config import read_config

    file = read_config(args.config, args.vision)
    defaults = {"model": args.model, "vision": args.vision}
    settings = Settings(**merged(Settings, defaults, file.settings, args.given))
    entries = [(entry, merged(Request, {"prompt": ""}, entry.values, args.given)) for entry in file.entries]
    with quiet_libraries(args.verbose):
        from mask_impact.batch import Batch, Task

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
        from mask_impact.batch import Batch, Task

        Batch(name, settings, [Task(name, request)], args).preview()
