"""From a request to its files: find the model, read the inputs, check, load, measure, write.

    session = Session(Settings("demo"))
    prepared = session.prepare(Request("The capital of France is"))
    run, paths = session.measure("paris", prepared)

What is wrong with a request comes out in `prepare`, before the weights are loaded.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mask_impact import effects_run, experiment, models, pairs, processors, report
from mask_impact.effects_run import Asked
from mask_impact.errors import UserError
from mask_impact.experiment import Options, Progress, Run, Units
from mask_impact.extra import Columns
from mask_impact.inputs import ModelInputs, Token, text_inputs
from mask_impact.options import Request, Settings
from mask_impact.positions import Places, tower_of, tower_size
from mask_impact.results import ResultFiles
from mask_impact.table import Block
from mask_impact.units import MASKED, Chosen, Unit, units
from mask_impact.vision import open_pictures, vision_inputs

# Measured on the demo model, rounded up; html with what it needs while it is written, the page and its pictures apart.
BYTES_PER_ROW = {"csv": 50, "json": 60, "parquet": 12, "html": 20}
BYTES_PER_FILE = {"html": 1_000_000}


@dataclass(frozen=True)
class Prepared:
    """A request that fits the model."""

    tokenizer: Any
    inputs: ModelInputs
    options: Options
    places: Places
    layers: int  # how many are measured
    heads: int
    units: Units  # what is masked together
    plain: bool  # every token of the mask mode by itself
    unit_count: int  # in the prompt
    effects: Asked | None
    pairs: int  # of how many of the strongest units, all pairs are measured too

    def masked(self, query: int) -> int:
        """How many rows the query position has in each layer and variant."""
        count = self.places.prompt if self.places.tower == "encoder" else query + 1  # an encoder's query sees all
        tokens = self.inputs.tokens[:count]
        generated = count - len(tokens) if self.options.mask_mode != "vision" else 0
        if self.plain:
            return sum(map(MASKED[self.options.mask_mode], tokens)) + generated
        return self.unit_count + generated

    @property
    def queries(self) -> list[int]:
        """The query positions, if generation does not stop early."""
        return self.places.queries(self.options.queries)

    @property
    def variants(self) -> int:
        return sum({"full": 1, "attn": 1, "head": self.heads}[variant] for variant in self.options.variants)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Queries, variants, layers and masked tokens of the table: all of them at the last query, fewer before it."""
        return len(self.queries), self.variants, self.layers, self.masked(max(self.queries))

    @property
    def rows(self) -> int:
        """How many rows the table has at most; generation may stop early."""
        return self.variants * self.layers * sum(map(self.masked, self.queries))

    @property
    def units_of_work(self) -> int:
        """Forwards and replayed layers, for the progress."""
        return self.options.num_tokens * (1 + (self.effects is not None)) + len(self.queries) * self.layers

    def bytes(self, formats: Sequence[str]) -> int:
        """How much room the results need at most."""
        per_row = sum(BYTES_PER_ROW[form] for form in formats)
        return per_row * self.rows + sum(BYTES_PER_FILE.get(form, 0) for form in formats)


def prepare(reader: Any, config: Any, request: Request, vision: bool) -> Prepared:
    """Read the inputs of `request` with the model's tokenizer or processor. Raises UserError."""
    tower = tower_of(config, request.tower, request.attention, request.num_tokens)
    if tower == "encoder" and request.effects:
        raise UserError("--effects are on the decoder's answer; leave --tower encoder or --effects away")
    count, heads = tower_size(config, tower)
    chosen = experiment.chosen_layers(request.layers or None, count)
    options = Options(
        num_tokens=request.num_tokens,
        layers=chosen,
        variants=request.variants,
        head_space=request.head_space,
        mask_mode=request.mask_mode,
        vision_attention=request.vision_attention,
        ablation=request.ablation,
        queries=request.queries if request.queries is not None else ("all" if tower == "encoder" else "last"),
        tower=request.tower,
        attention=request.attention,
    )
    options.wanted()
    asked = Chosen.of(request.mask_unit, request.spans, request.regions, request.region_masks)
    if vision:
        pictures = open_pictures(request.images)
        tokenizer = reader.tokenizer
        inputs = vision_inputs(reader, config, request.prompt, pictures, request.max_pixels)
    else:
        tokenizer, inputs = reader, text_inputs(reader, request.prompt, request.chat)
    experiment.check_masks(inputs, options)
    experiment.check_length(config.get_text_config(decoder=True), len(inputs.tokens), request.num_tokens)
    places = Places.of(len(inputs.tokens), request.num_tokens, tower)
    places.queries(options.queries)
    effects = effects_run.asked(request, tokenizer, count)

    in_prompt = units(asked, tokenizer, inputs, inputs.tokens, request.mask_mode)

    def together(tokens: Sequence[Token]) -> Sequence[Unit]:
        if asked.given:  # spans and regions are the same at every step, and finding them can mean to open a picture
            return in_prompt
        return units(asked, tokenizer, inputs, tokens, request.mask_mode)

    if not in_prompt:
        raise UserError(f"nothing is masked: the prompt has no {asked.unit} in mask mode {request.mask_mode}")
    return Prepared(
        tokenizer, inputs, options, places, len(chosen or range(count)), heads, together, asked.plain,
        len(in_prompt), effects, request.pairs,
    )  # fmt: skip


