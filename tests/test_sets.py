"""Named sets of positions: the messages' own words in several chat templates, against the texts of the tokens."""

from __future__ import annotations

from typing import Any

import checkpoints
import pytest
from test_chat_templates import DEFAULT_SYSTEM, LLAMA2, VICUNA, words
from test_vl_engine import folders, images, load  # noqa: F401
from vl_families import available

from mask_impact.errors import UserError
from mask_impact.prompt.inputs import text_inputs
from mask_impact.prompt.positions import in_text
from mask_impact.prompt.sets import Sets

TEMPLATES = {"chatml": checkpoints.CHAT_TEMPLATE, "llama2": LLAMA2, "vicuna": VICUNA, "default": DEFAULT_SYSTEM}
CONVERSATION = [
    {"role": "user", "content": "Is the ball red?"},
    {"role": "assistant", "content": "The ball is red."},
    {"role": "user", "content": "user"},  # as the template's own word
]


def sets_of(tokenizer: Any, inputs: Any, tokens: int = 3) -> Sets:
    return Sets(tokenizer, inputs, in_text(len(inputs.tokens), tokens), {"cup": (2, 3)})


def told(sets: Sets, name: str) -> str:
    """The texts of a set's tokens."""
    return "".join(sets.inputs.tokens[at].text for at in sets.named("`readers`", name).fixed)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("prompt", ["Is the ball red?", "user", "  a cup  ", "assistant system user"])
def test_the_question_is_what_the_user_said(template: str, prompt: str) -> None:
    tokenizer = words(TEMPLATES[template], "<s>")
    sets = sets_of(tokenizer, text_inputs(tokenizer, prompt, chat=True))
    assert told(sets, "question").strip() == prompt.strip()
    fixed = [sets.named("", name).fixed for name in ("question", "template")]
    assert sorted(sum(fixed, ())) == list(range(len(sets.inputs.tokens)))


def test_a_conversation_with_a_system_message() -> None:
    tokenizer = words()
    inputs = text_inputs(tokenizer, "", system="Be user friendly.", messages=CONVERSATION)
    sets = sets_of(tokenizer, inputs)
    assert told(sets, "system").strip() == "Be user friendly." and told(sets, "question").strip() == "user"
    spoken = "Be user friendly.Is the ball red?The ball is red.user"
    template = told(sets, "template")
    everything = "".join(token.text for token in inputs.tokens)
    assert len(template) == len(everything) - len(spoken), template
    (at,) = sets.named("", "question").fixed
    assert "".join(token.text for token in inputs.tokens[at - 2 : at]).endswith("user\n")


def test_a_prompt_that_is_in_the_template_already() -> None:
    tokenizer = words()
    text = "<|im_start|>user\nIs the ball red?<|im_end|>\n<|im_start|>assistant\n"
    sets = sets_of(tokenizer, text_inputs(tokenizer, text, chat=True))
    assert told(sets, "question") == "Is the ball red?"
    for name in ("system", "template"):
        with pytest.raises(UserError, match=f"not known which tokens are the set '{name}'"):
            sets.named("`readers`", name)


def test_a_plain_prompt() -> None:
    tokenizer = checkpoints.tokenizer()
    inputs = text_inputs(tokenizer, "Is the ball red?<|im_end|>")
    sets, last = sets_of(tokenizer, inputs), len(inputs.tokens) - 1
    assert sets.named("", "question").fixed == tuple(range(last)) and sets.named("", "template").fixed == (last,)
    assert sets.named("", "last").at(9) == (8,) and sets.named("", "first").at(9) == (0,)
    assert sets.named("", "generated").at(last + 1) == () and sets.named("", "generated").at(last + 2) == (last + 1,)
    assert sets.named("", "text").at(last + 3) == tuple(range(last + 3))
    assert sets.named("", "1-3").at(3) == (1, 2) and sets.named("", "cup").fixed == (2, 3)
    for name in ("system", "image", "image:0", "nobody", "5-2", "99", "later", ""):
        with pytest.raises(UserError, match=r"^`readers`: "):
            sets.named("`readers`", name)


@pytest.mark.parametrize("name", available())
def test_pictures_and_question(name: str, load: Any) -> None:  # noqa: F811
    """Of every family's template and processor, which writes more for a picture than the template does."""
    loaded = load(name)
    prompt = "What is on the left? user"
    inputs = loaded.inputs(prompt, *images())
    sets = sets_of(loaded.processor.tokenizer, inputs)
    assert "".join(told(sets, "question").split()) == "".join(prompt.split())
    fixed = [sets.named("", each).fixed for each in ("question", "template", "image")]
    assert sorted(sum(fixed, ())) == list(range(len(inputs.tokens)))
    kinds = {inputs.tokens[at].kind for at in sets.named("", "image").fixed}
    assert kinds == {"image"} and sets.named("", "image:0").fixed == sets.named("", "image").fixed
