"""The figure of `rnnbench diagnose`: gradients by lag, gates and spectral radii, cells side by side, a row a task."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rnnbench.analysis.diagnoses import Diagnosed, by_label, gate_mean, ratio
from rnnbench.analysis.plots.style import SETTINGS, Line, lines

LOWEST = -16.0
"""The gradient's axis goes down to at most 10 to this: what is left there is less than rounding makes of any sum."""

GATES = ("i", "f", "o", "z", "r")
"""The blocks of U that belong to gates; the others make new content."""

SHADES = (("below 0.1", "#404040", ""), ("between", "#e4e4e4", ""), ("above 0.9", "#ffffff", "////"))
"""Of the shares of a gate's values: name, fill, hatch."""


def draw(runs: Sequence[Diagnosed]) -> Figure:
    """The figure of ``runs``; those of one task and label are shown as one, by mean and range."""
    tasks = list(dict.fromkeys(run.task for run in runs))
    styles = lines(run.label for run in runs)
    with mpl.rc_context(SETTINGS):
        most = max(len(_bars([run for run in runs if run.task == task])) for task in tasks)
        figure = Figure(figsize=(11.5, (0.9 + max(2.6, 0.21 * most)) * len(tasks)), layout="constrained")
        grid = figure.subplots(len(tasks), 3, squeeze=False, width_ratios=(1.15, 1.0, 1.0))
        for row, task in zip(grid, tasks, strict=True):
            groups = {label: group for (t, label), group in by_label(runs).items() if t == task}
            _gradients(row[0], groups, styles)
            _gates(row[1], [run for run in runs if run.task == task])
            _radii(row[2], groups, styles)
            row[0].set_title(f"{task}: gradient through time", loc="left")
            row[1].set_title("gates", loc="left")
            row[2].set_title("spectral radius of the blocks of U", loc="left")
    return figure


def _gradients(axes: Axes, groups: dict[str, list[Diagnosed]], styles: dict[str, Line]) -> None:
    lowest = 0.0
    for label, group in groups.items():
        colour, dash, marker = styles[label]
        states = list(group[0].found["gradient"])
        for state in states:
            left = ratio(group, state)
            known = np.isfinite(left).any(axis=0)
            lag = np.flatnonzero(known)
            if not len(lag):
                continue
            mean = np.nanmean(left[:, known], axis=0)
            minor = state == "h" and len(states) > 1  # the long path is not its own
            runs = f" ({len(group)} runs)" if len(group) > 1 else ""
            axes.plot(
                lag, mean, color=colour, linestyle=dash, marker=None if minor else marker,
                markevery=max(1, len(lag) // 8), linewidth=0.9 if minor else 1.5, alpha=0.7 if minor else 1.0,
                label=f"{label}, ∂{state}{runs}",
            )  # fmt: skip
            if len(group) > 1:
                low, high = np.nanmin(left[:, known], axis=0), np.nanmax(left[:, known], axis=0)
                axes.fill_between(lag, low, high, color=colour, alpha=0.15, linewidth=0)
            lowest = min(lowest, float(mean.min()))
    if lowest < LOWEST:
        axes.set_ylim(LOWEST, 0.04 * -LOWEST)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"$10^{{{y:.0f}}}$"))
    axes.set_xlabel("lag T − t, steps")
    axes.set_ylabel("‖∂loss$_T$/∂s$_t$‖, lag 0 = 1")
    axes.legend(fontsize=7.5)


def _bars(runs: Sequence[Diagnosed]) -> list[tuple[str, list[Diagnosed], str]]:
    """What has a bar: the cell's label, its runs, and the gate."""
    return [
        (label, group, name)
        for (_, label), group in by_label(runs).items()
        for name in [*group[0].found["gates"], "|h|"]
    ]


def _gates(axes: Axes, runs: Sequence[Diagnosed]) -> None:
    """A bar a gate: the shares of its values below 0.1, between, and above 0.9; and its mean in figures."""
    bars = _bars(runs)
    names, at, y = [], [], 0.0
    for n, (label, group, gate) in enumerate(bars):
        y += 1.5 if n and bars[n - 1][0] != label else 1.0
        mean, below, above = (gate_mean(group, gate, what) for what in ("mean", "below_0.1", "above_0.9"))
        start = 0.0
        for (_, fill, hatch), share in zip(SHADES, (below, 1.0 - below - above, above), strict=True):
            axes.barh(y, share, left=start, height=0.72, color=fill, hatch=hatch, edgecolor="#404040", linewidth=0.5)
            start += share
        axes.text(1.02, y, f"{mean:.2f}", va="center", fontsize=7.5)
        names.append(f"{label}  {gate}")
        at.append(y)
    axes.text(1.02, 0.1, "mean", va="center", fontsize=7.5)
    axes.set_yticks(at, names, fontsize=7.5)
    axes.set_ylim(y + 0.7, 0.3)
    axes.set_xlim(0, 1)
    axes.grid(False)
    axes.set_xlabel("share of values")
    legend = [Patch(facecolor=fill, hatch=hatch, edgecolor="#404040", label=name) for name, fill, hatch in SHADES]
    axes.legend(handles=legend, fontsize=7.5, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16),
                handlelength=1.2, columnspacing=1.0)  # fmt: skip


def _radii(axes: Axes, groups: dict[str, list[Diagnosed]], styles: dict[str, Line]) -> None:
    """Over training where it was measured, and at the best weights; thin lines and small marks for blocks of gates."""
    followed = any(run.training for group in groups.values() for run in group)
    for n, (label, group) in enumerate(groups.items()):
        colour, dash, marker = styles[label]
        for block in group[0].found["spectral_radius"]:
            gate = block in GATES
            width, alpha = (0.7, 0.6) if gate else (1.5, 1.0)
            for run in group:
                points = [(row["update"], row["spectral_radius"].get(block)) for row in run.training]
                best = run.found["spectral_radius"][block]
                if points:
                    axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, linewidth=width, alpha=alpha)
                if best is not None:
                    x = run.found["best_update"] if followed else n
                    axes.plot(x, best, marker, color=colour, markersize=3 if gate else 6, alpha=alpha, zorder=3)
        axes.plot([], [], color=colour, linestyle=dash if followed else "none", marker=marker, label=label)
    axes.axhline(1.0, color="#808080", linewidth=0.8)
    if followed:
        axes.set_xlabel("updates\nmarks: the best weights; thin: blocks of gates")
    else:
        axes.set_xticks(range(len(groups)), list(groups), fontsize=7.5)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_xlabel("at the best weights\nsmall: blocks of gates")
    axes.legend(fontsize=7.5)
