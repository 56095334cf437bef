"""Comparisons as text, Markdown, LaTeX and CSV."""

from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from rnnbench.analysis.collect import SPLITS
from rnnbench.analysis.tables import METRICS, Table
from rnnbench.errors import check_choice
from rnnbench.published import PAPER

FORMATS = ("text", "markdown", "latex", "csv")
ROWS = ["task", "variant", "metric", "split"]

CAPTIONS = {
    "nll_step": "nll_step: nats, summed over notes, mean over all predicted steps.",
    "nll_seq": "nll_seq: nats, summed over notes, mean over sequences of each one's mean over its steps.",
    "mse": "mse: mean squared error.",
    "xent": "xent: nats, mean cross-entropy over all steps.",
}


def render(comparison: Table, fmt: str) -> str:
    """The table in one of `FORMATS`; the CSV is the tidy frame, without a caption.

    Raises:
        UserError: for an unknown format.
    """
    check_choice("--format", fmt, FORMATS)
    if fmt == "csv":
        return comparison.cells.to_csv(index=False)
    shown = _without_repetition(table(comparison))
    caption = captions(comparison)
    if fmt == "latex":
        return _latex(shown, caption)
    text = shown.to_markdown(index=False, tablefmt="pipe" if fmt == "markdown" else "simple", disable_numparse=True)
    return ("\n\n" if fmt == "markdown" else "\n").join([text, *([] if fmt == "markdown" else [""]), *caption])


def table(comparison: Table) -> pd.DataFrame:
    """Rows task, variant, metric and split; columns the cells, then the trivial baseline; entries as text."""
    cells = comparison.cells.copy()
    cells["text"] = [_entry(row) for row in cells.to_dict("records")]
    found = cells.pivot(index=ROWS, columns="cell", values="text").fillna("")
    found["baseline"] = cells.groupby(ROWS)["baseline"].first().map("{:.4g}".format)
    order = {name: i for i, name in enumerate([*METRICS, *SPLITS])}
    found = found.sort_index(key=lambda level: level.map(order) if level.name in ("metric", "split") else level)
    found.columns.name = None
    return found


def _without_repetition(found: pd.DataFrame) -> pd.DataFrame:
    """The index as columns, each name only where it changes; no column of variants where there are none."""
    shown = found.reset_index()
    names = shown[ROWS[:3]]
    shown.loc[names.eq(names.shift()).all(axis=1), ROWS[:3]] = ""
    return shown.drop(columns="variant") if (shown["variant"] == "").all() else shown


def _entry(row: dict[Hashable, Any]) -> str:
    digits = 3 if row["mean"] >= 0.1 else 5
    spread = f" ± {row['sd']:.{digits}f}" if row["n"] > 1 else ""
    known = row["published"] is not None and row["published"] == row["published"]
    paper = f" [{row['published']:.2f}]" if known else ""
    return f"{row['mean']:.{digits}f}{spread} ({row['n']}){paper}"


def captions(comparison: Table) -> list[str]:
    """The sentences under a table."""
    cells = comparison.cells
    what = "mean ± standard deviation of the sample (number of seeds), at the best validation of each run"
    lines = [f"Lower is better; {what}."]
    lines += [CAPTIONS[metric] for metric in METRICS if metric in set(cells["metric"])]
    lines.append("baseline: the task's trivial baseline.")
    if cells["published"].notna().any():
        lines.append(f"In brackets, whatever our protocol and size: {PAPER}.")
    if (cells["candidates"] > 1).any():
        lines.append("best of n: for each seed, of n learning rates the one with the best validation score.")
    return [*lines, *comparison.notes]


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "_%&#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


def _escape(text: object) -> str:
    return "".join(LATEX.get(character, character) for character in str(text))


def _latex(shown: pd.DataFrame, caption: Sequence[str]) -> str:
    escaped = shown.map(_escape).rename(columns=_escape)
    text = escaped.to_latex(index=False, escape=False, caption=_escape(" ".join(caption)))
    return f"% needs \\usepackage{{booktabs}}\n{text}"
