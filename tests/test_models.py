"""Finding, checking and loading models, and what is read from their configs. Runs with both supported transformers."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import checkpoints
import pytest
import torch
from started import started, wait_until
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.model import find, lengths
from mask_impact.model import load as loading
from mask_impact.prompt.inputs import stop_ids, text_inputs

torch.set_num_threads(1)  # tiny models: threads would only wait for each other

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("models") / "good")


def load(folder: Path, **flags: bool) -> PreTrainedModel:
    return loading.load_model(find.find_model(str(folder), **flags), CPU, torch.float32)


# --- where a model comes from -----------------------------------------------------------------------------
def test_a_folder_is_loaded_whole_and_ready_to_measure(good: Path) -> None:
    source = find.find_model(str(good))
    assert (source.path, source.num_layers, source.offline) == (str(good), checkpoints.LAYERS, False)
    model, plain = load(good), AutoModelForCausalLM.from_pretrained(good)
    assert not model.training
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_demo_is_the_bundled_model_and_no_folder_of_that_name(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mask_impact"
    monkeypatch.setattr(find, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # as in a checkout
    with pytest.raises(UserError, match="demo model is missing: no demo/text folder"):
        find.find_model("demo")
    (package / "demo").mkdir(parents=True)
    (package / "demo" / "text").symlink_to(good)  # as installed
    assert find.find_model("demo").path == str(package / "demo" / "text")
    (tmp_path / "demo" / "text").symlink_to(good)
    source = find.find_model("demo")
    assert source.path == str(tmp_path / "demo" / "text")
    where = {"name": "demo", "path_or_id": "demo", "revision": None}
    assert source.manifest == where | {"requested_revision": None, "adapter": None}


HUB_SCRIPT = """
import os, sys, time
import mask_impact_analysis
import transformers
import mask_impact.jobs.session

def run(model, output, *more):
    started = time.perf_counter()
    arguments = ["--prompt", "The capital of France is", "--output", output, "--model", model, "--quiet", *more]
    code = mask_impact_analysis.main(arguments)
    print(output, code, "slow" if time.perf_counter() - started > 10 else "quick", flush=True)

run("org/tiny", "online")
run("org/tiny", "tagged", "--revision", "v1")
run("org/tiny", "untagged", "--revision", "v2")
run("org/absent", "absent")
open("stop", "w").close()
while os.path.exists("stop"):  # until the hub is gone
    time.sleep(0.01)
run("org/tiny", "offline")
run("org/tiny", "tagged-offline", "--revision", "v1")
run("org/never-seen", "unreachable")
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """What a model hub answers: the checkpoint org/tiny at two commits, and nothing else."""

    folders: dict[str, Path]  # by revision
    commits: ClassVar[dict[str, str]] = {"main": f"{1:040x}", "v1": f"{2:040x}"}

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        repository, _, name = self.path.partition("/resolve/")
        asked = name.partition("/")[0] if name else self.path.partition("/revision/")[2] or "main"
        revision = next((tag for tag, commit in self.commits.items() if asked in (tag, commit)), None)
        path = self.folders[revision or "main"] / name.partition("/")[2]
        known = repository.removeprefix("/api/models") == "/org/tiny" and revision
        content = None
        if self.path == "/":
            content = b"hello"
        elif known and path.is_file():
            content = path.read_bytes()
        elif self.path.startswith("/api/models/org/tiny") and revision:  # about the repository, or a folder's listing
            about = {"id": "org/tiny", "tags": [], "siblings": [], "sha": self.commits[revision]}
            content = b"[]" if "/tree/" in self.path else json.dumps(about).encode()
        self.send_response(404 if content is None else 200)
        if content is None:
            missing = "EntryNotFound" if known else "RepoNotFound" if revision else "RevisionNotFound"
            self.send_header("X-Error-Code", missing)
            content = b""
        self.send_header("ETag", f'"{path.name}-{revision}"')
        self.send_header("X-Repo-Commit", self.commits.get(revision or "main", ""))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def log_message(self, *args: object) -> None:
        pass


