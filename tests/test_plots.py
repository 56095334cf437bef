"""What the figures say is what the runs say; and they can be read."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import stats

from rnnbench.analysis.collect import collect
from rnnbench.analysis.plots import learning, lengths, rates, style, times
from rnnbench.analysis.plots.panels import Drawing
from rnnbench.cli import main
from rnnbench.errors import UserError
from tests.fake_runs import write_curve

CELLS = ("gru", "lstm", "tanh")
RNG = np.random.default_rng(5)


def write_seeds(root: Path, task: str = "task=jsb_chorales", seeds: int = 3, **more: Any) -> dict[str, NDArray[Any]]:
    """For each cell as many runs; returns their validation scores, (seeds, evaluations)."""
    found = {}
    for i, cell in enumerate(CELLS):
        found[cell] = 8 + i + 3 * np.exp(-np.arange(6.0)) + 0.1 * RNG.random((seeds, 6))
        for seed, values in enumerate(found[cell]):
            write_curve(root, list(map(float, values)), f"cell={cell}", task, f"seed={seed}", **more)
    return found


def write_rates(root: Path, diverged: float | None = None) -> None:
    for cell, seed, lr in itertools.product(CELLS, range(3), (1e-4, 1e-3, 1e-2)):
        best = 8 + abs(np.log10(lr) + 3) + 0.1 * seed + 0.3 * CELLS.index(cell)
        status = "diverged" if lr == diverged and cell == "tanh" and seed == 0 else "done"
        run = (f"cell={cell}", "task=nottingham", f"seed={seed}", f"train.lr={lr}")
        write_curve(root, [11.0, float(best)], *run, status=status, population=9)


def write_lengths(root: Path, solved: dict[int, int], seeds: int = 5) -> None:
    for cell, length, seed in itertools.product(CELLS, solved, range(seeds)):
        success = seed < solved[length]
        run = (f"cell={cell}", "task=adding", f"task.length={length}", f"seed={seed}")
        write_curve(root, [0.3, 0.01 if success else 0.17], *run, success=success, seconds=1e-4 * length)


def line_of(axes: Axes, cell: str) -> NDArray[np.float64]:
    """What the line of a cell goes through."""
    color, _, marker = style.KNOWN[cell]
    found = [x for x in axes.get_lines() if x.get_color() == color and x.get_marker() == marker]
    (line,) = [x for x in found if x.get_markersize() != rates.RING["markersize"]]
    return points(line)


def points(line: Line2D) -> NDArray[np.float64]:
    """What a line goes through, (X, 2)."""
    return np.asarray(line.get_xydata(), dtype=float)


def rgb(color: str) -> NDArray[np.float64]:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def told(axes: Axes) -> str:
    """What is written into and over axes."""
    return " ".join([*(text.get_text() for text in axes.texts), axes.get_title(loc="left")]).replace("\n", " ")


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


# ---------------------------------------------------------------- what is drawn


def test_learning_curves_go_through_the_means_and_bands_are_students_intervals(tmp_path: Path) -> None:
    scores = write_seeds(tmp_path)
    figure = learning.draw(collect(tmp_path)).figure
    updates, seconds = figure.axes
    for cell, values in scores.items():
        expected = np.column_stack([100.0 * np.arange(6), values.mean(axis=0)])
        assert line_of(updates, cell) == pytest.approx(expected)
        assert line_of(seconds, cell) == pytest.approx(expected * [0.01, 1])
        low, high = stats.t.interval(0.95, 2, values.mean(axis=0), stats.sem(values, axis=0))
        color = style.KNOWN[cell][0]
        (band,) = [c for c in updates.collections if np.allclose(np.asarray(c.get_facecolor())[0, :3], rgb(color))]
        assert isinstance(band, PolyCollection)
        outline = np.asarray(band.get_paths()[0].vertices)[:, 1]
        assert (outline.min(), outline.max()) == pytest.approx((low.min(), high.max()))
    training = [x for x in updates.get_lines() if x.get_linewidth() == learning.TRAINING["linewidth"]]
    assert len(training) == 3
    assert "(3 seeds)" in told(updates)
    assert (updates.get_yscale(), updates.get_ylabel()) == ("log", "NLL per step (nats)")


def test_two_seeds_are_shown_themselves_and_one_has_no_band(tmp_path: Path) -> None:
    for seeds in (1, 2):
        write_seeds(tmp_path / str(seeds), seeds=seeds)
        (axes, _) = learning.draw(collect(tmp_path / str(seeds))).figure.axes
        assert not axes.collections
        hair = [x for x in axes.get_lines() if x.get_linewidth() == learning.AFTER["linewidth"]]
        assert len(hair) == (0 if seeds == 1 else 6)


def test_the_mean_stops_with_the_first_seed_and_hair_lines_go_on(tmp_path: Path) -> None:
    write_curve(tmp_path, [11.0, 9.0, 8.0, 8.5], "cell=gru", "task=jsb_chorales", "seed=0")
    for seed in (1, 2):
        write_curve(tmp_path, [11.0, 9.0, 8.0], "cell=gru", "task=jsb_chorales", f"seed={seed}")
    drawing = learning.draw(collect(tmp_path))
    (axes, _) = drawing.figure.axes
    assert line_of(axes, "gru")[-1, 0] == 200
    (hair,) = [x for x in axes.get_lines() if x.get_linewidth() == learning.AFTER["linewidth"]]
    assert points(hair).tolist() == [[200, 8.0], [300, 8.5]]
    assert "as far as all of them train" in caption(drawing)


def test_the_first_evaluations_do_not_squeeze_the_rest(tmp_path: Path) -> None:
    write_curve(tmp_path, [61.0, *[9.0] * 30, 8.0], "cell=gru", "task=jsb_chorales")
    (axes, _) = learning.draw(collect(tmp_path)).figure.axes
    low, high = axes.get_ylim()
    assert 7 < low < 8 - 0.8
    assert 11 < high < 16


def test_seconds_are_drawn_only_of_runs_made_alone(tmp_path: Path) -> None:
    write_seeds(tmp_path / "a", population=3)
    drawing = learning.draw(collect(tmp_path / "a"))
    assert len(drawing.figure.axes) == 1
    assert "Not against seconds: runs were made in populations" in caption(drawing)
    assert any("gru, lstm, tanh on jsb_chorales" in note for note in drawing.notes)
    write_curve(tmp_path / "a", [11.0, 8.0], "cell=gru_cudnn", "task=jsb_chorales")
    (_, seconds) = learning.draw(collect(tmp_path / "a")).figure.axes
    assert len(line_of(seconds, "gru_cudnn")) == 2
    assert not [x for x in seconds.get_lines() if x.get_color() == style.KNOWN["gru"][0]]
    assert "no gru, lstm, tanh: runs were made in populations" in told(seconds)
    write_seeds(tmp_path / "a", "task=nottingham")
    axes = learning.draw(collect(tmp_path / "a")).figure.axes
    assert not any("not drawn" in told(a) for a in axes)


def test_a_panel_without_seconds_beside_one_with_says_why(tmp_path: Path) -> None:
    write_seeds(tmp_path, population=3)
    write_seeds(tmp_path, "task=nottingham")
    axes = learning.draw(collect(tmp_path)).figure.axes
    (empty,) = [a for a in axes if "not drawn: runs were made in populations" in told(a)]
    assert not empty.get_lines()


def test_seconds_of_other_code_are_not_held_against_each_other(tmp_path: Path) -> None:
    write_curve(tmp_path, [11.0, 8.0], "cell=gru", "task=jsb_chorales")
    write_curve(tmp_path, [11.0, 8.0], "cell=lstm", "task=jsb_chorales", commit="def")
    runs = collect(tmp_path)
    assert len(learning.draw(runs).figure.axes) == 1
    with pytest.raises(UserError, match=r"the runs differ in commits\..*max_members=1"):
        times.draw(runs)


def test_times_are_seconds_over_updates_and_members_of_a_population_are_refused(tmp_path: Path) -> None:
    for seed, seconds in enumerate((0.010, 0.012, 0.017)):
        write_curve(tmp_path, [11.0, 8.0], "cell=gru", "task=jsb_chorales", f"seed={seed}", seconds=seconds)
    write_curve(tmp_path, [11.0, 8.0], "cell=gru", "task=jsb_chorales", "seed=3", seconds=1e-4, population=2)
    drawing = times.draw(collect(tmp_path))
    (axes,) = drawing.figure.axes
    assert line_of(axes, "gru")[:, 1] == pytest.approx([10, 12, 17])
    (mean,) = [x for x in axes.get_lines() if x.get_marker() in ("None", "")]
    assert points(mean)[:, 1] == pytest.approx([13, 13])
    assert axes.get_ylim()[0] == 0
    assert drawing.notes == ["1 of 4 runs left out, since runs were made in populations, which share a clock."]
    write_seeds(tmp_path / "p", population=3)
    with pytest.raises(UserError, match=r"9 of 9 runs left out.*share a clock.*hydra.sweeper.max_members=1"):
        times.draw(collect(tmp_path / "p"))


def test_rates_are_means_with_intervals_the_chosen_are_ringed_and_the_diverged_at_the_edge(tmp_path: Path) -> None:
    write_rates(tmp_path, diverged=1e-2)
    drawing = rates.draw(collect(tmp_path))
    top, valid, test = drawing.figure.axes
    expected = [[1e-4, 9.1], [1e-3, 8.1], [1e-2, 9.1]]
    assert line_of(top, "gru") == pytest.approx(np.array(expected))
    rings = [x for x in top.get_lines() if x.get_markersize() == rates.RING["markersize"]]
    assert {tuple(points(x)[0].round(6)) for x in rings} == {
        (1e-3, 8.1), (1e-3, 8.4), (1e-3, 8.7)
    }  # fmt: skip
    (cross,) = [x for x in top.get_lines() if x.get_marker() == "x"]
    assert (cross.get_color(), list(points(cross)[:, 0])) == (style.KNOWN["tanh"][0], [1e-2])
    assert list(points(cross)[:, 1]) == [rates.EDGE]
    assert "diverged" in legend_of(drawing.figure)
    # of three rates 9, 8, 9: one at random; of two the best unless it is left out, in a third of the pairs; the best
    assert line_of(valid, "gru") == pytest.approx(np.array([[1, 26 / 3 + 0.1], [2, 25 / 3 + 0.1], [3, 8.1]]))
    assert line_of(test, "gru")[:, 1] == pytest.approx(line_of(valid, "gru")[:, 1] + 0.2)
    assert line_of(valid, "tanh")[0, 0] == 2, "one of one may have diverged"
    assert line_of(valid, "tanh")[-1, 1] == pytest.approx(8.7)


def test_rates_that_differ_between_seeds_get_a_line_a_seed(tmp_path: Path) -> None:
    for seed, some in enumerate(((1e-3, 2e-3), (3e-3, 4e-3))):
        for lr in some:
            write_curve(tmp_path, [11.0, 8.0 + lr], "cell=gru", "task=nottingham", f"seed={seed}", f"train.lr={lr}")
    top = rates.draw(collect(tmp_path)).figure.axes[0]
    dashes = [x for x in top.get_lines() if x.get_marker() == "o" and x.get_markersize() != rates.RING["markersize"]]
    assert sorted(list(points(x)[:, 0]) for x in dashes) == [[1e-3, 2e-3], [3e-3, 4e-3]]


def test_success_is_the_exact_share_and_what_diverged_has_not_succeeded(tmp_path: Path) -> None:
    solved = {50: 5, 100: 3, 400: 0}
    write_lengths(tmp_path, solved)
    write_curve(tmp_path, [0.3, 0.001], "cell=gru", "task=adding", "task.length=50", "seed=5", status="diverged")
    (axes,) = lengths.draw(collect(tmp_path)).figure.axes
    assert line_of(axes, "gru")[:, 1].tolist() == [5 / 6, 3 / 5, 0]
    assert line_of(axes, "lstm")[:, 1].tolist() == [1, 3 / 5, 0]
    bars = [c for c in axes.collections if np.allclose(c.get_colors()[0][:3], rgb(style.KNOWN["lstm"][0]))]  # type: ignore[attr-defined]
    ends = np.array([segment[:, 1] for segment in bars[0].get_segments()])  # type: ignore[attr-defined]
    for (low, high), successes in zip(ends, solved.values(), strict=True):
        expected = stats.binomtest(successes, 5).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_there_is_a_panel_for_each_task_and_setting(tmp_path: Path) -> None:
    write_seeds(tmp_path)
    write_seeds(tmp_path, "task=nottingham")
    write_curve(tmp_path, [11.0, 8.0], "cell=gru", "task=nottingham", "train.batch_size=4")
    axes = learning.draw(collect(tmp_path)).figure.axes
    titles = [title for title in (told(a) for a in axes) if title]
    assert titles == [
        "jsb_chorales (3 seeds)",
        "nottingham (1 seed) train.batch_size=4",
        "nottingham (3 seeds) train.batch_size=16",
    ]


def test_panels_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_lengths(tmp_path, dict.fromkeys((50, 100, 400), 1), seeds=1)
    titles = [told(axes) for axes in learning.draw(collect(tmp_path)).figure.axes]
    assert [t for t in titles if t] == [f"adding (1 seed) task.length={n}" for n in (50, 100, 400)]


def test_another_metric_can_be_shown(tmp_path: Path) -> None:
    scores = write_seeds(tmp_path)
    (axes, _) = learning.draw(collect(tmp_path), "nll_seq").figure.axes
    assert line_of(axes, "gru")[:, 1] == pytest.approx(scores["gru"].mean(axis=0) + 1)
    assert axes.get_ylabel() == "NLL, sequences (nats)"


# ---------------------------------------------------------------- the command


def caption(drawing: Drawing) -> str:
    return str(drawing.figure.get_supxlabel()).replace("\n", " ")


def test_without_a_kind_all_that_can_be_drawn_is_and_the_rest_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_seeds(tmp_path / "runs", population=3)
    args = ["plot", "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--format", "svg,png"]
    assert main(args) == 0
    out, err = capsys.readouterr()
    paths = [tmp_path / "out" / f"curves.{fmt}" for fmt in ("svg", "png")]
    assert all(str(path) in out.splitlines() and path.is_file() for path in paths)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["curves.png", "curves.svg"]
    for kind, why in (
        ("rates", "more than one learning rate"),
        ("lengths", "has a length"),
        ("times", "share a clock"),
    ):
        assert any(line.startswith(f"{kind}: not drawn: ") and why in line for line in err.splitlines())


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["times"], "share a clock"),
        (["curves", "rates"], "rates: not drawn: no cell was run at more than one learning rate"),
        (["curvs"], "Did you mean 'curves'?"),
        (["--metric", "nll"], "Allowed: mse, nll_seq"),
        (["--format", "gif"], "Allowed: pdf, png, svg"),
        (["--cell", "mine"], "There: gru, lstm, tanh"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_where_it_is_asked_for(
    args: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_seeds(tmp_path / "runs", population=3)
    assert main(["plot", *args, "--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 1
    assert why in capsys.readouterr().err


def test_unfinished_runs_are_told_and_not_drawn(tmp_path: Path) -> None:
    write_seeds(tmp_path)
    path = write_curve(tmp_path, [11.0, 1.0], "cell=gru", "task=jsb_chorales", "seed=9")
    (path / "result.json").unlink()
    drawing = learning.draw(collect(tmp_path))
    assert "Left out: 1 unfinished." in drawing.notes
    assert "(3 seeds)" in told(drawing.figure.axes[0])
