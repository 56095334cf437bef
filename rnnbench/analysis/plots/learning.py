"""Learning curves, the paper's Figure 2: training and validation against updates, and against seconds below."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rnnbench.analysis import clock
from rnnbench.analysis.curves import histories, mean_curve, tails
from rnnbench.analysis.plots import style
from rnnbench.analysis.plots.panels import REMARK, Canvas, Drawing, Panel, panels, remark, unit_of
from rnnbench.analysis.pool import pool

Look = dict[str, Any]
"""Properties of a line."""

TRAINING: Look = {"linewidth": 0.7, "alpha": 0.75}
VALIDATION: Look = {"linewidth": 1.4}
AFTER: Look = {"linewidth": 0.5, "alpha": 0.8}
MARKS = 6
"""Markers on a line."""

HEADROOM = 1.3
"""How far above the trivial baseline an axis reaches, at most, if the curves come below it."""


def draw(runs: pd.DataFrame, metric: str | None = None) -> Drawing:
    """The training loss and the validation score of the finished runs of ``runs`` (see `collect`).

    A panel for each task and setting, the mean over seeds with its band, one line a cell. Seconds are drawn where
    `rnnbench.analysis.clock` allows.

    Args:
        runs: a row a run.
        metric: of validation; a task that has not got it shows the one that selects.

    Raises:
        UserError: if no run is finished, or what a run measured is damaged.
    """
    pooled = pool(runs)
    shown = panels(pooled.runs)
    refused = [_refused(panel) for panel in shown]
    timed = any(set(why) < set(panel.cells()) for why, panel in zip(refused, shown, strict=True))
    notes = _untimed(shown, refused)
    with mpl.rc_context(style.SETTINGS):
        canvas = Canvas(shown, rows=2 if timed else 1, height=1.6)
        for panel, axes, why in zip(shown, canvas.axes, refused, strict=True):
            _panel(canvas, panel, axes, why, panel.metric(metric))
        units = [unit_of(panel.metric(metric)) for panel in shown]
        canvas.label(0, "updates", units)
        if timed:
            canvas.label(1, "seconds", units)
        reasons = dict.fromkeys(reason for why in refused for reason in why.values())
        figure = canvas.finish(_caption(pooled.runs, "" if timed else ", and ".join(reasons)), _legend())
    return Drawing(figure, [*pooled.notes, *notes])


def _refused(panel: Panel) -> dict[str, str]:
    """The cells of a panel of which no seconds are shown, and why."""
    cells = panel.cells()
    found = {name: clock.SHARED for name, members in cells.items() if not clock.alone(members).all()}
    rest = [members for name, members in cells.items() if name not in found]
    differing = clock.differing(pd.concat(rest)) if rest else []
    return {name: f"the runs differ in {', '.join(differing)}" for name in cells} if differing else found


def _untimed(shown: Sequence[Panel], refused: Sequence[dict[str, str]]) -> list[str]:
    """Of which cells no seconds are shown and why, in a sentence for each reason; and what to do."""
    where: dict[str, list[str]] = {}
    for panel, why in zip(shown, refused, strict=True):
        for reason in dict.fromkeys(why.values()):
            told = f"{panel.task}{f' ({panel.setting})' if panel.setting else ''}"
            where.setdefault(reason, []).append(f"{', '.join(n for n, r in why.items() if r == reason)} on {told}")
    notes = [f"Not against seconds, since {reason}: {'; '.join(places)}." for reason, places in where.items()]
    return [*notes, *([clock.ADVICE] if notes else [])]


def _panel(canvas: Canvas, panel: Panel, axes: Sequence[Axes], refused: dict[str, str], metric: str) -> None:
    """Draw against updates and, where there is a second row, against seconds."""
    seen = []
    for name, members in panel.cells().items():
        measured = histories(members)
        for quantity, look in (("train/loss", TRAINING), (f"valid/{metric}", VALIDATION)):
            for here, against in zip(axes, ("update", "wall_s"), strict=False):
                if against == "wall_s" and name in refused:
                    continue
                curve = mean_curve(measured, quantity, against)
                _line(here, curve, canvas.lines[name], look, band=quantity != "train/loss")
                for one in _one_by_one(measured, quantity, against) if quantity != "train/loss" else []:
                    here.plot(one["x"], one["value"], color=canvas.lines[name][0], **AFTER)
                seen.append(curve["mean"])
    low, high = limits(seen, panel.baseline(metric))
    for here in axes:
        if here is axes[0] or set(refused) < set(panel.cells()):
            here.axhline(panel.baseline(metric), **style.BASELINE)
        here.set_xlim(left=0)
        here.locator_params(axis="x", nbins=4)
        style.thousands(here.xaxis)
        style.log_scale(here, "y", low, high)
    for reason in dict.fromkeys(refused.values()) if len(axes) > 1 else []:
        without = [name for name, why in refused.items() if why == reason]
        if set(without) == set(panel.cells()):
            remark(axes[1], f"not drawn: {reason}")
        else:
            axes[1].set_title(
                "\n".join(canvas.wrapped(f"no {', '.join(without)}: {reason}", style.SMALL)), loc="left", **REMARK
            )


def _one_by_one(measured: Sequence[pd.DataFrame], quantity: str, against: str) -> list[pd.DataFrame]:
    """What of single seeds is drawn: all of too few for a band, of more what they do after the first has ended."""
    if 1 < len(measured) < style.BAND_FROM:
        return [mean_curve([rows], quantity, against).rename(columns={"mean": "value"}) for rows in measured]
    return tails(measured, quantity, against)


def _line(axes: Axes, curve: pd.DataFrame, line: style.Line, look: Look, *, band: bool) -> None:
    color, dash, marker = line
    every = max(1, len(curve) // MARKS)
    marks: Look = {"marker": marker, "markevery": (every // 2, every)} if band else {}
    axes.plot(curve["x"], curve["mean"], color=color, linestyle=dash, **marks, **look)
    if band and len(curve) and curve["n"].iloc[0] >= style.BAND_FROM:
        axes.fill_between(curve["x"], curve["low"], curve["high"], color=color, alpha=style.BAND, linewidth=0)


def limits(seen: Sequence["pd.Series[float]"], baseline: float) -> tuple[float, float]:
    """From below the lowest mean to above the highest, or to a little above the baseline if all come below it.

    The first evaluations of a model that knows nothing are far above everything else (88 ln 2 = 61 nats for music,
    where the baseline is at 11), and would squeeze what is to be compared.
    """
    whole = [curve for curve in (c[c > 0] for c in seen) if len(curve)]
    lowest = min([baseline, *(curve.min() for curve in whole)])
    highest = max([baseline, *(curve.iloc[len(curve) // 4 :].max() for curve in whole)])
    margin = (highest / lowest) ** 0.05
    return lowest / margin, max(highest * margin, baseline * HEADROOM)


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color="#444444", label="validation", **VALIDATION),
        Line2D([], [], color="#444444", label="training", **TRAINING),
        Line2D([], [], label="trivial baseline", **style.BASELINE),
    ]


def _caption(runs: pd.DataFrame, untimed: str) -> str:
    """What the lines are.

    Args:
        runs: those that were drawn.
        untimed: why none is drawn against seconds; empty if any is.
    """
    seeds = runs.groupby(["task", "setting", "cell", "own"])["seed"].nunique()
    told = (
        "Thick: validation; thin: training, the mean loss of an epoch's updates, noise and all. First evaluations far "
        "above the baseline are cut off."
    )
    sentences = [told]
    if (seeds >= style.BAND_FROM).any():
        sentences.append(
            "Mean over seeds as far as all of them train, with Student's 95 % interval of the mean for validation, "
            "pointwise; hair lines: the seeds that train on."
        )
    elif (seeds > 1).any():
        sentences.append("Mean over seeds as far as all of them train; hair lines: the seeds.")
    if (runs["candidates"] > 1).any():
        sentences.append("Of several learning rates the one with the best validation score, for each seed.")
    if untimed:
        sentences.append(f"Not against seconds: {untimed}.")
    else:
        sentences.append("Seconds: of training and validation, runs made alone, same code and machine.")
    return " ".join(sentences)
