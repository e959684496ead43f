"""A conversation in the model's chat template.

In:  a tokenizer or processor, and messages. Out: the text that the model gets.

    rendered(tokenizer, [{"role": "user", "content": "Hello"}])  # "<|im_start|>user\\nHello<|im_end|>\\n..."
    opening(tokenizer, "<|im_start|>user\\nHello")               # "<|im_start|>": it is not to be wrapped again

A template is a program that comes with the model and may fail in any way; every failure becomes one line.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mask_impact.errors import UserError
from mask_impact.prompt.bounds import bounded, check_text
from mask_impact.prompt.messages import parts_of, texts_of

PROBES = ["a first question", "a first answer", "a second question"]  # stand in a template to see what is around them
TOOL = {  # stands in a template to see whether it needs any
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}},
}
WHY = 200  # characters of the template's own complaint


def template_of(reader: Any) -> str | None:
    """The template that transformers takes by default: a processor's before its tokenizer's. None if there is none.

    Raises UserError for several templates of which none is the default.
    """
    found = getattr(reader, "chat_template", None) or getattr(_tokenizer(reader), "chat_template", None)
    if found and isinstance(found, Mapping):
        if "default" not in found:
            raise UserError(
                f"the model has several chat templates ({', '.join(sorted(found))}) and none is the default, so it is "
                "not known which one takes the prompt; keep one of them in the checkpoint as chat_template.jinja"
            )
        found = found["default"]
    return found or None


def rendered(reader: Any, messages: Sequence[Mapping[str, Any]]) -> str:
    """The messages in the template, with the opening of the answer; a last message of the assistant is continued.

    Raises UserError where the template fails, and where it leaves out what a user or system message says.
    """
    try:
        text = applied(reader, messages)
        why = _left_out(text, messages)
    except UserError:
        raise
    except Exception as error:  # whatever the template raises
        text, why = "", " ".join(str(error).split())[:WHY] or "it fails without saying why"
    if why:
        raise UserError(
            f"the model's chat template cannot take this {_counted(messages)}: {_other_form(reader, messages) or why}; "
            "give what it takes (`system` and `messages` give more than one message), or mend chat_template in the "
            "checkpoint"
        )
    return text


def _tokenizer(reader: Any) -> Any:
    return getattr(reader, "tokenizer", reader)


def _counted(messages: Sequence[Mapping[str, Any]]) -> str:
    return "message" if len(messages) == 1 else "conversation"


def applied(reader: Any, messages: Sequence[Mapping[str, Any]], **more: Any) -> str:
    continued = messages[-1]["role"] == "assistant"
    copies = [copied(each) for each in messages]  # transformers changes what it is given
    with bounded("the model's chat template"):
        text = str(
            reader.apply_chat_template(
                copies, chat_template=template_of(reader), tokenize=False, add_generation_prompt=not continued,
                continue_final_message=continued, **more,
            )
        )  # fmt: skip
    check_text(None, text, "what the model's chat template makes of the prompt")
    return text


def copied(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"]
    return {**message, "content": [dict(part) for part in content] if isinstance(content, list) else content}


def _left_out(text: str, messages: Sequence[Mapping[str, Any]]) -> str | None:
    """What the template does not take in. Earlier answers may be shortened: Qwen 3's are, by their thoughts."""
    there = "".join(text.split())  # templates strip texts
    for each in messages:
        if each["role"] in ("user", "system") and any("".join(part.split()) not in there for part in texts_of(each)):
            return f"it leaves out the {each['role']} message or a part of it"
        if each["content"] is None and "None" in text and "None" not in str([*map(texts_of, messages)]):
            return "it writes None for the missing content of a message; give that message an empty text as content"
        if isinstance(each["content"], list) and str(each["content"]) in text:
            return "it writes the parts of the message as a list"
        if why := _calls_left_out(text, each):
            return why
    return None


def _calls_left_out(text: str, message: Mapping[str, Any]) -> str | None:
    calls = message.get("tool_calls") or ()
    functions = [call.get("function", call) for call in calls if isinstance(call, Mapping)]
    names = [str(each.get("name", "")) for each in functions if isinstance(each, Mapping)]
    missing = [name for name in names if name not in text]
    return f"it leaves out the call of the tool {missing[0]!r}" if missing else None


