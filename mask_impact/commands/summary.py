"""What the command prints about a run, before it and after it."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mask_impact.commands.first_lines import costly, first_lines, place_of, probabilities
from mask_impact.distances import METRICS
from mask_impact.effects.answer import WHOLE_ANSWER
from mask_impact.impact.noise_floors import floor_over_layers
from mask_impact.impact.run import Run
from mask_impact.impact.top_tokens import RULE, set_apart
from mask_impact.prompt.inputs import ModelInputs
from mask_impact.table import CROSS

SHOWN = 5  # probabilities of generated tokens


def plan(inputs: ModelInputs, mask_mode: str, units: Sequence[str] = ()) -> str:
    """What will be masked and what will not, and how pictures and frames were resized.

    `units`: the spans and regions that were given; then they are masked, whatever the mask mode.
    """
    stills = [picture for picture in inputs.images if "frame" not in picture]
    lines = [line for index, picture in enumerate(stills) for line in _picture(f"image {index}", picture)]
    for index, video in enumerate(inputs.videos):
        frames = [picture for picture in inputs.images if picture.get("video") == index]
        lines += _picture(f"video {index}", video | _of_frames(video, frames))
    images = sum(found.kind == "image" for found in inputs.tokens)
    text = len(inputs.tokens) - images
    shown = [counted(len(stills), "image")] if stills or not inputs.videos else []
    shown += [counted(len(inputs.videos), "video")] if inputs.videos else []
    places = f"{counted(images, 'image token')} in {' and '.join(shown)}"
    if len(inputs.images) == 1:
        places += f" ({inputs.images[0]['layout']})"
    what = {
        "text": f"{text} text tokens" + (f", {places} skipped" if images else ""),
        "vision": f"{places}, {text} text tokens skipped",
        "both": f"{text} text tokens and {places}",
    }
    masked = f"masked     {', '.join(units)}" if units else f"mask mode  {mask_mode}: {what[mask_mode]}"
    return "\n".join([*lines, masked])


def _picture(name: str, picture: Mapping[str, Any]) -> list[str]:
    """What happened to a picture or a video."""
    first, last = picture["positions"]
    width, height = picture["size"]
    resized = picture["resized"]
    line = (
        f"{name:<10} {picture['path']}: {width} x {height} pixels"
        + (f", resized to {resized[0]} x {resized[1]}" if resized and resized != picture["size"] else "")
        + f", tokens {first} to {last} ({picture['layout']})"
    )
    return [line, *(f"{'':<10} {note}" for note in picture["notes"])]


def _of_frames(video: Mapping[str, Any], frames: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where a video's tokens are."""
    taken = f"{len(video['sampled'])} of {video['frames']} frames"
    rows, cols = frames[0]["grid"]
    layout = f"{taken} in {counted(len(frames), 'temporal patch', 'es')}, each a {rows} x {cols} grid"
    return {"positions": [frames[0]["positions"][0], frames[-1]["positions"][1]], "layout": layout}


def counted(count: int, what: str, ending: str = "s") -> str:
    """ "1 image", "2 images"."""
    return f"{count} {what}" + ("" if count == 1 else ending)


def summary(run: Run, paths: dict[str, Path], total: float) -> str:
    """A finished run: what the answer read first; model, tokens, times, notes; the tables; and what to open."""
    manifest = run.manifest
    model, seconds = manifest["model"], manifest["seconds"]
    lines = [
        f"model      {model['name']} ({model['family']}, {model['layers']} layers, {model['heads']} heads, "
        f"{model['parameters'] / 1e6:.1f} M parameters, {manifest['dtype']}, {manifest['device']})",
        *answer_lines(manifest),
        "seconds    "
        + ", ".join(
            f"{name.replace('_', ' ')} {seconds[name]:.2f}"
            for name in ("prepare", "load", "recorded_forward", "decode", "replay", "write")
        )
        + f", total {total:.2f}",
    ]
    lines += [f"skipped    layer {found['layer']}: {found['reason']}" for found in manifest["skipped_layers"]]
    lines += noted([*manifest["notes"], *(manifest["effects"] or {}).get("notes", ())])
    effects = ["", *effects_table(manifest)] if costly(manifest) else []
    first = [*found, ""] if (found := first_lines(manifest)) else []
    return "\n".join([*first, *lines, "", *top_table(manifest), *effects, "", *written(paths)])


def written(paths: Mapping[str, Path]) -> list[str]:
    """The report to open, and the other files."""
    others = [str(path) for kind, path in paths.items() if kind != "html"]
    lines = [f"files {others[0]}", *(f"      {path}" for path in others[1:])] if others else []
    return [*lines, *([f"open {paths['html']}"] if "html" in paths else [])]


def answer_lines(manifest: dict[str, Any]) -> list[str]:
    """How many tokens there are; and the answer, generated or given, with its first tokens' probabilities."""
    found, how = manifest["generated"], "given" if manifest["stop_reason"] == "given" else "generated"
    more = ", ..." if len(found) > SHOWN else ""
    digits = ".2g" if how == "given" else ".2f"  # of a given answer, they can be very small
    chances = ", ".join(format(each["probability"], digits) for each in found[:SHOWN]) + more
    if how == "given":
        own = ", ".join(repr(each["own_choice"]["text"]) for each in found[:SHOWN]) + more
        chances += f"; the model's own choices: {own}"
    stopped = " (stopped at the end of the text)" if manifest["stop_reason"] == "end of text" else ""
    return [
        f"tokens     {manifest['prompt_length']} in the prompt, {len(found)} {how}{stopped}",
        f"{how:<10} {answer_text(manifest)!r} (probability {chances})",
    ]


