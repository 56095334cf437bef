"""Choosing runs by their config and results: ``task.length=100,200``, ``train.lr>=1e-3``."""

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from rnnbench.analysis.pool import show
from rnnbench.errors import UserError, did_you_mean

CONDITION = re.compile(r"(?P<key>[\w.-]+)\s*(?P<sign>!=|<=|>=|==?|<|>)\s*(?P<value>.*)")
ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def only(runs: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The runs that meet all conditions.

    Args:
        runs: a row a run, see `rnnbench.analysis.collect`.
        conditions: a column, a sign (``= != < <= > >=``) and a value; after ``=`` and ``!=`` several, with commas. A
            key that a run does not have is ``null``.

    Raises:
        UserError: for a condition that cannot be read, a column that is not there, or if no run is left.
    """
    for condition in conditions:
        found = CONDITION.fullmatch(condition.strip())
        if found is None:
            raise UserError(
                f"--where {condition}: must be a key, one of = != < <= > >=, and a value, as in "
                "'task.length=100,200' or 'train.lr>=1e-3'."
            )
        key, sign, value = found["key"], found["sign"], found["value"]
        if key not in runs:
            raise UserError(f"--where {condition}: no run has {key}.{did_you_mean(key, list(runs.columns))}")
        kept = runs[_ordered(runs[key], sign, value, condition) if sign in ORDER else _equal(runs[key], sign, value)]
        if kept.empty:
            there = sorted({show(v) for v in runs[key]})
            raise UserError(f"{condition}: no run is left. There: {key}={', '.join(there[:20])}.")
        runs = kept
    return runs


def _equal(column: "pd.Series[Any]", sign: str, value: str) -> "pd.Series[bool]":
    """By number where both are numbers, and else by the text as it would be typed."""
    wanted = {_canonical(part.strip()) for part in (value, *value.split(","))}
    found = column.map(lambda v: _canonical(show(v))).isin(wanted)
    return ~found if sign == "!=" else found


def _canonical(text: str) -> str | float:
    """A value as `show` has it, or a number; Python's names of values do as well."""
    text = {"True": "true", "False": "false", "None": "null"}.get(text, text)
    try:
        return float(text)
    except ValueError:
        return text


def _ordered(column: "pd.Series[Any]", sign: str, value: str, condition: str) -> "pd.Series[bool]":
    numbers = pd.to_numeric(column, errors="coerce")
    try:
        limit = float(value)
    except ValueError:
        raise UserError(f"--where {condition}: {value} must be a number.") from None
    met: pd.Series[bool] = ORDER[sign](numbers, limit)
    return met
