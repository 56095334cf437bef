"""Comparison tables: which runs may be pooled, and what a table says of them. `layout` prints them.

A *variant* is what is equal in everything but the seed; only runs of one variant are pooled. Runs that differ
in nothing but the learning rate and the seed are a search: for each seed only the candidate that is best on
validation counts, and only seeds for which the same rates were tried, or the same search drew them, are pooled.
"""

from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rnnbench.analysis.collect import CONFIG_GROUPS, SPLITS
from rnnbench.config import NAMES
from rnnbench.errors import UserError, check_choice
from rnnbench.published import published

METRICS = ("nll_step", "nll_seq", "mse", "xent")
"""Every metric a task may have; lower is better for all of them."""

SEARCHED = "train.lr"
SEARCH = ["search.name", "search.log_low", "search.log_high"]
"""Columns that tell one search from another, beside the number of its candidates."""

TRIED = ("done", "diverged", "pruned")
"""The statuses of runs that count as candidates."""

MACHINE = ("commit", "dirty", "versions.rnnbench", "versions.torch", "device_name", "kernel")
"""Columns that decide no result, but may move one by rounding."""


@dataclass(frozen=True)
class Comparison:
    """Numbers and the sentences that belong to them.

    ``cells`` is tidy: a row for each task, variant, cell, metric and split, with mean, sd (of the sample, ddof
    1), n (seeds), candidates (learning rates tried, for the seed with the fewest), baseline and published.
    """

    cells: pd.DataFrame
    notes: list[str]


def compare(runs: pd.DataFrame, metrics: Sequence[str] = (), splits: Sequence[str] = SPLITS) -> Comparison:
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
    done = runs[runs["status"] == "done"]
    notes = _left_out(runs)
    if done.empty:
        raise UserError(f"no run is finished yet. {' '.join(notes)}")
    chosen, search_notes = _best_of_search(done, runs)
    labels, label_notes = _label(chosen)
    variants = _keys(chosen, [*config_columns(chosen), "task", "cell"])
    rows: list[dict[Hashable, Any]] = []
    for _, members in chosen.groupby(variants, sort=False):
        rows += _summaries(labels[members.index[0]], members, metrics, splits)
        notes += _mixed(members)
    cells = pd.DataFrame(rows).sort_values(["task", "variant", "cell"], kind="stable", ignore_index=True)
    return Comparison(cells, [*label_notes, *search_notes, *notes])


def _left_out(runs: pd.DataFrame) -> list[str]:
    """What the table does not show: diverged and given-up runs by name, for they were tried; the others by number."""
    notes = []
    for status, what in (("diverged", "Diverged"), ("pruned", "Given up by a search (pruned)")):
        named = [
            f"{r['cell']} on {r['task']}, seed {r['seed']} ({SEARCHED}={_show(r[SEARCHED])})"
            for r in runs[runs["status"] == status].to_dict("records")
        ]
        if named:
            notes.append(f"{what}, and in no mean: {'; '.join(named)}.")
    counts = runs.loc[~runs["status"].isin(TRIED), "status"].value_counts()
    if len(counts):
        notes.append(f"Left out: {', '.join(f'{n} {status}' for status, n in counts.items())}.")
    return notes


def _mixed(members: pd.DataFrame) -> list[str]:
    """A note on pooled runs that another code or machine computed."""
    mixed = [c for c in MACHINE if c in members and members[c].nunique(dropna=False) > 1]
    if not mixed:
        return []
    first = members.iloc[0]
    return [f"{first['cell']} on {first['task']}: the pooled runs differ in {', '.join(mixed)}."]


def config_columns(runs: pd.DataFrame) -> list[str]:
    """The columns whose values make a variant: the config but for names, and the data's checksum."""
    config = [c for c in runs.columns if c.startswith(CONFIG_GROUPS) and c not in NAMES]
    return [*config, "data_checksum"]


def _keys(runs: pd.DataFrame, columns: Iterable[str]) -> "pd.Series[Any]":
    """One comparable value a run for the values of ``columns``; a missing key and null are the same."""
    columns = list(columns)
    values = runs[columns].astype(object).where(runs[columns].notna(), None)
    return pd.Series([repr(tuple(row)) for row in values.itertuples(index=False)], index=runs.index, dtype=object)


