"""What both scripts' commands share: flags, checks before the long work, progress, summary, exit codes.

torch and transformers are imported after the flags are parsed, so that `--help` answers at once. This is the only place
that turns errors into exit codes: 0 done, 1 failed while running, 2 bad input, 130 interrupted.
"""

import argparse
import contextlib
import errno
import io
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from mask_impact import __version__
from mask_impact.errors import UserError
from mask_impact.results import FORMATS, HEAD_SPACES, VARIANTS, ResultFiles, existing_files

if TYPE_CHECKING:
    from mask_impact.experiment import Run
    from mask_impact.inputs import ModelInputs
    from mask_impact.models import Source

DEFAULT_FORMATS = "csv,json,html"
PROMPT_FILE = "prompt.txt"
# Measured on the demo model, rounded up; html with what it needs while it is written, the page and its pictures apart.
BYTES_PER_ROW = {"csv": 50, "json": 60, "parquet": 12, "html": 20}
BYTES_PER_FILE = {"html": 1_000_000}

SHOWN = 5  # probabilities and top tokens in the summary

MAX_NAME = 150  # bytes; file systems allow 255, and names of temporary folders are longer

# Names Windows keeps for devices: https://learn.microsoft.com/windows/win32/fileio/naming-a-file
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³")}


class Parser(argparse.ArgumentParser):
    """Reports a wrong flag in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)} (see {self.prog} --help)\n")


def one_line(message: object) -> str:
    return " ".join(str(message).split())


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def one_of_list(*choices: str) -> Callable[[str], tuple[str, ...]]:
    """A flag type: a comma-separated choice, in the order of `choices`."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = [part.strip() for part in text.split(",") if part.strip()]
        for part in chosen:
            if part not in choices:
                raise argparse.ArgumentTypeError(f"unknown {part!r}; choose from {', '.join(choices)}")
        if not chosen:
            raise argparse.ArgumentTypeError(f"nothing chosen; choose from {', '.join(choices)}")
        return tuple(choice for choice in choices if choice in chosen)

    return parse


def device_name(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"unknown {text!r}; choose auto, cpu, cuda, cuda:N or mps")
    return text


def output_name(text: str) -> str:
    """A name that is a file name on every system."""
    if not text or text[0] in ". " or text[-1] in ". " or re.search(r'[/\\<>:"|?*\x00-\x1f\x7f\ud800-\udfff]', text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a plain file name; use letters, digits, - and _ (the folder goes into --output-dir)"
        )
    if len(text.encode()) > MAX_NAME:
        raise argparse.ArgumentTypeError(f"a name of {len(text.encode())} bytes is too long; at most {MAX_NAME}")
    if text.split(".")[0].rstrip().lower() in RESERVED:
        raise argparse.ArgumentTypeError(f"{text!r} is a name that Windows reserves; choose another")
    return text


def build_parser(description: str, epilog: str, default_model: str) -> Parser:
    """The flags both scripts have."""
    parser = Parser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a later flag must not change what an old script means
    )  # fmt: skip
    parser.set_defaults(
        vision=False, mask_mode="text", vision_attention="model"
    )  # the text script has no flags for them
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="the prompt")
    prompt.add_argument(
        "--prompt-file", metavar="FILE", type=Path, help=f"a UTF-8 text file with the prompt (default: {PROMPT_FILE})"
    )
    parser.add_argument(
        "--model", metavar="NAME_OR_PATH", default=default_model,
        help="a hub name, a checkpoint folder, or demo for the bundled model (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--num-tokens", metavar="N", type=positive, default=1, help="output tokens to analyse (default: 1)"
    )
    parser.add_argument(
        "--output", metavar="NAME", type=output_name,
        help="files are OUTPUT_DIR/NAME_results.*; the default name is scratch and is replaced by the next run",
    )  # fmt: skip
    parser.add_argument("--output-dir", metavar="DIR", type=Path, default=Path("output"), help="default: output")
    parser.add_argument(
        "--format", metavar="LIST", dest="formats", type=one_of_list(*FORMATS), default=DEFAULT_FORMATS,
        help=f"comma-separated: {', '.join(FORMATS)} (default: {DEFAULT_FORMATS})",
    )  # fmt: skip
    parser.add_argument("--layers", metavar="LIST", help="for example 0,8,20-27 (default: all)")
    parser.add_argument(
        "--variants", metavar="LIST", type=one_of_list(*VARIANTS), default=",".join(VARIANTS),
        help="comma-separated: full (the layer), attn (its attention), head (every head) (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--head-space", choices=HEAD_SPACES, default="output",
        help="compare heads before the output projection, or their shares of it (default: output)",
    )  # fmt: skip
    parser.add_argument(
        "--device", metavar="DEVICE", type=device_name, default="auto",
        help="auto, cpu, cuda, cuda:N or mps; auto is CUDA, then MPS, then CPU (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="default: the checkpoint's own on an accelerator, float32 on the CPU",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist under the given name")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="let a model run the Python code that comes with it"
    )
    parser.add_argument(
        "--allow-pickle", action="store_true",
        help="also load pickled weights; a pickle can run any code when loaded, so only from authors you trust",
    )  # fmt: skip
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("--quiet", action="store_true", help="print nothing but errors")
    volume.add_argument("--verbose", action="store_true", help="print transformers' messages, and tracebacks of errors")
    parser.add_argument("--version", action="version", version=f"mask-impact {__version__}")
    return parser


