"""Which tokens of a run are the chat template's own, and not what anybody wrote.

In:  a manifest. Out: positions.
"""

from collections.abc import Mapping
from typing import Any


def template_positions(manifest: Mapping[str, Any]) -> set[int]:
    """Tokens of the prompt that are the chat template's own: special ones, and all around the messages."""
    inside = [
        each for each in manifest["tokens"][: manifest["prompt_length"]] if each["kind"] != "image"
    ]  # patches are no text
    special = {each["position"] for each in inside if each["kind"] == "special"}
    said = [text.strip() for text in _messages(manifest) if text.strip()]
    if not (manifest["chat"] and said):
        return special
    whole = "".join(each["text"] for each in inside)
    spans, reached = [], 0
    for text in said:
        start = whole.find(text, reached)
        if start < 0:
            return special
        reached = start + len(text)
        spans.append((start, reached))
    at, found = 0, set(special)
    for each in inside:
        start, at = at, at + len(each["text"])
        if not any(start < last and at > first for first, last in spans):
            found.add(each["position"])
    return found


def _messages(manifest: Mapping[str, Any]) -> list[str]:
    """The texts of the conversation."""
    if not manifest.get("messages"):  # older manifests do not have it
        return [manifest["prompt"]] if manifest["prompt"] else []
    parts = [
        part
        for message in manifest["messages"]
        for part in (message["content"] if isinstance(message["content"], list) else [message["content"]])
    ]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return [text for text in texts if isinstance(text, str)]
