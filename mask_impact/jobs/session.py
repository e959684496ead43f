"""From a request to its files: find the model, read the inputs, check, load, measure, write.

    session = Session(Settings("demo"))
    prepared = session.prepare(Request("The capital of France is"))
    run, paths = session.run("paris", prepared)

What is wrong with a request comes out in `prepare`, before the weights are loaded.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mask_impact.effects import run as effects_run
from mask_impact.effects.deepstack import described, injection_table
from mask_impact.effects.tower_run import TowerPassages
from mask_impact.errors import UserError
from mask_impact.files import page
from mask_impact.files.folder import check_room
from mask_impact.files.results import ResultFiles
from mask_impact.impact import pairs, vision_run
from mask_impact.impact import run as impact_run
from mask_impact.impact.manifest import manifest as describe
from mask_impact.impact.null import Null, add_percentiles
from mask_impact.impact.run import Run
from mask_impact.impact.top_tokens import RULE, TopTokens
from mask_impact.jobs.answer import answer
from mask_impact.jobs.prepared import Prepared, prepare
from mask_impact.model import find, load, processors
from mask_impact.model.costs import NOMINAL, speed_of
from mask_impact.model.generation import evaluating
from mask_impact.model.towers import towers
from mask_impact.options import Progress, Request, Settings, named, unseen
from mask_impact.table import Block, Columns


def run_prepared(
    model: Any,
    prepared: Prepared,
    write: Callable[[Block], None],
    progress: Progress = unseen,
    null: Null | None = None,
) -> tuple[Run, dict[str, Columns]]:
    """The run, whose blocks go to `write`, and the tables beside it: "pairs", "effects", "trace" where asked for."""
    measure = vision_run.run if prepared.tower.of_patches else impact_run.run
    run = measure(model, prepared, write, progress)
    run.manifest |= {"top_tokens": run.top.listed(run.manifest["units"]), "reads": run.reads, "effects": None}
    add_percentiles(run.manifest, run.top.ranked(), null)
    tables: dict[str, Columns] = dict(run.tables)
    if prepared.request.pairs:
        ranked = [position for position, _, _ in run.top.ranked()]
        tables["pairs"] = pairs.pair_impacts(model, prepared, ranked, run.manifest["decoder_start"], progress)
    if prepared.effects is not None:
        tables |= add_effects(run.manifest, model, prepared, progress, run.top)
    if prepared.request.deepstack:
        generated = [found["id"] for found in run.manifest["generated"]]
        tables["deepstack"] = injection_table(model, prepared, generated, progress)
        run.manifest["effects"]["deepstack"] = described(model.config)
    return run, tables


def effects_alone(
    model: Any, prepared: Prepared, progress: Progress = unseen
) -> tuple[dict[str, Any], dict[str, Columns]]:
    """The manifest and the tables of a request with effects, without a run that masks single layers.

    The manifest is that of a run in which no layer was measured; with `top` that of the run which gives the ranking.
    """
    if prepared.request.top:
        run, tables = _ranked(model, prepared, progress)
        return run.manifest, tables
    if prepared.tower.of_patches:
        manifest = vision_run.unmeasured(model, prepared, progress)
        return manifest, add_effects(manifest, model, prepared, progress)
    with torch.no_grad(), evaluating(model):
        findings = answer(model, prepared, progress)
        masked = prepared.units(findings.tokens[: len(findings.tokens) - 1])  # what the last predicting query sees
        manifest = describe(model, prepared.inputs, impact_run.chosen_of(prepared, masked), findings, [])
        manifest |= {"metrics": [], "unmasked_length": None}
        return manifest, add_effects(manifest, model, prepared, progress)


def _ranked(model: Any, prepared: Prepared, progress: Progress) -> tuple[Run, dict[str, Columns]]:
    """The run that ranks the units, whose table is not kept, and the tables of effects."""
    ranking = replace(prepared, request=replace(prepared.request, variants=("full",)))
    run = impact_run.run(model, ranking, lambda block: None, progress)
    return run, add_effects(run.manifest, model, prepared, progress, run.top)


def add_effects(
    manifest: dict[str, Any], model: Any, prepared: Prepared, progress: Progress, top: TopTokens | None = None
) -> dict[str, Columns]:
    """Measure the effects on the tokens that `manifest` says were generated; it gets what it says of them.

    `top`: of a run, needed where the request has `top`.
    """
    started = time.perf_counter()
    generated = [found["id"] for found in manifest["generated"]]
    ranked = top.ranked() if top is not None else ()
    kind = TowerPassages if prepared.tower.of_patches else None
    tables, said = effects_run.effect_tables(model, prepared, generated, progress, ranked, kind)
    if said["top"]:
        metric, variant = manifest["metrics"][0]["name"], manifest["variants"][0]
        said["top"]["ranked_by"] = {"rule": RULE, "metric": metric, "variant": variant, "layers": manifest["layers"]}
    manifest["effects"] = said
    manifest["seconds"]["effects"] = time.perf_counter() - started
    return tables


def name_options(manifest: dict[str, Any], names: Mapping[str, str]) -> None:
    """Have the notes call the options as `names` does."""
    for part in (manifest, manifest["effects"] or {}):
        part["notes"] = [named(note, names) for note in part.get("notes", ())]


def load_reader(source: find.Source) -> Any:
    """The processor of a vision-language model, the tokenizer of a text model. Raises UserError."""
    return processors.load_processor(source) if source.vision else load.load_tokenizer(source)


class Session:
    """One model for one request or many; its weights are loaded when they are first needed."""

    def __init__(self, settings: Settings, names: Mapping[str, str] | None = None) -> None:
        """
        Args:
            names: what notes call the options, {"num_tokens": "--num-tokens"}; as the fields are called if None.

        Raises UserError for a device or a model that is not available.
        """
        self.settings, self.names = settings, names or {}
        self.device = load.choose_device(settings.device)
        self.dtype = load.choose_dtype(settings.dtype, self.device)
        self.source = find.find_model(
            settings.model,
            settings.trust_remote_code,
            settings.allow_pickle,
            settings.vision,
            settings.revision,
            settings.adapter,
        )
        self.reader = load_reader(self.source)

    @cached_property
    def fingerprint(self) -> str:
        """Of the model's files, see `models.fingerprint`; once, since all files are looked at."""
        return find.fingerprint(self.source)

    @property
    def identity(self) -> dict[str, str]:
        """What numbers depend on besides the request, as a manifest keeps it for `resume`."""
        return {
            "model": self.settings.model,
            "model_fingerprint": self.fingerprint,
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    @cached_property
    def model(self) -> Any:
        settings = self.settings
        limits = dict(settings.max_memory) if settings.max_memory else None
        return load.load_model(self.source, self.device, self.dtype, settings.device_map, limits)

    @cached_property
    def speed(self) -> float:
        """Operations a second of the device, timed for a moment."""
        return speed_of(self.device, self.dtype, self.source.config.get_text_config(decoder=True))

    @property
    def notes(self) -> list[str]:
        """What was left out, added or chosen as the model was loaded; nothing before it is."""
        return list(load.notes_of(vars(self)["model"])) if "model" in vars(self) else []

    def prepare(self, request: Request) -> Prepared:
        """Raises UserError for a request that does not fit the model."""
        tower = towers(self.source.config).get(request.tower)
        timed = request.effects or (tower is not None and tower.of_patches)  # of nothing else is the time estimated
        speed = self.speed if timed else NOMINAL
        return prepare(self.reader, self.source.config, request, self.settings.vision, speed)

    def check_room(self, needed: int) -> None:
        """Raises UserError when the disk cannot hold `needed` bytes of results."""
        check_room(self.settings.output_dir, needed, "the results need", "or fewer `layers` or `variants`")

    def check_report(self, prepared: Prepared) -> None:
        """Raises UserError when a report is all that is to be written, and the run is larger than one may be."""
        if self.settings.formats != ("html",):
            return
        size = page.base64_size(prepared.shape, metrics=len(prepared.request.metrics))
        if size > page.MAX_BASE64:
            raise UserError(
                f"the report would be {size / 1e6:,.0f} MB; a page holds at most {page.MAX_BASE64 / 1e6:,.0f} MB; "
                "choose `formats` parquet and open it with visualize_results.html, or fewer `layers` or `variants`"
            )

    def run(
        self,
        name: str,
        prepared: Prepared,
        about: Mapping[str, Any] | None = None,
        seconds: Mapping[str, float] | None = None,
        progress: Progress = unseen,
        null: Null | None = None,
    ) -> tuple[Run, dict[str, Path]]:
        """The run and its files, by format; either all of them are written or none.

        Args:
            about: further keys of the manifest.
            seconds: what was spent on the run before, for the manifest.
            null: what `null_runs` of the request asks for, see jobs/null.py.
        """
        started = time.perf_counter()
        model = self.model
        spent = {"prepare": 0.0, "load": time.perf_counter() - started, **(seconds or {})}
        with ResultFiles(self.settings.output_dir, name, self.settings.formats) as files:
            run, tables = run_prepared(model, prepared, files.write, progress, null)
            for kind, columns in tables.items():
                files.add_table(kind, columns)
            run.manifest["model"] |= self.source.manifest
            name_options(run.manifest, self.names)
            spent["total"] = spent["prepare"] + time.perf_counter() - started
            run.manifest["seconds"] |= spent
            paths = files.commit({"name": name, **(about or {}), **run.manifest}, prepared.inputs.pictures)
            run.manifest["notes"] = [*run.manifest["notes"], *files.notes]  # for the summary
        return run, paths
