"""Conversations with calls of tools: as transformers renders them, and what is refused in one line."""

import json
from pathlib import Path
from typing import Any

import checkpoints
import pytest

import mask_impact_analysis
from mask_impact.errors import UserError
from mask_impact.prompt.inputs import text_inputs
from mask_impact.prompt.messages import checked_messages, read_messages

CALL = {"id": "a", "type": "function", "function": {"name": "red", "arguments": '{"x": 1}'}}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments }}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def conversation(**called: Any) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "The capital?"},
        {"role": "assistant", "tool_calls": [CALL], **called},
        {"role": "tool", "tool_call_id": "a", "content": "Rome"},
    ]


@pytest.mark.parametrize("called", [{"content": None}, {"content": ""}, {}, {"content": "Tom has"}])
def test_a_call_reaches_the_template(called: dict[str, Any], tmp_path: Path) -> None:
    given = conversation(**called)
    (tmp_path / "m.json").write_text(json.dumps(given))
    words = checkpoints.tokenizer(TEMPLATE)
    found = text_inputs(words, "", messages=read_messages(tmp_path / "m.json"))
    assert [each.id for each in found.tokens] == words.apply_chat_template(
        given, add_generation_prompt=True, return_dict=False
    )
    assert found.messages is not None and json.loads(json.dumps(found.messages))[1]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    "template, why",
    [
        (checkpoints.CHAT_TEMPLATE, "it writes None for the missing content|it leaves out the call"),
        (TEMPLATE.replace("m.tool_calls or []", "[]"), "it leaves out the call of the tool 'red'"),
        (TEMPLATE + "{% if not tools %}{{ raise_exception('no list') }}{% endif %}", "it needs a list of tools"),
        (TEMPLATE + "{{ tools | length }}", "it needs a list of tools, which cannot be given here"),
    ],
)
def test_templates_that_do_not_take_it(template: str, why: str) -> None:
    messages = checked_messages(conversation(content=None), "it")
    with pytest.raises(UserError, match=why):
        text_inputs(checkpoints.tokenizer(template), "", messages=messages)


def test_a_call_without_an_answer_and_content_that_is_nothing() -> None:
    with pytest.raises(UserError, match="the last message calls a tool; add the tool's answer"):
        checked_messages(conversation(content=None)[:2], "it")
    for wrong in ({"role": "user", "content": None, "tool_calls": [CALL]}, {"role": "assistant", "content": None}):
        with pytest.raises(UserError, match="message 1 has no content"):
            checked_messages([wrong], "it")


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '[{"deep": NaN}]'])
def test_numbers_that_json_does_not_have(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.json").write_text('[{"role": "user", "content": "Hi", "score": ' + value + "}]")
    given = ["--model", "demo", "--messages", str(tmp_path / "m.json"), "--output-dir", str(tmp_path)]
    assert mask_impact_analysis.main(given) == 2
    said = capsys.readouterr().err
    assert "m.json, message 1 has a value that no JSON file can hold" in said and said.count("\n") == 1


def test_a_contrast_of_one_token(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "demo", "--prompt", "Tom has a", "--effects", "--contrast", " red", " red"]
    assert mask_impact_analysis.main(given) == 2
    assert "--contrast names ' red' twice" in capsys.readouterr().err