def guarded(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run a command; every failure becomes one line on stderr and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every console can print every token
    try:
        main(args)
        return 0
    except KeyboardInterrupt:
        print("interrupted: nothing of the unfinished run was written", file=sys.stderr)
        return 130
    except Exception as error:
        if args.verbose:
            traceback.print_exc()
        if isinstance(error, UserError):
            print(f"error: {one_line(error)}", file=sys.stderr)
            return 2
        where = "" if args.verbose else " (--verbose shows where)"
        print(f"error: {type(error).__name__}: {one_line(error)[:500]}{where}", file=sys.stderr)
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


def open_results(args: argparse.Namespace, default_name: str) -> ResultFiles:
    """The files of this run, checked: results under a name the user gave are kept unless --overwrite."""
    name = args.output or default_name
    if args.output and not args.overwrite and (existing := existing_files(args.output_dir, name)):
        raise UserError(f"{existing[0]} exists already; choose another --output, or replace it with --overwrite")
    return ResultFiles(args.output_dir, name, args.formats)


def check_space(args: argparse.Namespace, prompt_length: int, layers: int, heads: int) -> None:
    """Raises UserError when the disk cannot hold the results."""
    variants = sum({"full": 1, "attn": 1, "head": heads}[variant] for variant in args.variants)
    tokens = args.num_tokens * prompt_length + args.num_tokens * (args.num_tokens - 1) // 2
    needed = tokens * layers * variants * sum(BYTES_PER_ROW[form] for form in args.formats)
    needed += sum(BYTES_PER_FILE.get(form, 0) for form in args.formats)
    free = shutil.disk_usage(args.output_dir).free
    if needed > free:
        raise UserError(
            f"the results need about {needed / 1e6:,.0f} MB, but the disk of {args.output_dir} has "
            f"{free / 1e6:,.0f} MB free; choose another --output-dir, or fewer --layers or --variants"
        )


def check_report(args: argparse.Namespace, masked: int, layers: int, heads: int) -> None:
    """Raises UserError when a report is all that is to be written, and the run is larger than one may be."""
    from mask_impact.report import MAX_BASE64, base64_size

    variants = sum({"full": 1, "attn": 1, "head": heads}[variant] for variant in args.variants)
    size = base64_size((args.num_tokens, variants, layers, masked + args.num_tokens - 1))
    if args.formats == ("html",) and size > MAX_BASE64:
        raise UserError(
            f"the report would be {size / 1e6:,.0f} MB, and a page holds at most {MAX_BASE64 / 1e6:,.0f} MB; "
            "choose --format parquet and open it with visualize_results.html, or fewer --layers or --variants"
        )


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """An OSError inside becomes a UserError about `folder`; after any failure, folders made inside are gone again."""
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            yield
        except BaseException:
            for path in made:
                with contextlib.suppress(OSError):  # one that is not there, or not empty
                    path.rmdir()
            raise
    except BrokenPipeError:
        raise
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"the output folder {folder} is not a folder; choose another --output-dir") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"the disk of the output folder {folder} is full; nothing was written; make room"
        else:
            message = f"the output folder {folder} cannot be written ({error.strerror or error})"
        raise UserError(f"{message}, or choose another --output-dir") from error


