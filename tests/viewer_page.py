"""The viewer as somebody at the screen has it: opened by file://, pointed at, typed at, and read.

Nothing here reaches into the page's own state. What is asked of it is what it shows: texts, attributes for assistive
technology, pixels, and the address. Anything a page must never do (a dialog, an error on the console, a request to a
network) is kept in `Viewer.trouble`, and the tests look at it at their end.
"""

import base64
import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from playwright.sync_api import Browser, Download, Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

LOCAL = ("file:", "blob:", "data:", "about:")
# Before the page's own script: `painted(n)` is there n frames later, or when the page has no more frames to draw.
COUNTER = """() => {
  const native = window.requestAnimationFrame.bind(window);
  let pending = 0;
  window.requestAnimationFrame = (act) => {
    pending++;
    return native((time) => {
      pending--;
      act(time);
    });
  };
  window.painted = async (frames) => {
    while (frames-- > 0 || pending) await new Promise(native);
    await new Promise((done) => setTimeout(done));
  };
}"""
GO = """async (fragment) => {
  if (location.hash.slice(1) === fragment) return;
  const changed = new Promise((done) => addEventListener("hashchange", done, { once: true }));
  location.hash = fragment;
  await changed;
}"""
TITLE = """(wanted) => [...document.querySelectorAll("h1")]
  .some((h1) => h1.checkVisibility() && new RegExp(wanted).test(h1.textContent))"""
TABLE = """() => {
  const table = document.querySelector(".heatmap-numbers table");
  return {
    caption: table.caption.textContent,
    rows: [...table.tBodies[0].rows].map((row) => [Number(row.dataset.position), row.querySelector("th").textContent,
      ...[...row.querySelectorAll("[data-layer]")].map((cell) => [Number(cell.dataset.layer), cell.textContent])]),
  };
}"""
TABLES = (
    """async (fragments) => {
  const read = """
    + TABLE
    + """;
  const out = [];
  for (const fragment of fragments) {
    const changed = new Promise((done) => addEventListener("hashchange", done, { once: true }));
    if (location.hash.slice(1) !== fragment) {
      location.hash = fragment;
      await changed; // the page has heard it first
    }
    await painted(1);
    out.push(read());
  }
  return out;
}"""
)
DROP = """(files) => {
  const transfer = new DataTransfer();
  for (const [name, data] of files) {
    transfer.items.add(new File([Uint8Array.from(atob(data), (each) => each.charCodeAt(0))], name));
  }
  const event = (type) => new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event("dragover"));
  document.body.dispatchEvent(event("drop"));
}"""
COLOURS = """(canvas, rectangles) => {
  const scale = canvas.width / canvas.getBoundingClientRect().width;
  const context = canvas.getContext("2d");
  return rectangles.map((rectangle) => {
    const [x, y, width, height] = rectangle.map((each) => Math.round(each * scale));
    const { data } = context.getImageData(x, y, Math.max(1, width), Math.max(1, height));
    const seen = new Map();
    for (let i = 0; i < data.length; i += 4) {
      const colour = `${data[i]},${data[i + 1]},${data[i + 2]},${data[i + 3]}`;
      seen.set(colour, (seen.get(colour) ?? 0) + 1);
    }
    return [...seen].sort((a, b) => b[1] - a[1])[0][0].split(",").map(Number);
  });
}"""

