"""What the tests of the page share: real runs of the demo models, and where the page is."""

import io
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from playwright.sync_api import Browser, Page
from viewer_page import Cells, Grid, Scale, Viewer, alike, cells_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(os.environ.get("VIEWER_PAGE") or ROOT / "visualize_results.html").resolve()
LARGEST_PAGE = 300_000  # bytes
METRICS = {"l2": "L2 distance", "cosine": "Cosine distance"}
VIEWS = ("Heat map", "Prompt", "Ranking", "Picture", "Layers", "Heads")
WIDTHS = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 390, "height": 844}}
Open = Callable[..., Viewer]


def opener(browser: Browser) -> Iterator[Open]:
    viewers: list[Viewer] = []

    def open_page(path: Path = PAGE, fragment: str = "", **options: Any) -> Viewer:
        viewers.append(Viewer(browser, path.as_uri() + (f"#{fragment}" if fragment else ""), **options))
        return viewers[-1]

    yield open_page
    trouble = [each for viewer in viewers for each in viewer.trouble]
    for viewer in viewers:
        viewer.close()
    assert trouble == [], "\n".join(trouble)


@dataclass
class Run:
    folder: Path
    name: str
    df: pd.DataFrame
    manifest: dict[str, Any]

    def file(self, kind: str) -> Path:
        return self.folder / (f"{self.name}_run.json" if kind == "run" else f"{self.name}_results.{kind}")

    @property
    def variants(self) -> list[str]:
        return list(self.df.variant.unique())

    @property
    def steps(self) -> list[int]:
        return sorted(self.df.generation_step.unique().tolist())

    @property
    def layers(self) -> list[int]:
        return sorted(self.df.layer.unique().tolist())

    @property
    def tokens(self) -> dict[int, str]:
        return dict(zip(self.df.token_position.tolist(), self.df.token_masked, strict=True))

    def cells(self, metric: str = "l2", variant: str = "Full", step: int = 0) -> Cells:
        return cells_of(self.df, metric, variant, step)

    def states(self) -> list[tuple[str, str, int]]:
        return [(metric, variant, step) for metric in METRICS for variant in self.variants for step in self.steps]


def compare(viewer: Viewer, *runs: Run) -> None:
    """Loaded and shown together."""
    viewer.drop(*(run.file(kind) for run in runs for kind in ("csv", "run")))
    viewer.shows(*(run.name for run in runs))


@dataclass
class Said:
    """Neighbours of the image tokens of a picture, and a run that masks them."""

    folder: Path
    df: pd.DataFrame
    run: pd.DataFrame

    def file(self, kind: str) -> Path:
        return self.folder / f"m_neighbors{'_run.json' if kind == 'run' else f'.{kind}'}"


# --- colours ---------------------------------------------------------------------------------------------


def largest(cells: Cells, first: bool = False) -> float:
    return float(max(value for (position, _), value in cells.items() if first or position))


def assert_colours(viewer: Viewer, grid: Grid, cells: Cells, scale: Callable[[int, int], Scale], run: Run) -> None:
    """The colour of every cell is the one of its value. `scale` by position and layer."""
    positions, layers = sorted(run.tokens), run.layers
    by_layers = grid.rows == len(layers) and grid.columns == len(positions)
    places = {
        (position, layer): (len(layers) - 1 - row, column) if by_layers else (column, row)
        for row, layer in enumerate(layers)
        for column, position in enumerate(positions)
    }
    found = dict(zip(places, grid.colours(places.values()), strict=True))
    empty = {found[key] for key in places if key not in cells}
    assert len(empty) <= 1
    for key, value in cells.items():
        wanted = scale(*key).colour(value)
        assert alike(found[key], wanted), (key, value, found[key], wanted)


# --- selection -------------------------------------------------------------------------------------------


def pressed(page: Page, region: str) -> list[str]:
    found = page.get_by_role("region", name=region).locator("[aria-pressed=true]")
    return found.evaluate_all("(all) => all.map((each) => each.getAttribute('aria-label') ?? each.textContent)")


# --- comparing -------------------------------------------------------------------------------------------


def difference(first: Run, second: Run, metric: str = "l2", variant: str = "Full", step: int = 0) -> Cells:
    """Second minus first where both have the same token at a position."""
    a, b = first.cells(metric, variant, step), second.cells(metric, variant, step)
    same = {position for position, text in first.tokens.items() if second.tokens.get(position) == text}
    return {key: np.float32(float(b[key]) - float(a[key])) for key in a if key in b and key[0] in same}


def by_token(run: Run, metric: str = "l2", variant: str = "Full", step: int = 0) -> pd.Series:
    """The root of the sum of squares of each token over the layers."""
    cells = run.cells(metric, variant, step)
    return pd.Series({p: math.hypot(*(v for (q, _), v in cells.items() if q == p)) for p, _ in cells}, dtype=float)


