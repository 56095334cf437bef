"""The mean over seeds against numpy and scipy, and what happens where seeds stop at different times."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rnnbench.analysis import clock
from rnnbench.analysis.collect import collect
from rnnbench.analysis.curves import histories, history, mean_curve, mean_curves, tails
from rnnbench.analysis.pool import pool
from rnnbench.analysis.statistics import mean_band, paired_t_interval, wilson_interval
from rnnbench.errors import UserError
from tests.fake_runs import write_curve

JSB = ("cell=gru", "task=jsb_chorales")
SEEDS = [[11.0, 9.0, 8.0, 8.5, 8.7], [11.2, 9.5, 8.2], [10.8, 8.6, 8.1, 7.9]]


def written(root: Path) -> list[pd.DataFrame]:
    for seed, values in enumerate(SEEDS):
        write_curve(root, values, *JSB, f"seed={seed}")
    return histories(collect(root))


def test_the_mean_and_its_interval_are_those_of_numpy_and_scipy(tmp_path: Path) -> None:
    curve = mean_curve(written(tmp_path), "valid/nll_step")
    common = np.array([values[:3] for values in SEEDS])
    assert list(curve["x"]) == [0, 100, 200]
    assert curve["mean"].to_numpy() == pytest.approx(common.mean(axis=0))
    low, high = stats.t.interval(0.95, 2, common.mean(axis=0), stats.sem(common, axis=0))
    assert curve["low"].to_numpy() == pytest.approx(low)
    assert curve["high"].to_numpy() == pytest.approx(high)
    assert set(curve["n"]) == {3}


def test_the_mean_ends_with_the_first_seed_and_the_others_go_on_alone(tmp_path: Path) -> None:
    measured = written(tmp_path)
    longer = tails(measured, "valid/nll_step")
    assert [list(tail["x"]) for tail in longer] == [[200, 300, 400], [200, 300]]
    assert [list(tail["value"]) for tail in longer] == [[8.0, 8.5, 8.7], [8.1, 7.9]]
    assert tails(measured[:1], "valid/nll_step") == []


def test_against_seconds_seeds_are_interpolated_between_their_evaluations(tmp_path: Path) -> None:
    write_curve(tmp_path, [10.0, 8.0, 6.0], *JSB, "seed=0", seconds=0.01)  # at 0, 1, 2 s
    write_curve(tmp_path, [10.0, 8.0, 6.0], *JSB, "seed=1", seconds=0.02)  # at 0, 2, 4 s
    curve = mean_curve(histories(collect(tmp_path)), "valid/nll_step", "wall_s")
    assert list(curve["x"]) == [0.0, 1.0, 2.0]
    assert list(curve["mean"]) == pytest.approx([10.0, (8 + 9) / 2, (6 + 8) / 2])


def test_one_seed_has_an_endless_interval_and_what_was_not_measured_no_curve(tmp_path: Path) -> None:
    (first, *_) = written(tmp_path)
    curve = mean_curve([first], "valid/nll_step")
    assert list(curve["mean"]) == SEEDS[0]
    assert np.isinf(curve[["low", "high"]]).all(axis=None)
    assert mean_curve([first], "train/loss")["x"].min() == 100, "nothing is trained before the first evaluation"
    assert mean_curve([first], "valid/mse").empty
    assert mean_curve([], "valid/mse").empty
    with pytest.raises(UserError, match="against=epoch"):
        mean_curve([first], "valid/nll_step", "epoch")


def test_a_last_line_cut_short_is_left_out_and_damage_is_told(tmp_path: Path) -> None:
    path = write_curve(tmp_path, [11.0, 9.0], *JSB)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "upda')
    assert list(history(path)["valid/nll_step"]) == [11.0, 9.0]
    (path / "metrics.jsonl").write_text("no json\n")
    with pytest.raises(UserError, match="is damaged"):
        history(path)
    (path / "metrics.jsonl").unlink()
    assert history(path).empty


def test_the_curves_of_a_pool_are_tidy_and_of_the_runs_that_count(tmp_path: Path) -> None:
    written(tmp_path)
    write_curve(tmp_path, [11.0, 7.0], "cell=lstm", "task=jsb_chorales", "train.lr=1e-3")
    write_curve(tmp_path, [11.0, 6.0], "cell=lstm", "task=jsb_chorales", "train.lr=2e-3")
    write_curve(tmp_path, [0.2, 0.1], "cell=gru", "task=adding")
    found = mean_curves(pool(collect(tmp_path)))
    assert list(found.columns) == ["task", "setting", "cell", "own", "variant", "x", "mean", "low", "high", "n"]
    lengths = found.groupby(["task", "cell"]).size().to_dict()
    assert lengths == {("adding", "gru"): 2, ("jsb_chorales", "gru"): 3, ("jsb_chorales", "lstm"): 2}
    assert found.loc[found["cell"] == "lstm", "mean"].tolist() == [11.0, 6.0], "the rate that is best on validation"
    assert mean_curves(pool(collect(tmp_path)), "train/loss")["x"].min() == 100
    assert mean_curves(pool(collect(tmp_path)), "valid/no").empty


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_the_band_is_the_interval_at_each_point(n: int) -> None:
    values = np.random.default_rng(3).normal(size=(n, 4))
    mean, low, high = mean_band(values)
    for i in range(4):
        expected = paired_t_interval(values[:, i])
        assert (mean[i], low[i], high[i]) == pytest.approx((expected.estimate, expected.low, expected.high))


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 3), (3, 3), (2, 5), (7, 10), (50, 1000)])
def test_wilsons_interval_is_that_of_scipy(successes: int, n: int) -> None:
    found = wilson_interval(successes, n)
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.estimate == successes / n


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 2), (3, 2)])
def test_a_share_of_nothing_is_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="must be from 0 to n"):
        wilson_interval(successes, n)


def test_wilsons_interval_covers_as_often_as_it_says() -> None:
    n, chance = 10, 0.3
    draws = stats.binom.pmf(np.arange(n + 1), n, chance)
    covers = [wilson_interval(k, n).low <= chance <= wilson_interval(k, n).high for k in range(n + 1)]
    assert draws[covers].sum() > 0.92


def test_only_runs_made_alone_by_the_same_code_on_the_same_machine_share_a_clock(tmp_path: Path) -> None:
    write_curve(tmp_path, [11.0, 9.0], *JSB, "seed=0")
    write_curve(tmp_path, [11.0, 9.0], *JSB, "seed=1", population=2)
    write_curve(tmp_path, [11.0, 9.0], *JSB, "seed=2", threads=2, commit="def")
    runs = collect(tmp_path)
    assert list(clock.alone(runs)) == [True, False, True]
    assert clock.differing(runs) == ["threads", "commits"]
    assert clock.differing(runs[:2]) == []
    assert not clock.alone(runs.drop(columns="population.size")).any(), "what a record does not say is not believed"
