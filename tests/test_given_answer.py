"""A given answer in place of the generated one: what the model computes on that text, token by token.

Held against runs whose prompt has the answer's first tokens at its end, and against transformers' own forwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pandas as pd
import pytest
import seq2seq_families as seq2seq
import torch
from asking import asked
from families import FAMILIES, HYBRIDS, available, build
from float64 import true_float64
from test_cli import Ended
from test_experiment import Words, dynamic_model
from test_experiment import inputs as text_of
from test_vl_engine import PROMPT, folders, images, load  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer

import mask_impact_analysis
import mask_impact_vl
from mask_impact import run_effects_experiment, run_masking_experiment
from mask_impact.errors import UserError
from mask_impact.impact.run import run as measure
from mask_impact.prompt.inputs import ModelInputs, text_inputs, tokens_of
from mask_impact.table import Block

torch.set_num_threads(1)

TEXT = "Tom has a red ball. Ann has a blue cup. Ann's cup is"
ROOT = Path(__file__).resolve().parent.parent


# --- the numbers ----------------------------------------------------------------------------------------------
def blocks_of(model: Any, inputs: ModelInputs, given: Sequence[int], **options: Any) -> tuple[list[Block], Any]:
    blocks: list[Block] = []
    wanted = asked(model, Words(), inputs, num_tokens=len(given), variants=("full", "attn"), **options)
    found = measure(model, replace(wanted, given=tuple(given)), blocks.append)
    return blocks, found.manifest


def followed(inputs: ModelInputs, ids: Sequence[int]) -> ModelInputs:
    """A prompt with these tokens at its end."""
    both = torch.cat([inputs.tensors["input_ids"], torch.tensor([ids], dtype=torch.int64)], dim=1)
    tensors = {"input_ids": both, "attention_mask": torch.ones_like(both)}
    return replace(inputs, tensors=tensors, tokens=[*inputs.tokens, *tokens_of(Words(), ids, len(inputs.tokens))])


def check_same(found: Sequence[Block], expected: Sequence[Block]) -> None:
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.layer, list(ours.positions)) == (theirs.layer, list(theirs.positions))
        np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-6, atol=1e-12)


GIVEN = [5, 9, 7, 11]
NAMES = ["llama", "mistral", "gemma2", "mixtral", "falcon_h1", "qwen3_next"]


@pytest.mark.parametrize("name", ["dynamic", *available({name: (FAMILIES | HYBRIDS)[name] for name in NAMES})])
def test_each_step_is_a_run_on_its_own_prefix(name: str) -> None:
    model = dynamic_model(torch.float64) if name == "dynamic" else build(name, torch.float64)
    with true_float64():
        found, said = blocks_of(model, text_of(), GIVEN)
        for step, token in enumerate(GIVEN):
            expected, alone = blocks_of(model, followed(text_of(), GIVEN[:step]), [token])
            check_same([block for block in found if block.generation_step == step], expected)
            assert said["generated"][step]["probability"] == pytest.approx(alone["generated"][0]["probability"])
            ids = followed(text_of(), GIVEN[:step]).tensors["input_ids"]
            with torch.no_grad():
                chances = model(ids, use_cache=False).logits[0, -1].softmax(-1)
            assert said["generated"][step]["probability"] == pytest.approx(chances[token].item(), rel=1e-5)
            own = said["generated"][step]["own_choice"]
            assert (own["id"], own["probability"]) == (int(chances.argmax()), pytest.approx(chances.max().item()))
    assert [each["id"] for each in said["generated"]] == GIVEN and said["stop_reason"] == "given"


@pytest.mark.parametrize("name", [name for name in ("t5", "bart") if name in seq2seq.available()])
def test_the_answer_of_an_encoder_decoder(name: str) -> None:
    """Every step has the model's own probability of its token, and its rows are those of a shorter answer's."""
    model, ids = seq2seq.build(name, torch.float64), seq2seq.prompt()
    inputs = replace(text_of(), tensors={"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    inputs.tokens[:] = tokens_of(Words(), ids[0].tolist())
    with true_float64():
        found, said = blocks_of(model, inputs, GIVEN)
        before = torch.tensor([[model.config.decoder_start_token_id, *GIVEN[:-1]]])
        with torch.no_grad():
            chances = model(**inputs.tensors, decoder_input_ids=before).logits[0].softmax(-1)
        for step, token in enumerate(GIVEN):
            assert said["generated"][step]["probability"] == pytest.approx(chances[step, token].item(), rel=1e-5)
            shorter, _ = blocks_of(model, inputs, GIVEN[: step + 1])
            check_same(*([each for each in rows if each.generation_step == step] for rows in (found, shorter)))


def test_an_end_of_text_within_the_answer_does_not_end_it() -> None:
    model = build("llama")
    model.config.eos_token_id = model.generation_config.eos_token_id = 9
    _, said = blocks_of(model, text_of(), GIVEN)
    assert [each["id"] for each in said["generated"]] == GIVEN


def test_every_query_position() -> None:
    model = build("llama", torch.float64)
    found, _ = blocks_of(model, text_of(), GIVEN, queries="all")
    alone, _ = blocks_of(model, text_of(), GIVEN)
    predicting = len(text_of().tokens) - 1
    assert sorted({block.query_position for block in found}) == list(range(predicting + len(GIVEN)))
    check_same([block for block in found if block.query_position >= predicting], alone)


# --- the tokens -----------------------------------------------------------------------------------------------
@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable:
    """run("--answer", " red") -> Ended: the command on the demo model."""
    monkeypatch.chdir(tmp_path)

    def call(*flags: Any, vision: bool = False, prompt: str = TEXT, model: Any = "demo") -> Ended:
        script = mask_impact_vl if vision else mask_impact_analysis
        common = ["--model", model, "--prompt", "What color is the circle?" if vision else prompt]
        common += ["--image", str(ROOT / "testimg.png")] if vision else []
        capfd.readouterr()
        try:
            code = script.main([*map(str, common), *map(str, flags)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Ended(code, *capfd.readouterr())

    return call


def manifest(name: str = "masking") -> dict[str, Any]:
    return json.loads(Path(f"output/{name}_run.json").read_text("utf-8"))


def table(name: str = "masking", kind: str = "results") -> pd.DataFrame:
    return pd.read_csv(f"output/{name}_{kind}.csv", keep_default_na=False, na_values={"final_l2": "", "logprob": ""})


def test_the_rest_of_an_answer_is_that_of_a_longer_prompt(run: Callable) -> None:
    assert run("--effects", "--answer", " red ball.", "--output", "one").code == 0
    assert run("--effects", "--answer", " ball.", "--output", "two", prompt=f"{TEXT} red").code == 0
    assert manifest("one")["tokens"] == manifest("two")["tokens"]
    for kind, numbers in (("results", ["l2_distance"]), ("effects", ["logprob", "logprob_change", "kl"])):
        one, two = table("one", kind), table("two", kind)
        two = two[two.generation_step >= 0]
        one = one[one.generation_step >= 1].reset_index(drop=True)
        assert list(one.generation_step - 1) == list(two.generation_step) and len(one) > 30
        assert list(one.token_position) == list(two.token_position)
        for name in numbers:
            np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=2e-4)
    assert "given      ' red ball.' (probability 2e-07" in run("--answer", " red ball.").out


def test_the_answer_after_a_chat_prompt(run: Callable, tmp_path: Path) -> None:
    folder = checkpoints.qwen3(tmp_path / "model")
    assert run("--chat", "--answer", "blue cup<|im_end|>", "--effects", model=folder, prompt="Tom?").code == 0
    words, said = AutoTokenizer.from_pretrained(folder), manifest()
    text = words.apply_chat_template([{"role": "user", "content": "Tom?"}], tokenize=False, add_generation_prompt=True)
    ids = words(f"{text}blue cup<|im_end|>", return_tensors="pt")["input_ids"]
    assert [each["id"] for each in said["tokens"]] == ids[0].tolist()
    assert all(each["given"] for each in said["generated"]) and said["generated"][-1]["text"] == "<|im_end|>"
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder)(ids).logits[0].softmax(-1)
    first = said["prompt_length"] - 1
    for step, each in enumerate(said["generated"]):
        assert each["probability"] == pytest.approx(logits[first + step, each["id"]].item(), rel=1e-3)
        assert each["own_choice"]["id"] == int(logits[first + step].argmax())


def test_a_tokenizer_that_puts_an_end_after_every_text() -> None:
    """The end it adds is taken from prompt and answer alike; one that is in the answer stays."""

    class Ending:
        eos_token_id, sep_token_id, all_special_ids, bos_token, is_fast = 1, None, (1,), None, False

        def __call__(self, text: str, add_special_tokens: bool = True, **how: Any) -> dict[str, Any]:
            ids = [1 if letter == "#" else ord(letter) for letter in text] + [1] * add_special_tokens
            return {"input_ids": torch.tensor([ids]) if how.get("return_tensors") else ids}

        def decode(self, ids: Sequence[int], **how: Any) -> str:
            return "".join(chr(each) for each in ids)

        def __len__(self) -> int:
            return 128

        def convert_ids_to_tokens(self, token_id: int) -> str:
            return chr(token_id)

    inputs = text_inputs(Ending(), "ab")
    assert inputs.followed_by is not None
    assert [inputs.followed_by(text) for text in ("c", "c#")] == [[97, 98, 99], [97, 98, 99, 1]]


def test_an_encoder_decoder_takes_it_as_a_text_of_its_own(run: Callable, tmp_path: Path) -> None:
    folder = checkpoints.bart(tmp_path / "bart")
    assert run("--answer", "a blue cup", "--effects", model=folder).code == 0
    ids = AutoTokenizer.from_pretrained(folder)("a blue cup", add_special_tokens=False)["input_ids"]
    said = manifest()
    assert [each["id"] for each in said["generated"]] == ids
    found = table(kind="effects")
    whole = found[found.generation_step == -1]
    assert list(whole.token_position) == list(range(said["prompt_length"]))
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"forced_bos_token_id": 1}), "utf-8")
    ended = run("--answer", "a blue cup", model=folder)
    assert ended.code == 2 and "begins every answer with '<|im_start|>'" in ended.err and ended.err.count("\n") == 1


def test_pictures(run: Callable) -> None:
    assert run("--answer", " a red one", "--effects", "--region", "0,0,1,1", vision=True).code == 0
    said, found = manifest("vl_masking"), table("vl_masking", "effects")
    assert "".join(each["text"] for each in said["generated"]) == " a red one"
    assert set(found.generation_step) == {-1, *range(len(said["generated"]))}
    ended = run("--answer", "<|image_pad|>", vision=True)
    assert ended.code == 2 and "an answer has no images" in ended.err


def test_a_batch_and_the_python_functions(run: Callable, tmp_path: Path) -> None:
    prompts = f"""
