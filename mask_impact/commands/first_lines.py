"""The first lines of a summary: what the model read for each token of its answer, and what the answer needs.

    ' blue'  reads ' cup'@14 (layer 1), ' cup'@10 (layer 3)
    without ' cup'@14 the answer is ' ball': probability 0.9999 to 0.0001

In:  a manifest. Out: lines. Tokens of the chat template are told apart from words, pieces of words with their word.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mask_impact.effects.answer import WHOLE_ANSWER
from mask_impact.impact.noise_floors import floor_over_layers
from mask_impact.prompt.template import template_positions

SHOWN = 20  # tokens of the answer
FEW = 3  # words for each
MUCH = 1 / 3  # of the first one's value, to be named with it
CHANGES = 0.001  # of a probability: a mask that changes it by less is not worth a line
NEARLY = 0.9  # of a probability: what is left of it is written with as many digits as before, so that it falls
WORD = 40  # characters of a word around a piece of it


def first_lines(manifest: Mapping[str, Any]) -> list[str]:
    """One line for each token of the answer, and one for what costs the answer most."""
    generated = {found["step"]: found["text"] for found in manifest["generated"]}
    answers = [repr(generated.get(found["generation_step"], "")) for found in manifest["reads"]]
    names, template = Names(manifest), template_positions(manifest)
    width = max(map(len, answers[:SHOWN]), default=0)
    lines = [
        f"{answer:<{width}}  {_read(manifest, found['tokens'], names, template)}"
        for answer, found in zip(answers[:SHOWN], manifest["reads"], strict=False)
    ]
    more = len(answers) - SHOWN
    return [*lines, *([f"... {more} more in the report"] if more > 0 else []), *_lost(manifest, names)]


def _read(manifest: Mapping[str, Any], tokens: Sequence[dict[str, Any]], names: "Names", template: set[int]) -> str:
    """`tokens`: the most read first."""
    metric, variant = manifest["metrics"][0]["name"], manifest["variants"][0]
    floor = floor_over_layers(manifest, variant, metric)
    above = [row for row in tokens if row["value"] > 0 and row["value"] >= floor]
    pictures = [row for row in above if names.is_picture(row)]
    others = [row for row in above if not names.is_picture(row)]
    words = [row for row in others if not names.is_of(row, template)]
    loud = [row for row in words if row["value"] >= MUCH * words[0]["value"]][:FEW]
    said = [", ".join(map(names.read, sorted(loud, key=lambda row: row["layer"])))] if loud else []
    said += [f"in the picture {names.read(pictures[0])}"] if pictures else []
    apart = [row for row in others if names.is_of(row, template)]
    if apart and (not words or apart[0]["value"] > words[0]["value"]):
        said.append(f"of the template {names.read(apart[0])}")
    return f"reads {'; '.join(said)}" if said else "reads nothing above the noise floor"


def _lost(manifest: Mapping[str, Any], names: "Names") -> Iterator[str]:
    found = costly(manifest)
    if not manifest["effects"]:
        return
    if not found:
        yield f"no single mask lowers the answer's probability by {CHANGES} or more"
        return
    row = found[0]
    before, after = probabilities(row)
    own = _answer(manifest, row["generation_step"])
    result = f"the answer is {row['top_token']!r}: " if row["top_token"] != own else ""
    what = names.at(row["token_position"], row["token_masked"])
    digits = 4 if after > NEARLY * before else 2
    yield f"without {what} {result}probability {before:.4g} to {after:.{digits}g}"


def _answer(manifest: Mapping[str, Any], step: int) -> str:
    generated = manifest["generated"]
    return generated[0 if step == WHOLE_ANSWER else step]["text"]


def costly(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The masks that lower the answer's probability by CHANGES or more, and more than rounding does."""
    effects = manifest["effects"] or {"strongest": []}
    noise = (effects.get("noise") or {}).get("logit", 0.0)
    rows = effects["strongest"]
    return [row for row in rows if row["logprob_change"] < -noise and _fall(row) >= CHANGES]


def _fall(row: Mapping[str, Any]) -> float:
    before, after = probabilities(row)
    return before - after


def probabilities(row: Mapping[str, Any]) -> tuple[float, float]:
    """Of the answer, without and with a mask."""
    return math.exp(row["logprob"] - row["logprob_change"]), math.exp(row["logprob"])


class Names:
    """What is masked, by its first position."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self._tokens = {found["position"]: found for found in manifest["tokens"]}
        units = [unit for unit in manifest["units"] or [] if len(unit["positions"]) > 1]
        self._units = {(unit["positions"][0], unit["label"]): unit["positions"] for unit in units}

    def is_picture(self, row: Mapping[str, Any]) -> bool:
        members = self._units.get((row["position"], row["text"]), [row["position"]])
        return all(self._tokens[each]["kind"] == "image" for each in members if each in self._tokens)

    def is_of(self, row: Mapping[str, Any], template: set[int]) -> bool:
        """Whether it is a token of the template; a unit with a name is none."""
        return row["position"] in template and (row["position"], row["text"]) not in self._units

    def read(self, row: Mapping[str, Any]) -> str:
        """ "' cup'@14 (layer 1)" """
        return f"{self.at(row['position'], row['text'])} (layer {row['layer']})"

    def at(self, position: int, text: str) -> str:
        """ "' cup'@14", "[b]all@5" of a piece of a word, "image 0 row 1 col 1", a unit's name."""
        token = self._tokens.get(position)
        if token is None or text != token["text"] or (position, text) in self._units:
            return f"{text!r}@{position}"
        if token["kind"] == "image":
            return place_of(token)
        return f"{self._word(position) or repr(token['text'])}@{position}"

    def _word(self, position: int) -> str | None:
        """The piece with its word around it; None where it is no piece."""
        before, after = self._joined(position, -1), self._joined(position, 1)
        text = self._tokens[position]["text"]
        return f"{before.lstrip()}[{text.lstrip()}]{after}" if before or after else None

    def _joined(self, position: int, step: int) -> str:
        """The letters on one side that belong to the same word."""
        found = ""
        while len(found) < WORD:
            here, there = self._tokens.get(position), self._tokens.get(position + step)
            if here is None or there is None or {here["kind"], there["kind"]} != {"text"}:
                break
            left, right = (there["text"], here["text"]) if step < 0 else (here["text"], there["text"])
            if not (left[-1:].isalnum() and right[:1].isalnum()):
                break
            found = there["text"] + found if step < 0 else found + there["text"]
            position += step
        return found


def place_of(token: Mapping[str, Any]) -> str:
    """Of an image token, in its picture or video."""
    place = "" if token["row"] is None else f" row {token['row']} col {token['col']}"
    if token.get("video") is None:
        return f"image {token['image']}{place}"
    return f"video {token['video']} frame {token['frame']}{place}"
