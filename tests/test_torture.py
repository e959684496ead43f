"""A sample of the bad inputs of tests/torture, each with the message that is kept. `make torture` tries all of them."""

import random
from pathlib import Path

import checkpoints
import pytest
from torture import bad_inputs, case

SLOW = ("loops", "multiplies", "powers", "MB", "catastrophic", "long")  # seconds, or megabytes


def sample(count: int) -> list[str]:
    """Names of cases that end before a model computes; always the same."""
    known = bad_inputs.kept()
    quick = [
        name
        for name, found in bad_inputs.BY_NAME.items()
        if set(found.needs) <= {"model"} and known.get(name, "")[:2] == "2\n" and not any(word in name for word in SLOW)
    ]
    return sorted(random.Random(0).sample(sorted(quick), count))


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    checkpoints.qwen3(folder / "model")
    return folder


@pytest.mark.parametrize("name", sample(60))
def test_a_bad_input_has_its_message(name, stock, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["a test"])
    code = case.run(bad_inputs.BY_NAME[name], stock)
    said = capfd.readouterr()
    assert case.Outcome(code, said.out, said.err, 0, 0).shown == bad_inputs.kept()[name]


def test_the_messages_are_those_of_cases():
    known = bad_inputs.kept()
    assert known.keys() <= bad_inputs.BY_NAME.keys() and len(known) >= 300
    assert {shown.partition("\n")[0] for shown in known.values()} <= {"0", "1", "2"}


def test_messages_name_no_class_of_python(tmp_path):
    words = ("Error:", "Exception", "Traceback", "NoneType", "object has no attribute", "torch.", "numpy", "pyarrow")
    text = "\n".join(bad_inputs.kept().values())
    assert [word for word in words if word in text] == []
