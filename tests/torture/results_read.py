"""Result files that are read back: damaged, cut, of another run, far too large when unpacked."""

import gzip
import os
import zipfile
from pathlib import Path

from mask_impact import load, load_many
from torture.case import Case, all_of, cut, file_of, json_with

CSV, JSON, PARQUET, HTML, RUN = (
    f"runs/a_{end}" for end in ("results.csv", "results.json", "results.parquet", "results.html", "run.json")
)


def reads(path: str, **more: object) -> object:
    return lambda: print(len(load(path, **more)))  # type: ignore[arg-type]


def bomb(path: str, start: bytes, piece: bytes, size: int, end: bytes = b"") -> object:
    """A gzip file that is small and becomes `size` bytes."""

    def make() -> None:
        Path(path).parent.mkdir(exist_ok=True)
        block = gzip.compress(piece * (2**24 // len(piece)))  # a gzip file may be several, one after the other
        Path(path).write_bytes(gzip.compress(start) + block * (size // 2**24) + gzip.compress(end))

    return make


def changed(path: str, old: str, new: str) -> object:
    def make() -> None:
        text = Path(path).read_text()
        assert old in text, (path, old)
        Path(path).write_text(text.replace(old, new, 1))

    return make


def doubled_row() -> None:
    lines = Path(CSV).read_text().splitlines(keepends=True)
    Path(CSV).write_text("".join([*lines, lines[-1]]))
    Path(RUN).unlink()


def two_values() -> None:
    lines = Path(CSV).read_text().splitlines(keepends=True)
    Path(CSV).write_text("".join([*lines[:-1], lines[1]]))


def flipped(path: str, place: float) -> object:
    def make() -> None:
        data = bytearray(Path(path).read_bytes())
        data[int(len(data) * place)] ^= 0x55
        Path(path).write_bytes(data)

    return make


def last_number(path: str) -> object:
    def make() -> None:
        data = Path(path).read_text()
        at = max(i for i, c in enumerate(data) if c in "123456789")
        Path(path).write_text(data[:at] + str(int(data[at]) % 9 + 1) + data[at + 1 :])

    return make


N = ("runs",)
HEADER = b"generation_step,layer,token_masked,token_position,variant,l2_distance,cosine_distance\n"
CASES = [
    Case(
        "load: a bomb of CSV",
        reads("b_results.csv.gz"),
        bomb("b_results.csv.gz", HEADER, b'0,0,"a",0,"Full",1,1\n', 3 * 2**30),
    ),
    Case(
        "load: a bomb of JSON",
        reads("b_results.json.gz"),
        bomb("b_results.json.gz", b'{"a": [0', b",0", 3 * 2**30, b"]}"),
    ),
    Case(
        "load: a bomb of effects CSV",
        reads("b_effects.csv.gz"),
        bomb("b_effects.csv.gz", b"a,b\n", b"1,2\n", 3 * 2**30),
    ),
    Case(
        "load: a bomb of effects JSON",
        reads("b_effects.json.gz"),
        bomb("b_effects.json.gz", b'{"a": [0', b",0", 3 * 2**30, b"]}"),
    ),
    Case("load: deep JSON", reads("x_results.json"), file_of("x_results.json", "[" * 10**6)),
    Case("load: FIFO", reads("x_results.csv"), lambda: os.mkfifo("x_results.csv")),
    Case("load: device", reads("x_results.csv"), lambda: Path("x_results.csv").symlink_to("/dev/zero")),
    Case("load: device as manifest", reads("x_run.json"), lambda: Path("x_run.json").symlink_to("/dev/zero")),
    Case("load: NUL in the path", reads("a\0b_results.csv")),
    Case("load: name of 300 letters", reads("x" * 300 + "_results.csv")),
    Case("load: nothing there", reads("x_results.csv")),
    Case("load: a folder", reads("runs"), needs=N),
    Case("load: another kind", reads("x.txt"), file_of("x.txt", "a")),
    Case("load: empty CSV", reads(CSV), file_of(CSV, ""), N),
    Case("load: empty CSV, no manifest", reads(CSV), all_of(file_of(CSV, ""), lambda: Path(RUN).unlink()), N),
    Case("load: empty JSON", reads(JSON), file_of(JSON, ""), N),
    Case("load: empty Parquet", reads(PARQUET), file_of(PARQUET, ""), N),
    Case("load: empty HTML", reads(HTML), file_of(HTML, ""), N),
    *(Case(f"load: {p.rpartition('.')[2]} cut off", reads(p), cut(p, -200), N) for p in (CSV, JSON, PARQUET, HTML)),
    *(
        Case(f"load: {p.rpartition('.')[2]} cut in the middle", reads(p), cut(p, 700), N)
        for p in (CSV, JSON, PARQUET, HTML)
    ),
    *(
        Case(f"load: {p.rpartition('.')[2]} with a byte changed", reads(p), flipped(p, 0.6), N)
        for p in (CSV, JSON, PARQUET)
    ),
    *(Case(f"load: {p.rpartition('.')[2]} with a digit changed", reads(p), last_number(p), N) for p in (CSV, JSON)),
    Case(
        "load: CSV with one row less",
        reads(CSV),
        lambda: Path(CSV).write_text("".join(Path(CSV).read_text().splitlines(True)[:-1])),
        N,
    ),
    Case("load: a row twice, no manifest", reads(CSV), doubled_row, N),
    Case("load: two values for one cell", reads(CSV), two_values, N),
    Case("load: CSV of another run", reads(CSV), lambda: os.replace("runs/b_results.csv", CSV), N),
    Case("load: JSON of another run", reads(JSON), lambda: os.replace("runs/b_results.json", JSON), N),
    Case("load: CSV with a text for a number", reads(CSV), changed(CSV, "0,0,", "0,x,"), N),
    Case(
        "load: CSV with an infinite number",
        reads(CSV),
        all_of(lambda: Path(RUN).unlink(), file_of(CSV, HEADER + b'0,0,"a",0,"Full",inf,1\n')),
        N,
    ),
    Case(
        "load: CSV with NaN",
        reads(CSV),
        all_of(lambda: Path(RUN).unlink(), file_of(CSV, HEADER + b'0,0,"a",0,"Full",nan,1\n')),
        N,
    ),
    Case("load: CSV without a column", reads(CSV), changed(CSV, "variant", "other"), N),
    Case("load: CSV with a column twice", reads(CSV), changed(CSV, "variant", "layer"), N),
    Case(
        "load: CSV with semicolons",
        reads(CSV),
        lambda: Path(CSV).write_text(Path(CSV).read_text().replace(",", ";")),
        N,
    ),
    Case("load: CSV in UTF-16", reads(CSV), lambda: Path(CSV).write_text(Path(CSV).read_text(), "utf-16"), N),
    Case("load: CSV that is a zip", reads(CSV), lambda: zipfile.ZipFile(CSV, "w").writestr("a", "b"), N),
    Case("load: JSON list", reads(JSON), file_of(JSON, "[]"), N),
    Case("load: JSON of unequal columns", reads(JSON), json_with(JSON, {"layer": [0]}), N),
    Case("load: JSON with a text for a column", reads(JSON), json_with(JSON, {"layer": "x"}), N),
    Case("load: JSON with big numbers", reads(JSON), json_with(JSON, {"layer": [10**30]}), N),
    Case("load: JSON with null", reads(JSON), json_with(JSON, {"token_masked": None}), N),
    Case("load: HTML without the run", reads(HTML), file_of(HTML, "<html></html>"), N),
    *(
        Case(f"load: manifest {str(change)[:40]}", reads(RUN), json_with(RUN, change), N)
        for change in (
            {"files": [1]},
            {"files": None},
            {"files": ...},
            {"rows": -1},
            {"rows": "x"},
            {"rows": 10**30},
            {"tables": 1},
            {"metrics": [1]},
            {"files": ["../../../etc/passwd_results.csv"]},
            {"files": []},
            {"files": ["x"]},
        )
    ),
    Case("load: manifest deep", reads(RUN), file_of(RUN, "[" * 200_000), N),
    Case("load: manifest not UTF-8", reads(RUN), file_of(RUN, b"\xff" * 30), N),
    Case("load: manifest of 100 MB of spaces", reads(RUN), file_of(RUN, b" " * 10**8 + b"x"), N),
    Case("load: relative without lengths", reads(CSV, relative=True), json_with(RUN, {"unmasked_length": ...}), N),
    Case(
        "load: relative with odd lengths",
        reads(CSV, relative=True),
        json_with(RUN, {"unmasked_length": {"layers": [0], "variants": ["Full"], "values": [[]]}}),
        N,
    ),
    Case("load: floors with odd values", reads(CSV, floors=True), json_with(RUN, {"noise_floor": 1}), N),
    Case("load_many: nothing there", lambda: load_many("nowhere")),
    Case(
        "load_many: an empty folder",
        lambda: load_many("."),
    ),
    Case("load_many: an odd manifest", lambda: load_many("runs"), json_with(RUN, {"files": 3}), N),
    Case(
        "load_many: a file gone",
        lambda: load_many("runs"),
        lambda: [Path(f"runs/a_results.{e}").unlink() for e in ("csv", "json", "html", "parquet")],
        N,
    ),
    Case("load_many: NUL", lambda: load_many("a\0b")),
    Case("load: effects cut off", reads("effects/e_effects.csv"), cut("effects/e_effects.csv", -9), ("effects",)),
    Case("load: effects empty", reads("effects/e_effects.csv"), file_of("effects/e_effects.csv", ""), ("effects",)),
    Case(
        "load: effects JSON of unequal columns",
        reads("effects/e_effects.json"),
        json_with("effects/e_effects.json", {"generation_step": [0]}),
        ("effects",),
    ),
    Case(
        "load: effects with a digit changed",
        reads("effects/e_effects.csv"),
        last_number("effects/e_effects.csv"),
        ("effects",),
    ),
    Case(
        "load: effects of another run",
        reads("effects/e_effects.json"),
        file_of("effects/e_effects.json", '{"a": [1]}'),
        ("effects",),
    ),
    Case(
        "load: effects Parquet cut off",
        reads("effects/e_effects.parquet"),
        cut("effects/e_effects.parquet", -9),
        ("effects",),
    ),
    Case("load: neighbours cut off", reads("near/n_neighbors.csv"), cut("near/n_neighbors.csv", 500), ("near",)),
    Case(
        "load: neighbours with a digit changed",
        reads("near/n_neighbors.json"),
        last_number("near/n_neighbors.json"),
        ("near",),
    ),
]
