"""The one error a user of rnnbench is meant to read, the hint that goes with it, and the usual checks."""

import difflib
import importlib.util
import math
import sys
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend: the message names the value, what is allowed and what to do."""


class BusyError(UserError):
    """A run that another process is training at the moment."""


def first_line(error: BaseException) -> str:
    """What an error says in a line: its type and the first line of its message; of a `UserError` the message alone."""
    line = (str(error).splitlines() or [""])[0]
    if isinstance(error, UserError):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def did_you_mean(value: str, allowed: Iterable[str]) -> str:
    """`` Did you mean 'gru'?`` for the closest of ``allowed``, or an empty string if none is close."""
    names = list(allowed)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.6) or [
        n for n in names if value and n.startswith(value)
    ]
    return f" Did you mean '{close[0]}'?" if close else ""


def check_choice(key: str, value: object, allowed: Iterable[str]) -> None:
    """Raise `UserError` unless ``value`` is one of ``allowed``."""
    names = sorted(allowed)
    if value not in names:
        hint = did_you_mean(str(value), names)
        raise UserError(f"{key}={value}: not known. Allowed: {', '.join(names)}.{hint}")


def check_number(key: str, value: object, *, least: float = -math.inf, above: float = -math.inf) -> None:
    """Raise `UserError` unless ``value`` is a finite number, of at least ``least`` and greater than ``above``."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (value >= least and value > above):  # type: ignore[operator]
        bound = f" of at least {least:g}" if least > -math.inf else f" above {above:g}" if above > -math.inf else ""
        raise UserError(f"{key}={value}: must be a finite number{bound}.")


def check_whole(key: str, value: object, least: int) -> None:
    """Raise `UserError` unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{key}={value}: must be a whole number of at least {least}.")


def check_truth(key: str, value: object) -> None:
    """Raise `UserError` unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise UserError(f"{key}={value}: must be true or false.")


def check_torch() -> None:
    """Raise `UserError` where torch is not installed: configs, plans and tables do without it, training does not."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"torch is not installed for {sys.executable} (Python {sys.version.split()[0]}), and nothing can be "
            "computed without it: pip install torch"
        )