def test_the_hub_and_what_was_downloaded_from_it(tmp_path: Path, good: Path) -> None:
    """Runs in one process: from a hub, two revisions, names it does not have, and the same when it is gone."""
    other = checkpoints.qwen3(tmp_path / "other", seed=5)
    handler = type("Hub", (Hub,), {"folders": {"main": good, "v1": other}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
        env = {name: value for name, value in os.environ.items() if name not in offline} | {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-c", HUB_SCRIPT]
        pipe = subprocess.PIPE
        with started(command, cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True) as process:
            wait_until((tmp_path / "stop").exists, process)
            hub.shutdown()
            hub.server_close()
            (tmp_path / "stop").unlink(missing_ok=True)
            stdout, stderr = process.communicate(timeout=300)
    expected = {
        "online": 0,
        "tagged": 0,
        "untagged": 2,
        "absent": 2,
        "offline": 0,
        "tagged-offline": 0,
        "unreachable": 2,
    }
    assert stdout.splitlines() == [f"{name} {code} quick" for name, code in expected.items()], stderr
    untagged, absent, unreachable = stderr.splitlines()
    assert untagged.startswith("error: model 'org/tiny' has no revision 'v2'; ")
    assert absent.startswith("error: no model 'org/absent', neither a folder here nor on the hub")
    assert unreachable.startswith(
        "error: there is no folder 'org/never-seen' here, and the model hub cannot be reached"
    )
    assert "local checkpoint folder" in unreachable and "--model demo" in unreachable
    names = ("online", "offline", "tagged", "tagged-offline")
    online, cached, tagged, tagged_cached = (
        (tmp_path / "output" / f"{name}_results.csv").read_bytes() for name in names
    )
    assert online == cached != tagged == tagged_cached
    for name, revision, asked in (("online", "main", None), ("tagged", "v1", "v1"), ("tagged-offline", "v1", "v1")):
        source = json.loads((tmp_path / "output" / f"{name}_run.json").read_text())["model"]
        assert (source["name"], source["path_or_id"]) == ("org/tiny", "org/tiny")
        assert (source["revision"], source["requested_revision"]) == (Hub.commits[revision], asked)


def test_a_revision_of_a_folder_is_refused(good: Path) -> None:
    with pytest.raises(UserError, match=r"`revision` v1 was given, but .* is on this machine"):
        find.find_model(str(good), revision="v1")


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "a/b/c", "no such thing", "", "weights.bin", "."])
def test_what_is_no_model_is_refused_without_asking_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").touch()
    if name == "":  # pathlib takes it for this folder
        (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    monkeypatch.setattr(find, "hub_answers", lambda: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match=r"^no folder|is a file|no config\.json|is empty"):
        find.find_model(name)


# --- what is refused --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (checkpoints.bert, "family 'bert' with architecture BertForMaskedLM, which does not generate text"),
        (checkpoints.whisper, "family 'whisper', an encoder-decoder, but none from text to text; choose a causal one"),
        (checkpoints.qwen2_5_vl, "family 'qwen2_5_vl', a vision-language model; use mask_impact_vl.py"),
    ],
)
def test_other_kinds_of_model_are_refused_by_family(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        find.find_model(str(make(tmp_path / "model")))


BROKEN = {
    "missing_weight": r"lacks weights: model\.layers\.1\.mlp\.up_proj\.weight; use a complete checkpoint",
    "unexpected_weight": r"has no place: model\.layers\.1\.self_attn\.gate\.weight; without them another model",
    "misfitting_weight": r"another shape: model\.layers\.1\.mlp\.up_proj\.weight; use a complete checkpoint",
    "damaged": "cannot be loaded: .*header",
    "without_weights": "no safetensors weights",
    "pickled": "no safetensors weights; convert it, or give `allow_pickle` if you trust its author .*run any code",
    "without_config": r"has no config\.json",
    "with_broken_config": "cannot be loaded: its config.json is not JSON",
    "with_nonsense_config": "cannot be loaded: .*num_hidden_layers",
    "of_unknown_family": r"of a family that transformers [\d.]+ does not know",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_checkpoints_are_refused(tmp_path: Path, good: Path, kind: str) -> None:
    folder = getattr(checkpoints, kind)(tmp_path / kind, good)
    with pytest.raises(UserError, match=BROKEN[kind]) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_tokenizer_is_refused(tmp_path: Path, good: Path) -> None:
    source = find.find_model(str(checkpoints.without_tokenizer(tmp_path / "model", good)))
    with pytest.raises(UserError, match=r"tokenizer|cannot be loaded"):
        loading.load_tokenizer(source)


def test_weights_that_every_checkpoint_of_a_family_has_too_many_are_no_error(tmp_path: Path) -> None:
    """Qwen3-0.6B stores its tied output matrix, old Llama and GPT-2 checkpoints their buffers."""
    tied = checkpoints.qwen3(tmp_path / "tied", tie_word_embeddings=True)
    checkpoints.change_weights(tied, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    llama = checkpoints.decoder(tmp_path / "llama", "llama")
    frequencies = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    checkpoints.change_weights(llama, lambda t: t.update(frequencies))
    gpt2 = checkpoints.decoder(tmp_path / "gpt2", "gpt2")
    checkpoints.change_weights(gpt2, lambda t: t.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64)}))
    assert [load(folder).config.model_type for folder in (tied, llama, gpt2)] == ["qwen3", "llama", "gpt2"]


