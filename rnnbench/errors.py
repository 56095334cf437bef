"""The one error a user of rnnbench is meant to read, and the hint that goes with it."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend: the message names the value, what is allowed and what to do."""


def did_you_mean(value: str, allowed: Iterable[str]) -> str:
    """`` Did you mean 'gru'?`` for the closest of ``allowed``, or an empty string if none is close."""
    names = list(allowed)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.6) or [
        n for n in names if value and n.startswith(value)
    ]
    return f" Did you mean '{close[0]}'?" if close else ""


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raise `UserError` unless ``value`` is one of ``allowed``."""
    names = sorted(allowed)
    if value not in names:
        raise UserError(f"{key}={value}: not known. Allowed: {', '.join(names)}.{did_you_mean(str(value), names)}")


def check_at_least(key: str, value: float, least: float, *, whole: bool = False) -> None:
    """Raise `UserError` unless ``value`` is a number (a whole one, if asked) of at least ``least``."""
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{key}={value}: must be {kind} of at least {least}.")