def measured(
    model: Any, prepared: Prepared, write: Callable[[Block], None], progress: Progress = lambda what: None
) -> tuple[Run, dict[str, Columns]]:
    """The run, whose blocks go to `write`, and the tables beside it: "pairs", "effects", "trace" where asked for."""
    tokenizer, inputs, options = prepared.tokenizer, prepared.inputs, prepared.options
    run = experiment.run(model, tokenizer, inputs, options, write, progress, None if prepared.plain else prepared.units)
    run.manifest["effects"] = None
    tables: dict[str, Columns] = {}
    if prepared.pairs:
        ranked = [position for position, _, _ in run.top.ranked()]
        apart = run.manifest["decoder_start"]
        tables["pairs"] = pairs.measure(
            model, tokenizer, inputs, options, prepared.units, ranked, prepared.pairs, apart, progress
        )
    if prepared.effects is None:
        return run, tables
    started = time.perf_counter()
    generated = [found["id"] for found in run.manifest["generated"]]
    found, run.manifest["effects"] = effects_run.measure(
        model, tokenizer, inputs, options, prepared.effects, generated, prepared.units, progress
    )
    run.manifest["seconds"]["effects"] = time.perf_counter() - started
    return run, tables | found


def top_tokens(run: Run, count: int = 5) -> list[dict[str, Any]]:
    """The most important tokens: largest value of the first variant over layers and steps, and the layer where it is.

    Position 0, which often just absorbs attention, comes on top of `count`.
    """
    ranked = run.top.ranked()
    kept = [row for row in ranked if row[0] > 0][:count] + [row for row in ranked if row[0] == 0]
    return [{"position": position, "value": value, "layer": layer} for position, value, layer in kept]


def load_reader(source: models.Source) -> Any:
    """The processor of a vision-language model, the tokenizer of a text model. Raises UserError."""
    return processors.load_processor(source) if source.vision else models.load_tokenizer(source)


class Session:
    """One model for one request or many; its weights are loaded when they are first needed."""

    def __init__(self, settings: Settings) -> None:
        """Raises UserError for a device that is not there and a model that cannot be had."""
        self.settings = settings
        self.device = models.choose_device(settings.device)
        self.dtype = models.choose_dtype(settings.dtype, self.device)
        self.source = models.find_model(
            settings.model, settings.trust_remote_code, settings.allow_pickle, settings.vision
        )
        self.reader = load_reader(self.source)

    @cached_property
    def fingerprint(self) -> str:
        """Of the model's files, see `models.fingerprint`; once, since all files are looked at."""
        return models.fingerprint(self.source)

    @cached_property
    def model(self) -> Any:
        settings = self.settings
        limits = dict(settings.max_memory) if settings.max_memory else None
        return models.load_model(self.source, self.device, self.dtype, settings.device_map, limits)

    def prepare(self, request: Request) -> Prepared:
        """Raises UserError for a request that does not fit the model."""
        return prepare(self.reader, self.source.config, request, self.settings.vision)

    def check_room(self, needed: int) -> None:
        """Raises UserError when the disk cannot hold `needed` bytes of results."""
        free = shutil.disk_usage(self.settings.output_dir).free
        if needed > free:
            raise UserError(
                f"the results need about {needed / 1e6:,.0f} MB, but the disk of {self.settings.output_dir} has "
                f"{free / 1e6:,.0f} MB free; choose another --output-dir, or fewer --layers or --variants"
            )

    def check_report(self, prepared: Prepared) -> None:
        """Raises UserError when a report is all that is to be written, and the run is larger than one may be."""
        if self.settings.formats != ("html",):
            return
        size = report.base64_size(prepared.shape)
        if size > report.MAX_BASE64:
            raise UserError(
                f"the report would be {size / 1e6:,.0f} MB; a page holds at most {report.MAX_BASE64 / 1e6:,.0f} MB; "
                "choose --format parquet and open it with visualize_results.html, or fewer --layers or --variants"
            )

    def measure(
        self,
        name: str,
        prepared: Prepared,
        about: Mapping[str, Any] | None = None,
        seconds: Mapping[str, float] | None = None,
        progress: Progress = lambda what: None,
    ) -> tuple[Run, dict[str, Path]]:
        """The run and its files, by format; either all of them are written or none.

        Args:
            about: further keys of the manifest.
            seconds: what was spent on the run before, for the manifest.
        """
        started = time.perf_counter()
        model = self.model
        spent = {"prepare": 0.0, "load": time.perf_counter() - started, **(seconds or {})}
        with ResultFiles(self.settings.output_dir, name, self.settings.formats) as files:
            run, tables = measured(model, prepared, files.write, progress)
            for kind, columns in tables.items():
                files.add_table(kind, columns)
            run.manifest["model"] |= self.source.manifest
            run.manifest["top_tokens"] = top_tokens(run)
            spent["total"] = spent["prepare"] + time.perf_counter() - started
            run.manifest["seconds"] |= spent
            paths = files.commit({"name": name, **(about or {}), **run.manifest}, prepared.inputs.pictures)
            run.manifest["notes"] = [*run.manifest["notes"], *files.notes]  # for the summary
        return run, paths