# Before the page's own script: how long it blocks, when it is done with a change.
METER = """() => {
  const native = window.requestAnimationFrame.bind(window);
  const meter = { pending: 0, gap: 0, last: performance.now(), work: 0 };
  window.requestAnimationFrame = (act) => {
    meter.pending++;
    return native((time) => {
      const start = performance.now();
      meter.pending--;
      try { act(time); } finally { meter.work += performance.now() - start; }
    });
  };
  const channel = new MessageChannel();
  channel.port1.onmessage = () => {
    const now = performance.now();
    meter.gap = Math.max(meter.gap, now - meter.last);
    meter.last = now;
    setTimeout(() => channel.port2.postMessage(0), 4);
  };
  channel.port2.postMessage(0);
  document.addEventListener("change", () => { meter.start ??= performance.now(); }, true);
  document.addEventListener("drop", () => { meter.start ??= performance.now(); }, true);
  const painted = () => new Promise((done) => native(() => {
    const then = new MessageChannel();
    then.port1.onmessage = done;
    then.port2.postMessage(0);
  }));
  meter.quiet = async () => {
    do await painted(); while (meter.pending);
  };
  meter.reset = () => Object.assign(meter, { gap: 0, work: 0, last: performance.now(), start: undefined });
  /** Milliseconds from a file being picked until its heat map is painted, and the longest the page was blocked. */
  meter.loaded = async (name) => {
    for (;;) {
      await painted();
      const canvas = document.querySelector(".heatmap-scroll canvas");
      const shown = [...document.querySelectorAll("h1")].some((h1) => h1.checkVisibility() && h1.textContent === name);
      if (shown && canvas?.width > 0 && document.querySelector(".heatmap-bar")?.getAttribute("aria-label")) break;
    }
    const first = performance.now() - meter.start;
    await meter.quiet();
    return { first, gap: meter.gap };
  };
  /** Milliseconds from an action until all that it changes is painted, and those that were the page's own work. */
  meter.change = async (act) => {
    await meter.quiet();
    meter.reset();
    const start = performance.now();
    act();
    await meter.quiet();
    return { wall: performance.now() - start, work: meter.work };
  };
  window.meter = meter;
}"""

Cells = dict[tuple[int, int], np.float32]  # (position, layer): value; without those that have none
Rgb = tuple[int, int, int]


