"""Frames as text, Markdown, LaTeX, HTML and CSV, with the sentences that belong under them."""

import html
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from rnnbench.analysis.collect import METRICS, SPLITS
from rnnbench.analysis.pool import show
from rnnbench.analysis.tables import Table, in_order
from rnnbench.errors import check_choice
from rnnbench.published import PAPER

FORMATS = ("text", "markdown", "latex", "html", "csv")

CAPTIONS = {
    "nll_step": "nll_step: nats, summed over notes, mean over all predicted steps.",
    "nll_seq": "nll_seq: nats, summed over notes, mean over sequences of each one's mean over its steps.",
    "mse": "mse: mean squared error.",
    "xent": "xent: nats, mean cross-entropy over all steps.",
}


def render(table: Table, fmt: str) -> str:
    """The table in one of `FORMATS`, and the published values beside ours; the CSV is the tidy frame alone.

    Raises:
        UserError: for an unknown format.
    """
    check_choice("--format", fmt, FORMATS)
    if fmt == "csv":
        return table.cells.to_csv(index=False)
    beside = published_beside_ours(table)
    parts = [written(table_frame(table), captions(table), fmt)]
    if len(beside):
        parts.append(written(beside, [f"published: {PAPER}."], fmt))
    return "\n\n".join(parts)


def written(frame: pd.DataFrame, caption: Sequence[str], fmt: str) -> str:
    """A frame of texts and its caption in one of `FORMATS` (as CSV, the frame alone)."""
    if fmt == "csv":
        return frame.to_csv(index=False)
    if fmt == "latex":
        return _latex(frame, caption)
    if fmt == "html":
        return _html(frame, caption)
    if fmt == "markdown":
        frame = frame.map(lambda entry: str(entry).replace("|", r"\|"))
    text = frame.to_markdown(index=False, tablefmt="pipe" if fmt == "markdown" else "simple", disable_numparse=True)
    return ("\n\n" if fmt == "markdown" else "\n").join([text, *([] if fmt == "markdown" else [""]), *caption])


def listed(lines: Sequence[str], fmt: str) -> str:
    """Sentences that belong to no table, in one of `FORMATS` but CSV."""
    if fmt == "latex":
        return "\n".join([r"\begin{itemize}", *(rf"\item {_escape(line)}" for line in lines), r"\end{itemize}"])
    if fmt == "html":
        return _tag("ul", [_tag("li", [html.escape(line)]) for line in lines])
    return "\n".join(f"- {line}" for line in lines)


def table_frame(table: Table, *, told_again: bool = False) -> pd.DataFrame:
    """The rows and columns of a table as texts, without columns that say nothing.

    Args:
        table: see `rnnbench.analysis.tables.tabulate`.
        told_again: write names in every row and not only where they change, for a table that will be sorted.
    """
    cells = table.cells.copy()
    levels = [
        k for k in dict.fromkeys([*table.rows, "task", "cell", "variant", "metric", "split"]) if k != table.columns
    ]
    cells["text"] = [_entry(row) for row in cells.to_dict("records")]
    order: dict[str, int] = {name: i for i, name in enumerate([*METRICS, *SPLITS])}

    def key(values: Any) -> Any:  # noqa: ANN401 - an index of pandas
        return values.map(order) if values.name in ("metric", "split") else in_order(values)

    found = cells.pivot(index=levels, columns=table.columns, values="text").fillna("")
    if cells.groupby(levels, dropna=False)["baseline"].nunique().max() <= 1:
        found["baseline"] = cells.groupby(levels, dropna=False)["baseline"].first().map("{:.4g}".format)
    found = found.sort_index(key=key)
    shown = found.reset_index().rename(columns=lambda name: name if isinstance(name, str) else show(name))
    shown.columns.name = None
    for level in levels:
        shown[level] = shown[level].map(show)
    names = shown[levels[:-1]]
    shown = shown.drop(
        columns=[k for k in ("variant", "cell") if k in levels and k not in table.rows and shown[k].nunique() == 1]
    )
    if told_again:
        return shown
    repeated = names.eq(names.shift()).T.cumprod().T.astype(bool)  # a name is told again where one before it changes
    for level in (str(name) for name in names if name in shown):
        shown[level] = shown[level].mask(repeated[level], "")
    return shown


def _entry(row: dict[Hashable, Any]) -> str:
    digits = 3 if row["mean"] >= 0.1 else 5
    spread = f" ± {row['sd']:.{digits}f}" if row["n"] > 1 else ""
    mark = "*" if row["best"] else ""
    known = row["published"] is not None and row["published"] == row["published"]
    paper = f" [{row['published']:.2f}]" if known else ""
    return f"{row['mean']:.{digits}f}{spread}{mark} ({row['n']}){paper}"


def published_beside_ours(table: Table) -> pd.DataFrame:
    """A row for each of our scores that has a published value on test, with the verdict; empty if there is none."""
    cells = table.cells[table.cells["verdict"].notna() & (table.cells["split"] == "test")]
    named = {"task", "cell", *(key for key in ("variant", "metric") if cells[key].nunique() > 1)}
    return cells[[key for key in ("task", "variant", "cell", "metric") if key in named]].assign(
        ours=cells["mean"].map("{:.2f}".format),
        published=cells["published"].map("{:.2f}".format),
        verdict=cells["verdict"],
    )


def captions(table: Table) -> list[str]:
    """The sentences under a table."""
    cells = table.cells
    what = "mean ± standard deviation of the sample (number of seeds), at the best validation of each run"
    lines = [f"Lower is better; {what}."]
    if cells["best"].any():
        lines.append(
            "*: better on test than every other cell of its task and setting, by a paired permutation test at 5 %, "
            "corrected (Holm) for all comparisons of the table; see `rnnbench compare`."
        )
    lines += [CAPTIONS[metric] for metric in METRICS if metric in set(cells["metric"])]
    if cells["baseline"].notna().any():
        lines.append("baseline: the task's trivial baseline.")
    if cells["published"].notna().any():
        lines.append(f"In brackets, whatever our protocol and size: {PAPER}.")
    if (cells["candidates"] > 1).any():
        lines.append("best of n: for each seed, of n learning rates the one with the best validation score.")
    return [*lines, *table.notes]


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "_%&#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "−": "$-$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "<": r"$<$",
    ">": r"$>$",
}


def _escape(text: object) -> str:
    """``text`` for LaTeX; a letter that a plain document does not know is told by its number."""
    known = (LATEX.get(c) or (c if c <= "ÿ" or c in "–—‘’“”…" else f"U+{ord(c):04X}") for c in str(text))
    return "".join(known)


def _latex(frame: pd.DataFrame, caption: Sequence[str]) -> str:
    """A float that is made smaller where it is wider than the text."""
    escaped = frame.map(_escape).rename(columns=_escape)
    fitted = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(' '.join(caption))}}}",
        fitted,
        escaped.to_latex(index=False, escape=False).rstrip() + "}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _html(frame: pd.DataFrame, caption: Sequence[str]) -> str:
    """A table by itself, without style or script; all text is escaped."""
    head = _tag("tr", [_tag("th", [html.escape(str(name))]) for name in frame.columns])
    rows = [_tag("tr", [_tag("td", [html.escape(str(v))]) for v in row]) for row in frame.itertuples(index=False)]
    table = _tag("table", [_tag("thead", [head]), _tag("tbody", rows)])
    return _tag("figure", [table, _tag("figcaption", [_tag("p", [html.escape(line)]) for line in caption])])


def _tag(name: str, parts: Sequence[str]) -> str:
    return f"<{name}>{''.join(parts)}</{name}>"
