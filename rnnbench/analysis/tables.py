"""Comparison tables: which runs may be pooled, what a table says of them, and how it is printed.

A *variant* is what is equal in everything but the seed; only runs of one variant are pooled. Runs that differ
in nothing but the learning rate and the seed are a search: for each seed only the candidate that is best on
validation counts, and seeds are pooled that had equally many candidates.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rnnbench.analysis.collect import CONFIG_GROUPS, SPLITS
from rnnbench.errors import UserError, check_choice
from rnnbench.published import PAPER, published

METRICS = ("nll_step", "nll_seq", "mse", "xent")
SEARCHED = "train.lr"
NAMES = ("cell.name", "task.name")
FORMATS = ("text", "markdown", "latex", "csv")


@dataclass(frozen=True)
class Comparison:
    """Numbers and the sentences that belong to them.

    ``cells`` is tidy: a row for each task, variant, cell, metric and split, with mean, sd (of the sample, ddof
    1), n (seeds), candidates (learning rates tried for each seed), baseline and published.
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
    chosen = _best_of_search(done, runs)
    labels, label_notes = _label(chosen)
    rows = [
        row
        for (task, variant, cell), members in chosen.groupby([chosen["task"], labels, chosen["cell"]], sort=True)
        for row in _summaries(str(task), str(variant), str(cell), members, metrics, splits)
    ]
    return Comparison(pd.DataFrame(rows), [*label_notes, *notes])


def _left_out(runs: pd.DataFrame) -> list[str]:
    counts = runs.loc[runs["status"] != "done", "status"].value_counts()
    listed = ", ".join(f"{n} {status}" for status, n in counts.items())
    return [f"Left out: {listed}."] if listed else []


def config_columns(runs: pd.DataFrame) -> list[str]:
    """The columns whose values make a variant: the config but for names, and the data's checksum."""
    config = [c for c in runs.columns if c.startswith(CONFIG_GROUPS) and c not in NAMES]
    return [*config, "data_checksum"]


def _keys(runs: pd.DataFrame, columns: Iterable[str]) -> "pd.Series[Any]":
    """One comparable value a run for the values of ``columns``; a missing key and null are the same."""
    columns = list(columns)
    values = runs[columns].astype(object).where(runs[columns].notna(), None)
    return pd.Series([repr(tuple(row)) for row in values.itertuples(index=False)], index=runs.index, dtype=object)