prompts:
  - {{name: one, prompt: "{TEXT}", answer: " red", effects: true}}
  - {{name: two, prompt: "{TEXT}", answer: " blue.", format: csv}}
"""
    Path("it.yaml").write_text(prompts.replace(", format: csv", ""), "utf-8")
    assert mask_impact_analysis.main(["--config", "it.yaml", "--model", "demo"]) == 0
    assert [len(manifest(name)["generated"]) for name in ("one", "two")] == [1, 2]
    df = run_masking_experiment(TEXT, model_name="demo", answer=" blue.")
    assert [each["text"] for each in df.attrs["run"]["generated"]] == [" blue", "."]
    both = df.merge(table("two"), on=["generation_step", "layer", "token_position", "variant"])
    assert len(both) == len(df) and np.array_equal(both.l2_distance_x, both.l2_distance_y.astype(np.float32))
    df = run_effects_experiment(TEXT, "demo", answer=" red")
    assert list(df.generation_step.unique()) == [0, -1]
    with pytest.raises(UserError, match="`answer` and `num_output_tokens` 2 were both given"):
        run_effects_experiment(TEXT, "demo", num_output_tokens=2, answer=" red")


def test_results_are_kept_for_the_same_answer_alone(run: Callable) -> None:
    assert run("--answer", " red", "--output", "it").code == 0
    assert "kept" in run("--answer", " red", "--output", "it", "--resume").out
    assert "answer was  red, is  blue" in run("--answer", " blue", "--output", "it", "--resume").out


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--answer", ""], "--answer '' has no tokens"),
        (["--answer", " red", "--num-tokens", "2"], "--answer and --num-tokens 2 were both given"),
        (["--answer", "sue", "--prompt", "Tom has a blu"], "changes the tokens of the prompt: its end is"),
        (["--answer", " red" * 2100], "and --answer has 2100: "),
        (["--answer", " red", "--tower", "encoder"], "--tower encoder was given, but this model has no encoder"),
        (["--effects", "--contrast", " red" * 2100, " a"], "and --contrast has 2100: "),
        (["--effects", "--contrast", "", " a"], "--contrast '' has no tokens"),
    ],
)
def test_bad_answers_are_one_line_before_any_work(run: Callable, flags: list[str], part: str) -> None:
    ended = run(*flags)
    assert ended.code == 2 and part in ended.err and ended.err.count("\n") == 1, ended.err
    assert not Path("output").exists() or not list(Path("output").iterdir())
