"""Prompts in the model's chat template: several templates, templates that fail, prompts that are in it already, ends of
text that the tokenizer adds, and tokens that change with the day."""

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer
from vl_families import VL_FAMILIES, make_vl_checkpoint, picture

import latent_lens
import mask_impact_analysis
import mask_impact_vl
from mask_impact.errors import UserError
from mask_impact.jobs import resume
from mask_impact.jobs.session import Session
from mask_impact.model.find import find_model
from mask_impact.model.processors import load_processor
from mask_impact.options import Request, Settings
from mask_impact.prompt import chat
from mask_impact.prompt.inputs import text_inputs
from mask_impact.prompt.vision import open_pictures, vision_inputs

HELLO = [{"role": "user", "content": "Hello"}]
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "A chat between a user and an assistant. {% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} "
    "{% else %}ASSISTANT: {{ m.content }}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
DEFAULT_SYSTEM = "<|im_start|>system\nYou are helpful.<|im_end|>\n" + checkpoints.CHAT_TEMPLATE
PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"


def words(template: Any = checkpoints.CHAT_TEMPLATE, bos: str | None = None) -> Any:
    found = checkpoints.tokenizer(template)
    found.bos_token = bos
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: make_vl_checkpoint(name, root / name))


@pytest.fixture(scope="module")
def vl(made: Any) -> Any:
    def load(name: str) -> Any:
        source = find_model(str(made(name)), vision=True)
        return SimpleNamespace(processor=load_processor(source), config=source.config)

    return cache(load)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    picture(64, 96).save(path)
    return path


def seen(model: Any, prompt: str, *pictures: Any, **more: Any) -> Any:
    return vision_inputs(model.processor, model.config, prompt, open_pictures(list(pictures)), **more)


def ids(inputs: Any) -> list[int]:
    return inputs.tensors["input_ids"][0].tolist()


# --- which template ------------------------------------------------------------------------------------------
def test_the_default_of_several() -> None:
    several = words({"default": checkpoints.CHAT_TEMPLATE, "rag": "documents"})
    assert ids(text_inputs(several, "Hello", chat=True)) == list(
        words().apply_chat_template(HELLO, add_generation_prompt=True, return_dict=False)
    )
    with pytest.raises(UserError, match=r"several chat templates \(rag, tool_use\) and none is the default"):
        text_inputs(words({"tool_use": "a", "rag": "b"}), "Hello", chat=True)
    with pytest.raises(UserError, match="no chat template"):
        text_inputs(words({}), "Hello", chat=True)


def test_the_default_of_a_processors(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture) -> None:
    """As checkpoints have it, for the command and for the lens."""
    folder = make_vl_checkpoint("qwen3_vl", tmp_path / "several")
    before = load_processor(find_model(str(folder), vision=True))
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.json").unlink()
    (folder / "chat_template.jinja").write_text(template)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "judge.jinja").write_text("Judge: " + template)
    source = find_model(str(folder), vision=True)
    after = load_processor(source)
    assert isinstance(after.chat_template, dict)
    both = [SimpleNamespace(processor=found, config=source.config) for found in (before, after)]
    one, other = (ids(seen(model, "What is it?", photo)) for model in both)
    assert one == other
    assert latent_lens.main(["inspect", "--model", str(folder), "--image", str(photo)]) == 0, capsys.readouterr().err


