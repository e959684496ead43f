"""The outcome of a family in the installed transformers: measured and right, or refused by name.

In: a test that compares the engine with brute force. Out: its outcome, in pytest's report, where `tools/tested.py`
reads it. No list in the code says which families are refused: the tests find out, and docs/families.md shows it.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mask_impact.errors import UnsupportedModel

MEASURED = "measured"
Record = Callable[[str, object], None]  # pytest's record_property


@contextmanager
def measured_or_refused(record: Record, kind: str, name: str, model_type: str) -> Iterator[None]:
    """The block compares with brute force. An UnsupportedModel that names the family passes too; any other error fails.

    Args:
        kind: "text", "encoder-decoder" or "picture".
        name: the row of the family's table.
    """
    outcome = MEASURED
    try:
        yield
    except UnsupportedModel as error:
        assert f"'{model_type}'" in str(error), "the refusal does not name the family"
        outcome = str(error)
    record("family", json.dumps({"kind": kind, "name": name, "model_type": model_type, "outcome": outcome}))
