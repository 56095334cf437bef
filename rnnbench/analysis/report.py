"""One page of HTML with all that can be said of a set of runs: nothing in it points out of it, or depends on when.

All text is escaped by the template, and a policy in the page forbids every script but its own and every address but
``data:``, so that no config and no error can do more than be read.

Size: about 1 kB a run, 1 kB more a distinct config, and at most `rnnbench.analysis.plots.inline.MOST_BYTES` a figure.
"""

import base64
import hashlib
import importlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

import rnnbench
from rnnbench.analysis import statistics
from rnnbench.analysis.collect import METRICS, SPLITS
from rnnbench.analysis.compare import Aggregate, Comparisons, where
from rnnbench.analysis.conclusions import aggregate_captions, aggregate_frame, contest_frame, explanations
from rnnbench.analysis.findings import Evidence, compared, findings, what_was_run
from rnnbench.analysis.inventory import inventory
from rnnbench.analysis.layout import captions, published_beside_ours, table_frame
from rnnbench.analysis.plots.inline import inline
from rnnbench.analysis.pool import Pool, pool
from rnnbench.analysis.tables import Table, tabulate
from rnnbench.errors import UserError
from rnnbench.published import PAPER
from rnnbench.record import Record
from rnnbench.summary import counted

PAGE = Path(__file__).parent / "page"
"""The template, its style sheet and its script."""

FIGURES = {
    "learning": ("Learning curves", "the validation score and the training loss while the runs trained"),
    "rates": ("Learning rates", "the score against the learning rate"),
    "lengths": ("Success against length", "the share of runs that succeed against the length of the task"),
    "times": ("Time", "milliseconds for an update"),
}
"""Module of `rnnbench.analysis.plots` with a ``draw(runs, metric) -> Drawing``; title, and what is to be seen."""

PROFILE = (
    "For each share of the trivial baseline's score: the part of a cell's runs that score at most that, tasks weighing "
    "the same. The cell that rises first is the better one; there is no interval and no test."
)

MOST_THRESHOLDS = 16
"""Columns of the performance profile."""