class ProgressBar:
    """One line on stderr with what is being done, gone at the end: one unit per forward and per replayed layer.

    Where stderr is not a terminal, only runs that take long show it, and seldom.
    """

    def __init__(self, what: str, quiet: bool) -> None:
        from tqdm import tqdm

        pause = 0.1 if sys.stderr.isatty() else 10.0  # seconds
        bar_format = "{desc:<34} |{bar:30}| {percentage:3.0f}% {elapsed}<{remaining}"
        self.bar = tqdm(
            desc=what, disable=quiet, file=sys.stderr, leave=False, bar_format=bar_format, mininterval=pause,
            delay=0 if sys.stderr.isatty() else pause,
        )  # fmt: skip

    def expect(self, total: int) -> None:
        self.bar.total = total

    def say(self, text: str) -> None:
        """Print `text` on stdout, above the bar."""
        if sys.stderr.isatty():
            self.bar.clear()
        show(text)

    def __call__(self, what: str) -> None:
        self.bar.set_description_str(what, refresh=False)
        self.bar.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.close()


@contextlib.contextmanager
def quiet_libraries(verbose: bool) -> Iterator[None]:
    """No warnings of torch and transformers, which would hide what this program has to say, unless `verbose`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
            import transformers
            from huggingface_hub.utils import logging

            logging.set_verbosity_error()
            transformers.utils.logging.set_verbosity_error()
            transformers.utils.logging.disable_progress_bar()
        yield


Prepare = Callable[["Source"], tuple[Any, "ModelInputs"]]  # a model that was found -> its tokenizer, the model inputs


def analyse(args: argparse.Namespace, default_name: str, prepare: Prepare, argv: Sequence[str]) -> None:
    """Everything after the flags: check, load, measure, write, summarise."""
    started = time.perf_counter()
    with ProgressBar(f"loading {args.model}", args.quiet) as progress, quiet_libraries(args.verbose):
        run, paths = measure(args, default_name, prepare, argv, progress, started)
    if not args.quiet:
        show(summary(run, paths, time.perf_counter() - started))


def measure(
    args: argparse.Namespace,
    default_name: str,
    prepare: Prepare,
    argv: Sequence[str],
    progress: ProgressBar,
    started: float,
) -> tuple["Run", dict[str, Path]]:
    """The run and its files, by format; either all of them are written or none."""
    from mask_impact import experiment, models

    device = models.choose_device(args.device)
    source = models.find_model(args.model, args.trust_remote_code, args.allow_pickle, args.vision)
    layers = experiment.parse_layers(args.layers, source.num_layers)
    tokenizer, inputs = prepare(source)
    experiment.check_length(source.text_config, len(inputs.tokens), args.num_tokens)
    options = experiment.Options(
        args.num_tokens, layers, args.variants, args.head_space, args.mask_mode, args.vision_attention
    )
    experiment.check_masks(inputs, options)
    measured_layers = len(layers or range(source.num_layers))
    with output_folder(args.output_dir), open_results(args, default_name) as files:
        check_space(args, len(inputs.tokens), measured_layers, source.text_config.num_attention_heads)
        masked = sum(map(experiment.MASKED[args.mask_mode], inputs.tokens))
        check_report(args, masked, measured_layers, source.text_config.num_attention_heads)
        if args.vision and not args.quiet:
            progress.say(plan(inputs, args.mask_mode))
        prepared = time.perf_counter()
        model = models.load_model(source, device, models.choose_dtype(args.dtype, device))
        loaded = time.perf_counter()
        progress.expect(args.num_tokens * (1 + measured_layers))
        run = experiment.run(model, tokenizer, inputs, options, files.write, progress)
        run.manifest["model"] |= source.manifest
        run.manifest["seconds"] |= {"prepare": prepared - started, "load": loaded - prepared}
        run.manifest["seconds"]["total"] = time.perf_counter() - started
        paths = files.commit({"name": files.name, "argv": list(argv), **run.manifest}, inputs.pictures)
        run.manifest["notes"] = [*run.manifest["notes"], *files.notes]  # for the summary
    return run, paths


def show(text: str) -> None:
    """Print on stdout; a reader that has gone, as in `| head -1`, is no failure of the run."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits


