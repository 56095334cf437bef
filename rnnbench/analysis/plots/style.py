"""How every figure looks: readable in print, in grey, and by colour-blind people; and how it is saved."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from rnnbench.errors import check_choice

FORMATS = ("png", "svg", "pdf")

SETTINGS: dict[Any, object] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "svg.hashsalt": "rnnbench",  # equal figures, equal files
}

Line = tuple[str, Any, str]
"""Colour, dash (as matplotlib takes them), marker."""

KNOWN: dict[str, Line] = {
    "gru": ("#D55E00", "-", "o"),
    "lstm": ("#0072B2", "--", "s"),
    "tanh": ("#000000", ":", "^"),
    "gru_cudnn": ("#CC79A7", "-.", "D"),
}
"""Cell -> colour, dash and marker. The colours are those of Okabe & Ito (2008, "Color Universal Design"); dash and
marker say the same once more, for grey paper."""

OTHERS: list[Line] = [
    ("#009E73", (0, (5, 1)), "v"),
    ("#E69F00", (0, (3, 1, 1, 1)), "P"),
    ("#56B4E9", (0, (1, 1)), "X"),
    ("#999999", (0, (5, 5)), "*"),
]
"""For cells of one's own, and variants, in the order in which they come."""


def lines(names: Iterable[str]) -> dict[str, Line]:
    """A line for each name (a cell, or a cell and its variant), the same for a cell in every figure."""
    free = [*OTHERS, *KNOWN.values()]
    distinct = list(dict.fromkeys(names))
    taken = {KNOWN[name] for name in distinct if name in KNOWN}
    rest = [line for line in free if line not in taken]
    others = [name for name in distinct if name not in KNOWN]
    found = {name: rest[i % len(rest)] for i, name in enumerate(others)}
    return {name: KNOWN.get(name) or found[name] for name in distinct}


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