class Viewer:
    """One page in a browser context of its own."""

    def __init__(self, browser: Browser, address: str, metered: bool = False, **options: Any) -> None:
        self.trouble: list[str] = []
        options = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", **options}
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(10_000)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.context.add_init_script(f"({COUNTER})()")
        if metered:
            self.context.add_init_script(f"({METER})()")
        self.page: Page = self.context.new_page()
        self.page.on("dialog", self._dialog)
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error.stack or error}"))
        self.page.on(
            "console", lambda said: self.trouble.append(f"console: {said.text}") if said.type == "error" else None
        )
        self.context.on("request", self._request)
        self.context.on("page", lambda page: self.trouble.append(f"a page opened: {page.url}"))
        self.open(address)

    def open(self, address: str) -> None:
        """Another address, or the same anew: the page keeps nothing between."""
        self.page.goto("about:blank")  # else a change of the fragment alone opens nothing
        self.page.goto(address)
        self.page.locator("main > *, iframe").first.wait_for(state="attached")  # unpacked and started

    def _dialog(self, dialog: Any) -> None:
        self.trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        if not request.url.startswith(LOCAL):
            self.trouble.append(f"request: {request.url[:200]}")

    def close(self) -> None:
        self.context.close()

    # --- loading ------------------------------------------------------------------------------------------
    def pick(self, *paths: Path | dict[str, Any]) -> None:
        """Through the button and the browser's dialog; `paths` may be {"name", "mimeType", "buffer"}, too."""
        button = self.page.get_by_role("button", name="Open files…").locator("visible=true").first
        with self.page.expect_file_chooser() as chooser:
            button.click()
        chooser.value.set_files(list(paths))  # type: ignore[arg-type]

    def drop(self, *files: Path | tuple[str, bytes]) -> None:
        """As if files were let go over the page."""
        found = [(each.name, each.read_bytes()) if isinstance(each, Path) else each for each in files]
        self.page.evaluate(DROP, [(name, base64.b64encode(data).decode()) for name, data in found])

    def shows(self, *names: str) -> None:
        """Waits until exactly these runs are in front."""
        wanted = "^" + "(, | and )".join(names) + "$"
        with contextlib.suppress(PlaywrightTimeout):  # `expect` has the better message, but looks seldom
            self.page.wait_for_function(TITLE, arg=wanted, timeout=5000)
        expect(self.page.locator("h1:visible")).to_have_text(re.compile(wanted))
        self.settle()

    def message(self, text: str | re.Pattern[str]) -> Locator:
        found = self.page.get_by_role("listitem").filter(has_text=text).locator("visible=true").first
        expect(found).to_be_visible()
        return found

    def settle(self, times: int = 1) -> None:
        """Until what was done has been painted."""
        for _ in range(times):
            self.page.evaluate("() => painted(2)")

    # --- controls -----------------------------------------------------------------------------------------
    def choose(self, title: str, choice: str) -> None:
        group = self.page.get_by_role("group", name=title, exact=True)
        radio = group.get_by_role("radio", name=choice, exact=True)
        with self.menu_for(radio):
            radio.click()
            expect(radio).to_be_checked()
        self.settle()

    def check(self, name: str) -> None:
        box = self.page.get_by_role("checkbox", name=name)
        with self.menu_for(box):
            box.check()

    @contextlib.contextmanager
    def menu_for(self, control: Locator) -> Iterator[None]:
        """What few need is in a menu, which is closed again: it would cover what is below."""
        menu = self.page.locator("details.controls-view")
        inside = not control.is_visible()
        if inside:
            menu.locator("summary").click()
        yield
        if inside:
            menu.evaluate("(each) => { each.open = false; }")

    def variant(self, name: str) -> None:
        if name.startswith("Head"):
            self.page.get_by_role("combobox", name="Head", exact=True).select_option(name)
            self.settle()
        else:
            self.choose("Show", name)

    def go(self, **state: Any) -> None:
        """To a state by its address, as from a link."""
        self.page.evaluate(GO, fragment(state))
        self.settle(2)

    def key(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def address(self, *parts: str) -> str:
        """The fragment, once it holds all the parts."""
        for _ in range(50):
            found = self.page.evaluate("() => decodeURIComponent(location.hash)")
            if all(part in found for part in parts):
                return found
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{parts} not in the address {found!r}")

    # --- what is shown ------------------------------------------------------------------------------------
    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.text_content() or ""

    def open_numbers(self) -> None:
        details = self.page.locator("details.heatmap-numbers")
        if details.get_attribute("open") is None:
            details.locator("summary").click()
            self.settle()

    def numbers(self) -> tuple[str, Cells, dict[int, str]]:
        """The accessible table: caption, cells, and names of tokens by position. All pages of it."""
        self.open_numbers()
        back = self.page.get_by_role("button", name="Previous tokens")
        while back.is_visible() and back.is_enabled():
            back.click()
        caption, cells, names = as_cells(self.page.evaluate(TABLE))
        further = self.page.get_by_role("button", name="Next tokens")
        while further.is_visible() and further.is_enabled():
            further.click()
            _, more, other = as_cells(self.page.evaluate(TABLE))
            cells |= more
            names |= other
        return caption, cells, names

    def numbers_in(self, states: Sequence[Mapping[str, Any]]) -> list[tuple[str, Cells]]:
        """The table in each of the states; for runs that need one page of it."""
        self.open_numbers()
        read = self.page.evaluate(TABLES, [fragment(state) for state in states])
        return [as_cells(each)[:2] for each in read]

    def scale(self) -> str:
        """What the colour bar says."""
        return self.page.locator(".heatmap-bar").first.get_attribute("aria-label") or ""

    def readout(self) -> str:
        return self.text(".heatmap-readout")

    def grid(self, panel: int = 0) -> "Grid":
        return Grid(self, panel)

    # --- exports ------------------------------------------------------------------------------------------
    def export_menu(self) -> Locator:
        """Opened anew: it exports what is shown at that moment."""
        menu, button = self.page.locator("#exports"), self.page.get_by_role("button", name="Export", exact=True)
        if menu.is_visible():
            button.click()
            expect(menu).to_be_hidden()
        button.click()
        expect(menu).to_be_visible()
        return menu

    def download(self, view: str, kind: str) -> Download:
        button = self.export_menu().get_by_role("button", name=f"{view}: {kind}", exact=True)
        with self.page.expect_download() as found:
            button.click()
        return found.value

    def copied(self, view: str) -> str:
        """The text of "Copy CSV"."""
        self.page.evaluate("() => navigator.clipboard.writeText('')")
        self.export_menu().get_by_role("button", name=f"{view}: Copy CSV", exact=True).click()
        expect(self.page.locator("#exports [role=status]")).to_contain_text("copied")
        return self.page.evaluate("() => navigator.clipboard.readText()")


def fragment(state: Mapping[str, Any]) -> str:
    return "&".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in state.items())


def as_cells(read: dict[str, Any]) -> tuple[str, Cells, dict[int, str]]:
    cells: Cells = {}
    names: dict[int, str] = {}
    for position, name, *values in read["rows"]:
        names[position] = name
        for layer, text in values:
            if text != "–":
                cells[position, layer] = np.float32(text)
    return read["caption"], cells, names


