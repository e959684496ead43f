"""Masks in the vision encoder carried on to the answer, against the real model with those edges at -inf."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from asking import asked
from brute_tower import AnswerReference, rows_of_tokens
from families import ALL, submodule
from float64 import true_float64
from test_vision_tower import FAMILIES, PROMPT, pictures
from test_vl_engine import FIRST_STEP_ONLY, folders, load, longer, row, tensors  # noqa: F401
from vl_families import available, picture

from mask_impact.effects.edits import Edit
from mask_impact.effects.tower import TowerForwards
from mask_impact.effects.tower_run import TowerEffects, seen_by_tower
from mask_impact.errors import UnsupportedModel, UserError
from mask_impact.files.side_tables import checked
from mask_impact.jobs.session import effects_alone


class Both:
    """A run of the engine, and the reference on the same model and pictures."""

    def __init__(self, name: str, loaded: Any, dtype: torch.dtype, shown: Any = None, **options: Any) -> None:
        self.name, self.loaded, self.options = name, loaded, options
        self.inputs = loaded.inputs(PROMPT, *(shown or pictures(name)))
        tokenizer = loaded.processor.tokenizer
        prepared = asked(loaded.model, tokenizer, self.inputs, tower="vision", effects=True, **options)
        self.manifest, tables = effects_alone(loaded.model, prepared)
        self.table = tables["effects"]
        generated = [each["id"] for each in self.manifest["generated"]]
        self.steps = len(generated)
        self.given = longer(name, tensors(self.inputs, dtype), generated[:-1])
        self.generated = generated
        self.reference = AnswerReference(name, loaded.model, self.given)
        tokens = [token.position for token in self.inputs.tokens if token.kind == "image"]
        self.rows = dict(zip(tokens, rows_of_tokens(name, loaded.model, self.given), strict=False))
        self.decoder = submodule(loaded.model, row(name).layers)
        self.base = self.brute(range(0), ())

    def brute(self, window: range, masked: Any, readers: Any = None) -> Any:
        zero = self.options.get("ablation") == "zero-value"
        return self.reference.answer(self.decoder, window, masked, readers, zero, self.steps)

    def rows_at(self, positions: Any) -> list[int]:
        return [row for position in positions for row in self.rows[position]]

    def places(self, position: int) -> list[int]:
        """The tokens of the picture in which this one is."""
        image = self.inputs.tokens[position].image
        return [token.position for token in self.inputs.tokens if token.kind == "image" and token.image == image]

    def all_rows(self) -> list[dict[str, Any]]:
        """Those of single tokens of the answer."""
        rows = [dict(zip(self.table, values, strict=True)) for values in zip(*self.table.values(), strict=True)]
        return [found for found in rows if found["generation_step"] >= 0]

    def worst(self, found: dict[str, Any], masked: Any, exact: float, rounding: float, readers: Any = None) -> float:
        """The largest error of a row as a part of the allowed one."""
        one = self.brute(range(found["first_layer"], found["last_layer"] + 1), masked, readers)
        step, at = found["generation_step"], self.places(found["token_position"])
        before, after = (each.logits[step].double().log_softmax(dim=-1) for each in (self.base, one))
        token = self.generated[step]
        expected = {
            "logprob_change": (float(after[token] - before[token]), 1.0),
            "kl": (float((before.exp() * (before - after)).sum()), 1.0),
            **distances("final", self.base.state[step], one.state[step]),
            **distances("image", self.base.image[at].flatten(), one.image[at].flatten()),
        }
        return max(
            abs(found[name] - value) / (exact * abs(value) + rounding * of) for name, (value, of) in expected.items()
        )


def distances(name: str, base: torch.Tensor, masked: torch.Tensor) -> dict[str, tuple[float, float]]:
    """L2 and cosine distance, and what their rounding is relative to."""
    base, masked = base.double(), masked.double()
    cosine = (base / base.norm() - masked / masked.norm()).square().sum() / 2
    return {f"{name}_l2": (float((masked - base).norm()), float(base.norm())), f"{name}_cosine": (float(cosine), 1.0)}


def two_units(name: str, loaded: Any) -> tuple[str, ...]:
    """A token in the middle of a picture, and two side by side."""
    at = loaded.inputs(PROMPT, *pictures(name)).images[0]["positions"][0]
    return f"{at + 2}", f"{at + 5}-{at + 6}"


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_brute_force_in_float64(name: str, load: Any) -> None:  # noqa: F811
    """In all layers, and in the last alone; of two tokens of the answer."""
    loaded, steps = load(name, torch.float64), 1 if name in FIRST_STEP_ONLY else 2
    with true_float64():
        both = Both(name, loaded, torch.float64, mask_layers="from", num_tokens=steps, spans=two_units(name, loaded))
        units = {unit["positions"][0]: unit["positions"] for unit in both.manifest["units"]}
        for found in both.all_rows():
            error = both.worst(found, both.rows_at(units[found["token_position"]]), 1e-9, 1e-13)
            assert error < 1, f"{error:.3g} times the allowed error in {found}"


@pytest.mark.parametrize("name", FAMILIES if ALL else ["qwen2_5_vl", "gemma3"])
def test_equals_brute_force_in_float32(name: str, load: Any) -> None:  # noqa: F811
    loaded = load(name)
    both = Both(name, loaded, torch.float32, spans=two_units(name, loaded)[:1])
    (found,) = both.all_rows()
    error = both.worst(found, both.rows_at([found["token_position"]]), 1e-5, 1e-5)
    assert error < 1, f"{error:.3g} times the allowed error in {found}"


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "internvl"])
def test_readers_and_ablation_equal_brute_force(name: str, load: Any) -> None:  # noqa: F811
    """Some patches stop reading some others, of which one is among them and keeps itself."""
    loaded = load(name, torch.float64)
    at = loaded.inputs(PROMPT, *pictures(name)).images[0]["positions"][0]
    for ablation in ("neg-inf", "zero-value"):
        with true_float64():
            route = {"routes": (f"{at + 1}-{at + 2} -> stop",), "spans": (f"stop={at + 2}-{at + 3}",)}
            both = Both(name, loaded, torch.float64, ablation=ablation, **route)
            (found,), (said,) = both.all_rows(), both.manifest["effects"]["routes"]
            reading = both.rows_at(said["readers"]["positions"])
            error = both.worst(found, both.rows_at([at + 1, at + 2]), 1e-9, 1e-13, reading)
            assert error < 1, f"{error:.3g} times the allowed error in {found}"


def test_patches_and_heads(load: Any) -> None:  # noqa: F811
    """A patch by itself equals brute force; the heads of a layer, masked one by one, are all of it together."""
    loaded = load("qwen3_vl", torch.float64)
    shown = [picture(56, 84)]
    with true_float64():
        both = Both("qwen3_vl", loaded, torch.float64, shown, mask_unit="patch", mask_layers="1")
        places = {(found["patch_row"], found["patch_col"]): found for found in both.all_rows()}
        assert len(places) == 24
        found = places[2, 1]  # the second token row's first token has the rows 12 to 15
        assert both.worst(found, [3 * 4 + 1], 1e-9, 1e-13) < 1
        every, one = (
            Both("qwen3_vl", loaded, torch.float64, shown, spans=("5",), mask_layers="1", **more).all_rows()
            for more in ({"heads": "1.0,1.1,1.2,1.3"}, {"by_head": True})
        )
        (whole,) = Both("qwen3_vl", loaded, torch.float64, shown, spans=("5",), mask_layers="1").all_rows()
    assert every[0]["logprob_change"] == pytest.approx(whole["logprob_change"], rel=1e-9)
    assert [found["head"] for found in one] == [0, 1, 2, 3] and all(found["image_l2"] > 0 for found in one)


def test_patches_that_become_no_token_are_in_the_table(load: Any) -> None:  # noqa: F811
    """CLIP's first row: outside of the grid, and at no position."""
    both = Both("llava", load("llava"), torch.float32, [picture(84, 112)], mask_unit="patch", mask_layers="0")
    table = checked(both.table)
    assert [int(table[name][-1]) for name in ("token_position", "patch_row", "patch_col")] == [-1, -1, -1]
    assert len(table["patch_row"]) == 17 and table["image_l2"][-1] > 0


