"""Figures can be read: no text over another or off the canvas, colours that all people and grey paper tell apart."""

import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from rnnbench.analysis.collect import collect
from rnnbench.analysis.plots import learning, lengths, rates, style, times
from rnnbench.analysis.plots.panels import Drawing
from tests.fake_runs import write_curve
from tests.test_plots import rgb, write_lengths, write_rates, write_seeds

pytestmark = pytest.mark.more


def drawn(figure: Figure) -> Any:  # untyped in matplotlib
    """The canvas with the figure on it."""
    canvas: Any = FigureCanvasAgg(figure)
    with mpl.rc_context(style.SETTINGS):
        canvas.draw()
    return canvas


def everything(root: Path) -> dict[str, Drawing]:
    """A figure of each kind, with as much in it as is usual, and long names."""
    for task in ("jsb_chorales", "nottingham", "musedata", "piano_midi"):
        write_seeds(root / "a", f"task={task}")
    write_curve(root / "a", [61.0, 8.0], "cell=lstm", "task=nottingham", "train.readout_bias=zero", population=2)
    write_curve(root / "a", [61.0, 8.0], "cell=lstm", "task=jsb_chorales", "cell.peepholes=false", population=2)
    for seed in range(2):
        write_curve(root / "a", [11.0, 9.0, 8.5], "cell=gru_cudnn", "task=musedata", f"seed={seed}", population=2)
    write_rates(root / "r", diverged=1e-4)
    write_lengths(root / "l", {50: 5, 100: 4, 200: 2, 400: 1, 800: 0})
    a = collect(root / "a")
    return {
        "curves": learning.draw(a),
        "rates": rates.draw(collect(root / "r")),
        "lengths": lengths.draw(collect(root / "l")),
        "times": times.draw(a),
    }


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawing]:
    return everything(tmp_path_factory.mktemp("runs"))


def boxes(figure: Figure) -> dict[str, Any]:
    """Where each text of a figure is, in pixels; labels of ticks beyond the limits are there, but not drawn."""
    canvas = drawn(figure)
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    of_ticks = {id(label) for axis in axes for label in axis.findobj(Text) if label is not axis.label}
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and id(text) not in of_ticks]
    for axis in axes:
        low, high = sorted(axis.get_view_interval())
        pairs = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
        texts += [label for place, label in pairs if low <= place <= high]
    shown = [text for text in texts if text.get_visible() and text.get_text().strip()]
    return {f"{i} {t.get_text()}": t.get_window_extent(canvas.get_renderer()) for i, t in enumerate(shown)}


@pytest.mark.parametrize("kind", ["curves", "rates", "lengths", "times"])
def test_all_text_lies_on_the_canvas_and_none_over_another(kind: str, drawings: dict[str, Drawing]) -> None:
    figure = drawings[kind].figure
    found = boxes(figure)
    assert len(found) > 10
    width, height = figure.get_size_inches() * figure.dpi
    assert figure.get_size_inches()[0] in (style.COLUMN, style.PAGE)
    for name, box in found.items():
        assert box.x0 >= 0, name
        assert box.y0 >= 0, name
        assert box.x1 <= width, name
        assert box.y1 <= height, name
    for (a, one), (b, other) in itertools.combinations(found.items(), 2):
        apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
        assert apart, f"{a!r} over {b!r}"


@pytest.mark.parametrize("kind", ["curves", "rates", "lengths", "times"])
def test_no_legend_lies_over_axes(kind: str, drawings: dict[str, Drawing]) -> None:
    figure = drawings[kind].figure
    drawn(figure)
    for legend in figure.legends:
        assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)


@pytest.mark.parametrize("kind", ["rates", "lengths"])
def test_the_same_figure_gives_the_same_bytes(kind: str, drawings: dict[str, Drawing], tmp_path: Path) -> None:
    first = style.save(drawings[kind].figure, tmp_path / "one", ["png", "svg", "pdf"])
    again = style.save(drawings[kind].figure, tmp_path / "two", ["png", "svg", "pdf"])
    starts = [b"\x89PNG", b"<?xml", b"%PDF"]
    for one, two, start in zip(first, again, starts, strict=True):
        assert one.read_bytes().startswith(start)
        assert one.read_bytes() == two.read_bytes()


DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
"""Of linear sRGB (Machado, Oliveira & Fernandes 2009, severity 1)."""


def lab(color: str, seen_by: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB (D65) of a colour, as somebody sees it."""
    c = rgb(color)
    linear = np.clip(seen_by @ np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4), 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = to_xyz @ linear / [0.9505, 1.0, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen_by", [np.eye(3), DEUTERANOPIA, PROTANOPIA])
def test_colours_differ_to_all_and_those_of_known_cells_in_grey_too(seen_by: NDArray[np.float64]) -> None:
    known = [color for color, _, _ in style.KNOWN.values()]
    for a, b in itertools.combinations([*known, *style.OTHER_COLOURS], 2):
        assert np.linalg.norm(lab(a, seen_by) - lab(b, seen_by)) > 15, (a, b)
    for a, b in itertools.combinations(known, 2):
        assert abs(lab(a, np.eye(3))[0] - lab(b, np.eye(3))[0]) > 14, (a, b)


def test_dashes_and_markers_differ_and_a_cell_looks_the_same_beside_whatever_others() -> None:
    own = [f"mine{i}" for i in range(9)]
    found = style.lines([*style.KNOWN, *own])
    assert len({repr(line) for line in found.values()}) == len(found)
    assert len({repr(dash) for _, dash, _ in style.KNOWN.values()}) == len(style.KNOWN)
    assert len({marker for _, _, marker in found.values()}) == 4 + len(style.OTHER_MARKERS)
    for some in itertools.combinations([*style.KNOWN, "mine", "lstm, cell.peepholes=false"], 3):
        lines = style.lines(some)
        assert all(lines[name] == style.KNOWN[name] for name in some if name in style.KNOWN)
        assert not [line for name, line in lines.items() if name not in style.KNOWN and line in style.KNOWN.values()]


@pytest.mark.parametrize(
    ("low", "high"), [(8.4, 8.8), (7, 14), (3, 12), (0.17, 0.31), (1e-3, 0.3), (1e-5, 1), (1, 1e9)]
)
def test_a_logarithmic_axis_has_a_few_ticks_within_it(low: float, high: float) -> None:
    ticks = style.log_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)
