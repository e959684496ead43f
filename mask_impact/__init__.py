"""mask-impact: which tokens does a model use, at which layer, in which head?

    from mask_impact import load, run_masking_experiment, show

    df = run_masking_experiment("The capital of France is", "demo")
    df = load("output/masking_run.json")  # a table that was written before
    show(df)  # the page, in a notebook

Importing this package imports nothing else. A public name is looked up when it is first used, so that reading a table
does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers
    from mask_impact.files.notebook import show
    from mask_impact.files.results import load, load_many
    from mask_impact_analysis import run_effects_experiment, run_masking_experiment
    from mask_impact_vl import run_vl_effects_experiment, run_vl_masking_experiment

__version__ = "0.1.0"
__all__ = [
    "load",
    "load_many",
    "run_effects_experiment",
    "run_masking_experiment",
    "run_vl_effects_experiment",
    "run_vl_masking_experiment",
    "show",
]

MODULES = {  # public name -> the module that defines it
    "load": "mask_impact.files.results",
    "load_many": "mask_impact.files.results",
    "show": "mask_impact.files.notebook",
    "run_masking_experiment": "mask_impact_analysis",
    "run_effects_experiment": "mask_impact_analysis",
    "run_vl_masking_experiment": "mask_impact_vl",
    "run_vl_effects_experiment": "mask_impact_vl",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