def test_what_no_reader_sees_changes_exactly_nothing(load: Any) -> None:  # noqa: F811
    """In layer 0 of Qwen2.5-VL, tokens in another window; in every layer, those of another picture."""
    loaded, shown = load("qwen2_5_vl"), pictures("qwen2_5_vl")
    first = loaded.inputs(PROMPT, *shown).images[0]["positions"][0]
    for layers, readers in (("0", f"{first + 4}"), ("all", "image:1")):
        both = Both(
            "qwen2_5_vl", loaded, torch.float32, shown, spans=(f"{first}",), mask_layers=layers, readers=(readers,)
        )
        (found,) = both.all_rows()
        assert [found[name] for name in ("logprob_change", "kl", "final_l2", "image_l2")] == [0] * 4


def test_the_whole_answer_has_the_distances_of_its_picture(load: Any) -> None:  # noqa: F811
    """And coarse units are split, with one forward for many masks."""
    loaded = load("smolvlm")
    both = Both("smolvlm", loaded, torch.float32, refine=1, max_masks=12, num_tokens=2)
    rows = zip(
        *(both.table[name] for name in ("generation_step", "unit_level", "token_position", "image_l2")), strict=True
    )
    by_unit: dict[Any, set[float]] = {}
    for _, level, position, moved in rows:
        by_unit.setdefault((level, position), set()).add(moved)
    assert len(by_unit) > 4 and all(len(each) == 1 for each in by_unit.values())
    assert {level for level, _ in by_unit} >= {0, 1}


