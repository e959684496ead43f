"""The only place that turns errors into exit codes: 0 done, 1 failed while running, 2 bad input, 130 interrupted."""

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable

from mask_impact.commands.signals import stopped_by_signals
from mask_impact.commands.terminal import (
    complain,
    described,
    let_the_first_speak,
    unprinted,
)
from mask_impact.errors import UserError, one_line, panics_as_errors
from mask_impact.options import named


def guarded(main: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    """Run a command; every failure becomes a line on stderr and an exit code, which `main` may also give."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every console can print every token
    unprinted.clear()
    with contextlib.ExitStack() as stack:
        if sys.stderr is None:  # closed by who started this
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        return _guarded(main, args) or int(bool(unprinted))


def _guarded(main: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    try:
        with stopped_by_signals(), panics_as_errors():
            return main(args) or 0
    except KeyboardInterrupt:
        complain("interrupted: nothing of the unfinished run was written")
        return 130
    except Exception as error:
        let_the_first_speak()
        if args.verbose:
            traceback.print_exc()
        if isinstance(error, UserError):
            for line in getattr(error, "errors", [error]):  # a YAML file can have several
                complain(f"error: {named(one_line(line), args.flags)}")
            return 2
        where = "" if args.verbose else " (--verbose shows where)"
        complain(f"error: {described(error, args.flags)}{where}")
        return 1