# --- templates that fail -------------------------------------------------------------------------------------
FAILING = {
    "raises": ("{{ raise_exception('Only user and tool roles!') }}", "Only user and tool roles!"),
    "is not one": ("{% for m in messages %}{{ m.content }", "unexpected '}'"),
    "needs a token": ("{{ bos_token + messages[0].content }}", "'bos_token' is undefined"),
    "needs a key": ("{{ messages[0]['content']['x']['y'] }}{{ {}['a'].b }}", "'str object' has no attribute 'x'"),
    "divides": ("{{ 1 // 0 }}", "by zero"),
    "leaves it out": ("nothing{{ messages[0].role }}", "leaves out the user message"),
    "wants parts": (PARTS, "a content that is a list of parts, not one text"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_template_that_cannot_take_the_message(name: str) -> None:
    template, why = FAILING[name]
    with pytest.raises(UserError) as caught:
        text_inputs(words(template), "Hello there", chat=True)
    said = str(caught.value)
    assert said.startswith("the model's chat template cannot take this message: ")
    assert why in said
    assert "\n" not in said
    assert "Error" not in said
    assert said.endswith("or mend chat_template in the checkpoint")


@pytest.mark.parametrize(
    "template",
    ["{{ '<|im_start|>' + messages[0].content }}", "{{ messages[0].content }}", "{{ messages[0].content.strip() }}"],
)
def test_a_template_that_wants_text_where_pictures_are_parts(
    template: str, vl: Any, photo: Path, monkeypatch: Any
) -> None:
    model = vl("qwen3_vl")
    monkeypatch.setattr(model.processor, "chat_template", template)
    with pytest.raises(UserError, match="cannot take this message: it takes a content that is one text, not parts"):
        seen(model, "What is it?", photo)


def test_a_template_without_pictures(vl: Any, photo: Path, monkeypatch: Any) -> None:
    model = vl("qwen3_vl")
    monkeypatch.setattr(model.processor, "chat_template", PARTS.replace("part.text", "part.text or ''"))
    with pytest.raises(UserError, match="chat template leaves the images out"):
        seen(model, "What is it?", photo)


@pytest.mark.parametrize("vision", [False, True])
def test_exit_code(vision: bool, tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture) -> None:
    template, argv = FAILING["raises"][0], ["--prompt", "Hello", "--output-dir", str(tmp_path / "out")]
    if vision:
        folder = make_vl_checkpoint("qwen3_vl", tmp_path / "raising")
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
        main, more = mask_impact_vl.main, ["--image", str(photo)]
    else:
        folder = checkpoints.qwen3(tmp_path / "raising", chat_template=template)
        main, more = mask_impact_analysis.main, ["--chat"]
    capsys.readouterr()
    assert main([*argv, "--model", str(folder), *more]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: the model's chat template cannot take this message: Only user")
    assert "\n" not in said


# --- prompts that are in the template -------------------------------------------------------------------------
IN_TEMPLATE = {
    "ChatML": (checkpoints.CHAT_TEMPLATE, None, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant"),
    "its beginning": (checkpoints.CHAT_TEMPLATE, None, "<|im_start|>user\nHello"),
    "a default system message": (DEFAULT_SYSTEM, None, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"),
    "an answer that has begun": (DEFAULT_SYSTEM, None, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nThe"),
    "begin of text is the mark": (
        checkpoints.CHAT_TEMPLATE, "<|im_start|>", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    ),
    "Llama 2": (LLAMA2, "<|im_start|>", "[INST] Hello [/INST]"),
    "Llama 2 in turns": (LLAMA2, "<|im_start|>", "[INST] Hi [/INST] Ho <|endoftext|><|im_start|>[INST] Hi [/INST]"),
    "Vicuna": (VICUNA, None, "USER: Hello ASSISTANT:"),
    "Vicuna with its system message": (VICUNA, None, "A chat between a user and an assistant. USER: Hello ASSISTANT:"),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_TEMPLATE)
def test_a_prompt_in_the_template_is_taken_as_it_is(name: str) -> None:
    template, bos, prompt = IN_TEMPLATE[name]
    found = text_inputs(words(template, bos), prompt, chat=True)
    assert "".join(token.text for token in found.tokens) == prompt
    assert found.notes[0].startswith("the prompt is in the model's chat template already (it has '")
    with pytest.raises(UserError, match="`system` cannot be added"):
        text_inputs(words(template, bos), prompt, system="Be brief.")


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (checkpoints.CHAT_TEMPLATE, "What does <|im_end|> mean?"),
        (checkpoints.CHAT_TEMPLATE, "user: hi\nassistant: hello"),
        (LLAMA2, "<|im_start|>Hello"),
        (LLAMA2, "What does [INST] mean?"),
        (VICUNA, "The USER: says nothing"),
        ("{% for m in messages %}user {{ m.content }} bot{% endfor %}", "a user and a bot"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "Hello"),
    ],
)
def test_other_prompts_are_wrapped(template: str, prompt: str) -> None:
    tokenizer = words(template, "<|im_start|>" if template == LLAMA2 else None)
    found = text_inputs(tokenizer, prompt, chat=True)
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
    )
    assert ids(found) == list(expected)
    assert found.notes == []


def test_a_text_that_lacks_its_first_token_gets_it() -> None:
    tokenizer = words(
        "{{ bos_token }}" + checkpoints.CHAT_TEMPLATE.replace("<|im_start|>", "<|im_end|>"), "<|im_start|>"
    )
    start, turn = checkpoints.SPECIAL[1:]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, 1)]
    )
    prompt = f"{turn}user\nHello{turn}\n{turn}assistant\n"
    for given in (prompt, start + prompt):
        assert "".join(token.text for token in text_inputs(tokenizer, given, chat=True).tokens) == start + prompt


