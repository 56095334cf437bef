"""Comparison tables: what is said of the runs that `pool` found. `layout` prints them."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rnnbench.analysis.collect import SPLITS
from rnnbench.analysis.pool import pool
from rnnbench.errors import check_choice
from rnnbench.published import published

METRICS = ("nll_step", "nll_seq", "mse", "xent")
"""Every metric a task may have; lower is better for all of them."""


@dataclass(frozen=True)
class Table:
    """Numbers and the sentences that belong to them.

    ``cells`` is tidy: a row for each task, variant, cell, metric and split, with mean, sd (of the sample, ddof
    1), n (seeds), candidates (learning rates tried, for the seed with the fewest), baseline and published.
    """

    cells: pd.DataFrame
    notes: list[str]


def tabulate(runs: pd.DataFrame, metrics: Sequence[str] = (), splits: Sequence[str] = SPLITS) -> Table:
    """Pool the finished runs of ``runs`` (see `collect`) and lay them out for comparison.

    Args:
        runs: a row a run.
        metrics: those to show; a task that has none of them is shown by the one that selects, and so are all
            tasks by default.
        splits: of train, valid, test.

    Raises:
        UserError: for an unknown metric or split, or if no run is finished.
    """
    for metric in metrics:
        check_choice("--metric", metric, METRICS)
    for split in splits:
        check_choice("--split", split, SPLITS)
    pooled = pool(runs)
    rows = [row for members in pooled.groups() for row in _summaries(members, metrics, splits)]
    cells = pd.DataFrame(rows).sort_values(["task", "variant", "cell"], kind="stable", ignore_index=True)
    return Table(cells, pooled.notes)


def _summaries(members: pd.DataFrame, metrics: Sequence[str], splits: Sequence[str]) -> Iterable[dict[Hashable, Any]]:
    first = members.iloc[0]
    here = [m for m in metrics if f"test_{m}" in members and members[f"test_{m}"].notna().all()]
    for metric in here or [first["metric"]]:
        for split in splits:
            values = members[f"{split}_{metric}"].astype(float)
            yield {
                "task": first["task"],
                "variant": first["variant"],
                "cell": first["cell"],
                "metric": metric,
                "split": split,
                "mean": values.mean(),
                "sd": values.std(ddof=1),
                "n": len(values),
                "candidates": int(members["candidates"].min()),
                "baseline": first[f"baseline_{split}_{metric}"],
                "published": published(first["task"], first["cell"], split, metric),
            }
