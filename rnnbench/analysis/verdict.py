"""Ours beside the published value: agrees, differs by so much, or cannot be compared, because."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from scipy import stats

from rnnbench.analysis.pool import show
from rnnbench.analysis.statistics import CONFIDENCE
from rnnbench.published import CANDIDATES, PROTOCOL, UNITS, published


def verdict(runs: pd.DataFrame, split: str, metric: str) -> str | None:
    """What may be said of the runs of one cell, setting and task beside the paper's value; None where it has none.

    The paper has one run a cell and set. Ours agree if that run lies where one more run of ours would, with a
    probability of 95 %: within mean ± t s √(1 + 1/n), with n seeds and their standard deviation s (the prediction
    interval of normal scores).

    Args:
        runs: those that may be pooled.
        split: train, valid or test.
        metric: see `rnnbench.analysis.collect.METRICS`.
    """
    first = {**runs.iloc[0].to_dict(), "candidates": runs["candidates"].min()}
    value = published(first["task"], first["cell"], split, metric)
    if value is None:
        return None
    reason = other_experiment({str(k): v for k, v in first.items()})
    if reason:
        return f"cannot be compared, because {reason}"
    ours = runs[f"{split}_{metric}"].astype(float)
    if ours.isna().any():
        return "cannot be compared, because a seed has no finite score"
    difference = float(ours.mean()) - value
    if len(ours) < 2:
        return f"cannot be compared, because one seed has no spread (it is {difference:+.2f})"
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(ours) - 1) * ours.std(ddof=1) * math.sqrt(1 + 1 / len(ours)))
    if abs(difference) <= half:
        return f"agrees (within ±{half:.2f})"
    return f"differs by {difference:+.2f} (one more run: ±{half:.2f})"


def other_experiment(run: Mapping[str, Any]) -> str:
    """In what a run is another experiment than the paper's, where the paper says; empty if in nothing."""
    if run["cell"] in UNITS and run.get("cell.hidden_size") != UNITS[run["cell"]]:
        return f"the paper's {run['cell']} has {UNITS[run['cell']]} units and not {show(run.get('cell.hidden_size'))}"
    for key, value in PROTOCOL.items():
        if run.get(key) != value:
            return f"the paper has {key}={show(value)} and not {show(run.get(key))}"
    if run["candidates"] < CANDIDATES:
        return f"the paper chose of {CANDIDATES} learning rates and not of {run['candidates']}"
    return ""