def _best_of_search(done: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """For each seed of a search the run that is best on validation, its ``train.lr`` replaced by "best of n".

    Diverged runs count as candidates and never win.
    """
    tried = runs[runs["status"].isin(["done", "diverged"])]
    fixed = [c for c in config_columns(runs) if c not in (SEARCHED, "data_checksum")]
    search = _keys(tried, [*fixed, "task", "cell", "seed"])
    candidates = tried[SEARCHED].groupby(search).nunique()
    best = done.loc[_validation(done).groupby(search.loc[done.index]).idxmin().sort_values()].copy()
    best["candidates"] = search.loc[best.index].map(candidates)
    single = best["candidates"] == 1
    best[SEARCHED] = best[SEARCHED].astype(object).where(single, "best of " + best["candidates"].astype(str))
    return best


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
        shared = [c for c in config_columns(runs) if not c.startswith("cell.")]
        labels.loc[of_task.index] = _differing(of_task, shared)
        for cell, of_cell in of_task.groupby("cell"):
            own = _differing(of_cell, [c for c in config_columns(runs) if c.startswith("cell.")])
            if own.nunique() == 1:
                continue
            main = own.value_counts(sort=True).sort_index(kind="stable").idxmax()
            notes.append(f"{task}, {cell}: where no key of the cell is named, {main}.")
            for index in own.index[own != main]:
                labels.loc[index] = ", ".join(part for part in (labels.loc[index], own.loc[index]) if part)
    return labels, notes


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
    return f"{value:g}" if isinstance(value, float) else str(value)[:16]


def _summaries(
    task: str, variant: str, cell: str, members: pd.DataFrame, metrics: Sequence[str], splits: Sequence[str]
) -> Iterable[dict[Hashable, Any]]:
    here = [m for m in metrics if f"test_{m}" in members and members[f"test_{m}"].notna().all()]
    for metric in here or [members["metric"].iloc[0]]:
        for split in splits:
            values = members[f"{split}_{metric}"].astype(float)
            yield {
                "task": task,
                "variant": variant,
                "cell": cell,
                "metric": metric,
                "split": split,
                "mean": values.mean(),
                "sd": values.std(ddof=1),
                "n": len(values),
                "candidates": int(members["candidates"].iloc[0]),
                "baseline": members[f"baseline_{split}_{metric}"].iloc[0],
                "published": published(task, cell, split, metric),
            }


# ---------------------------------------------------------------- how it is printed


def render(comparison: Comparison, fmt: str) -> str:
    """The table as text, Markdown, LaTeX or CSV; the CSV is the tidy frame, without a caption.

    Raises:
        UserError: for an unknown format.
    """
    check_choice("--format", fmt, FORMATS)
    if fmt == "csv":
        return comparison.cells.to_csv(index=False)
    table = layout(comparison)
    caption = captions(comparison)
    if fmt == "latex":
        return _latex(table, caption)
    shown = table.reset_index()
    repeated = shown[["task", "variant", "metric"]].eq(shown[["task", "variant", "metric"]].shift()).all(axis=1)
    shown.loc[repeated, ["task", "variant", "metric"]] = ""
    if (shown["variant"] == "").all():
        shown = shown.drop(columns="variant")
    text = shown.to_markdown(index=False, tablefmt="pipe" if fmt == "markdown" else "simple", disable_numparse=True)
    return "\n".join([text, "", *caption])


def layout(comparison: Comparison) -> pd.DataFrame:
    """Rows task, variant, metric and split; columns the cells, then the trivial baseline; entries as text."""
    cells = comparison.cells.copy()
    cells["text"] = [_entry(row) for row in cells.to_dict("records")]
    rows = ["task", "variant", "metric", "split"]
    table = cells.pivot(index=rows, columns="cell", values="text").fillna("")
    table["baseline"] = cells.groupby(rows)["baseline"].first().map("{:.4g}".format)
    order = {split: i for i, split in enumerate(SPLITS)}
    table = table.sort_index(key=lambda level: level.map(order) if level.name == "split" else level)
    table.columns.name = None
    return table


def _entry(row: dict[Hashable, Any]) -> str:
    digits = 3 if row["mean"] >= 0.1 else 5
    spread = f" ± {row['sd']:.{digits}f}" if row["n"] > 1 else ""
    paper = (
        f" [{row['published']:.2f}]" if row["published"] is not None and row["published"] == row["published"] else ""
    )
    return f"{row['mean']:.{digits}f}{spread} ({row['n']}){paper}"


def captions(comparison: Comparison) -> list[str]:
    """The sentences under a table."""
    cells = comparison.cells
    units = {
        "nll_step": "nll_step: nats, summed over notes, mean over all predicted steps.",
        "nll_seq": "nll_seq: nats, summed over notes, mean over sequences of each one's mean over its steps.",
        "mse": "mse: mean squared error.",
        "xent": "xent: nats, mean cross-entropy over all steps.",
    }
    shown = [units[m] for m in METRICS if m in set(cells["metric"])]
    what = "mean ± standard deviation of the sample (number of seeds), at the best validation of each run"
    lines = [f"Lower is better; {what}.", *shown, "baseline: the task's trivial baseline."]
    if cells["published"].notna().any():
        lines.append(f"In brackets: {PAPER}.")
    if (cells["candidates"] > 1).any():
        lines.append("best of n: for each seed, of n learning rates the one with the best validation score.")
    return [*lines, *comparison.notes]


def _latex(table: pd.DataFrame, caption: Sequence[str]) -> str:
    escaped = table.reset_index()
    special = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "±": r"$\pm$"}
    for old, new in special.items():
        escaped = escaped.map(lambda text, old=old, new=new: str(text).replace(old, new))
        escaped.columns = [str(c).replace(old, new) for c in escaped.columns]
        caption = [line.replace(old, new) for line in caption]
    return escaped.to_latex(index=False, escape=False, caption=" ".join(caption))
