"""What libraries print while they load and compute a model: nothing, unless that is asked for."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from logging import ERROR, getLogger


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """A variable that has this value, unless the user has set it, until the block ends."""
    known = name in os.environ
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if not known:
            os.environ.pop(name, None)


@contextlib.contextmanager
def quiet_libraries(verbose: bool) -> Iterator[None]:
    """No warnings of torch and transformers, which would hide what this program has to say, unless `verbose`.

    Logging levels, warning filters, progress bars and the environment are as they were afterwards.
    """
    # tokenizers warn where a process starts another
    with warnings.catch_warnings(), environment("TOKENIZERS_PARALLELISM", "false"):
        if verbose:
            yield
            return
        warnings.simplefilter("ignore")
        from huggingface_hub import utils as hub
        from transformers.utils import logging

        logging.get_verbosity()  # sets up its logger, which would set the level again later
        loggers = [getLogger(name) for name in ("huggingface_hub", "transformers", "accelerate")]
        levels, bars = (
            [logger.level for logger in loggers],
            (logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()),
        )
        for logger in loggers:
            logger.setLevel(ERROR)  # accelerate lists the device of every layer, which the manifest has
        logging.disable_progress_bar()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars[0]:
                logging.enable_progress_bar()
            if bars[1]:
                hub.enable_progress_bars()
            elif bars[0]:  # transformers has enabled the hub's with its own
                hub.disable_progress_bars()
