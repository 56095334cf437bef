"""Comparison tables: what is said of the runs that `pool` found. `layout` prints them."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rnnbench.analysis.collect import METRICS, SPLITS
from rnnbench.analysis.compare import compare, method_of
from rnnbench.analysis.pool import Pool, natural, pool
from rnnbench.analysis.verdict import verdict
from rnnbench.errors import UserError, check_choice
from rnnbench.published import published

OF_A_SCORE = ("metric", "split")
"""What may be rows or columns of a table besides the keys and fields of runs."""

NO_AXES = ("task", "cell", *OF_A_SCORE)


@dataclass(frozen=True)
class Table:
    """Numbers and the sentences that belong to them.

    ``cells`` is tidy: a row for each task, variant, cell, metric and split (and value of other ``rows`` and
    ``columns``), with mean, sd (of the sample, ddof 1), n (seeds), candidates (learning rates tried, for the seed with
    the fewest), baseline, published and verdict (see `rnnbench.analysis.verdict`; only without other rows and columns),
    and best: whether the statistics say that it is better than every other cell of its task and setting.
    """

    cells: pd.DataFrame
    notes: list[str]
    rows: tuple[str, ...] = ("task",)
    columns: str = "cell"


def tabulate(
    runs: pd.DataFrame,
    metrics: Sequence[str] = (),
    splits: Sequence[str] = SPLITS,
    rows: Sequence[str] = ("task",),
    columns: str = "cell",
) -> Table:
    """Pool the finished runs of ``runs`` (see `rnnbench.analysis.collect`) and lay them out for comparison.

    Args:
        runs: a row a run.
        metrics: those to show; a task that has none of them is shown by the one that selects, and so are all
            tasks by default.
        splits: of train, valid, test.
        rows: keys of the config or fields of results that the rows are told apart by, or ``metric`` or ``split``. What
            differs besides is told apart by more rows.
        columns: the same for the columns.

    Raises:
        UserError: for an unknown metric, split or key, or if no run is finished.
    """
    for metric in metrics:
        check_choice("--metric", metric, METRICS)
    for split in splits:
        check_choice("--split", split, SPLITS)
    if not splits:
        raise UserError("--split: name at least one of train, valid, test.")
    if columns in rows:
        raise UserError(f"--columns {columns}: is a key of the rows already.")
    pooled = pool(runs, [key for key in (*rows, columns) if key not in NO_AXES])
    found = [row for members in pooled.groups() for row in _summaries(members, metrics, splits, pooled.axes)]
    best = _best(pool(runs) if pooled.axes else pooled, metrics) if "test" in splits else set()
    for row in found:
        row["best"] = (row.pop("members"), row["metric"], row["split"]) in best
    cells = pd.DataFrame(found).sort_values(["task", "variant", "cell"], key=in_order, kind="stable", ignore_index=True)
    return Table(cells, pooled.notes, tuple(rows), columns)


def in_order(names: Any) -> Any:  # noqa: ANN401 - a series or an index of pandas
    """What sorts as ``names`` do for a person: task.length=50 before task.length=100; numbers as they are."""
    if pd.api.types.is_numeric_dtype(names.dtype):
        return names
    places = {name: place for place, name in enumerate(sorted(set(names), key=lambda name: natural(str(name))))}
    return names.map(places)


def _best(pooled: Pool, metrics: Sequence[str]) -> set[tuple[frozenset[Hashable], str, str]]:
    """(pooled runs, metric, split) of each cell that is better on test than all others of its task and setting."""
    best = compare(pooled, metrics).best()
    seeds = pooled.runs.groupby(["task", "setting"])["seed"].agg(set)
    return {
        (frozenset(members.index), metric, split)
        for members in pooled.groups()
        for task, setting, metric, split, method in best
        if set(members["seed"]) == seeds[task, setting]
        and (task, setting, method) == (members.iloc[0]["task"], members.iloc[0]["setting"], method_of(members))
    }


def _summaries(
    members: pd.DataFrame, metrics: Sequence[str], splits: Sequence[str], axes: Sequence[str]
) -> Iterable[dict[Hashable, Any]]:
    first = members.iloc[0]
    here = [m for m in metrics if f"test_{m}" in members and members[f"test_{m}"].notna().any()]
    for metric in here or [first["metric"]]:
        for split in splits:
            values = members[f"{split}_{metric}"].astype(float)
            yield {
                **{key: first[key] for key in axes},
                "task": first["task"],
                "variant": first["variant"],
                "cell": first["cell"],
                "metric": metric,
                "split": split,
                "mean": values.mean(skipna=False),
                "sd": values.std(ddof=1, skipna=False),
                "n": len(values),
                "candidates": int(members["candidates"].min()),
                "baseline": first.get(f"baseline_{split}_{metric}", math.nan),
                "published": None if axes else published(first["task"], first["cell"], split, metric),
                "verdict": None if axes else verdict(members, split, metric),
                "members": frozenset(members.index),
            }