@dataclass(frozen=True)
class Sheet:
    """A table of texts."""

    title: str
    frame: pd.DataFrame
    caption: list[str] = field(default_factory=list)
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure, or the reason why there is none."""

    title: str
    markup: Markup | None
    caption: list[str]


def report(runs: pd.DataFrame, runs_dir: Path, metrics: Sequence[str] = (), title: str = "Runs") -> str:
    """The page.

    Args:
        runs: a row a run, see `rnnbench.analysis.collect`; also unfinished ones.
        runs_dir: where they are.
        metrics: those of tables, comparisons and figures; by default both averagings in the tables, and in what is
            compared and drawn the one that selects.
        title: of the page.

    Raises:
        UserError: for an unknown metric, or if what a run measured is damaged.
    """
    stock = inventory(runs, runs_dir)
    content: dict[str, Any] = {"title": title, "stock": stock, "runs_dir": runs_dir.as_posix()}
    try:
        pooled = pool(runs)
    except UserError as error:  # nothing is finished yet
        content |= {"ran": what_was_run(runs), "found": None, "none_yet": str(error), "sheets": [], "pictures": []}
    else:
        table, evidence = tabulate(runs, metrics or METRICS), compared(pooled, metrics)
        found = findings(runs, pooled, table, evidence)
        content |= {
            "ran": found.ran,
            "found": found,
            "sheets": [*_score_sheets(table), *_comparison_sheets(evidence)],
            "pictures": [*_pictures(runs, metrics[0] if metrics else None, set(pooled.notes)), *_gradients(pooled)],
        }
    return _page(content)


def _page(content: dict[str, Any]) -> str:
    loader = jinja2.FileSystemLoader(PAGE)
    jinja = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.filters["numeric"] = numeric
    script = (PAGE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return jinja.get_template("report.html.j2").render(
        **content,
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - a file of the package
        script=Markup(script),  # noqa: S704
        script_digest=digest,
        version=rnnbench.__version__,
    )


def numeric(frame: pd.DataFrame) -> set[str]:
    """The columns of texts that all begin with a number, and are not all empty."""
    return {
        str(name)
        for name in frame
        if (texts := frame[name][frame[name] != ""]).size and texts.astype(str).str.match(r"[+-]?(\d|inf)").all()
    } - {"run", "commit", "data checksum"}


def _score_sheets(table: Table) -> Iterable[Sheet]:
    def of(splits: Sequence[str]) -> pd.DataFrame:
        cells = table.cells[table.cells["split"].isin(splits)].reset_index(drop=True)
        return table_frame(Table(cells, [], table.rows, table.columns), told_again=True)

    lines = captions(Table(table.cells, []))
    if table.cells["best"].any() and table.cells.groupby("task")["metric"].nunique().max() > 1:
        lines.append("The comparisons below are of the metric that selects only, and so fewer: they may decide more.")
    yield Sheet("Scores on test", of(["test"]).drop(columns="split"), lines)
    yield Sheet("Scores on train and validation", of([s for s in SPLITS if s != "test"]), folded=True)
    beside = published_beside_ours(table)
    if len(beside):
        yield Sheet("Published values beside ours", beside, [f"published: {PAPER}."])


def _comparison_sheets(evidence: Evidence) -> Iterable[Sheet]:
    yield from _contests("Comparisons, cell against cell", evidence.scores)
    yield from _contests("Comparisons of time", evidence.times)
    if evidence.aggregates:
        yield Sheet("Over tasks", aggregate_frame(evidence.aggregates), aggregate_captions(evidence.aggregates))
        yield Sheet("Performance profile", profile_frame(evidence.aggregates), [PROFILE])


def _contests(title: str, result: Comparisons) -> Iterable[Sheet]:
    if result.contests:
        frame = contest_frame(result)
        yield Sheet(title, frame.loc[:, (frame != "").any()], explanations(result))


def profile_frame(aggregates: Sequence[Aggregate]) -> pd.DataFrame:
    """The `statistics.performance_profile` of each cell at round thresholds from the lowest score to the highest."""
    scores = np.concatenate([a.scores.ravel() for a in aggregates])
    low, high = float(scores.min()), float(scores.max())
    step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0 ** math.ceil(math.log10(high + 1)))
                if (high - low) / s <= MOST_THRESHOLDS - 2)  # fmt: skip
    thresholds = step * np.arange(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
    rows = [
        {
            "setting": a.setting,
            "cell": a.method,
            **{
                f"≤ {tau:.3g}": f"{share:.2f}"
                for tau, share in zip(thresholds, statistics.performance_profile(a.scores, thresholds), strict=True)
            },
        }
        for a in aggregates
    ]
    frame = pd.DataFrame(rows)
    return frame if frame["setting"].any() else frame.drop(columns="setting")


def _pictures(runs: pd.DataFrame, metric: str | None, told: set[str]) -> Iterable[Picture]:
    of = f"for {', '.join(sorted(set(runs['task'])))}; a line or mark each for {', '.join(sorted(set(runs['cell'])))}"
    for name, (title, seen) in FIGURES.items():
        try:
            drawing = importlib.import_module(f"rnnbench.analysis.plots.{name}").draw(runs, metric)
        except UserError as error:
            yield Picture(title, None, [f"Not drawn: {error}"])
            continue
        alt = f"{title}: {seen}, {of}. The numbers are in the tables."
        yield Picture(title, _markup(drawing.figure, name, alt), [n for n in drawing.notes if n not in told])


def _gradients(pooled: Pool) -> Iterable[Picture]:
    """Of the runs that `rnnbench diagnose` has measured."""
    from rnnbench.analysis.diagnoses import Diagnosed
    from rnnbench.analysis.plots.gradients import draw

    title = "Gradients, gates and spectral radii"
    measured = [
        Diagnosed.read(Path(run["path"]), where(run["task"], run["setting"]), f"{run['cell']} {run['own']}".strip())
        for members in pooled.groups()
        for run in members.sort_values("seed").to_dict("records")
        if Record(Path(run["path"])).diagnosis_file.exists()
    ]
    if not measured:
        yield Picture(title, None, ["Not drawn: no run has been measured; `rnnbench diagnose` does."])
        return
    alt = f"{title}, of {counted(len(measured), 'run')} that rnnbench diagnose has measured."
    caption = f"Measured runs: {len(measured)} of the {len(pooled.runs)} that count."
    yield Picture(title, _markup(draw(measured), "gradients", alt), [caption])


def _markup(figure: Any, name: str, alt: str) -> Markup:  # noqa: ANN401 - a figure of matplotlib
    return Markup(inline(figure, f"figure-{name}", alt))  # noqa: S704 - matplotlib and `inline` escape