def _other_form(reader: Any, messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Whether the template would have taken the messages' contents as texts in place of parts, or the reverse, or the
    messages as they are with a list of tools beside them."""
    with contextlib.suppress(Exception):
        if not _left_out(applied(reader, messages, tools=[TOOL]), messages):
            return "it needs a list of tools, which cannot be given here"
    if as_texts := any(not isinstance(each["content"], str) for each in messages):
        other = [{**each, "content": "\n".join(texts_of(each))} for each in messages]
    else:
        other = [{**each, "content": parts_of(each)} for each in messages]
    try:
        if _left_out(applied(reader, other), other):
            return None
    except Exception:
        return None
    return "it takes a content that is " + ("one text, not parts" if as_texts else "a list of parts, not one text")


def continuing(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the manifest says of a conversation whose last message is the assistant's."""
    return ["the last message is the assistant's, and the model continues it"] * (messages[-1]["role"] == "assistant")


# --- prompts that are in the template already -----------------------------------------------------------------
def opening(reader: Any, prompt: str) -> str | None:
    """If `prompt` is in the template already: the mark that opens a turn in it. None if it is not.

    It is if it begins with the special token with which a conversation begins, or if it has the word that stands before
    a user's text in the template, and after that the one that opens the answer ("[INST]" and "[/INST]", "USER:" and
    "ASSISTANT:"). Which these are, a conversation of known texts shows.
    """
    if template_of(reader) is None:
        return None
    begins, users, answers = _marks(reader)
    for user in users:
        _, found, after = prompt.partition(user)
        if found and any(answer in after for answer in answers):
            return user
    start = prompt.lstrip().removeprefix(_tokenizer(reader).bos_token or "").lstrip()
    if not begins or not start.startswith(begins):
        return None
    return next((user for user in users if user in prompt), begins)


def beginning(reader: Any) -> str:
    """What the template puts before the first text; nothing where it fails."""
    return (around(reader, PROBES[:1]) or [""])[0]


def user_marks(reader: Any) -> list[str]:
    """The marks that open a user's turn."""
    return _marks(reader)[1]


def taken_as_it_is(mark: str, system: str | None) -> str:
    """What the manifest says of a prompt with this mark. Raises UserError for a system message, which has no place."""
    if system is not None:
        raise UserError(
            f"the prompt is in the model's chat template already (it has {mark!r}), so `system` cannot be added; write "
            "the system message into the prompt, or give a prompt without the template"
        )
    return f"the prompt is in the model's chat template already (it has {mark!r}); it was taken as it is"


def _marks(reader: Any) -> tuple[str, list[str], list[str]]:
    """The special token that begins a conversation, if it is not the one that begins every text; the word before a
    user's text; and the one before the answer. Of the words each as it is and without the tokens that begin and end
    texts: "</s><s>[INST]" and "[INST]"."""
    names = _tokenizer(reader)
    one = around(reader, PROBES[:1])
    several = around(reader, PROBES) or one
    if not one or not several:
        return "", [], []
    special = [str(found.content) for found in names.added_tokens_decoder.values()]
    begin = one[0].lstrip().removeprefix(names.bos_token or "").lstrip()
    begins = max((found for found in special if begin.startswith(found)), key=len, default="")
    ends = "|".join(re.escape(end) for end in (names.bos_token, names.eos_token) if end) or "$^"
    # The first turn can have a system message between mark and text (Llama 2), a later one the end of the answer before
    user, answer = (
        [*texts, *(re.sub(ends, "", text) for text in texts)] for texts in ((several[-2], one[0]), (one[-1],))
    )
    return begins, _last_words(user), _last_words(answer)


def around(reader: Any, texts: Sequence[str]) -> list[str]:
    """The template's own text before, between and after these, in turn the user's and the assistant's."""
    roles = ["user", "assistant"] * len(texts)
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    if reader is not _tokenizer(reader):  # a processor's template takes parts
        messages = [{**each, "content": parts_of(each)} for each in messages]
    try:
        found = re.split("|".join(map(re.escape, texts)), applied(reader, messages))
    except UserError:
        raise
    except Exception:  # `rendered` will say so
        return []
    return found if len(found) == len(texts) + 1 else []


def _last_words(texts: Sequence[str]) -> list[str]:
    """Of each text the last word, if it is one that no ordinary text has."""
    words = [(text.split() or [""])[-1] for text in texts]
    return [word for word in dict.fromkeys(words) if re.search(r"\W", word)]