def cells_of(df: pd.DataFrame, metric: str, variant: str, step: int) -> Cells:
    """What the table has to show, from pandas."""
    rows = df[(df.variant == variant) & (df.generation_step == step)]
    values = rows[f"{metric}_distance"].to_numpy(np.float32)
    keys = zip(rows.token_position.tolist(), rows.layer.tolist(), strict=True)
    return dict(zip(keys, values, strict=True))


def shown_number(value: float) -> str:
    """Three significant digits, of what is larger the whole part, as the page writes them."""
    if value == 0:
        return "0"
    size = abs(value)
    if 999.5 <= size < 1e5:
        return f"{value:.0f}"
    if 1e-3 <= size < 1e5:
        return f"{float(f'{value:.3g}'):.10f}".rstrip("0").rstrip(".")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent):+d}"


class Grid:
    """Where the cells of a heat map are on the screen, found by pointing at it."""

    def __init__(self, viewer: Viewer, panel: int) -> None:
        self.viewer = viewer
        self.element = viewer.page.locator(".heatmap-scroll").nth(panel)
        self.canvas = self.element.locator("canvas")
        self.element.scroll_into_view_if_needed()
        box = self.element.bounding_box()
        assert box
        self.left, self.top = box["x"], box["y"]
        self.rows = int(self.element.get_attribute("aria-rowcount") or 0)
        self.columns = int(self.element.get_attribute("aria-colcount") or 0)
        x, y = self._inside(box)
        # The first place at which there is a cell, and the last, along both directions.
        self.x0 = self._edge(lambda at: self.is_cell(at, y), self.left, x)
        self.x1 = self._edge(lambda at: not self.is_cell(at, y), x, box["x"] + box["width"])
        self.y0 = self._edge(lambda at: self.is_cell(x, at), self.top, y)
        self.y1 = self._edge(lambda at: not self.is_cell(x, at), y, box["y"] + box["height"])
        self.width = round((self.x1 - self.x0) / self.columns)
        self.height = round((self.y1 - self.y0) / self.rows)
        self.leave()

    def point(self, x: float, y: float) -> str:
        self.viewer.page.mouse.move(x, y)
        self.viewer.page.evaluate("() => painted(1)")
        return self.viewer.readout()

    def leave(self) -> None:
        self.viewer.page.mouse.move(2, 2)
        self.viewer.settle()

    def is_cell(self, x: float, y: float) -> bool:
        """Over a cell the readout names both a layer and a token, over a header one of them."""
        return re.match(r"Layer \d+, ", self.point(x, y)) is not None

    def _inside(self, box: Any) -> tuple[float, float]:
        for part in (0.5, 0.35, 0.2, 0.7, 0.85):
            x, y = box["x"] + part * min(box["width"], 900), box["y"] + box["height"] * max(0.6, part)
            if self.is_cell(x, y):
                return x, y
        raise AssertionError("no cell found in the heat map")

    @staticmethod
    def _edge(beyond: Any, low: float, high: float) -> int:
        """The first whole pixel that is beyond."""
        a, b = math.floor(low), math.ceil(high)
        while b - a > 1:
            middle = (a + b) // 2
            a, b = (a, middle) if beyond(middle) else (middle, b)
        return b

    def centre(self, row: int, column: int) -> tuple[float, float]:
        return self.x0 + (column + 0.5) * self.width, self.y0 + (row + 0.5) * self.height

    def hover(self, row: int, column: int) -> str:
        return self.point(*self.centre(row, column))

    def click(self, row: int, column: int) -> None:
        self.viewer.page.mouse.click(*self.centre(row, column))
        self.viewer.settle()

    def colours(self, places: Iterable[tuple[int, int]]) -> list[Rgb]:
        """The most frequent colour in each of the cells (row, column)."""
        rectangles = [
            (
                self.x0 - self.left + column * self.width + 2,
                self.y0 - self.top + row * self.height + 2,
                self.width - 4,
                self.height - 4,
            )
            for row, column in places
        ]
        return most_frequent(self.canvas, rectangles)


def most_frequent(canvas: Locator, rectangles: Sequence[tuple[float, float, float, float]]) -> list[Rgb]:
    """Of a canvas, in pixels of the page."""
    return [tuple(each[:3]) for each in canvas.evaluate(COLOURS, rectangles)]  # type: ignore[misc]


