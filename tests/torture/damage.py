"""Result files that are damaged somewhere: `load` refuses them, or gives every number as it was written.

In:  a folder of finished runs. Out: how often a file was damaged, and what was wrong: cells that changed unnoticed.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from mask_impact import load
from mask_impact.errors import UserError

FILES = {
    "runs": ["a_results.csv", "a_results.json", "a_results.parquet", "a_results.html", "a_run.json"],
    "effects": ["e_effects.csv", "e_effects.json", "e_effects.parquet"],
    "near": ["n_neighbors.csv", "n_neighbors.json", "n_neighbors.parquet"],
}


def flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def lose(data: bytearray, chance: random.Random) -> None:
    """A piece from the middle."""
    start = chance.randrange(len(data))
    del data[start : start + chance.randrange(1, 200)]


def double(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    data[start:start] = data[start : start + chance.randrange(1, 200)]


def digit(data: bytearray, chance: random.Random) -> None:
    places = [place for place, byte in enumerate(data) if byte in b"123456789"]
    data[chance.choice(places)] = ord(chance.choice("123456789"))


def zero(data: bytearray, chance: random.Random) -> None:
    """As after a crash of the machine: a block that was never written."""
    start = chance.randrange(len(data))
    end = min(len(data), start + 512)
    data[start:end] = bytes(end - start)


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [flip, cut, lose, double, digit, zero]


def damages(original: bytes, times: int, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """What a file becomes, in as many ways, each with its name; without those that change nothing."""
    for number in range(times):
        damage = DAMAGES[number % len(DAMAGES)]
        data = bytearray(original)
        damage(data, chance)
        if data != original:
            yield f"{damage.__name__} {number}", bytes(data)


def damaged(stock: Path, times: int, seed: int) -> tuple[int, list[str]]:
    """Each file is damaged `times` times; in the current folder."""
    chance, tried, wrong = random.Random(seed), 0, list[str]()
    for name, files in FILES.items():
        shutil.copytree(stock / name, name)
        whole = {file: load(Path(name, file)) for file in files}
        for file in files:
            path, original = Path(name, file), Path(name, file).read_bytes()
            for damage, data in damages(original, times, chance):
                tried += 1
                path.write_bytes(data)
                if why := _unnoticed(path, whole[file]):
                    wrong.append(f"{path} after {damage}: {why}")
            path.write_bytes(original)
    return tried, wrong


def _unnoticed(path: Path, whole: pd.DataFrame) -> str | None:
    """What is wrong with what `load` gives, if anything."""
    try:
        found = load(path)
    except UserError as error:
        return None if len(str(error).splitlines()) == 1 else "the message has several lines"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    if found.shape != whole.shape or list(found.columns) != list(whole.columns):
        return (
            f"{found.shape} rows and columns in place of {whole.shape}, {sorted({*found.columns} ^ {*whole.columns})}"
        )
    return None if found.equals(whole) else f"{(found != whole).to_numpy().sum()} cells have changed"