def _best_of_search(done: pd.DataFrame, runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """For each seed of a search the run that is best on validation, its ``train.lr`` replaced by "best of …".

    Diverged and pruned runs count as candidates and never win. The notes are on searches that are not complete.
    """
    tried = runs[runs["status"].isin(TRIED)]
    tried = tried.reindex(columns=[*runs.columns, *(c for c in (*SEARCH, "search.candidates") if c not in runs)])
    fixed = [c for c in config_columns(runs) if c not in (SEARCHED, "data_checksum")]
    search = _keys(tried, [*fixed, "task", "cell", "seed"])
    several = set(tried[SEARCH].drop_duplicates()["search.name"].value_counts().loc[lambda n: n > 1].index)
    found = {key: _describe(candidates, several) for key, candidates in tried.groupby(search, sort=False)}
    best = done.loc[_validation(done).groupby(search.loc[done.index]).idxmin().sort_values()].copy()
    described = search.loc[best.index].map(found)
    best["candidates"] = [d.rates for d in described]
    best[SEARCHED] = pd.Series([d.value for d in described], index=best.index, dtype=object)
    return best, [d.note for d in found.values() if d.note]


@dataclass(frozen=True)
class _Tried:
    """What was tried for one seed: the number of rates, what stands for them in a variant, and what is missing."""

    rates: int
    value: Any
    note: str = ""


def _describe(candidates: pd.DataFrame, several: Set[str]) -> _Tried:
    """The learning rates of one seed: by the search, if one drew them all, and else by themselves.

    Args:
        candidates: the runs of one seed, equal in all but the rate.
        several: names that more than one search bears, and that need their bounds beside them.
    """
    rates = sorted(set(candidates[SEARCHED]))
    first = candidates.iloc[0]
    if candidates[SEARCH].isna().any(axis=None) or len(candidates[SEARCH].drop_duplicates()) > 1:
        texts = ", ".join(_show(lr) for lr in rates)
        return _Tried(len(rates), rates[0] if len(rates) == 1 else f"best of {len(rates)} ({texts})")
    planned = int(candidates["search.candidates"].max())  # a search that has grown has kept its first runs
    name, low, high = (first[column] for column in SEARCH)
    bounds = f", exp of U({low:g}, {high:g})" if name in several else ""
    note = ""
    if len(rates) < planned:
        note = (
            f"{first['cell']} on {first['task']}, seed {first['seed']}: {len(rates)} of the {planned} candidates of "
            f"search {name} have ended; the others are missing."
        )
    return _Tried(len(rates), f"best of {planned} (search {name}{bounds})", note)


def _validation(runs: pd.DataFrame) -> "pd.Series[float]":
    """The validation score of each run by the metric that selects."""
    scores = [runs.at[i, f"valid_{metric}"] for i, metric in runs["metric"].items()]
    return pd.Series(scores, index=runs.index, dtype=float)


def _label(runs: pd.DataFrame) -> tuple["pd.Series[str]", list[str]]:
    """For each run, the keys in which its variant differs from the others of its task; and notes on them.

    What the cells of a row must share (task and protocol) is named wherever it differs. Of several variants of
    one cell the one with the most runs stands in the row without a name, which a note spells out.
    """
    labels = pd.Series("", index=runs.index, dtype=object)
    notes = []
    for task, of_task in runs.groupby("task"):
        labels.loc[of_task.index] = _shared(of_task)
        for cell, of_cell in of_task.groupby("cell"):
            own = _differing(of_cell, [c for c in config_columns(runs) if c.startswith("cell.")])
            if own.nunique() == 1:
                continue
            main = own.value_counts(sort=True).sort_index(kind="stable").idxmax()
            notes.append(f"{task}, {cell}: where no key of the cell is named, {main}.")
            for index in own.index[own != main]:
                labels.loc[index] = ", ".join(part for part in (labels.loc[index], own.loc[index]) if part)
    return labels, notes


def _shared(of_task: pd.DataFrame) -> "pd.Series[str]":
    """The differences in task and protocol; keys in which protocols differ are told by the protocol's name."""
    columns = [c for c in config_columns(of_task) if not c.startswith("cell.")]
    differing = _differing(of_task, columns)
    if differing.nunique() == 1 or of_task["train.name"].nunique(dropna=False) == 1:
        return differing
    names = of_task["train.name"].fillna("?")
    told = [c for c in columns if c.startswith("train.") and _keys(of_task, [c]).groupby(names).nunique().max() == 1]
    rest = _differing(of_task, [c for c in columns if c not in told])
    texts = [
        ", ".join(part for part in (f"train={name}", more) if part) for name, more in zip(names, rest, strict=True)
    ]
    return pd.Series(texts, index=of_task.index, dtype=object)


def _differing(runs: pd.DataFrame, columns: Iterable[str]) -> "pd.Series[str]":
    """``key=value, …`` for the ``columns`` that are not equal in all of ``runs``."""
    differing = [c for c in columns if _keys(runs, [c]).nunique() > 1]
    texts = [", ".join(f"{c}={_show(runs.at[i, c])}" for c in differing) for i in runs.index]
    return pd.Series(texts, index=runs.index, dtype=object)


def _show(value: Any) -> str:  # noqa: ANN401 - a leaf of a config
    if value is None or value != value:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(float(value))
    return str(value)


def _summaries(
    variant: str, members: pd.DataFrame, metrics: Sequence[str], splits: Sequence[str]
) -> Iterable[dict[Hashable, Any]]:
    first = members.iloc[0]
    here = [m for m in metrics if f"test_{m}" in members and members[f"test_{m}"].notna().all()]
    for metric in here or [first["metric"]]:
        for split in splits:
            values = members[f"{split}_{metric}"].astype(float)
            yield {
                "task": first["task"],
                "variant": variant,
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
