"""What all figures share: a panel for each task and setting, a line for each cell, a legend above, a caption below."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rnnbench.analysis.plots import style
from rnnbench.analysis.pool import natural
from rnnbench.summary import counted

SETTING = 6.5
"""Points: titles of more than a line."""

HANDLE = 0.62
"""Inches: what an entry of the legend takes beside its text."""

MOST_ABREAST = 4
"""Panels beside each other; further ones go below."""

UNITS = {
    "nll_step": "NLL per step (nats)",
    "nll_seq": "NLL, sequences (nats)",
    "mse": "mean squared error",
    "xent": "cross-entropy (nats)",
}
"""What the axis of a metric is called."""

REMARK: dict[str, Any] = {"fontsize": style.SMALL, "color": "#444444"}
"""How it looks what is written into a figure."""


@dataclass(frozen=True)
class Drawing:
    """A figure, and sentences on what is not in it."""

    figure: Figure
    notes: list[str]


@dataclass(frozen=True)
class Panel:
    """The runs of one task and setting (see `rnnbench.analysis.pool`): what may be held against each other."""

    task: str
    setting: str
    runs: pd.DataFrame

    def metric(self, asked: str | None) -> str:
        """The metric to show: the one asked for where the task has it, or the one that selects."""
        if asked and f"test_{asked}" in self.runs and self.runs[f"test_{asked}"].notna().all():
            return asked
        return str(self.runs["metric"].iloc[0])

    def cells(self) -> dict[str, pd.DataFrame]:
        """The runs of each cell, or variant of a cell, under the name of its line."""
        return {str(name): of_cell for name, of_cell in self.runs.groupby(names(self.runs), sort=True)}

    def baseline(self, metric: str, split: str = "valid") -> float:
        """The score of the trivial baseline."""
        return float(self.runs[f"baseline_{split}_{metric}"].iloc[0])

    @property
    def seeds(self) -> str:
        """How many there are, of the cell with the fewest and of that with the most."""
        n = [of_cell["seed"].nunique() for of_cell in self.cells().values()]
        return counted(n[0], "seed") if min(n) == max(n) else f"{min(n)} to {max(n)} seeds"


def names(runs: pd.DataFrame) -> "pd.Series[str]":
    """What the line of each run is called: its cell, and the variant of it."""
    return runs["cell"].where(runs["own"] == "", runs["cell"] + ", " + runs["own"])


def unit_of(metric: str) -> str:
    """What the axis of a metric is called; that of a task of one's own by its name."""
    return UNITS.get(metric, metric)


def panels(runs: pd.DataFrame) -> list[Panel]:
    """The panels of runs that `rnnbench.analysis.pool.pool` has labelled, by name; 50 comes before 100."""
    found = [Panel(str(task), str(setting), rows) for (task, setting), rows in runs.groupby(["task", "setting"])]
    return sorted(found, key=lambda panel: (panel.task, natural(panel.setting)))


class Canvas:
    """A figure with the same rows of axes for each of several panels.

    ``axes[i][j]`` is row j of panel i. To be used within `rnnbench.analysis.plots.style.SETTINGS`.
    """

    def __init__(self, shown: Sequence[Panel], rows: int, height: float = 1.55) -> None:
        """Make axes ``height`` inches high, at most `MOST_ABREAST` panels beside each other."""
        self.abreast = min(len(shown), MOST_ABREAST if len(shown) not in (5, 6, 9) else 3)
        bands = math.ceil(len(shown) / self.abreast)
        self.width = style.COLUMN if self.abreast == 1 else style.PAGE
        self.lines = style.lines(name for panel in shown for name in panel.cells())
        self.figure = Figure(figsize=(self.width, 1.0))
        grid = self.figure.subplots(bands * rows, self.abreast, squeeze=False)
        self.axes: list[list[Axes]] = []
        self._inches = bands * rows * height
        for i in range(bands * self.abreast):
            band, column = divmod(i, self.abreast)
            mine: list[Axes] = list(grid[band * rows : (band + 1) * rows, column])
            if i < len(shown):
                self.axes.append(mine)
            else:
                for axes in mine:
                    axes.remove()
        self._titles(shown)

    def _titles(self, shown: Sequence[Panel]) -> None:
        """Task, setting and seeds over the first row of each panel."""
        texts = ["\n".join([f"{p.task} ({p.seeds})", *self.wrapped(p.setting, SETTING, most=3)]) for p in shown]
        for text, axes in zip(texts, self.axes, strict=True):
            axes[0].set_title(text, loc="left", fontsize=SETTING if "\n" in text else None)
        self._inches += 0.12 * max(text.count("\n") + 1 for text in texts) * math.ceil(len(shown) / self.abreast)

    def wrapped(self, text: str, size: float, most: int | None = None) -> list[str]:
        """A text in lines as wide as a panel; what is longer than ``most`` of them is cut off."""
        return style.wrapped(text, self.width / self.abreast - 0.37, size, most)

    def label(self, row: int, x: str, y: Iterable[str]) -> None:
        """Name the axes of a row of every panel; ``y`` is written where it differs from the panel to the left."""
        before = ""
        for i, (axes, text) in enumerate(zip(self.axes, y, strict=True)):
            axes[row].set_xlabel(x)
            if i % self.abreast == 0 or text != before:
                axes[row].set_ylabel(text)
            before = text

    def finish(self, caption: str, more: Sequence[Artist] = (), *, named: bool = True) -> Figure:
        """Write the legend above, cells (if they are to be ``named``) and ``more``, and the caption below."""
        handles: list[Artist] = [
            Line2D([], [], color=color, linestyle=dash, marker=marker, label=name)
            for name, (color, dash, marker) in self.lines.items()
            if named
        ]
        handles += [*more]
        widths = [style.inches(str(handle.get_label()), 8) + HANDLE for handle in handles]
        columns = len(handles) if sum(widths) <= self.width else max(1, int(self.width / max(widths)))
        below = style.wrapped(caption, self.width - 0.1, style.SMALL)
        self._inches += 0.11 * len(below) + 0.1
        if handles:
            self._inches += 0.16 * math.ceil(len(handles) / columns)
            self.figure.legend(handles=handles, loc="outside upper center", ncols=columns)
        self.figure.set_size_inches(self.width, self._inches)
        self.figure.supxlabel("\n".join(below), x=0.01, ha="left", **REMARK)
        return self.figure


def remark(axes: Axes, text: str) -> None:
    """Write into empty axes why they are empty."""
    axes.text(
        0.5,
        0.5,
        "\n".join(style.wrapped(text, 1.1, style.SMALL)),
        transform=axes.transAxes,
        ha="center",
        va="center",
        **REMARK,
    )
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