# --- colours, from their own definitions ------------------------------------------------------------------
def cividis(t: float) -> Rgb:
    """The polynomials of d3-scale-chromatic."""
    r = -4.54 - t * (35.34 - t * (2381.73 - t * (6402.7 - t * (7024.72 - t * 2710.57))))
    g = 32.49 + t * (170.73 + t * (52.82 - t * (131.46 - t * (176.58 - t * 67.37))))
    b = 81.24 + t * (442.36 - t * (2482.43 - t * (6167.24 - t * (6614.94 - t * 2475.67))))
    return tuple(max(0, min(255, round(each))) for each in (r, g, b))  # type: ignore[return-value]


PUOR = ("2d004b", "542788", "8073ac", "b2abd2", "d8daeb", "f7f7f7", "fee0b6", "fdb863", "e08214", "b35806", "7f3b08")


def puor(t: float) -> Rgb:
    """A uniform B-spline through ColorBrewer's eleven colours, as d3 does it."""
    points = [[int(colour[i : i + 2], 16) for i in (0, 2, 4)] for colour in PUOR]
    n = len(points) - 1
    i = min(n - 1, math.floor(t * n))
    f = t * n - i
    out = []
    for channel in range(3):
        v1, v2 = points[i][channel], points[i + 1][channel]
        v0 = points[i - 1][channel] if i > 0 else 2 * v1 - v2
        v3 = points[i + 2][channel] if i < n - 1 else 2 * v2 - v1
        f2, f3 = f * f, f * f * f
        value = (1 - 3 * f + 3 * f2 - f3) * v0 + (4 - 6 * f2 + 3 * f3) * v1
        value += (1 + 3 * f + 3 * f2 - 3 * f3) * v2 + f3 * v3
        out.append(max(0, min(255, math.floor(value / 6))))
    return out[0], out[1], out[2]


DUSK = ("cdb8ff", "7a52c7", "17171b", "b8651b", "ffc78f")  # of a difference on dark paper


TINTS = {False: ("ffffff", "e45aa1", "7d0340"), True: ("17171b", "a82f72", "ffa6d1")}  # by whether the theme is dark


def tint(t: float, dark: bool = False) -> Rgb:
    return joined(TINTS[dark], t)


def joined(colours: Sequence[str], t: float) -> Rgb:
    """Colours joined by straight lines."""
    stops = [[int(colour[i : i + 2], 16) for i in (0, 2, 4)] for colour in colours]
    low = min(int((len(stops) - 1) * t), len(stops) - 2)
    part = (len(stops) - 1) * t - low
    r, g, b = (math.floor(a + part * (z - a) + 0.5) for a, z in zip(stops[low], stops[low + 1], strict=True))
    return r, g, b


OVER = {"plain": (230, 0, 126), "less": (118, 42, 190), "more": (240, 120, 0)}  # hues laid over a picture


def laid_over(under: Rgb, value: float, largest: float, opacity: float, signed: bool = False) -> Rgb:
    """A hue whose opacity grows with the value, on a pixel of a picture."""
    hue = OVER["plain" if not signed else "less" if value < 0 else "more"]
    part = opacity * min(1.0, abs(float(value)) / largest)
    r, g, b = (round(below + part * (above - below)) for below, above in zip(under, hue, strict=True))
    return r, g, b


VIRIDIS = {0.0: (68, 1, 84), 1.0: (253, 231, 37)}


def step255(place: float) -> float:
    """Colours come in 256 steps."""
    return math.floor(min(1.0, max(0.0, place)) * 255 + 0.5) / 255


@dataclass
class Scale:
    """From a value to the colour it has to have."""

    largest: float
    root: bool = False
    signed: bool = False
    dark: bool = False

    def colour(self, value: float) -> Rgb:
        part = min(1.0, abs(float(value)) / self.largest) if self.largest else 0.0
        bent = math.sqrt(part) if self.root else part
        if self.signed:
            place = step255(0.5 + math.copysign(bent, value) / 2)
            return joined(DUSK, place) if self.dark else puor(place)
        return tint(step255(bent), self.dark)


def alike(found: Rgb, wanted: Rgb, tolerance: int = 4) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))
