"""Wrong flags and values of every command."""

import os
from pathlib import Path

from torture.case import Case, all_of, file_of

M = ("model",)
V = ("vl", "red.png", "captions.txt", "bank")
TEXT = "text --model model --prompt Tom"
LONG = "9" * 5000
SPOKEN: dict[str, str | list[str]] = {
    "num_tokens x": "--num-tokens x", "num_tokens 0": "--num-tokens 0", "num_tokens -1": "--num-tokens -1", "num_tokens long": f"--num-tokens {LONG}",
    "num_tokens of 5000": "--num-tokens 5000", "layers x": "--layers x", "layers 99": "--layers 99", "layers long": f"--layers {LONG}",
    "layers backwards": "--layers 1-0", "layers a billion": "--layers 0-1000000000", "variants x": "--variants x", "variants none": "--variants ,",
    "metrics x": "--metrics x", "metrics empty": ["--metrics", ""], "head_space x": "--head-space x", "ablation x": "--ablation x",
    "queries x": "--queries x", "queries 99": "--queries 99", "queries long": f"--queries {LONG}", "mask_unit x": "--mask-unit x", "span none": ["--span", ""],
    "span =Tom": "--span =Tom", "span not there": "--span Ann", "span empty name": "--span ==", "span regex": "--span /(/", "span regex empty": "--span //",
    "span positions": "--span 5-2", "span beyond": "--span 999", "span long": f"--span {LONG}", "span catastrophic": ["--prompt", "a" * 40 + "b", "--span", "/(a+)+$/"],
    "span catastrophic 2": ["--prompt", "a" * 60 + "b", "--span", "/(a|aa)+$/"], "span image": "--span image:0", "span twice": "--span Tom --span Tom",
    "effects with mask_layers x": "--effects --mask-layers x", "mask_layers window:0": "--effects --mask-layers window:0", "mask_layers window:x": f"--effects --mask-layers window:{LONG}",
    "readers x": "--effects --readers x", "readers without effects": "--readers last", "block x": "--effects --block x", "route x": "--effects --route x", "route x->y": "--effects --route x->y",
    "heads x": "--effects --heads x", "heads 9.9": "--effects --heads 9.9", "heads long": f"--effects --heads {LONG}.{LONG}", "contrast one": "--effects --contrast a",
    "contrast empty": ["--effects", "--contrast", "", ""], "contrast long": ["--effects", "--contrast", "a" * 5000, "b"], "pairs x": "--effects --pairs x", "pairs 0": "--pairs 0", "top x": "--effects --top x", "top long": f"--effects --top {LONG}",
    "refine 0": "--effects --refine 0", "max_masks x": "--effects --refine 1 --max-masks x", "max_masks alone": "--effects --max-masks 3",
    "system without template": "--system ''", "messages and prompt": "--messages x.json", "tower x": "--tower x", "tower encoder": "--tower encoder", "attention cross": "--attention cross",
    "device x": "--device x", "device cuda": "--device cuda", "device cuda:99": "--device cuda:99", "dtype x": "--dtype x", "device_map x": "--device-map x", "max_memory x": "--max-memory x",
    "max_memory alone": "--max-memory cpu=1GiB", "max_memory small": "--device-map auto --max-memory cpu=1KB", "revision of a folder": "--revision main", "adapter not there": "--adapter x", "adapter empty": ["--adapter", ""],
    "output_dir empty": ["--output-dir", ""], "output name": "--output a/b", "output name long": f"--output {'x' * 300}", "output empty": ["--output", ""], "output con": "--output con",
    "output escape": ["--output", "a\x1b[31mb"], "format x": "--format x", "format none": "--format ,", "format twice": "--format csv --format x", "unknown flag": "--nonsense", "unknown flag long": f"--{'x' * 5000}", "a word": "Ann",
    "prompt twice": "--prompt-file x", "resume and overwrite": "--resume --overwrite", "chat and messages": "--messages nothing.json --chat", "answer empty": ["--answer", ""], "answer and num_tokens": "--answer a --num-tokens 3", "answer long": ["--answer", "word " * 3000],
    "image": "--image x.png", "escape in a value": ["--metrics", "\x1b[31mred\x1b[0m\a"], "newline in a value": ["--metrics", "a\nb"], "bidi in a value": ["--metrics", "\u202ea"],
}
NAMES: dict[str, str] = {
    "empty": "", "300 letters": "x" * 300, "NUL": "a\0b", "spaces": "  ", "escape": "\x1b[31mred", "long with slashes": "x/" * 200, "dots": "..", "file": "x.txt", "not there": "./nowhere",
    "device": "/dev/null", "GGUF not there": "x.gguf", "GGUF": "bad.gguf", "GGUF zero": "/dev/zero.gguf", "surrogate": "a\udcff", "url": "https://example.org/x/y", "hub": "Qwen/Nothing-0.6B", "tilde": "~nobody/x", "newline": "a\nb",
}
PROMPTS: dict[str, bytes | None] = {"empty": b"", "spaces": b"  \n", "not UTF-8": b"\xff", "UTF-16": "Tom".encode("utf-16"), "NUL": b"a\0b", "long": b"Tom " * 2000}
MESSAGES: dict[str, str] = {
    "no JSON": "x", "deep": "[" * 200_000, "a number": "3", "empty list": "[]", "no role": '[{"content": "x"}]', "role x": '[{"role": "x", "content": "x"}]', "content 3": '[{"role": "user", "content": 3}]',
    "long number": '[{"role": "user", "content": "a", "n": ' + "9" * 5000 + "}]", "role long": '[{"role": "' + "x" * 5000 + '", "content": "a"}]', "empty text": '[{"role": "user", "content": " "}]', "surrogate": '[{"role": "user", "content": "\\ud800"}]',
    "image": '[{"role": "user", "content": [{"type": "image", "path": "red.png"}]}]', "NaN": '[{"role": "user", "content": "a", "n": NaN}]', "part long": '[{"role": "user", "content": [{"type": "' + "x" * 5000 + '"}]}]', "only system": '[{"role": "system", "content": "a"}]',
}
YAML: dict[str, str | bytes] = {
    "empty": "", "not UTF-8": b"\xff", "list": "- a", "no prompts": "model: model", "tab": "prompts:\n\t- x", "unknown key": "promts: []", "prompts 3": "prompts: 3", "name twice": "prompts: [{name: a, prompt: b}, {name: a, prompt: c}]",
    "name a/b": "prompts: [{name: a/b, prompt: b}]", "no prompt": "prompts: [{name: a}]", "python": "prompts: !!python/object/apply:os.system [ls]", "bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [" + ",".join([f"*{chr(97 + i)}"] * 9) + "]" for i in range(9)) + "\nprompts: []",
    "deep": "[" * 10_000, "num_tokens x": "prompts: [{name: a, prompt: b, num_tokens: x}]", "num_tokens long": f"prompts: [{{name: a, prompt: b, num_tokens: {LONG}}}]", "prompt_file": "prompts: [{name: a, prompt_file: nowhere}]", "prompt_file zero": "prompts: [{name: a, prompt_file: /dev/zero}]",
    "escape": "prompts: [{name: \"\\e[31m\", prompt: b}]", "layers 99": "model: model\nprompts: [{name: a, prompt: b, layers: 99}]", "image empty": "prompts: [{name: a, prompt: b, image: ''}]", "output_dir empty": "output_dir: ''\nprompts: [{name: a, prompt: b}]", "model empty": "model: ''\nprompts: [{name: a, prompt: b}]",
    "unhashable": "? [a]\n: b", "anchor in itself": "prompts: &a [*a]", "two documents": "prompts: []\n---\nprompts: []", "large": b"# " + b"x" * 5_000_000,
}
SIZES = ["9999999x9999999", "0x5", "5", "1x1", f"{LONG}x5", "20000x20000", "100000x1", "-1x5"]


