"""The limits that tools/house.py reports: no long functions, modules and test files, no endless parameter lists."""

import statistics
from functools import cache
from pathlib import Path

import house
import pytest

functions = cache(house.all_functions)


def test_half_of_the_functions_are_short() -> None:
    assert statistics.median(function.lines for function in functions()) <= house.MEDIAN_LINES


def test_no_function_is_long() -> None:
    assert house.too_long(functions()) == []


def test_no_function_has_many_parameters() -> None:
    assert house.too_many_parameters(functions()) == []


def test_no_module_is_long() -> None:
    assert house.too_large(house.line_counts(house.python_files()), house.MODULE_LINES) == []


def test_no_test_file_is_long() -> None:
    assert house.too_large(house.line_counts(house.test_files()), house.TEST_LINES) == []


def test_the_public_functions_exist() -> None:
    assert {function.name for function in functions()} >= house.PUBLIC


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(house, "ROOT", tmp_path)
    path = tmp_path / "one.py"
    body = "\n".join("    x = 1" for _ in range(60))
    short = "class A:\n    def few(self, a, *, b):  # cosine\n        pass\n"
    path.write_text(f'"""About cosine."""\n\n{short}\ndef long():\n{body}\n')
    return path


def test_what_is_measured(module: Path) -> None:
    few, long = sorted(house.functions(module), key=lambda function: function.name)
    assert (few.lines, few.parameters, long.lines, long.parameters) == (2, 2, 61, 0)
    assert house.too_long([few, long]) == ["one.py:7 long: 61 lines"]
    many = few._replace(parameters=house.PARAMETERS + 1)
    assert house.too_many_parameters([few, many]) == [f"one.py:4 few: {house.PARAMETERS + 1} parameters"]
    assert house.too_large(house.line_counts([module]), 66) == ["one.py: 67 lines"]
    assert house.too_large(house.line_counts([module]), 67) == []


def test_words_in_comments_and_docstrings_are_not_code(module: Path) -> None:
    assert "cosine" not in house.code(module)
    module.write_text('NAMES = ["cosine"]\n')
    assert "cosine" in house.code(module)


def test_the_page_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert house.main(["--all"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" files name one ") == len(house.ROWS)
    assert " 0 files name one " not in printed