def template(run: Run) -> set[int]:
    """Tokens of the chat template: of the demo's, special ones, the roles and the line breaks after them."""
    own = {"user", "assistant", "\n"} if run.manifest["chat"] else set()
    return {t["position"] for t in run.manifest["tokens"] if t["kind"] == "special" or t["text"] in own}


# --- the picture -----------------------------------------------------------------------------------------


def patches(run: Run) -> dict[int, tuple[int, int]]:
    """Row and column by position."""
    return {t["position"]: (t["row"], t["col"]) for t in run.manifest["tokens"] if t["kind"] == "image"}


# --- effects on the answer -------------------------------------------------------------------------------
FIXTURES = ROOT / "viewer" / "tests" / "fixtures"
REACH = [FIXTURES / f"reach_{name}" for name in ("results.csv", "run.json", "effects.csv")]


def effects_of(viewer: Viewer) -> Any:
    return viewer.page.get_by_role("region", name="Effects on the answer")


def effect_table(viewer: Viewer) -> pd.DataFrame:
    """The accessible table: positions down, layers across."""
    details = effects_of(viewer).locator("details")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    viewer.settle()
    table = effects_of(viewer).get_by_role("region", name="Exact effects").locator("table")
    columns = table.locator("thead th").all_inner_texts()[1:]
    rows = table.locator("tbody tr").evaluate_all(
        "(all) => all.map((row) => "
        "[Number(row.dataset.position), ...[...row.cells].slice(1).map((each) => each.textContent)])"
    )
    return pd.DataFrame([row[1:] for row in rows], columns=columns, index=[row[0] for row in rows])


# --- which position reads which --------------------------------------------------------------------------
EVERY = [FIXTURES / f"every_{name}" for name in ("results.csv", "run.json")]


class Map:
    """The map, and where its cells are: found by pointing at it."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.box = viewer.page.get_by_role("region", name="Which position reads which")
        self.canvas = self.box.locator(".reads__box canvas")

    def readout(self) -> str:
        return self.box.locator(".matrix__readout").inner_text()

    def point(self, x: float, y: float) -> tuple[int, int] | None:
        box = self.canvas.bounding_box()
        self.viewer.page.mouse.move(box["x"] + x, box["y"] + y)
        self.viewer.settle()
        found = re.match(r"Token .* at position (\d+).* (?:reads|see) token .* at position (\d+)", self.readout())
        return (int(found[1]), int(found[2])) if found else None

    x: ClassVar[dict[int, int]] = {}
    y: ClassVar[dict[int, int]] = {}

    def measure(self) -> "Map":
        """The middle of each column and row of seven, which are the same in all tests."""
        self.canvas.scroll_into_view_if_needed()
        if not self.x:
            size = {key: int(value) for key, value in self.canvas.bounding_box().items()}
            across = [(x, self.point(x, size["height"] - 12)) for x in range(4, size["width"], 14)]
            self.x.update({p: int(np.mean([x for x, at in across if at and at[1] == p])) for p in range(7)})
            down = [(y, self.point(self.x[0], y)) for y in range(4, size["height"], 8)]
            self.y.update({p: int(np.mean([y for y, at in down if at and at[0] == p])) for p in range(7)})
        return self

    def table(self) -> dict[tuple[int, int], np.float32]:
        """(query, token): value, of the accessible table."""
        details = self.box.locator("details")
        if details.get_attribute("open") is None:
            details.locator("summary").click()
            self.viewer.settle()
        cells = details.locator("tbody tr").evaluate_all(
            "(all) => all.map((row) => [row.dataset.query, ...[...row.cells].slice(1).map((each) => each.textContent)])"
        )
        return {
            (int(query), place): np.float32(text)
            for query, *texts in cells
            for place, text in enumerate(texts)
            if text != "–"
        }


# --- what image tokens say -------------------------------------------------------------------------------
LENS = "What image tokens say"

# --- exports ---------------------------------------------------------------------------------------------


def read_copied(viewer: Viewer, view: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(viewer.copied(view)), keep_default_na=False, dtype={"token_masked": str})


def assert_as_in(df: pd.DataFrame, run: Run, metric: str) -> None:
    """Each line says what it is of, and its value is that of the results."""
    keys = ["variant", "generation_step", "layer", "token_position", "token_masked"]
    found = df.merge(run.df, on=keys, how="left")
    assert len(found) == len(df) > 0
    assert found.value.astype(np.float32).tolist() == found[f"{metric}_distance"].tolist()
    assert set(df.run) == {run.name} and set(df.metric) == {metric}
