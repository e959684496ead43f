"""The five commands of latent_lens.py and their flags.

torch and transformers are imported after the flags are parsed; each command is a function of one module.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from mask_impact.commands.exit_codes import guarded
from mask_impact.commands.flags import Parser, add_field, add_loading, add_volume
from mask_impact.model.quiet import quiet_libraries
from mask_impact.options import Request, options_of
from mask_impact.parsers import one_of, one_of_list, output_name, path, positive

DEFAULT_MODEL = "Qwen/Qwen2-VL-7B-Instruct"
PROMPT = "Describe this image."
STORED = ("float16", "bfloat16", "float32")  # what features can be stored as
FEATURE_FORMATS = ("safetensors", "pt")
MAX_PER_TOKEN = 20  # contexts per vocabulary item in a bank
TOP_K = 5
TABLE_FORMATS = ("csv", "json", "html", "parquet")
SEARCHES = ("exact", "approximate")
STACKS = ("decoder", "vision")
ROWS = ("patch", "token")  # of the vision encoder


def main(description: str, examples: str, argv: Sequence[str] | None) -> int:
    """The whole command; the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(description, examples).parse_args(argv)
    args.argv, args.vision = argv, True
    return guarded(command, args)


def command(args: argparse.Namespace) -> int | None:
    with quiet_libraries(args.verbose):
        run: Callable[[argparse.Namespace], int | None] = import_module(f"mask_impact.lens.{args.module}").command
        return run(args)


def build_parser(description: str, examples: str) -> Parser:
    parser = Parser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module, help, flags in (
        ("inspect", "inspection", "what the model is made of, and which tokens an image becomes", add_inspect),
        ("features", "features", "hidden states of image tokens, layer by layer", add_features),
        ("bank", "bank", "hidden states of text tokens in context, to be searched", add_bank),
        ("neighbors", "neighbors", "for each image token, the text tokens nearest to it", add_neighbors),
        ("scales", "scales", "one picture at several sizes, its image tokens compared box by box", add_scales),
    ):
        each: Parser = commands.add_parser(name, help=help, description=f"{name}: {help}", allow_abbrev=False)
        each.set_defaults(module=module)
        add_loading(each, DEFAULT_MODEL)
        flags(each)
        add_volume(each)
    return parser


