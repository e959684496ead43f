"""The kinds of failure a user can meet; commands/exit_codes.py alone turns them into exit codes."""


class UserError(Exception):
    """Bad input, found before any long computation: one line saying what was given, what is valid and what to do."""


class UnsupportedModel(UserError):
    """The model cannot be measured truthfully; the message names the family and the reason."""

    final = False  # whether no other way of measuring it would help


class OutOfMemory(Exception):
    """The input is good, but memory ran out: one line saying in what, how much was asked for, and what to do."""


class CannotPrint(Exception):
    """Standard output takes no more, for example because its disk is full. The results are not touched by that."""
