"""A system message and whole conversations, from the command line, a YAML file and Python: the ids are those of
transformers' own apply_chat_template."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from test_chat_templates import DEFAULT_SYSTEM
from vl_families import make_vl_checkpoint, picture

import mask_impact_analysis
import mask_impact_vl
from mask_impact.errors import UserError
from mask_impact.jobs.prepared import prepare
from mask_impact.model.find import find_model
from mask_impact.model.processors import load_processor
from mask_impact.options import Request
from mask_impact.prompt.messages import checked_messages, given_messages, read_messages

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "The capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "Of Italy?"},
]
FEW = {"layers": "0", "variants": "full"}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("good") / "good", max_position_embeddings=256)


@pytest.fixture(scope="module")
def qwen_vl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_vl_checkpoint("qwen3_vl", tmp_path_factory.mktemp("vl") / "qwen3_vl")


@cache
def vl_reader(folder: Path) -> Any:
    source = find_model(str(folder), vision=True)
    return load_processor(source), source.config


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    picture(64, 96).save(path)
    return path


def written(folder: Path, messages: Any, name: str = "turns.json") -> Path:
    path = folder / name
    path.write_text(messages if isinstance(messages, str) else json.dumps(messages), "utf-8")
    return path


def run_of(folder: Path, name: str = "masking") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}_run.json").read_text("utf-8"))
    return found


def prompt_ids(run: dict[str, Any]) -> list[int]:
    return [token["id"] for token in run["tokens"][: run["prompt_length"]]]


def theirs(messages: Any, template: str = checkpoints.CHAT_TEMPLATE, **options: bool) -> list[int]:
    options = options or {"add_generation_prompt": True}
    return list(checkpoints.tokenizer(template).apply_chat_template(messages, return_dict=False, **options))


# --- text -----------------------------------------------------------------------------------------------------
def test_the_command(tmp_path: Path, good: Path) -> None:
    argv = ["--model", str(good), "--output-dir", str(tmp_path), "--layers", "0", "--variants", "full"]
    assert mask_impact_analysis.main([*argv, "--messages", str(written(tmp_path, TURNS)), "--span", "Of Italy"]) == 0
    run = run_of(tmp_path)
    assert prompt_ids(run) == theirs(TURNS)
    assert run["messages"] == TURNS
    assert run["prompt"] == "Of Italy?"
    assert run["chat"] is True
    assert "".join(run["tokens"][at]["text"] for at in run["units"][0]["positions"]).strip() == "Of Italy"


@pytest.mark.parametrize("template", [checkpoints.CHAT_TEMPLATE, DEFAULT_SYSTEM])
def test_a_system_message(template: str, tmp_path: Path) -> None:
    reader = checkpoints.tokenizer(template)
    config = find_model(str(checkpoints.qwen3(tmp_path / "model", max_position_embeddings=256))).config
    found = prepare(reader, config, Request("Hello", system="Be brief."), vision=False).inputs
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert [token.id for token in found.tokens] == theirs(said, template)
    assert found.chat


def test_a_system_message_that_the_template_drops() -> None:
    template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(UserError, match="this conversation: it leaves out the system message"):
        prepare(checkpoints.tokenizer(template), None, Request("Hello", system="Be brief."), vision=False)
    with pytest.raises(UserError, match="`system` was given, but this model has no chat template; leave `system` out"):
        prepare(checkpoints.tokenizer(None), None, Request("Hello", system="Be brief."), vision=False)


def test_from_python(good: Path, tmp_path: Path) -> None:
    for given in (TURNS, str(written(tmp_path, TURNS)), tuple(TURNS)):
        table = mask_impact_analysis.run_masking_experiment(model_name=str(good), messages=given, **FEW)
        assert prompt_ids(table.attrs["run"]) == theirs(TURNS)
    table = mask_impact_analysis.run_masking_experiment("Hello", str(good), system="Be brief.", **FEW)
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert prompt_ids(table.attrs["run"]) == theirs(said)
    assert table.attrs["run"]["messages"] is None
    effects = mask_impact_analysis.run_effects_experiment(model_name=str(good), messages=TURNS)
    assert prompt_ids(effects.attrs["run"]) == theirs(TURNS)


def test_system_beside_messages(good: Path) -> None:
    table = mask_impact_analysis.run_masking_experiment(
        model_name=str(good), messages=TURNS[1:], system="Be brief.", **FEW
    )
    assert prompt_ids(table.attrs["run"]) == theirs(TURNS)
    with pytest.raises(UserError, match="`messages` begin with a system message; leave one of the two out"):
        mask_impact_analysis.run_masking_experiment(model_name=str(good), messages=TURNS, system="Be brief.", **FEW)


def test_a_last_message_of_the_assistant_is_continued(good: Path) -> None:
    table = mask_impact_analysis.run_masking_experiment(model_name=str(good), messages=TURNS[:3], **FEW)
    run = table.attrs["run"]
    assert prompt_ids(run) == theirs(TURNS[:3], continue_final_message=True)
    assert "".join(token["text"] for token in run["tokens"][: run["prompt_length"]]).endswith("\nParis.")
    assert run["notes"] == ["the last message is the assistant's, and the model continues it"]


def test_in_a_yaml_file(tmp_path: Path, good: Path) -> None:
    written(tmp_path, TURNS)
    config = tmp_path / "prompts.yaml"
    config.write_text(
        f"model: {good}\ndefaults: {{layers: 0, variants: full}}\nprompts:\n"
        "- name: file\n  messages: turns.json\n"
        "- name: here\n  messages:\n  - {role: user, content: yes}\n"
        "- name: with\n  prompt: Hello\n  system: Be brief.\n"
    )
    argv = ["--config", str(config), "--output-dir", str(tmp_path / "out")]
    assert mask_impact_analysis.main(argv) == 0
    expected = {
        "file": TURNS,
        "here": [{"role": "user", "content": "yes"}],
        "with": [TURNS[0], {"role": "user", "content": "Hello"}],
    }
    for name, messages in expected.items():
        assert prompt_ids(run_of(tmp_path / "out", name)) == theirs(messages)


def test_resume_sees_a_changed_conversation(tmp_path: Path, good: Path, capsys: pytest.CaptureFixture) -> None:
    path = written(tmp_path, TURNS)
    argv = [
        "--model",
        str(good),
        "--messages",
        str(path),
        "--output-dir",
        str(tmp_path),
        "--output",
        "run",
        *["--layers", "0"],
    ]
    said = []
    for messages in (TURNS, TURNS, TURNS[:2]):
        written(tmp_path, messages)
        capsys.readouterr()
        assert mask_impact_analysis.main([*argv, "--resume"]) == 0
        said.append(capsys.readouterr().out.split()[0])
    assert said[1:] == ["kept", "redone"]


# --- pictures -------------------------------------------------------------------------------------------------
def with_pictures(photo: str) -> list[dict[str, Any]]:
    shown = {"type": "image", "path": photo}
    return [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [shown, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A ball."}]},
        {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "image", "image": photo}]},
    ]


def test_pictures_in_a_conversation(tmp_path: Path, qwen_vl: Path, photo: Path) -> None:
    """Paths start in the file's folder."""
    path = written(photo.parent, with_pictures("photo.png"))
    argv = ["--model", str(qwen_vl), "--messages", str(path), "--output-dir", str(tmp_path)]
    assert mask_impact_vl.main([*argv, "--layers", "0", "--variants", "full", "--mask-mode", "vision"]) == 0
    run = run_of(tmp_path, "vl_masking")
    processor, _ = vl_reader(qwen_vl)
    theirs = processor.apply_chat_template(
        with_pictures(str(photo)), add_generation_prompt=True, tokenize=True, return_dict=True
    )
    assert prompt_ids(run) == list(theirs["input_ids"][0])
    assert [image["path"] for image in run["images"]] == [str(photo)] * 2
    assert run["messages"] == with_pictures(str(photo))