def add_inspect(parser: Parser) -> None:
    add_images(parser)
    add_videos(parser)
    parser.add_argument(
        "--size", metavar="WIDTHxHEIGHT", dest="sizes", type=size, action="append",
        help="which tokens an image of this size in pixels becomes; repeat it for more (default: a few)",
    )  # fmt: skip
    add_layers(parser)
    add_prompt(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_features(parser: Parser) -> None:
    parser.add_argument(
        "--images", metavar="PATH", type=path, nargs="+", default=(),
        help="image files, and folders, which are searched with all their subfolders",
    )  # fmt: skip
    parser.add_argument(
        "--num-images", metavar="N", type=positive,
        help="the first N of --images; without it, with --model demo, N scenes that are drawn",
    )  # fmt: skip
    add_videos(parser)
    parser.add_argument("--test-only", action="store_true", help="only the test image, a red circle and a blue square")
    add_layers(parser)
    add_tower(parser)
    parser.add_argument(
        "--unit", metavar="|".join(ROWS), type=one_of(ROWS), default=None,
        help="with --tower vision, a row for each patch, or for each image token the mean of its patches "
        "(default: patch)",
    )  # fmt: skip
    add_prompt(parser)
    parser.add_argument("--save-features", action="store_true", help="also write the features, one file per layer")
    parser.add_argument(
        "--feature-dtype", metavar="|".join(STORED), type=one_of(STORED), default=STORED[0],
        help="what they are stored as (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--feature-format", metavar="|".join(FEATURE_FORMATS), type=one_of(FEATURE_FORMATS),
        default=FEATURE_FORMATS[0], help="the kind of file (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=positive,
        default=8,
        help="at most N images of one size per forward (default: 8)",
    )
    add_output(parser, "files are OUTPUT_DIR/extraction_summary_NAME.json, ... (default: the model's name)")


def add_bank(parser: Parser) -> None:
    parser.add_argument(
        "--captions", metavar="FILE", type=path, required=True, help="a UTF-8 text file, one caption per line"
    )
    parser.add_argument("--num-captions", metavar="N", type=positive, help="the first N captions (default: all)")
    parser.add_argument(
        "--max-per-token", metavar="N", type=positive, default=MAX_PER_TOKEN,
        help="at most N contexts for each token of the vocabulary (default: %(default)s)",
    )  # fmt: skip
    add_layers(parser)
    parser.add_argument(
        "--batch-size", metavar="N", type=positive, default=32, help="captions per forward (default: 32)"
    )
    add_output(parser)


def add_neighbors(parser: Parser) -> None:
    parser.add_argument(
        "--bank", metavar="DIR", type=path, required=True, help="a folder that bank wrote, or a bank of latentlens"
    )
    add_images(parser)
    add_videos(parser)
    add_layers(parser)
    add_prompt(parser)
    parser.add_argument(
        "--top-k", metavar="K", type=positive, default=TOP_K, help="how many neighbours (default: %(default)s)"
    )
    parser.add_argument("--static", action="store_true", help="also the nearest rows of the vocabulary's embedding")
    parser.add_argument(
        "--search", metavar="|".join(SEARCHES), type=one_of(SEARCHES), default=SEARCHES[0],
        help="compare with every vector of the bank, or through an index (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--run", metavar="NAME_run.json", type=path,
        help="a run of mask_impact_vl.py on the same image and prompt, to show beside the neighbours",
    )  # fmt: skip
    add_formats(parser, TABLE_FORMATS)
    add_output(parser, "files are OUTPUT_DIR/NAME_neighbors.* (default: the image's name)")


def add_scales(parser: Parser) -> None:
    add_images(parser, required=True)
    parser.add_argument(
        "--max-pixels", metavar="N,N,...", dest="scales", type=pixel_counts, required=True,
        help="the sizes: the picture is shrunk to each of these numbers of pixels, for example 50000,200000",
    )  # fmt: skip
    add_layers(parser)
    add_tower(parser)
    add_prompt(parser, sizes=False)
    add_formats(parser, [form for form in TABLE_FORMATS if form != "html"])
    add_output(parser, "files are OUTPUT_DIR/NAME_scales.* (default: the image's name)")


def add_images(parser: Parser, required: bool = False) -> None:
    add_field(parser, options_of(Request)["images"], required=required, default=[])


def add_videos(parser: Parser) -> None:
    add_field(parser, options_of(Request)["videos"], default=[])
    for name in ("fps", "max_frames"):
        add_field(parser, options_of(Request)[name])


def add_prompt(parser: Parser, sizes: bool = True) -> None:
    parser.add_argument("--prompt", metavar="TEXT", default=PROMPT, help=f"what stands around it (default: {PROMPT})")
    if sizes:
        add_field(parser, options_of(Request)["max_pixels"])


def add_formats(parser: Parser, known: Sequence[str]) -> None:
    usual = [form for form in known if form != "parquet"]
    parser.add_argument(
        "--format", metavar="LIST", dest="formats", type=one_of_list(known), default=tuple(usual),
        help=f"comma-separated: {', '.join(known)} (default: {','.join(usual)})",
    )  # fmt: skip


def add_layers(parser: Parser) -> None:
    help = "for example 0,8,20-27, or all; 0 is the input of the first layer, k the residual stream after k layers"
    add_field(parser, options_of(Request)["layers"], help=help, default=None)


def add_tower(parser: Parser) -> None:
    parser.add_argument(
        "--tower", metavar="|".join(STACKS), type=one_of(STACKS), default=STACKS[0],
        help="whose layers: the decoder's, or the vision encoder's (default: %(default)s)",
    )  # fmt: skip


def add_output(parser: Parser, names: str | None = None) -> None:
    if names:
        parser.add_argument("--output", metavar="NAME", type=output_name, help=names)
    parser.add_argument("--output-dir", metavar="DIR", type=path, default=Path("output"), help="default: output")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--overwrite", action="store_true", help="replace what an earlier command wrote there")
    earlier.add_argument("--resume", action="store_true", help="keep what an earlier command wrote, and go on with it")


def size(text: str) -> tuple[int, int]:
    """ "640x480" -> (640, 480)."""
    found = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in pixels; write for example 640x480")
    return int(found[1]), int(found[2])


def pixel_counts(text: str) -> tuple[int, ...]:
    """ "50000,200000" -> (50000, 200000), rising: at least two numbers of pixels, each once."""
    found = [positive(part.strip()) for part in text.split(",")]
    if len(found) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is one size; give two or more to compare, for example 50000,200000")
    if twice := next((each for each in found if found.count(each) > 1), None):
        raise argparse.ArgumentTypeError(f"{text!r} has {twice} twice; give each size once")
    return tuple(sorted(found))
