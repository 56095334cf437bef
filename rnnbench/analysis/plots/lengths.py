"""How long a time lag the cells bridge: the share of runs that succeed against the length of adding and copy memory."""

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from rnnbench.analysis.plots import style
from rnnbench.analysis.plots.panels import Canvas, Drawing, Panel, panels
from rnnbench.analysis.pool import count_diverged, pool
from rnnbench.analysis.statistics import wilson_interval
from rnnbench.errors import UserError

LENGTH = "task.length"
APART = 0.018
"""How far beside each other the cells stand at one length, in parts of the axis."""


def success(of_cell: pd.DataFrame) -> pd.DataFrame:
    """The share of seeds whose run succeeded on test, at each length.

    Args:
        of_cell: runs of one cell and setting, one for each seed and length.

    Returns:
        ``length``, ``share``, ``low`` and ``high`` of Wilson's 95 % interval, and ``n``.
    """
    rows = []
    for length, runs in of_cell.groupby(LENGTH):
        found = wilson_interval(int(runs["test_success"].astype(bool).sum()), len(runs))
        rows.append({"length": length, "share": found.estimate, "low": found.low, "high": found.high, "n": len(runs)})
    return pd.DataFrame(rows)


def draw(runs: pd.DataFrame, metric: str | None = None) -> Drawing:
    """The success rates of the tasks that have a length.

    A run that diverged has not succeeded. Of several learning rates each seed stands for the one that is best on
    validation, whether that succeeded or not.

    Args:
        runs: a row a run (see `rnnbench.analysis.collect`).
        metric: of no use here: what success is says the task's config.

    Raises:
        UserError: if no task has a length.
    """
    if LENGTH not in runs or runs[LENGTH].isna().all():
        raise UserError(
            "none of the tasks has a length; adding and copy_memory have. For example: "
            "`rnnbench run -m cell=tanh,lstm,gru task=adding task.length=50,100,200 seed=0,1,2`."
        )
    of_tasks = runs[runs["task"].isin(set(runs.loc[runs[LENGTH].notna(), "task"]))]
    pooled = pool(count_diverged(of_tasks), axes=(LENGTH,))
    shown = panels(pooled.runs)
    with mpl.rc_context(style.SETTINGS):
        canvas = Canvas(shown, rows=1, height=1.7)
        for panel, (axes,) in zip(shown, canvas.axes, strict=True):
            _panel(canvas, panel, axes)
        canvas.label(0, "length (steps)", ["runs that succeed"] * len(shown))
        figure = canvas.finish(
            "Share of the seeds whose run beats the trivial baseline by the task's margin, on test, with Wilson's 95 % "
            "interval. A run that diverged has not."
        )
    return Drawing(figure, pooled.notes)


def _panel(canvas: Canvas, panel: Panel, axes: Axes) -> None:
    lengths = sorted(set(panel.runs[LENGTH].astype(float)))
    wide = lengths[-1] / lengths[0] > 4
    edge = 1.25 if wide else 1.1
    low, high = lengths[0] / edge, lengths[-1] * edge
    axes.set_xscale("log" if wide else "linear")
    axes.set_xlim(low, high)
    cells = panel.cells()
    for i, (name, of_cell) in enumerate(cells.items()):
        color, dash, marker = canvas.lines[name]
        found = success(of_cell)
        shift = (i - (len(cells) - 1) / 2) * APART
        x = found["length"] * (high / low) ** shift if wide else found["length"] + (high - low) * shift
        reach = [found["share"] - found["low"], found["high"] - found["share"]]
        axes.errorbar(
            x, found["share"], yerr=reach, color=color, linestyle=dash, marker=marker, elinewidth=0.8, capsize=1.5
        )
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(FixedLocator(lengths if len(lengths) <= 6 else style.log_ticks(low, high)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
