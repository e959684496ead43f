"""What both scripts' commands share: flags, checks before the long work, progress, exit codes.

torch and transformers are imported after the flags are parsed, so that `--help` answers at once. This is the only place
that turns errors into exit codes: 0 done, 1 failed while running, 2 bad input, 130 interrupted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mask_impact import __version__
from mask_impact.commands.terminal import (
    one_line,
)
from mask_impact.options import (
    ABLATIONS,
    DEFAULT_FORMATS,
    DTYPES,
    HEAD_SPACES,
    PARSERS,
    UNITS,
    VARIANTS,
    output_name,
)

PROMPT_FILE = "prompt.txt"


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
