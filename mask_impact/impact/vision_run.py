"""One run of `tower` vision: which patches the other patches of a picture read, in every layer of the vision encoder.

In:  a model and a checked request. Out: a Block for each layer, and the manifest.

The model generates one token with its pictures, untouched, while hooks keep what each layer of the tower is called
with. Then each layer is called again without each unit (`vision_layer.py`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mask_impact.distances import METRICS
from mask_impact.errors import UserError
from mask_impact.impact.manifest import Findings, manifest
from mask_impact.impact.meter import Wanted
from mask_impact.impact.record import generate
from mask_impact.impact.run import Run
from mask_impact.impact.top_tokens import TopTokens
from mask_impact.impact.vectors import Vectors
from mask_impact.impact.vision_layer import TowerLayer
from mask_impact.model.generation import evaluating, model_tensors
from mask_impact.model.memory import Portion, explained, release_free_memory
from mask_impact.model.untouched import check_untouched, is_checked
from mask_impact.model.vision_patches import NO_TOKEN, positions_of_rows
from mask_impact.model.vision_tower import LayerCall, TowerCalls, unsupported_tower, vision_implementation
from mask_impact.model.vision_units import Pictures, check_readers
from mask_impact.options import VARIANTS, Progress, unseen
from mask_impact.prompt.inputs import stop_ids
from mask_impact.prompt.prepared import Prepared
from mask_impact.table import Block

OTHER_TOWERS = ("high_res_vision_config",)  # of DeepSeek-VL hybrid
HOW = "while its vision tower is recorded"


def run(model: Any, prepared: Prepared, write: Callable[[Block], None], progress: Progress = unseen) -> Run:
    """Measure every unit in every chosen layer.

    Raises UnsupportedModel for a tower that cannot be measured truthfully, OutOfMemory where not even one mask fits.
    """
    started = time.perf_counter()
    with explained("the vision tower"), torch.no_grad(), evaluating(model):
        measured = VisionMeasurement(model, prepared, write, progress)
        measured.record()
        measured.measure()
    return measured.finished(time.perf_counter() - started)


def unmeasured(model: Any, prepared: Prepared, progress: Progress = unseen) -> dict[str, Any]:
    """The manifest of a run in which no layer is measured, but only what the model answers."""
    with explained("the vision tower"), torch.no_grad(), evaluating(model):
        found = VisionMeasurement(model, prepared, lambda block: None, progress)
        found.record()
    return found.finished(0.0).manifest | {"metrics": [], "unmasked_length": None}


class VisionMeasurement:
    """A run in progress."""

    def __init__(self, model: Any, prepared: Prepared, write: Callable[[Block], None], progress: Progress) -> None:
        self.model, self.prepared, self.request = model, prepared, prepared.request
        self.write, self.progress = write, progress
        self.metrics = self.request.metrics
        self.compared = self.metrics if "l2" in self.metrics else (*self.metrics, "l2")
        full, attn, heads = (variant in self.request.variants for variant in VARIANTS)
        self.wanted = Wanted(full, attn, heads, self.request.head_space)
        self.findings = Findings(tokens=list(prepared.inputs.tokens), metrics=self.metrics, replay="pictures")
        self.findings.notes = list(prepared.inputs.notes)
        self.findings.seconds = dict.fromkeys(("recorded_forward", "decode", "check", "replay", "write"), 0.0)
        self.top = TopTokens()
        self.portion = Portion()
        self.lengths: dict[int, list[list[float]]] = {}  # by picture: layer, variant

    def record(self) -> None:
        """Generate a token, follow the patches to their image tokens, and lay out the units."""
        tensors = model_tensors(self.model, self.prepared.inputs)
        tower = TowerCalls(self.model)
        with tower.recording():
            logits = self._generate(tensors)
        if not self.request.no_check and not is_checked(self.model, HOW):
            self.findings.seconds["untouched"] = check_untouched(self.model, tensors, logits, HOW)
        tokens = [token for token in self.prepared.inputs.tokens if token.kind == "image"]
        positions = positions_of_rows(self.model, tensors, tower.calls, [token.position for token in tokens])
        hidden = tower.calls[0].hidden
        self.pictures = Pictures(positions, tokens, hidden.shape[0] if hidden.ndim == 3 else 1)
        check_readers(self.pictures, self.prepared.readers)
        self.units = self.pictures.of_request(self.prepared)
        self.calls = [call for call in tower.calls if call.index in self.prepared.layers]
        self._notes(len(tokens))

    def _generate(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Have the answer generated, or follow the given one; [V] the logits of its first token."""
        prepared, config = self.prepared, self.model.config
        generation = self.model.generation_config
        stops = [] if prepared.given else stop_ids(prepared.tokenizer, generation, config, config.get_text_config())
        steps = iter(range(self.request.num_tokens))

        def begins() -> None:
            self.progress("generate and record", prepared.generation(next(steps)))

        answer = prepared.given or self.request.num_tokens
        tokens, probabilities, seconds, logits, own = generate(self.model, tensors, answer, stops, begins)
        self.findings.add_answer(prepared.tokenizer, tokens, probabilities, own, stops, bool(prepared.given))
        self.findings.seconds["recorded_forward"], self.findings.seconds["decode"] = seconds[0], sum(seconds[1:])
        return logits

    def _notes(self, tokens: int) -> None:
        rows_of, note = self.pictures.rows_of, self.findings.note
        if extra := len(rows_of.get(NO_TOKEN, ())):
            note(f"{extra} rows of the vision tower become no image token (CLS, registers, padding): position -1")
        if self.request.mask_unit == "patch" or extra > 1:
            note("several patches have one position; where a position has one value, it is the largest of theirs")
        if lacking := tokens - len(rows_of.keys() - {NO_TOKEN}):
            note(f"{lacking} image tokens are made of no patch (ends of rows, separators): they have no rows")
        read = _features_from(self.model.config)
        if read is not None and read < self.prepared.model_layers:
            note(f"the decoder gets what layer {read - 1} of the tower gives; later layers do not bear on the answer")
        if other := next((name for name in OTHER_TOWERS if getattr(self.model.config, name, None) is not None), None):
            note(f"the model has another vision tower ({other}), which is not measured")
        if self.model.config.vision_config._attn_implementation != vision_implementation(self.model):
            note(f"the tower's layers were called again with {vision_implementation(self.model)} attention")

    def measure(self) -> None:
        for call in self.calls:
            self.progress(f"vision layer {call.index}", self.prepared.layer_work)
            self._layer(call)
            release_free_memory()

    def _layer(self, call: LayerCall) -> None:
        started = time.perf_counter()
        names, values = self.layer_values(call)
        self.findings.seconds["replay"] += time.perf_counter() - started
        started = time.perf_counter()
        self._write(call.index, names, values[..., : len(self.metrics)].astype(np.float32))
        self.findings.seconds["write"] += time.perf_counter() - started

    def layer_values(self, call: LayerCall) -> tuple[list[str], np.ndarray]:
        """The names of the variants, and [P, V, M] their metrics under each unit, L2 last where it was not chosen."""
        layer = TowerLayer(self.model, call, self.request.ablation == "zero-value")
        names = self.wanted.names(layer.attention.output.shape[1])
        precise = layer.base.update[0, 0, 0].cpu().numpy().dtype
        values = np.zeros((len(self.units), len(names), len(self.compared)), precise)
        read = [self._picture(layer, picture, names, values) for picture in range(self.pictures.count)]
        self.findings.noise(layer.noise)
        self.findings.layers.append(call.index)
        self.findings.variants = names
        self._check_acted(call.index, layer, values, any(read))
        return names, values

    def _picture(self, layer: TowerLayer, picture: int, names: list[str], values: np.ndarray) -> bool:
        """Fill in the rows of `values` [P, V, M] that are of this picture's units; whether any reader sees any."""
        rows = torch.tensor(self.pictures.readers(self.prepared.readers, picture), dtype=torch.int64)
        if not len(rows):
            return False  # nothing of it is compared
        own = [index for index, unit in enumerate(self.units) if self.pictures.picture[unit.rows[0]] == picture]
        todo = [index for index in own if layer.attention.seen_by(self.units[index].rows)[rows].any()]

        rounded = layer.rounded(rows, self.wanted)
        floors = np.nan_to_num(self._metrics(rounded)[0], nan=0.0, posinf=0.0)  # [V, M]

        def measured(part: Sequence[int]) -> np.ndarray:
            masked = [self.units[index].rows for index in part]
            found = self._metrics(layer.vectors(layer.without(masked), rows, self.wanted))
            still = found[..., self.compared.index("l2")] == 0  # [R, V] changes that rounding has swallowed
            if still.any():
                small = self._metrics(layer.magnified(masked, rows, self.wanted))
                found = np.where(still[..., None], np.minimum(small, floors), found)
            return found

        for part in _of_size(todo, layer.at_once()):
            values[part] = np.concatenate(self.portion.pieces(part, len(part), measured))
        floors = floors.astype(np.float32)
        count, found = len(self.metrics), values[own].astype(np.float32)
        self.findings.floors.add(layer.call.index, names, floors[..., :count], found[..., :count])
        lengths = torch.cat([each.base.norm(dim=-1).view(-1) for each in rounded]).float().cpu().numpy()
        self.lengths.setdefault(picture, []).append([float(str(length)) for length in lengths])
        if self.pictures.count == 1:
            self.findings.lengths.add(self.prepared.places.predicting, layer.call.index, names, lengths)
        return bool(todo)

    def _metrics(self, vectors: Sequence[Vectors]) -> np.ndarray:
        """[R, V, M] of R masks."""
        return torch.cat([each.metrics(self.compared, None) for each in vectors], dim=2)[:, 0].cpu().numpy()

    def _check_acted(self, index: int, layer: TowerLayer, values: np.ndarray, read: bool) -> None:
        """Raises UserError for numbers that are none, UnsupportedModel where no mask changed anything that is read."""
        if not np.isfinite(values).all():
            what = ", ".join(METRICS[name].in_text for name in self.metrics)
            raise UserError(
                f"vision layer {index} has no {what}: a vector is zero or too large; choose another `dtype`"
            )
        if (
            layer.attention.output.any()
            and read
            and len(self.units) > 1
            and not values[..., self.compared.index("l2")].any()
        ):
            raise unsupported_tower(self.model.config, f"layer {index}: masking changes nothing")

    def _write(self, index: int, names: list[str], values: np.ndarray) -> None:
        block = Block(
            generation_step=0,
            layer=index,
            tokens=[unit.label for unit in self.units],
            positions=np.array([unit.position for unit in self.units], np.int64),
            variants=names,
            metrics=self.metrics,
            values=values,
            places=np.array([unit.place for unit in self.units]) if self.request.mask_unit == "patch" else None,
        )
        ranked = [at for at, unit in enumerate(self.units) if unit.position != NO_TOKEN]
        self.top.add(0, index, block.positions[ranked].tolist(), block.values[ranked, 0, 0].tolist())
        self.write(block)

    def finished(self, seconds: float) -> Run:
        found = self.findings
        found.seconds["measure_total"] = seconds
        if self.portion.too_many:
            found.note(f"memory ran out with {self.portion.too_many} masks at once; {self.portion.most} were used")
        if note := found.floors.note():
            found.note(note)
        about = manifest(self.model, self.prepared.inputs, self._chosen(), found, [self.prepared.places.predicting])
        return Run(about | {"attention_implementation": vision_implementation(self.model)}, self.top)

    def _chosen(self) -> dict[str, Any]:
        """What the manifest says of the request."""
        request, pictures = self.request, self.pictures
        together = [{"label": unit.label, "positions": [unit.position]} for unit in self.units]
        if request.mask_unit != "patch":
            asked = self.prepared.units(self.prepared.inputs.tokens)
            together = [{"label": unit.label, "positions": list(unit.positions)} for unit in asked]
        readers = self.prepared.readers
        return {
            "head_space": request.head_space,
            "mask_mode": "vision",
            "vision_attention": request.vision_attention,
            "ablation": request.ablation,
            "queries": None,
            "tower": "vision",
            "decoder_start": None,
            "units": None if self.prepared.plain else together,
            "masks": "the patches of each unit together, in the vision tower",
            "vision": {
                "unit": request.mask_unit or ("token" if self.prepared.plain else "span"),
                "patches": len(pictures.picture),
                "patches_without_token": pictures.rows_of.get(NO_TOKEN, []),
                "readers": "all patches of the picture" if readers is None else sorted(readers),
                "unmasked_lengths": [self.lengths.get(each) for each in range(pictures.count)],
            },
        }


def _of_size(items: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _features_from(config: Any) -> int | None:
    """How many layers of the tower the decoder's features have gone through; None for all."""
    layer = getattr(config, "vision_feature_layer", None)
    if not isinstance(layer, int):
        return None
    return layer if layer >= 0 else config.vision_config.num_hidden_layers + 1 + layer