def test_a_conversation_with_a_picture_in_memory(qwen_vl: Path, photo: Path) -> None:
    messages = [
        {"role": "user", "content": [{"type": "image", "image": picture(64, 96)}, {"type": "text", "text": "Q"}]}
    ]
    found, same = (
        mask_impact_vl.run_vl_masking_experiment(model_name=str(qwen_vl), **how, **FEW).attrs["run"]
        for how in ({"messages": messages}, {"prompt": "Q", "image_path": photo})
    )
    assert prompt_ids(found) == prompt_ids(same)
    assert found["messages"][0]["content"][0]["image"] == "<PIL image>"


def test_a_system_message_before_a_picture(qwen_vl: Path, photo: Path) -> None:
    processor, config = vl_reader(qwen_vl)
    found = prepare(processor, config, Request("Why?", images=(str(photo),), system="Be brief."), vision=True).inputs
    parts = [{"type": "image", "path": str(photo)}, {"type": "text", "text": "Why?"}]
    said = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, {"role": "user", "content": parts}]
    theirs = processor.apply_chat_template(said, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert [token.id for token in found.tokens] == list(theirs["input_ids"][0])


# --- what is refused ------------------------------------------------------------------------------------------
PICTURE = {"type": "image", "path": "a.png"}
BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("[{'role'", "is not JSON (line 1: "),
    "deep": ("[" * 100_000, "is not JSON that can be read"),
    "a mapping": ({"messages": TURNS}, "must hold a list of messages, not a mapping"),
    "empty": ([], "has no messages"),
    "a text": (["Hello"], "message 1 is a text; write it as {"),
    "no role": ([{"content": "x"}], "message 1 has no role; choose from system, developer, user"),
    "a role": ([TURNS[0], {"role": "usr", "content": "x"}], "message 2 has role 'usr'; choose from"),
    "a role of another kind": ([{"role": ["user"], "content": "x"}], "message 1 has role ['user']; choose from"),
    "no content": ([{"role": "user", "contents": "x"}], "message 1 has no content; write its content"),
    "a number": ([{"role": "user", "content": 5}], "message 1 has a number; write its content"),
    "blank": ([{"role": "user", "content": " "}], "message 1 is empty; give some text"),
    "no parts": ([{"role": "user", "content": []}], "message 1 has no content"),
    "a part": ([{"role": "user", "content": ["x"]}], "message 1, part 1 is not a part that can be read; write {"),
    "a kind": ([{"role": "user", "content": [{"type": "audio", "path": "a"}]}], "part 1 is of type 'audio'; write {"),
    "no video": ([{"role": "user", "content": [{"type": "video"}]}], "part 1 names no video file; write {"),
    "no path": ([{"role": "user", "content": [{"type": "image"}]}], "part 1 names no picture file; write {"),
    "two": ([{"role": "user", "content": [PICTURE | {"image": "b"}]}], "part 1 names no picture file"),
    "a link": (
        [{"role": "user", "content": [{"type": "image", "image": "https://x/a.png"}]}], "part 1 names no picture file",
    ),
    "no text": ([{"role": "user", "content": "\ud800"}], "message 1 is not valid text"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_conversation(name: str, tmp_path: Path) -> None:
    messages, why = BAD[name]
    path = written(tmp_path, messages)
    with pytest.raises(UserError) as caught:
        read_messages(path)
    said = str(caught.value)
    assert said.startswith(f"the messages file {path}")
    assert why in said
    assert "\n" not in said


def test_a_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "latin").write_bytes(b'[{"role": "user", "content": "\xe9"}]')
    for name, why in (("missing", "cannot be read: No such file"), ("latin", "is not UTF-8 text (byte 30)")):
        assert mask_impact_analysis.main(["--model", "demo", "--messages", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith(f"error: the messages file {tmp_path / name} {why}")
        assert "\n" not in said


def test_what_does_not_go_together(tmp_path: Path, qwen_vl: Path, photo: Path) -> None:
    turns = checked_messages(TURNS, "it")
    processor, config = vl_reader(qwen_vl)
    with pytest.raises(UserError, match="`messages` and a prompt were both given"):
        prepare(checkpoints.tokenizer(), None, Request("x", messages=turns), vision=False)
    with pytest.raises(UserError, match="`messages` and images were both given"):
        prepare(processor, config, Request("", images=(str(photo),), messages=turns), vision=True)
    with pytest.raises(UserError, match="`messages` have an image, and this model takes text alone"):
        pictures = checked_messages(with_pictures(str(photo)), "it")
        prepare(checkpoints.tokenizer(), None, Request("", messages=pictures), vision=False)
    with pytest.raises(UserError, match=r"`messages` hold the model's own token <\|image_pad\|>; give each image"):
        own = checked_messages([{"role": "user", "content": "a <|image_pad|>"}], "it")
        prepare(processor, config, Request("", messages=own), vision=True)
    with pytest.raises(UserError, match="no chat template; leave `messages` out"):
        prepare(checkpoints.tokenizer(None), None, Request("", messages=turns), vision=False)
    assert given_messages(None) == given_messages([]) == ()
    with pytest.raises(SystemExit):
        mask_impact_analysis.main(["--prompt", "x", "--messages", "y"])


def test_a_yaml_file_with_bad_messages(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tmp_path / "prompts.yaml"
    config.write_text(
        "model: demo\nprompts:\n- name: a\n  messages: none.json\n- name: b\n  messages: [{role: usr, content: x}]\n"
        "- name: c\n  prompt: x\n  messages: y.json\n- name: d\n"
    )
    assert mask_impact_analysis.main(["--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert f":4: messages: the messages file {tmp_path / 'none.json'} cannot be read" in said.replace("...", "")
    assert ":6: messages: the list, message 1 has role 'usr'" in said
    assert ":7: prompt and messages are both given; keep one" in said
    assert ":10: prompt is missing; give prompt, prompt_file or messages" in said