def probability(value: float) -> str:
    """With four decimals, or, of an answer that is less likely, its first digit."""
    return f"{value:.4f}" if value >= 0.00005 or value == 0 else f"{value:.0e}"


def answer_text(manifest: dict[str, Any]) -> str:
    return "".join(each["text"] for each in manifest["generated"])


def noted(notes: Sequence[str]) -> list[str]:
    """A line for each note."""
    return [f"note       {note}" for note in notes]


def token_label(found: dict[str, Any]) -> str:
    """A token's text, or of an image token its place in its picture."""
    return place_of(found) if found["kind"] == "image" else repr(found["text"])


def unit_labels(manifest: Mapping[str, Any]) -> dict[int, str]:
    """What is masked, by its first position."""
    labels = {found["position"]: token_label(found) for found in manifest["tokens"]}
    units = [unit for unit in manifest["units"] or [] if len(unit["positions"]) > 1]
    return labels | {unit["positions"][0]: repr(unit["label"]) for unit in units}


def top_token(manifest: Mapping[str, Any]) -> str | None:
    """The most important token, position 0 left out; None if there is no other."""
    labels = unit_labels(manifest)
    apart = set_apart(manifest["units"])
    ranked = (row["position"] for row in manifest["top_tokens"] if row["position"] not in apart)
    return next(map(labels.get, ranked), None)


def top_table(manifest: dict[str, Any]) -> list[str]:
    """The most important tokens, by the rule of impact/top_tokens.py; position 0 comes last, with a remark."""
    name, first = manifest["metrics"][0]["name"], manifest["variants"][0]
    metric, variant = METRICS[name].brief, first
    if CROSS + variant in manifest["variants"]:
        variant = f"{variant} or {CROSS}{variant}"
    labels, null, apart = unit_labels(manifest), manifest.get("null"), set_apart(manifest["units"])
    rows = [
        [labels[row["position"]], str(row["position"]), f"{row['value']:.4g}", str(row["layer"])]
        + ([percentile_text(row["percentile"])] if null else [])
        + remarks(manifest, row)
        for row in manifest["top_tokens"]
    ]
    steps = 1 if manifest["vision"] else len(manifest["generated"])  # a vision tower reads the prompt alone
    count = sum(row["position"] not in apart for row in manifest["top_tokens"])
    which = f"{count} most important tokens" if count > 1 else "most important token"
    over = "" if steps == 1 else f", the largest of {steps} output tokens"
    title = f"the {which}, {variant} {metric}, {RULE}{over}:"
    head = ["token", "position", metric, "peak layer", *["percentile"] * bool(null)]
    table = [title, *aligned([head, *rows], right=(1, 2, 3, *[4] * bool(null)))]
    return table if null is None else [*table, null_text(null)]


def remarks(manifest: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """What is to be said of one of the most important tokens, in one cell; none if there is nothing."""
    position, value, apart = row["position"], row["value"], set_apart(manifest["units"])
    name, first = manifest["metrics"][0]["name"], manifest["variants"][0]
    sink = next((each for each in manifest.get("sinks") or () if each["position"] == position), None)
    said = ["apart: the first position often just absorbs attention"] * (position in apart and sink is None)
    if sink is not None:
        weight, length = sink["weight"], sink["value_length"]
        said.append(
            f"{'apart: ' * (position in apart)}a sink, {weight:.0%} of the attention, values {length:.2f} as long"
        )
    said += ["below the noise floor"] * (0 < value < floor_over_layers(manifest, first, name))
    return [f"({'; '.join(said)})"] if said else []


def percentile_text(percentile: float | None) -> str:
    return "" if percentile is None else f"{percentile:.1f}"


def null_text(null: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {kind}" for kind, count in null["values"].items() if count)
    return f"percentiles among the tokens of {counted(null['runs'], 'other run')}, each among its own kind: {counts}"


def effects_table(manifest: dict[str, Any]) -> list[str]:
    """The masks that lower the answer's probability most: the strongest one of each unit."""
    generated, images = manifest["generated"], {}
    for token in manifest["tokens"]:
        if token["kind"] == "image":
            images[token["position"], token["text"]] = token_label(token)
    rows = []
    for found in costly(manifest):
        layers = f"{found['first_layer']} to {found['last_layer']}"
        if found["head"] is not None:
            layers = f"{found['first_layer']}, head {found['head']}"
        before, after = probabilities(found)
        step = found["generation_step"]
        answer = repr(answer_text(manifest) if step == WHOLE_ANSWER else generated[step]["text"])
        masked, position = found["token_masked"], found["token_position"]
        where = [images.get((position, masked), repr(masked)), str(position), layers, found["block"]]
        rows.append([*where, answer, *map(probability, (before, after)), repr(found["top_token"])])
    head = ["masked", "position", "in layers", "block", "answer", "probability", "masked", "then likeliest"]
    return ["what costs the answer most when it is masked:", *aligned([head, *rows], right=(1, 5, 6))]


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows as lines with aligned columns; those in `right` are aligned at the right. A row may have fewer cells."""
    columns = zip_longest(*rows, fillvalue="")
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]