def words(text: str | list[str]) -> list[str]:
    return text.split() if isinstance(text, str) else text


CASES = [
    *(Case(f"flag: {name}", [*TEXT.split(), *words(more)], needs=M) for name, more in SPOKEN.items()),
    *(Case(f"model name: {name}", ["text", "--prompt", "Tom", "--model", value], all_of(file_of("x.txt", "a"), file_of("bad.gguf", b"GGUF" + b"\xff" * 100))) for name, value in NAMES.items()),
    *(Case(f"prompt file: {name}", "text --model model --prompt-file p.txt", file_of("p.txt", data or b""), M) for name, data in PROMPTS.items()),
    Case("prompt file: gone", "text --model model --prompt-file p.txt", needs=M),
    Case("prompt file: folder", "text --model model --prompt-file model", needs=M),
    Case("prompt file: zero", "text --model model --prompt-file /dev/zero", needs=M),
    Case("prompt file: FIFO", "text --model model --prompt-file f", lambda: os.mkfifo("f"), needs=M),
    Case("prompt file: NUL", ["text", "--model", "model", "--prompt-file", "a\0b"], needs=M),
    Case("prompt file: escape", ["text", "--model", "model", "--prompt-file", "a\x1b[31mb"], needs=M),
    Case("prompt file: none", "text --model model", needs=M),
    Case("prompt: empty", ["text", "--model", "model", "--prompt", ""], needs=M),
    Case("prompt: spaces", ["text", "--model", "model", "--prompt", "  "], needs=M),
    Case("prompt: surrogate", ["text", "--model", "model", "--prompt", "a\udcff"], needs=M),
    Case("prompt: 100 MB", ["text", "--model", "model", "--prompt-file", "p"], file_of("p", b"Tom " * 25_000_000), M),
    Case("prompt: 20 MB", ["text", "--model", "model", "--prompt-file", "p"], file_of("p", b"Tom has a ball. " * 1_250_000), M),
    *(Case(f"messages: {name}", "text --model model --messages m.json", file_of("m.json", text), M) for name, text in MESSAGES.items()),
    Case("messages: zero", "text --model model --messages /dev/zero", needs=M),
    *(Case(f"YAML: {name}", "text --config c.yaml", file_of("c.yaml", text), M) for name, text in YAML.items()),
    Case("YAML: gone", "text --config c.yaml"),
    Case("YAML: folder", "text --config .",),
    Case("YAML: zero", "text --config /dev/zero"),
    Case("YAML: NUL", ["text", "--config", "a\0b"]),
    Case("YAML: escape", ["text", "--config", "a\x1b[31mb"]),
    *(Case(f"inspect: size {size[:20]}", f"lens inspect --model vl --size={size}", needs=V) for size in SIZES),
    Case("lens: no command", "lens"), Case("lens: unknown command", "lens nonsense"), Case("lens: features without images", "lens features --model vl", needs=V),
    Case("lens: images not there", "lens features --model vl --images nowhere", needs=V), Case("lens: folder without images", "lens features --model vl --images vl", needs=V), Case("lens: images zero", "lens features --model vl --images /dev/zero", needs=V),
    Case("lens: captions gone", "lens bank --model vl --captions nowhere", needs=V), Case("lens: captions empty", "lens bank --model vl --captions c", file_of("c", "\n \n"), V), Case("lens: captions not UTF-8", "lens bank --model vl --captions c", file_of("c", b"a b\n\xff\n"), V),
    Case("lens: captions zero", "lens bank --model vl --captions /dev/zero", needs=V), Case("lens: captions NUL", ["lens", "bank", "--model", "vl", "--captions", "a\0b"], needs=V), Case("lens: captions fewer", "lens bank --model vl --captions captions.txt --num-captions 99", needs=V),
    Case("lens: one line of 60 MB", "lens bank --model vl --captions c", file_of("c", b"a red circle " * 5_000_000), V),
    Case("lens: one-word captions", "lens bank --model vl --captions c", file_of("c", "a\n"), V),
    Case("lens: top_k 0", "lens neighbors --model vl --bank bank --image red.png --top-k 0", needs=V), Case("lens: top_k a million", "lens neighbors --model vl --bank bank --image red.png --top-k 1000000 --output n", needs=V), Case("lens: top_k long", f"lens neighbors --model vl --bank bank --image red.png --top-k {LONG}", needs=V),
    Case("lens: bank gone", "lens neighbors --model vl --bank nowhere --image red.png", needs=V), Case("lens: bank empty", ["lens", "neighbors", "--model", "vl", "--bank", "", "--image", "red.png"], needs=V), Case("lens: bank file", "lens neighbors --model vl --bank red.png --image red.png", needs=V), Case("lens: bank of none", "lens neighbors --model vl --bank vl --image red.png", needs=V), Case("lens: bank NUL", ["lens", "neighbors", "--model", "vl", "--bank", "a\0b", "--image", "red.png"], needs=V),
    Case("lens: run empty", ["lens", "neighbors", "--model", "vl", "--bank", "bank", "--image", "red.png", "--run", ""], needs=V),
    Case("lens: layers 99", "lens features --model vl --images red.png --layers 99", needs=V), Case("lens: text model", "lens inspect --model model", needs=M),
    Case("lens: num_images 0", "lens features --model vl --num-images 0", needs=V), Case("lens: batch_size a billion", "lens features --model vl --images red.png --batch-size 1000000000000000000000", needs=V), Case("lens: bank batch_size", "lens bank --model vl --captions captions.txt --batch-size 1000000000000000000000 --output-dir b", needs=V),
    Case("lens: prompt empty", ["lens", "features", "--model", "vl", "--images", "red.png", "--prompt", ""], needs=V), Case("lens: max_pixels 1", "lens features --model vl --images red.png --max-pixels 1", needs=V), Case("lens: max_per_token long", f"lens bank --model vl --captions captions.txt --max-per-token {LONG}", needs=V),
]
