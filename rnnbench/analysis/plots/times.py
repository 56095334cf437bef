"""What an update costs: seconds of each cell, from runs made alone."""

from collections.abc import Collection

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rnnbench.analysis import clock
from rnnbench.analysis.plots import style
from rnnbench.analysis.plots.panels import Canvas, Drawing, Panel, panels
from rnnbench.analysis.pool import SEARCHED, pool
from rnnbench.analysis.statistics import paired_t_interval
from rnnbench.errors import UserError
from rnnbench.summary import counted

SPREAD = 0.14
"""How far from its cell's place a dot may be, in cells."""


def draw(runs: pd.DataFrame, metric: str | None = None) -> Drawing:
    """The milliseconds an update of the finished runs that were made alone, a dot a run, their mean and its interval.

    All of a run's seconds count, those of validation too. The learning rate, which takes no time, parts no runs.

    Args:
        runs: a row a run (see `rnnbench.analysis.collect`).
        metric: of no use here.

    Raises:
        UserError: if no task has runs whose seconds may be compared (`rnnbench.analysis.clock`).
    """
    pooled = pool(runs, axes=(SEARCHED,))
    shared = ~clock.alone(pooled.runs)
    notes = [f"{shared.sum()} of {len(shared)} runs left out, since {clock.SHARED}."] if shared.any() else []
    shown = []
    for panel in panels(pooled.runs[~shared]):
        if differing := clock.differing(panel.runs):
            notes.append(f"{panel.task} left out, since the runs differ in {', '.join(differing)}.")
        else:
            shown.append(panel)
    if not shown:
        raise UserError(f"no runs whose seconds may be compared. {' '.join(notes)} {clock.ADVICE}")
    with mpl.rc_context(style.SETTINGS):
        canvas = Canvas(shown, rows=1, height=1.6)
        labelled = all(_fit(panel.cells(), canvas) for panel in shown)
        for panel, (axes,) in zip(shown, canvas.axes, strict=True):
            _panel(canvas, panel, axes, labelled=labelled)
        canvas.label(0, "", ["ms an update"] * len(shown))
        figure = canvas.finish(_caption(shown), named=not labelled)
    return Drawing(figure, [*pooled.notes, *notes])


def per_update(runs: pd.DataFrame) -> "pd.Series[float]":
    """The milliseconds that an update of each run took, validation included."""
    return 1e3 * runs["seconds"].astype(float) / runs["updates"].astype(float)


def _fit(names: Collection[str], canvas: Canvas) -> bool:
    """Whether the names of the cells of a panel can stand beside each other below it."""
    return max(style.inches(name, 7) for name in names) + 0.1 < (canvas.width / canvas.abreast - 0.5) / len(names)


def _panel(canvas: Canvas, panel: Panel, axes: Axes, *, labelled: bool) -> None:
    cells = panel.cells()
    for i, (name, of_cell) in enumerate(cells.items()):
        color, _, marker = canvas.lines[name]
        times = per_update(of_cell).to_numpy(float)
        beside = np.linspace(-SPREAD, SPREAD, len(times)) if len(times) > 1 else np.zeros(1)
        axes.plot(i + beside, times, linestyle="none", marker=marker, color=color, alpha=0.7, markeredgewidth=0)
        mean = paired_t_interval(times)
        axes.plot([i - 0.3, i + 0.3], [mean.estimate] * 2, color=color, linewidth=1.2)
        if len(times) >= style.BAND_FROM:
            axes.fill_between([i - 0.3, i + 0.3], mean.low, mean.high, color=color, alpha=style.BAND, linewidth=0)
    axes.set_xticks(range(len(cells)), list(cells) if labelled else [""] * len(cells))
    axes.set_xlim(-0.6, len(cells) - 0.4)
    axes.set_ylim(0, 1.1 * per_update(panel.runs).max())
    axes.grid(visible=False, axis="x")


def _caption(shown: list[Panel]) -> str:
    sentences = ["A dot a run; bar: their mean."]
    if any(len(of_cell) >= style.BAND_FROM for panel in shown for of_cell in panel.cells().values()):
        sentences.append("Band: Student's 95 % interval of the mean.")
    first = shown[0].runs.iloc[0]
    alike = not clock.differing(pd.concat([panel.runs for panel in shown]))
    where = f" ({first['device_name']}, {counted(int(first['threads']), 'thread')})" if alike else " within each panel"
    sentences.append(
        f"Seconds of training and validation over updates; each run made alone, same code and machine{where}."
    )
    return " ".join(sentences)