def plan(inputs: "ModelInputs", mask_mode: str) -> str:
    """What is about to be masked and what not, and what became of the pictures."""
    lines = []
    for index, picture in enumerate(inputs.images):
        first, last = picture["positions"]
        width, height = picture["size"]
        resized = picture["resized"]
        lines.append(
            f"{f'image {index}':<10} {picture['path']}: {width} x {height} pixels"
            + (f", resized to {resized[0]} x {resized[1]}" if resized and resized != picture["size"] else "")
            + f", tokens {first} to {last} ({picture['layout']})"
        )
        lines += [f"{'':<10} {note}" for note in picture["notes"]]
    images = sum(found.kind == "image" for found in inputs.tokens)
    text = len(inputs.tokens) - images
    places = f"{images} image tokens in {counted(len(inputs.images), 'image')}"
    if len(inputs.images) == 1:
        places += f" ({inputs.images[0]['layout']})"
    what = {
        "text": f"{text} text tokens" + (f", {places} skipped" if images else ""),
        "vision": f"{places}, {text} text tokens skipped",
        "both": f"{text} text tokens and {places}",
    }
    return "\n".join([*lines, f"mask mode  {mask_mode}: {what[mask_mode]}"])


def counted(count: int, what: str) -> str:
    """ "1 image", "2 images"."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def summary(run: "Run", paths: dict[str, Path], total: float) -> str:
    """What a user wants to know at the end of a run."""
    manifest = run.manifest
    model, seconds = manifest["model"], manifest["seconds"]
    generated = "".join(found["text"] for found in manifest["generated"])
    chances = ", ".join(f"{found['probability']:.2f}" for found in manifest["generated"][:SHOWN])
    chances += ", ..." if len(manifest["generated"]) > SHOWN else ""
    lines = [
        f"model      {model['name']} ({model['family']}, {model['layers']} layers, {model['heads']} heads, "
        f"{model['parameters'] / 1e6:.1f} M parameters, {manifest['dtype']}, {manifest['device']})",
        f"tokens     {manifest['prompt_length']} in the prompt, {len(manifest['generated'])} generated"
        + (" (stopped at the end of the text)" if manifest["stop_reason"] != "length" else ""),
        f"generated  {generated!r} (probability {chances})",
        "seconds    "
        + ", ".join(
            f"{name.replace('_', ' ')} {seconds[name]:.2f}"
            for name in ("prepare", "load", "recorded_forward", "decode", "replay", "write")
        )
        + f", total {total:.2f}",
    ]
    lines += [f"skipped    layer {found['layer']}: {found['reason']}" for found in manifest["skipped_layers"]]
    lines += [f"note       {note}" for note in manifest["notes"]]
    lines += [f"{'files' if index == 0 else '':<10} {path}" for index, path in enumerate(paths.values())]
    return "\n".join([*lines, "", *top_table(run)])


def token_label(found: dict[str, Any]) -> str:
    """A token's text, or which patch of which picture it is."""
    if found["kind"] != "image":
        return repr(found["text"])
    place = "" if found["row"] is None else f" row {found['row']} col {found['col']}"
    return f"image {found['image']}{place}"


def top_table(run: "Run", count: int = SHOWN) -> list[str]:
    """The most important tokens: largest value over layers and steps, position 0 apart (it often is a sink)."""
    manifest = run.manifest
    variant = manifest["variants"][0]
    labels = {found["position"]: token_label(found) for found in manifest["tokens"]}
    rows = [
        (labels[position], str(position), f"{value:.4g}", str(layer), f"{variant} L2")
        for position, value, layer in run.top.ranked()
    ]
    first = [row for row in rows if row[1] == "0"]
    others = [row for row in rows if row[1] != "0"][:count]
    width = max([5, *(len(row[0]) for row in first + others)])
    form = f"{{:<{width}}}  {{:>8}}  {{:>9}}  {{:>10}}"
    head = form.format("token", "position", f"{variant} L2", "peak layer")
    over = "layers" if len(manifest["generated"]) == 1 else f"layers and all {len(manifest['generated'])} output tokens"
    table = [f"the {len(others)} most important tokens, largest {variant} L2 over {over}:", head]
    table += [form.format(*row[:4]) for row in others]
    table += [form.format(*row[:4]) + "  (apart: the first position often just absorbs attention)" for row in first]
    return table