PLACES = {  # of the picture in a prompt that is in the template
    "where it says <image>": "<|im_start|>user\nWhat is it?\n<image><|im_end|>\n<|im_start|>assistant\n",
    "the model's own tokens": "<|im_start|>user\nWhat is it?\n{own}<|im_end|>\n<|im_start|>assistant\n",
    "first": "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n",
}


@pytest.mark.parametrize("name", PLACES)
def test_pictures_in_a_prompt_that_is_in_the_template(name: str, vl: Any, photo: Path) -> None:
    model, own = vl("qwen3_vl"), "<|vision_start|><|image_pad|><|vision_end|>"
    found = seen(model, PLACES[name].format(own=own), photo)
    parts = [{"type": "image", "image": picture(64, 96)}, {"type": "text", "text": "What is it?"}]
    if name != "first":
        parts = [{"type": "text", "text": "What is it?\n"}, parts[0]]
    theirs = model.processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    assert ids(found) == theirs["input_ids"][0].tolist()
    assert len(found.notes) == 1


def test_pictures_in_llavas_own_words(vl: Any, photo: Path) -> None:
    """Its token for a picture is <image> itself."""
    model = vl("llava")
    before, after = chat.rendered(
        model.processor, [{"role": "user", "content": [{"type": "text", "text": "Q"}]}]
    ).split("Q")
    found = seen(model, f"{before}<image>\nWhat?{after}", photo)
    assert found.notes
    assert [token.kind for token in found.tokens].count("image") > 1
    assert "".join(token.text for token in found.tokens).count("What?") == 1


def test_marks_without_a_place_for_the_picture(vl: Any, photo: Path) -> None:
    with pytest.raises(UserError, match="write <image> where it stands"):
        seen(vl("qwen3_vl"), "<|im_start|>system\nBe brief.<|im_end|>\n", photo)
    with pytest.raises(UserError, match="2 <image>, but the number of images given is 1"):
        seen(vl("qwen3_vl"), "<|im_start|>user\n<image><image>What?", photo)


def test_every_familys_own_rendering_is_recognised(vl: Any) -> None:
    """With a template, whatever it is."""
    with_template = [name for name, row in VL_FAMILIES.items() if row.available and row.chat_template]
    for name in with_template:
        processor = vl(name).processor
        text = chat.rendered(processor, [{"role": "user", "content": [{"type": "text", "text": "Why not?"}]}])
        assert chat.opening(processor, text), name
        assert chat.opening(processor, "Why not?") is None, name
    assert len(with_template) > 10


# --- an end that the tokenizer adds ---------------------------------------------------------------------------
def ending(folder: Path, *ends: str) -> Any:
    """A tokenizer that ends every text with these."""
    found = AutoTokenizer.from_pretrained(folder)
    named = [(end, found.convert_tokens_to_ids(end)) for end in checkpoints.SPECIAL]
    found.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(["$A", *ends]), pair="$A $B", special_tokens=named
    )
    return found