def test_pickled_weights_only_with_allow_pickle(tmp_path: Path, good: Path) -> None:
    folder = checkpoints.pickled(tmp_path / "pickled", good)
    name, expected = "model.layers.1.mlp.up_proj.weight", load(good)
    assert torch.equal(load(folder, allow_pickle=True).get_parameter(name), expected.get_parameter(name))
    assert torch.equal(load(good, allow_pickle=True).get_parameter(name), expected.get_parameter(name))


def test_a_models_own_code_runs_only_with_trust_remote_code(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    marker = tmp_path / "it ran"
    folder = checkpoints.with_own_code(tmp_path / "own", good, marker)
    with pytest.raises(UserError, match=r"runs its own Python code; .* `trust_remote_code`"):
        find.find_model(str(folder))
    assert not marker.exists()
    model = load(folder, trust_remote_code=True)
    assert marker.exists() and type(model).__name__ == "OwnForCausalLM"


# --- device and dtype -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_device(cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert loading.choose_device("auto").type == expected


@pytest.mark.parametrize("device", ["cuda:2", "cuda:7", "mps", "tpu", "cuda:x", "cuda:99999999999999999999"])
def test_devices_that_are_not_there(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert loading.choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"finds 2 CUDA devices|finds no MPS|unknown device"):
        loading.choose_device(device)


def test_dtype_is_the_checkpoints_own_except_on_the_cpu(tmp_path: Path, good: Path) -> None:
    assert loading.choose_dtype("auto", CPU) is torch.float32
    assert loading.choose_dtype("auto", torch.device("cuda")) == "auto"
    assert loading.choose_dtype("bfloat16", CPU) is torch.bfloat16
    with pytest.raises(UserError, match="unknown dtype 'float8'; choose auto, float32, bfloat16, float16"):
        loading.choose_dtype("float8", CPU)
    half = AutoModelForCausalLM.from_pretrained(good).bfloat16()
    half.save_pretrained(tmp_path / "half")
    source = find.find_model(str(tmp_path / "half"))
    kinds = {dtype: loading.load_model(source, CPU, dtype).dtype for dtype in ("auto", torch.float32, torch.float16)}
    assert kinds == {"auto": torch.bfloat16, torch.float32: torch.float32, torch.float16: torch.float16}


# --- positions --------------------------------------------------------------------------------------------
def settings(**values: object) -> SimpleNamespace:
    return SimpleNamespace(**values)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (settings(max_position_embeddings=64), 64),
        (settings(n_positions=32), 32),
        (settings(max_seq_len=48), 48),
        (settings(), None),
        (settings(max_position_embeddings=64, rope_scaling={"rope_type": "linear", "factor": 4.0}), 256),
        (settings(max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": 1e4}), 64),
        (
            settings(
                max_position_embeddings=131072,
                rope_parameters={"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            ),
            131072,
        ),
        (
            settings(
                max_position_embeddings=64,
                rope_parameters={
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_type": "default"},
                },
            ),
            512,
        ),
    ],
)
def test_max_positions(config: SimpleNamespace, expected: int | None) -> None:
    assert lengths.max_positions(config) == expected


def test_max_positions_of_real_configs() -> None:
    names = ("gpt2", "bloom", "qwen3", "llama", "mpt")
    found = {name: lengths.max_positions(AutoConfig.for_model(name)) for name in names}
    assert found == {"gpt2": 1024, "bloom": None, "qwen3": 32768, "llama": 2048, "mpt": 2048}
    led = AutoConfig.for_model("led")
    assert [lengths.max_positions(led, half) for half in ("encoder", "decoder")] == [16384, 1024]


def test_both_halves_of_an_encoder_decoder_have_a_limit() -> None:
    config = settings(is_encoder_decoder=True, max_encoder_position_embeddings=64, max_decoder_position_embeddings=16)
    lengths.check_length(config, 64, 16)
    for prompt, tokens, said in ((65, 1, "65 positions, but this model has 64"), (1, 17, "17 positions, .* has 16")):
        with pytest.raises(UserError, match=said):
            lengths.check_length(config, prompt, tokens)


def test_a_model_computes_as_many_positions_as_it_is_said_to_have_and_no_more() -> None:
    config = AutoConfig.for_model("mpt", d_model=32, n_heads=4, n_layers=1, max_seq_len=16, vocab_size=50)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    limit = lengths.max_positions(config)
    model(torch.ones(1, limit, dtype=torch.long))
    with pytest.raises((RuntimeError, IndexError)):
        model(torch.ones(1, limit + 1, dtype=torch.long))


def rotations(model: PreTrainedModel, length: int) -> torch.Tensor:
    """The rotary encoding of the first positions in an input of `length` tokens."""
    positions = torch.arange(length)[None]
    cos, sin = model.model.rotary_emb(torch.zeros(1, length, 48), positions)
    return torch.cat([cos, sin], dim=-1)[0, :8].clone()


ROPES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "longrope": {
        "rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 6, "long_factor": [4.0] * 6,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ROPES)
def test_length_dependent_positions_says_what_the_model_does(kind: str) -> None:
    """Whether a first position's encoding differs from that in a short input, at every length."""
    common = {"hidden_size": 48, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 97}
    scaling = {"rope_theta": 1e4, **ROPES[kind]}
    key = "rope_parameters" if hasattr(AutoConfig.for_model("llama"), "rope_parameters") else "rope_scaling"
    config = AutoConfig.for_model("llama", **common, intermediate_size=64, max_position_embeddings=64, **{key: scaling})
    if kind == "longrope":
        config.original_max_position_embeddings = 32  # where transformers 4 looks
    wrong = []
    for length in (8, 31, 32, 33, 63, 64, 65, 100):
        model = AutoModelForCausalLM.from_config(config)
        short = rotations(model, 8)
        depends = not torch.equal(rotations(model, length), short)
        if depends != lengths.length_dependent_positions(config, length):
            wrong.append((length, depends))
    assert wrong == []
    if kind in ("dynamic", "longrope"):
        assert lengths.length_dependent_positions(config, 100)


# --- tokens -----------------------------------------------------------------------------------------------
def test_stop_ids_are_everyones() -> None:
    words = checkpoints.tokenizer()
    assert stop_ids(words) == [checkpoints.END, checkpoints.IM_END]
    assert stop_ids(words, settings(eos_token_id=7), settings(eos_token_id=[9, 0]), settings()) == [0, 2, 7, 9]
    words.eos_token = None
    assert stop_ids(words, settings(eos_token_id=None)) == [checkpoints.IM_END]


def test_tokens_say_what_they_stand_for() -> None:
    words = checkpoints.tokenizer()
    prompt = "The capital of France is<|im_end|>é"
    inputs = text_inputs(words, prompt)
    texts = [found.text for found in inputs.tokens]
    assert texts == ["The", " capital", " of", " France", " is", "<|im_end|>", "\ufffd", "\ufffd"]
    assert [found.kind for found in inputs.tokens] == ["text"] * 5 + ["special"] + ["text"] * 2
    assert [found.position for found in inputs.tokens] == list(range(8))
    assert inputs.tensors["input_ids"].tolist() == [[found.id for found in inputs.tokens]]
    assert inputs.tensors["attention_mask"].tolist() == [[1] * 8]


def test_chat_is_the_models_own_template_once() -> None:
    words = checkpoints.tokenizer()
    words._tokenizer.post_processor = TemplateProcessing(  # as Llama's, whose template has it as well
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", checkpoints.END)]
    )
    assert text_inputs(words, "Hi").tokens[0].text == "<|endoftext|>"
    inputs = text_inputs(words, "Hi", chat=True)
    text = "".join(found.text for found in inputs.tokens)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert inputs.prompt == "Hi" and inputs.chat
    with pytest.raises(UserError, match="no chat template"):
        text_inputs(checkpoints.tokenizer(chat_template=None), "Hi", chat=True)


@pytest.mark.parametrize(("prompt", "message"), [("", "empty"), (" \n\t", "empty"), ("a\udcff", "not valid text")])
def test_prompts_that_are_none(prompt: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        text_inputs(checkpoints.tokenizer(), prompt)
