"""How much the learning rate matters: scores against it, and what to expect of the best of k rates."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rnnbench.analysis.plots import style
from rnnbench.analysis.plots.panels import Canvas, Drawing, Panel, panels, unit_of
from rnnbench.analysis.pool import SEARCHED, count_diverged, pool
from rnnbench.analysis.statistics import Floats, expected_best, mean_band, paired_t_interval
from rnnbench.errors import UserError

EDGE = 0.965
"""Where in the axes the diverged are: at the upper edge."""

RING: dict[str, Any] = {
    "markersize": 8.0,
    "markerfacecolor": "none",
    "markeredgewidth": 1.0,
    "linestyle": "none",
    "marker": "o",
}


def draw(runs: pd.DataFrame, metric: str | None = None) -> Drawing:
    """Validation against the learning rate, and the score to expect of k rates, on validation and on test.

    Below, exactly (`rnnbench.analysis.statistics.expected_best`): of the n rates tried k are drawn, and the one with
    the best validation score is taken. What diverged is never taken, so a line begins at the k of which at least one
    did not.

    Args:
        runs: a row a run (see `rnnbench.analysis.collect`).
        metric: shown; the choice is always by the one that selects.

    Raises:
        UserError: if no cell was run at more than one rate.
    """
    pooled = pool(count_diverged(runs), axes=(SEARCHED,))
    shown = [p for p in panels(pooled.runs) if any(c[SEARCHED].nunique() > 1 for c in p.cells().values())]
    if not shown:
        raise UserError(
            "no cell was run at more than one learning rate on the same task and protocol. For example: "
            "`rnnbench run cell=gru task=jsb_chorales train=chung2014 search=chung2014`."
        )
    with mpl.rc_context(style.SETTINGS):
        canvas = Canvas(shown, rows=3, height=1.4)
        for panel, axes in zip(shown, canvas.axes, strict=True):
            chosen = panel.metric(metric)
            _sensitivity(canvas, panel, axes[0], chosen)
            for row, split in ((axes[1], "valid"), (axes[2], "test")):
                _expected(canvas, panel, row, split, chosen)
        units = [unit_of(panel.metric(metric)).partition(" (")[0] for panel in shown]
        canvas.label(0, "learning rate", [f"validation\n{unit}" for unit in units])
        canvas.label(1, "k rates tried", [f"expected validation\n{unit}" for unit in units])
        canvas.label(2, "k rates tried", [f"expected test\n{unit}" for unit in units])
        figure = canvas.finish(_caption(shown), _legend(pooled.runs))
    return Drawing(figure, pooled.notes)


def by_rate(of_cell: pd.DataFrame, metric: str) -> list[pd.DataFrame]:
    """What each rate gave on validation: one frame where all seeds tried the same rates, and else one for each seed.

    Args:
        of_cell: runs of one cell and setting, with the column ``diverged``.
        metric: of the score.

    Returns:
        ``rate``; ``score``, the mean of the seeds that did not diverge at it; ``low`` and ``high`` of its interval,
        NaN for fewer than `style.BAND_FROM`; ``chosen``, whether any seed chose it, by the metric that selects.
    """
    finished = of_cell[~of_cell["diverged"]]
    best = set(finished.groupby("seed")[f"valid_{of_cell['metric'].iloc[0]}"].idxmin())
    same = of_cell.groupby("seed")[SEARCHED].agg(lambda rates: str(sorted(rates))).nunique() == 1
    parts = [finished] if same else [of_seed for _, of_seed in finished.groupby("seed")]
    return [
        pd.DataFrame([_at_rate(rate, runs, metric, best) for rate, runs in part.groupby(SEARCHED)])
        for part in parts
        if len(part)
    ]


def _at_rate(rate: object, runs: pd.DataFrame, metric: str, best: set[Hashable]) -> dict[str, object]:
    found = paired_t_interval(runs[f"valid_{metric}"])
    told = len(runs) >= style.BAND_FROM
    low, high = (found.low, found.high) if told else (math.nan, math.nan)
    return {"rate": rate, "score": found.estimate, "low": low, "high": high, "chosen": not best.isdisjoint(runs.index)}


def _sensitivity(canvas: Canvas, panel: Panel, axes: Axes, metric: str) -> None:
    seen = [panel.baseline(metric)]
    for name, of_cell in panel.cells().items():
        color, dash, marker = canvas.lines[name]
        for found in by_rate(of_cell, metric):
            reach = [found["score"] - found["low"], found["high"] - found["score"]]
            look = {"color": color, "linestyle": dash, "marker": marker, "elinewidth": 0.8, "capsize": 1.5}
            axes.errorbar(found["rate"], found["score"], yerr=reach, **look)
            chosen = found[found["chosen"]]
            axes.plot(chosen["rate"], chosen["score"], color=color, **RING)
            seen += [found["score"].min(), found["score"].max()]
        lost = sorted(set(of_cell.loc[of_cell["diverged"], SEARCHED]))
        if lost:
            axes.plot(lost, [EDGE] * len(lost), "x", color=color, transform=axes.get_xaxis_transform(), zorder=5)
    low, high = min(seen), max(seen)
    style.log_scale(axes, "y", low * (low / high) ** 0.1, high * (high / low) ** 0.12)
    rates = panel.runs[SEARCHED].astype(float)
    style.log_scale(axes, "x", rates.min() / 1.5, rates.max() * 1.5, most=3)
    axes.axhline(panel.baseline(metric), **style.BASELINE)


@dataclass(frozen=True)
class Expected:
    """What to expect of the best of k rates, (K,) each; ``n`` seeds."""

    k: Floats
    mean: Floats
    low: Floats
    high: Floats
    n: int


def expected(of_cell: pd.DataFrame, metric: str, split: str) -> Expected | None:
    """The mean over seeds of `expected_best`, from the k of which one cannot have diverged, for every seed.

    Args:
        of_cell: runs of one cell and setting, with the column ``diverged``.
        metric: of the score.
        split: of the score.

    Returns:
        None if there is no such k.
    """
    selects = of_cell["metric"].iloc[0]
    curves, first = [], 1
    for _, of_seed in of_cell.groupby("seed"):
        lost = of_seed["diverged"].to_numpy(bool)
        if lost.all():
            return None
        valid = of_seed[f"valid_{selects}"].to_numpy(float)
        worst = valid[~lost].max() + 1  # behind all others; its score has no weight in what is kept
        scores = of_seed[f"{split}_{metric}"].to_numpy(float)
        curves.append(expected_best(np.where(lost, worst, valid), np.where(lost, 0.0, scores)))
        first = max(first, 1 + int(lost.sum()))
    last = min(map(len, curves))
    if last < first:
        return None
    kept = [curve[first - 1 : last] for curve in curves]
    return Expected(np.arange(first, last + 1, dtype=float), *mean_band(kept), len(kept))


def _expected(canvas: Canvas, panel: Panel, axes: Axes, split: str, metric: str) -> None:
    tops, bottoms = [], []
    for name, of_cell in panel.cells().items():
        found = expected(of_cell, metric, split)
        if found is None:
            continue
        color, dash, marker = canvas.lines[name]
        axes.plot(found.k, found.mean, color=color, linestyle=dash, marker=marker)
        if found.n >= style.BAND_FROM:
            axes.fill_between(found.k, found.low, found.high, color=color, alpha=style.BAND, linewidth=0)
        tops.append(found.mean.max())
        bottoms.append(found.mean.min())
    if tops:
        baseline = panel.baseline(metric, split)
        low, high = min(bottoms), min(max(tops), 2 * max(baseline, min(tops)))
        style.log_scale(axes, "y", low * (low / high) ** 0.1, high * (high / low) ** 0.1)
        axes.axhline(baseline, **style.BASELINE)
    axes.set_xlim(0.5, panel.runs.groupby(["cell", "own", "seed"]).size().max() + 0.5)
    axes.locator_params(axis="x", integer=True, nbins=6)


def _legend(runs: pd.DataFrame) -> Sequence[Line2D]:
    grey = "#444444"
    diverged = [Line2D([], [], color=grey, marker="x", linestyle="none", label="diverged")]
    return [
        Line2D([], [], color=grey, label="chosen", **RING),
        *(diverged if runs["diverged"].any() else []),
        Line2D([], [], label="trivial baseline", **style.BASELINE),
    ]


def _caption(shown: Sequence[Panel]) -> str:
    runs = pd.concat([panel.runs for panel in shown])
    told = (
        "Top: the best validation score of each run. Below: of k of the rates tried, drawn at random, the one with the "
        "best validation score; what it is expected to score."
    )
    sentences = [told]
    if runs["diverged"].any():
        sentences.append("What diverged is never taken; a line begins at the k of which at least one did not.")
    seeds = [of_cell["seed"].nunique() for panel in shown for of_cell in panel.cells().values()]
    if max(seeds) > 1:
        sentences.append(
            "Means over seeds, at the top over those that did not diverge; a line a seed where rates differ."
        )
    if max(seeds) >= style.BAND_FROM:
        sentences.append("Bars and bands: Student's 95 % interval of the mean.")
    return " ".join(sentences)