@pytest.mark.parametrize(
    ("prompt", "ends"),
    [
        ("The capital", ["<|endoftext|>"]),
        ("The capital", ["<|im_end|>", "<|endoftext|>"]),  # the first is no end of text
        ("The capital<|endoftext|>", ["<|endoftext|>"]),  # one of them was written
        ("The capital<|endoftext|>", []),
    ],
)
def test_an_end_of_text_is_left_out(prompt: str, ends: list[str], tmp_path: Path) -> None:
    tokenizer = ending(checkpoints.qwen3(tmp_path / "model"), *ends)
    found = text_inputs(tokenizer, prompt)
    expected = prompt + "".join(end for end in ends if end != "<|endoftext|>")
    assert "".join(token.text for token in found.tokens) == expected
    assert found.tensors["attention_mask"].shape[1] == len(found.tokens)
    assert len(found.notes) == len([end for end in ends if end == "<|endoftext|>"])
    kept = text_inputs(tokenizer, prompt, continued=False)  # for an encoder, which is to see the end
    assert "".join(token.text for token in kept.tokens) == prompt + "".join(ends)
    assert kept.notes == []


def test_the_next_word_is_that_of_the_prompt(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = checkpoints.qwen3(tmp_path / "model")
    plain, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        expected = int(model(plain("The capital", return_tensors="pt")["input_ids"]).logits[0, -1].argmax())
    ending(folder, "<|endoftext|>").save_pretrained(folder)
    argv = ["--model", str(folder), "--prompt", "The capital", "--output-dir", str(tmp_path / "out")]
    assert mask_impact_analysis.main(argv) == 0
    run = json.loads((tmp_path / "out" / "masking_run.json").read_text())
    note = "the tokenizer ends every text with '<|endoftext|>'; it was left out, so that the model continues the prompt"
    assert run["notes"] == [note]
    assert run["generated"][0]["id"] == expected
    assert f"note       {note}" in capsys.readouterr().out


def test_the_end_after_a_picture(vl: Any, photo: Path, monkeypatch: Any) -> None:
    model = vl("qwen3_vl")
    before = seen(model, "What?", photo)
    eos = model.processor.tokenizer.eos_token
    monkeypatch.setattr(
        model.processor.tokenizer.backend_tokenizer, "post_processor",
        processors.TemplateProcessing(
            single=f"$A {eos}", pair="$A $B", special_tokens=[(eos, model.processor.tokenizer.eos_token_id)]
        ),
    )  # fmt: skip
    after = seen(model, "What?", photo)
    assert ids(after) == ids(before)
    assert {name: found.shape for name, found in after.tensors.items()} == {
        name: found.shape for name, found in before.tensors.items()
    }
    assert len(after.notes) == 1


# --- tokens that change with the day ---------------------------------------------------------------------------
def test_changed_tokens_are_a_reason_to_run_again(tmp_path: Path) -> None:
    folder = checkpoints.qwen3(tmp_path / "model")
    session = Session(Settings(str(folder), output_dir=tmp_path, formats=("csv",)))
    request = Request("The capital", chat=True, variants=("full",))

    def identity(day: str) -> dict[str, Any]:
        session.reader.chat_template = f"Today: {day}\n" + checkpoints.CHAT_TEMPLATE
        return resume.identity(session, request, session.prepare(request).inputs)

    first = identity("1 May")
    session.run("daily", session.prepare(request), {"request": first})
    assert resume.why_again(session, request, "daily", identity("1 May")) is None
    changed = "the list of the prompt's tokens has changed"
    assert resume.why_again(session, request, "daily", identity("2 May")) == changed
    path = tmp_path / "daily_run.json"  # as it was before there was the hash
    older = json.loads(path.read_text())
    del older["request"]["tokens_sha256"]
    path.write_text(json.dumps(older))
    assert resume.why_again(session, request, "daily", identity("1 May")) is None
    assert resume.why_again(session, request, "daily", identity("2 May")) == changed


@pytest.mark.parametrize("begins", [False, True])
def test_a_prompt_in_the_template_begins_as_the_template_does(begins: bool) -> None:
    """The tokenizer begins every text with a token; the template writes it or, as Zephyr's, does not."""
    template = "{{ bos_token }}" * begins + (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    tokenizer = words(template, bos="<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[("<|im_start|>", 1)]
    )
    given = text_inputs(tokenizer, "Tom", chat=True)
    written = tokenizer.decode(given.tensors["input_ids"][0])
    for prompt in (written, written.removeprefix("<|im_start|>")):
        again = text_inputs(tokenizer, prompt, chat=True)
        assert again.tensors["input_ids"].tolist() == given.tensors["input_ids"].tolist()
