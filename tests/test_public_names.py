"""`from mask_impact import load, show, run_masking_experiment, ...`: they cost nothing until used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mask_impact
import mask_impact_analysis
import mask_impact_vl

HEAVY = ("torch", "transformers", "pandas", "numpy", "PIL")


def imported(code: str) -> set[str]:
    """Which of the heavy libraries a fresh Python has imported after running `code`."""
    command = f"{code}\nimport json, sys\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", command], cwd=root, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_public_names_are_the_functions_of_their_modules() -> None:
    from mask_impact import run_masking_experiment, run_vl_effects_experiment
    from mask_impact.files import notebook, results

    assert run_masking_experiment is mask_impact_analysis.run_masking_experiment
    assert run_vl_effects_experiment is mask_impact_vl.run_vl_effects_experiment
    assert mask_impact.show is notebook.show
    assert mask_impact.load is results.load


def test_every_public_name_is_there_and_listed() -> None:
    assert sorted(mask_impact.__all__) == sorted(mask_impact.MODULES)
    assert all(callable(getattr(mask_impact, name)) for name in mask_impact.__all__)
    assert set(mask_impact.__all__) <= set(dir(mask_impact))


def test_unknown_names_are_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = mask_impact.lode
    with pytest.raises(ImportError, match="lode"):
        from mask_impact import lode  # noqa: F401


def test_importing_the_package_imports_no_library() -> None:
    assert imported("import mask_impact; dir(mask_impact); mask_impact.__version__") == set()


def test_the_functions_can_be_imported_without_torch() -> None:
    assert "torch" not in imported("from mask_impact import run_masking_experiment, run_vl_effects_experiment")


def test_reading_a_table_needs_no_torch() -> None:
    table = Path(__file__).resolve().parent / "golden" / "text_results.csv"
    found = imported(f"from mask_impact import load\nassert len(load({str(table)!r})) > 1000")
    assert "pandas" in found and "torch" not in found and "transformers" not in found
