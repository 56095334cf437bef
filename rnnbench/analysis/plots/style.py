"""How every figure looks: readable in print, in grey, and by colour-blind people; and how it is saved."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatterSciNotation, MaxNLocator, NullLocator

from rnnbench.errors import check_choice

FORMATS = ("png", "svg", "pdf")

COLUMN, PAGE = 3.4, 7.0
"""Inches: the width of a column of a paper, and of its page."""

SETTINGS: dict[Any, object] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.constrained_layout.use": True,
    "figure.dpi": 200,
    "font.size": 8,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "path.simplify": False,  # what is simplified depends on the resolution
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 200,
    "svg.hashsalt": "rnnbench",  # equal figures, equal files
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}

Line = tuple[str, Any, str]
"""Colour, dash (as matplotlib takes them), marker."""

KNOWN: dict[str, Line] = {
    "gru": ("#C85200", "-", "o"),
    "lstm": ("#004D85", (0, (4, 1.2)), "s"),
    "tanh": ("#000000", (0, (1, 1)), "^"),
    "gru_cudnn": ("#CF86B6", (0, (5, 1, 1, 1)), "D"),
}
"""Cell -> colour, dash and marker. The hues are those of Okabe & Ito (2008, "Color Universal Design"), made lighter or
darker so that the four are as many greys too; dash and marker say the same once more."""

OTHER_COLOURS = ("#009E73", "#E69F00", "#56B4E9")
OTHER_DASHES = ((0, (6, 1)), (0, (2, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (6, 2, 2, 2)), (0, (1, 2)))
OTHER_MARKERS = ("v", "P", "X", "*", "<", ">", "p")

LADDERS = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
    (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
)
"""Round numbers within a decade, finer and finer."""

BASELINE: dict[str, Any] = {"color": "#A0A0A0", "linewidth": 0.9, "linestyle": "-", "zorder": 1}
"""The trivial baseline: a thin grey line."""

BAND = 0.16
"""How opaque an interval is."""

BAND_FROM = 3
"""Seeds from which an interval of a mean is drawn. Of two it is 12.7 standard errors to either side, and would hide all
else; they are shown themselves."""

SMALL = 6.5
"""Points: what is written below a figure, and inside of it."""


def lines(names: Iterable[str]) -> dict[str, Line]:
    """A line for each name (a cell, or a cell and its variant).

    The cells of `KNOWN` have the same one in every figure; others get theirs by the alphabet, and never one of those.
    The first 105 of them differ.
    """
    distinct = sorted(set(names))
    others = [name for name in distinct if name not in KNOWN]
    found = {
        name: (
            OTHER_COLOURS[i % len(OTHER_COLOURS)],
            OTHER_DASHES[i % len(OTHER_DASHES)],
            OTHER_MARKERS[i % len(OTHER_MARKERS)],
        )
        for i, name in enumerate(others)
    }
    return {name: KNOWN.get(name) or found[name] for name in distinct}


def log_scale(axes: Axes, which: Literal["x", "y"], low: float, high: float, most: int = 6) -> None:
    """Let an axis be logarithmic from ``low`` to ``high``, with a few ticks, plain numbers where they are short."""
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    axis: Axis = getattr(axes, f"{which}axis")
    plain = low >= 1e-3 and high < 1e4
    axis.set_major_locator(FixedLocator(log_ticks(low, high, most if plain else min(most, 4))))
    axis.set_minor_locator(NullLocator())
    if plain:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf)))


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``: of `LADDERS` the finest that has at most ``most``.

    Where even that has fewer than three: equal steps.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = math.ceil(len(decades) / most)
    found = [10.0**d for d in decades if d % every == 0 and low <= 10.0**d <= high]
    for ladder in LADDERS:
        ticks = [float(f"{step}e{d}") for d in decades for step in ladder]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            found = ticks
    if len(found) < 3 and high / low < 10:
        equal = MaxNLocator(min(most, 5), steps=[1, 2, 5, 10]).tick_values(low, high)
        found = [float(tick) for tick in equal if low <= tick <= high]
    return found


def inches(text: str, size: float) -> float:
    """How wide a line is, in a size of so many points."""
    return float(TextPath((0, 0), text, size=size).get_extents().width) / 72 if text.strip() else 0.0


def wrapped(text: str, width: float, size: float, most: int | None = None) -> list[str]:
    """A text in lines at most ``width`` inches wide; what is longer than ``most`` of them is cut off."""
    for letters in range(max(1, int(width * 72 / size / 0.48)), 0, -1):
        found = textwrap.wrap(text, letters, max_lines=most, placeholder=" …" if letters > 2 else "")
        if all(inches(line, size) <= width for line in found):
            break
    return found


def thousands(axis: Axis) -> None:
    """Write 20000 as 20k."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"))


def save(figure: Figure, stem: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write ``figure`` to ``stem`` with the ending of each format; the same figure gives the same bytes.

    Raises:
        UserError: for an unknown format.
    """
    for fmt in formats:
        check_choice("--format", fmt, FORMATS)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for fmt in formats:
        path = stem.with_name(f"{stem.name}.{fmt}")
        undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(fmt, {})
        with mpl.rc_context(SETTINGS):
            figure.savefig(path, format=fmt, metadata=undated)
        paths.append(path)
    return paths