def test_whole_forwards_give_the_same(load: Any) -> None:  # noqa: F811
    """What decoders that cannot be carried on by rows are measured with; and masks of single rows, in pieces."""
    loaded = load("gemma3")
    inputs = loaded.inputs(PROMPT, picture(84, 112))
    tokens = [token for token in inputs.tokens if token.kind == "image"]
    given = tensors(inputs)
    seen = seen_by_tower(loaded.model, given, tokens)
    effects = TowerEffects(seen, 0.0, loaded.model, loaded.processor.tokenizer, given, 0)
    edits = [Edit(seen.pictures.rows_at([tokens[3].position])), Edit(tuple(range(len(seen.pictures.picture))))]
    whole = TowerForwards(loaded.model, effects.passage, given, seen).checked()
    with mock.patch("mask_impact.effects.tower_attention.WEIGHTS_AT_ONCE", 1000):
        carried = effects.runner.run(1, 1, effects.runner.reach(1, 1, edits).starts[0], edits)
    expected = whole.run(1, 1, 0, edits)
    torch.testing.assert_close(carried.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert carried.image is not None and expected.image is not None
    torch.testing.assert_close(carried.image, expected.image, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(carried.logits[0], carried.logits[1], atol=1e-4)


def test_routes_between_pictures_are_refused(load: Any) -> None:  # noqa: F811
    loaded = load("qwen2_5_vl")
    with pytest.raises(UserError, match="patches of one picture do not read those of another"):
        Both("qwen2_5_vl", loaded, torch.float32, routes=("image:0 -> image:1",))


def test_refused_by_name_with_the_reason(load: Any) -> None:  # noqa: F811
    if "got_ocr2" not in available():
        pytest.skip(f"transformers {transformers.__version__} cannot build it")
    loaded = load("got_ocr2")
    inputs = loaded.inputs(PROMPT, picture(84, 112))
    prepared = asked(loaded.model, loaded.processor.tokenizer, inputs, tower="vision", effects=True)
    with pytest.raises(UnsupportedModel, match=r"'got_ocr2'.*a part of several image tokens"):
        effects_alone(loaded.model, prepared)
