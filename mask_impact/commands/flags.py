"""The flags of the scripts: those of the fields of `Request` and `Settings`, and those of the command alone.

torch and transformers are imported after the flags are parsed, so that `--help` answers at once.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mask_impact import __version__
from mask_impact.errors import one_line
from mask_impact.options import Option, Request, Settings, check_extension, options_of
from mask_impact.parsers import output_name, path

PROMPT_FILE = "prompt.txt"
TAKEN = (  # names that the command itself uses
    "argv", "config", "default_name", "dry_run", "enabled", "flags", "given", "help", "name", "output", "overwrite",
    "prompt_file", "quiet", "request", "resume", "verbose", "version", "vision",
)  # fmt: skip


SCRIPTS = {  # which of them have the flags of a scope
    "text": "mask_impact_analysis.py has it", "vision": "mask_impact_vl.py has it",
    "both": "mask_impact_analysis.py and mask_impact_vl.py have it",
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Reports a wrong flag in one line, and knows which flags were given."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but an unknown flag is refused here, before a required one that may have been meant is
        missed. What was parsed has `flags`, see there; of a parser with commands those of the chosen command."""
        words = sys.argv[1:] if args is None else list(args)
        known = self._option_string_actions
        for word in words if self._subparsers is None else ():
            if re.match(r"--\w[^ ]*$", word) and word.partition("=")[0] not in known:
                self.error(self._unknown(word.partition("=")[0]))
        found, rest = super().parse_known_args(words, namespace)
        if rest:
            self.error(self._unknown(rest[0]))
        found.flags = getattr(found, "flags", None) or self.flags
        return found, rest

    def _unknown(self, word: str) -> str:
        """What to say of a word that is neither a flag nor a flag's value."""
        if not word.startswith("-"):
            return f"{word!r} belongs to no flag; put a text with spaces in quotes"
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        elsewhere = {each.flag: each.scope for kind in (Settings, Request) for each in options_of(kind).values()}
        near = [flag for flag in known if flag.startswith(word)] or difflib.get_close_matches(word, known, 1)
        hint = f"; {SCRIPTS[elsewhere[word]]}" if word in elsewhere else f"; did you mean {near[0]}?" if near else ""
        return f"unknown flag {word}{hint}"

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)} (see {self.prog} --help)\n")

    def given(self, argv: Sequence[str]) -> dict[str, Any]:
        """The values of the flags that are on the command line, without the defaults of the others."""
        nothing = argparse.Namespace(**{action.dest: None for action in self._actions})
        return {name: value for name, value in vars(self.parse_args(argv, nothing)).items() if value is not None}

    @property
    def flags(self) -> dict[str, str]:
        """Of every option by its name, {"num_tokens": "--num-tokens"}: this parser's, and those of other scripts."""
        known = {name: each.flag for kind in (Settings, Request) for name, each in options_of(kind).items()}
        return known | {found.dest: found.option_strings[-1] for found in self._actions if found.option_strings}


def script_parser(doc: str, default_model: str, default_name: str, request: type[Request], vision: bool) -> Parser:
    """The parser of a script.

    Args:
        doc: the script's; its first and its last paragraph stand in --help.
        request: the fields that are flags.
    """
    check_extension(request, TAKEN)
    description, _, examples = doc.split("\n\n")
    parser = Parser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a later flag must not change what an old script means
    )  # fmt: skip
    parser.set_defaults(default_name=default_name, vision=vision, request=request)
    fields = options_of(request)
    add_prompts(parser, fields.pop("prompt"), fields.pop("messages"))
    add_loading(parser, default_model)
    add_output(parser)
    wanted = ("both", "vision" if vision else "text")
    for each in fields.values():
        if each.scope in wanted:
            add_field(parser, each)
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be run, its tokens, rows and bytes, and stop"
    )
    add_volume(parser)
    return parser


def add_field(parser: Any, option: Option, **changes: Any) -> None:
    """The flag of a field; `changes` are keyword arguments of `add_argument`."""
    text = option.help_text.replace("%", "%%").replace("%%(default)s", "%(default)s")  # argparse formats it
    details: dict[str, Any] = {"dest": option.name, "help": text}
    if option.kind == "switch":
        parser.add_argument(option.flag, action="store_true", **details | changes)
        return
    details |= {"metavar": option.metavar, "type": option.parse}
    if option.kind == "repeated":
        details["action"] = "append"
    elif option.kind == "pair":
        details["nargs"] = 2
    else:
        details["default"] = option.default
    parser.add_argument(option.flag, **details | changes)


def add_prompts(parser: Parser, option: Option, messages: Option) -> None:
    """The flags that give one prompt, or a file with many."""
    prompt = parser.add_mutually_exclusive_group()
    add_field(prompt, option, default=None)
    prompt.add_argument(
        "--prompt-file", metavar="FILE", type=path, help=f"a UTF-8 text file with the prompt (default: {PROMPT_FILE})"
    )
    add_field(prompt, messages, default=None)
    prompt.add_argument(
        "--config", metavar="FILE", type=path, help="a YAML file with many prompts; other flags override what it says"
    )


def add_loading(parser: Parser, default_model: str) -> None:
    """The flags that say which model, and where and how it is computed."""
    for name, each in options_of(Settings).items():
        if name not in ("output_dir", "formats"):
            add_field(parser, each, **({"default": default_model} if name == "model" else {}))


def add_output(parser: Parser) -> None:
    """The flags that say where results go, and whether earlier ones are kept or replaced."""
    parser.add_argument(
        "--output", metavar="NAME", type=output_name,
        help="files are OUTPUT_DIR/NAME_results.*; results under the default name are replaced by the next run",
    )  # fmt: skip
    settings = options_of(Settings)
    add_field(parser, settings["output_dir"])
    add_field(parser, settings["formats"])
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--overwrite", action="store_true", help="replace results that exist under the given name")
    earlier.add_argument(
        "--resume", action="store_true", help="keep existing results of the same inputs; repeat the others"
    )


def add_volume(parser: Parser) -> None:
    """How much is printed."""
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("--quiet", action="store_true", help="print nothing but errors")
    volume.add_argument("--verbose", action="store_true", help="print transformers' messages, and tracebacks of errors")
    parser.add_argument("--version", action="version", version=f"mask-impact {__version__}")
