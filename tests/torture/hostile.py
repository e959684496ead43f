"""Contents that would run a program, open a connection or write elsewhere if they were trusted: nothing does.

In:  cases. Out: which of them did, by Python's audit hooks, which see it whoever does it.
"""

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

from torture.case import Case, Outcome, all_of, file_of, json_with

NEVER = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "pty.",
    "ftplib.",
    "smtplib.",
    "webbrowser.",
)
CHANGES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
)
MARK = "touched: "


def linked(key: str) -> str:
    """Messages in which this key of a picture is a link."""
    parts = [{"type": "image", key: "http://127.0.0.1:9/x.png"}, {"type": "text", "text": "a"}]
    return json.dumps([{"role": "user", "content": parts}])


def watch() -> None:
    """From now on, what must not happen is said on stderr."""
    here = [os.path.realpath(path) + os.sep for path in (".",)]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        outside = (writes or event in CHANGES) and isinstance(args[0], str | bytes) and not _inside(args[0], here)
        own = event == "subprocess.Popen" and args[0] == "git" and "rev-parse" in args[1]  # for the manifest
        if (event.startswith(NEVER) and not own) or outside:
            os.write(2, f"{MARK}{event} {str(args)[:200]}\n".encode())

    sys.addaudithook(hook)


def _inside(path: str | bytes, folders: list[str]) -> bool:
    name = os.fsdecode(path)
    return name.startswith(("/dev/", "/proc/")) or any(
        (os.path.realpath(name) + os.sep).startswith(each) for each in folders
    )


def held(outcome: Outcome) -> bool:
    return MARK not in outcome.err and "Traceback" not in outcome.err and outcome.code in (0, 1, 2)


class Runs:
    """A pickle that runs a command where it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/mask-impact-was-here",)


OWN_CODE = "import os\nos.system('touch /tmp/mask-impact-was-here')\n"
TEXT = "text --model model --layers 0 --format csv,json,parquet,html"
M, V = ("model",), ("vl", "red.png", "testimg.png", "bank", "captions.txt")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch /tmp/mask-impact-was-here) (w) file\n"
SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(1)> {{7*7}} ${7*7} `id` $(id) %s %n \x1b[31m"
ESCAPES = (
    "{% for k in cycler.__init__.__globals__.os.popen('id') %}{{ k }}{% endfor %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)
AUTO = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
CASES = [
    Case("prompt of markup and shell", [*TEXT.split(), "--prompt", SCRIPT[:60]], needs=M),
    Case("span of markup", [*TEXT.split(), "--prompt", "a</b>", "--span", "x=</b>"], needs=M),
    Case(
        "own code in the config",
        f"{TEXT} --prompt Tom",
        all_of(file_of("model/own.py", OWN_CODE), json_with("model/config.json", {"auto_map": AUTO})),
        M,
    ),
    Case(
        "own code of the tokenizer",
        f"{TEXT} --prompt Tom",
        all_of(file_of("model/own.py", OWN_CODE), json_with("model/tokenizer_config.json", {"auto_map": AUTO})),
        M,
    ),
    Case(
        "own code of the processor",
        "vl --model vl --prompt a --image red.png",
        all_of(
            file_of("vl/own.py", OWN_CODE),
            json_with("vl/preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "own.Own"}}),
        ),
        V,
    ),
    Case(
        "pickled weights",
        f"{TEXT} --prompt Tom",
        all_of(
            lambda: Path("model/model.safetensors").unlink(), file_of("model/pytorch_model.bin", pickle.dumps(Runs()))
        ),
        M,
    ),
    Case(
        "pickled weights that are allowed",
        f"{TEXT} --prompt Tom --allow-pickle",
        all_of(
            lambda: Path("model/model.safetensors").unlink(), file_of("model/pytorch_model.bin", pickle.dumps(Runs()))
        ),
        M,
    ),
    Case(
        "pickled bank",
        "lens neighbors --model vl --bank b --image red.png",
        file_of("b/layer_0/embeddings_cache.pt", pickle.dumps(Runs())),
        V,
    ),
    Case(
        "chat template that reaches out",
        f"{TEXT} --prompt Tom --chat",
        file_of("model/chat_template.jinja", ESCAPES),
        M,
    ),
    Case(
        "chat template that imports",
        f"{TEXT} --prompt Tom --chat",
        file_of("model/chat_template.jinja", "{% include '/etc/passwd' %}{% import '/etc/passwd' as x %}"),
        M,
    ),
    Case(
        "YAML that runs",
        "text --config c.yaml",
        file_of("c.yaml", "!!python/object/apply:os.system ['touch /tmp/mask-impact-was-here']"),
        M,
    ),
    Case(
        "YAML names that climb",
        "text --config c.yaml",
        file_of("c.yaml", "model: model\nprompts: [{name: ../../x, prompt: a}]"),
        M,
    ),
    Case("output name that climbs", [*TEXT.split(), "--prompt", "Tom", "--output", "../x"], needs=M),
    Case("EPS picture", "vl --model vl --prompt a --image x.eps", file_of("x.eps", EPS), V),
    Case("EPS picture named PNG", "vl --model vl --prompt a --image x.png", file_of("x.png", EPS), V),
    Case(
        "video that is a playlist",
        "vl --model vl --prompt a --video x.mp4",
        file_of("x.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"),
        V,
    ),
    Case(
        "video that is a list of files",
        "vl --model vl --prompt a --video x.mp4",
        file_of("x.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"),
        V,
    ),
    Case(
        "SVG picture with a link",
        "vl --model vl --prompt a --image x.png",
        file_of("x.png", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1:9/x'/></svg>"),
        V,
    ),
    *(
        Case(name, "vl --model vl --messages m.json", file_of("m.json", linked(key)), V)
        for name, key in (("messages with a link", "url"), ("messages with a link as a path", "path"))
    ),
    Case("captions of markup", "lens bank --model vl --captions c --output-dir b", file_of("c", SCRIPT * 3), V),
    Case(
        "bank whose shards lie elsewhere",
        "lens neighbors --model vl --bank bank --image red.png",
        json_with("bank/bank.json", {"contexts": {"file": "/etc/passwd", "bytes": 1, "sha256": ""}}),
        V,
    ),
    Case(
        "tokens of markup in the vocabulary",
        f"{TEXT} --prompt Tom",
        json_with(
            "model/tokenizer.json",
            {
                "added_tokens": [
                    {
                        "id": 0,
                        "content": SCRIPT,
                        "single_word": False,
                        "lstrip": False,
                        "rstrip": False,
                        "normalized": False,
                        "special": True,
                    }
                ]
            },
        ),
        M,
    ),
    Case("model of the hub", "text --model Qwen/Nothing-0.6B --prompt a"),
    Case(
        "output folder through a link",
        f"{TEXT} --prompt Tom --output-dir out",
        lambda: (Path("real").mkdir(), Path("out").symlink_to("real")),
        M,
    ),
]
