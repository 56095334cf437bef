"""What is concluded from paired runs, what is left undecided, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rnnbench.analysis.clock import objection
from rnnbench.analysis.collect import collect
from rnnbench.analysis.compare import TIME, Comparisons, aggregate, compare
from rnnbench.analysis.conclusions import as_frame, render, sentence
from rnnbench.analysis.filters import only
from rnnbench.analysis.layout import FORMATS, written
from rnnbench.analysis.layout import render as render_table
from rnnbench.analysis.pool import pool
from rnnbench.analysis.statistics import coverage_note, fewest_seeds, interquartile_mean
from rnnbench.analysis.tables import tabulate
from rnnbench.analysis.verdict import verdict
from rnnbench.commands.compare import main
from rnnbench.errors import UserError
from tests.fake_runs import write_run

RNG = np.random.default_rng(0)


def change(path: Path, **values: Any) -> None:
    """Put other values into a result.json."""
    file = path / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def write_cells(root: Path, scores: dict[str, np.ndarray], *overrides: str, **kwargs: Any) -> None:
    """For each cell a run a seed, with these test scores."""
    for cell, values in scores.items():
        for seed, value in enumerate(values):
            write_run(root, 8.0, float(value), f"cell={cell}", f"seed={seed}", *overrides, **kwargs)


def compared(root: Path, **options: Any) -> Comparisons:
    return compare(pool(collect(root)), **options)


MUSIC = "task=jsb_chorales"


def apart(seeds: int) -> dict[str, np.ndarray]:
    """Scores of three cells that are as clearly apart as can be."""
    return {cell: base + RNG.normal(0, 1e-3, seeds) for cell, base in (("gru", 8.0), ("lstm", 9.0), ("tanh", 10.0))}


def test_a_difference_and_its_interval_and_p_are_those_of_scipy_at_equal_seeds(tmp_path: Path) -> None:
    seeds = RNG.normal(0, 0.5, 10)  # what a seed has in common for both cells: pairing removes it
    a, b = 8.5 + seeds + RNG.normal(0, 0.01, 10), 8.6 + seeds + RNG.normal(0, 0.01, 10)
    write_cells(tmp_path, {"gru": a, "tanh": b}, MUSIC)
    (contest,) = compared(tmp_path).contests
    paired = stats.ttest_rel(a, b)
    interval = paired.confidence_interval(0.95)
    flips = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=2**11)
    found = contest.found
    assert (contest.a, contest.b, found.seeds, found.verdict) == ("gru", "tanh", 10, "better")
    assert [found.difference.estimate, found.difference.low, found.difference.high] == pytest.approx(
        [np.mean(a - b), interval.low, interval.high]
    )
    assert found.p == pytest.approx(flips.pvalue) == pytest.approx(2 / 2**10)
    assert contest.means == pytest.approx((a.mean(), b.mean()))


def test_seeds_are_paired_by_their_number_and_those_that_one_cell_lacks_are_told(tmp_path: Path) -> None:
    write_cells(tmp_path, {"gru": np.array([1.0, 2, 3, 4])}, MUSIC)
    for seed, value in ((3, 40.0), (1, 20.0), (2, 30.0)):  # seed 0 is not there, and the others come in another order
        write_run(tmp_path, 8.0, value, "cell=tanh", MUSIC, f"seed={seed}")
    result = compared(tmp_path)
    (contest,) = result.contests
    assert contest.found.seeds == 3
    assert contest.found.difference.estimate == pytest.approx(np.mean([2 - 20, 3 - 30, 4 - 40]))
    assert any("tanh: no finished run of seed 0" in note for note in result.notes)


@pytest.mark.parametrize(("seeds", "verdict_"), [(7, "undecided"), (8, "better")])
def test_all_comparisons_are_one_family_and_so_few_seeds_decide_nothing_however_clear(
    tmp_path: Path, seeds: int, verdict_: str
) -> None:
    """6 comparisons: the smallest p is 6 · 2 / 2ⁿ, at most 0.05 from n = 7.9 on."""
    for task in (MUSIC, "task=nottingham"):
        scores = {
            cell: base + RNG.normal(0, 1e-3, seeds) for cell, base in (("gru", 8.0), ("lstm", 9.0), ("tanh", 10.0))
        }
        write_cells(tmp_path, scores, task)
    result = compared(tmp_path)
    assert [c.found.verdict for c in result.contests] == [verdict_] * 6
    assert fewest_seeds(6) == 8
    if verdict_ == "undecided":
        assert result.contests[0].found.smallest_p == 6 * 2 / 2**7
        text = sentence(result.contests[0], 6)
        assert "gru and lstm are undecided" in text
        assert "at least 1 more needed" in text
        assert not result.best()
    else:
        assert {(task, method) for task, _, _, _, method in result.best()} == {
            ("jsb_chorales", "gru"),
            ("nottingham", "gru"),
        }


def test_cells_that_are_alike_are_undecided_with_a_number_of_seeds(tmp_path: Path) -> None:
    a = RNG.normal(8.5, 0.1, 10)
    write_cells(tmp_path, {"gru": a, "tanh": a + np.array([0.05, -0.04] * 5)}, MUSIC)
    (contest,) = compared(tmp_path).contests
    needed = contest.found.seeds_needed
    assert contest.found.verdict == "undecided"
    assert needed is not None
    assert needed > 10
    assert f"about {needed - 10} more seeds needed" in sentence(contest, 1)
    text = render(compared(tmp_path), [], "text")
    assert "undecided" in text
    assert coverage_note(10) in text
    assert coverage_note(10)


@pytest.mark.parametrize("override", ["train.batch_size=8", "task.pool=1", "train.max_epochs=7"])
def test_other_protocols_tasks_and_budgets_are_not_held_against_each_other(tmp_path: Path, override: str) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", MUSIC)
    write_run(tmp_path, 8.0, 8.6, "cell=tanh", MUSIC, override)
    assert compared(tmp_path).contests == []


def test_other_data_and_other_searches_are_not_held_against_each_other(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", MUSIC)
    write_run(tmp_path, 8.0, 8.6, "cell=tanh", MUSIC, checksum="other")
    write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=nottingham")
    write_run(tmp_path, 8.0, 8.6, "cell=tanh", "task=nottingham", "train.lr=0.1")
    assert compared(tmp_path).contests == []


def test_networks_of_unequal_size_are_refused_unless_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", MUSIC)
    change(write_run(tmp_path, 8.0, 8.6, "cell=tanh", MUSIC), params_recurrent=22_500, params_total=30_000)
    change(write_run(tmp_path, 8.0, 8.6, "cell=lstm", MUSIC), params_recurrent=22_500, params_total=25_000)
    result = compared(tmp_path)
    assert {(c.a, c.b) for c in result.contests} == {("gru", "lstm"), ("lstm", "tanh")}
    (refusal,) = result.refused
    assert "gru and tanh: 20,000 and 22,500 recurrent parameters are no equal budget" in refusal
    assert "match_params=" in refusal
    assert ("jsb_chorales", "") in result.incomplete
    assert len(compared(tmp_path, any_size=True).contests) == 3


def test_against_one_cell_the_family_is_smaller(tmp_path: Path) -> None:
    write_cells(tmp_path, {cell: RNG.normal(8, 0.1, 4) for cell in ("gru", "lstm", "tanh")}, MUSIC)
    result = compared(tmp_path, against="tanh")
    assert [(c.a, c.b) for c in result.contests] == [("gru", "tanh"), ("lstm", "tanh")]
    assert result.contests[0].found.smallest_p == 2 * 2 / 2**4
    with pytest.raises(UserError, match=r"--against gur: no run of it. There: gru, lstm, tanh. Did you mean 'gru'"):
        compared(tmp_path, against="gur")


# ---------------------------------------------------------------- time


def test_times_of_a_population_are_refused_and_those_of_runs_made_alone_compared(tmp_path: Path) -> None:
    for cell, seconds in (("gru", 10.0), ("tanh", 30.0)):
        for seed in range(6):
            path = write_run(tmp_path, 8.0, 8.5, f"cell={cell}", MUSIC, f"seed={seed}")
            change(path, seconds=seconds + 0.1 * seed, updates=1_000)
    (contest,) = compared(tmp_path, metrics=[TIME]).contests
    assert contest.means == pytest.approx((10_250.0, 30_250.0))
    assert contest.found.verdict == "better"
    change(path, population={"size": 2, "members": ["a", "b"]})
    result = compared(tmp_path, metrics=[TIME])
    assert result.contests == []
    assert "share a clock" in result.refused[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("threads", 1), ("kernel", "reference"), ("device", "cuda"), ("device_name", "other"), ("commit", "b")],
)
def test_times_taken_on_other_terms_are_refused(tmp_path: Path, field: str, value: object) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", MUSIC)
    change(write_run(tmp_path, 8.0, 8.5, "cell=tanh", MUSIC), **{field: value})
    assert f"another {field}" in objection(collect(tmp_path))
    assert compared(tmp_path, metrics=[TIME]).contests == []
    assert len(compared(tmp_path).contests) == 1


# ---------------------------------------------------------------- over tasks


def test_an_aggregate_is_the_interquartile_mean_of_shares_of_the_baseline(tmp_path: Path) -> None:
    scores = {task: RNG.normal(8, 0.3, (2, 10)) for task in ("jsb_chorales", "nottingham")}
    for task, (a, b) in scores.items():
        write_cells(tmp_path, {"gru": a, "tanh": b}, f"task={task}")
    pooled = pool(collect(tmp_path))
    gru, tanh = aggregate(pooled, compare(pooled))
    assert (gru.method, gru.tasks, gru.seeds) == ("gru", ("jsb_chorales", "nottingham"), 10)
    expected = stats.trim_mean(np.concatenate([scores[task][0] for task in scores]) / 11.0, 0.25)
    assert gru.middle.estimate == pytest.approx(expected) == pytest.approx(interquartile_mean(gru.scores))
    assert gru.middle.low < gru.middle.estimate < gru.middle.high
    assert tanh.middle.estimate != gru.middle.estimate


def test_an_aggregate_of_few_scores_has_no_interval_and_of_one_task_there_is_none(tmp_path: Path) -> None:
    write_cells(tmp_path, {"gru": RNG.normal(8, 1, 4), "tanh": RNG.normal(8, 1, 4)}, MUSIC)
    pooled = pool(collect(tmp_path))
    assert aggregate(pooled, compare(pooled)) == []
    write_cells(tmp_path, {"gru": RNG.normal(8, 1, 4), "tanh": RNG.normal(8, 1, 4)}, "task=nottingham")
    pooled = pool(collect(tmp_path))
    result = compare(pooled)
    few = aggregate(pooled, result)
    assert [math.isnan(a.middle.low) for a in few] == [True, True]
    assert "which these are too few for" in render(result, few, "text")


# ---------------------------------------------------------------- what is shown


def test_a_star_stands_only_where_a_cell_is_better_than_all_others(tmp_path: Path) -> None:
    write_cells(
        tmp_path, {c: b + RNG.normal(0, 1e-3, 9) for c, b in (("gru", 8.0), ("lstm", 8.5), ("tanh", 9.0))}, MUSIC
    )
    even = RNG.normal(8.0, 0.5, 9)
    write_cells(tmp_path, {"gru": even, "lstm": even[::-1], "tanh": even + 5}, "task=nottingham")
    table = tabulate(collect(tmp_path), splits=["valid", "test"])
    best = table.cells[table.cells["best"]]
    assert best[["task", "cell", "split"]].to_numpy().tolist() == [["jsb_chorales", "gru", "test"]]
    text = render_table(table, "text")
    assert text.count("*") == 2  # the mark, and what it means
    assert "Holm" in text


def test_rows_and_columns_may_be_any_keys(tmp_path: Path) -> None:
    for length in (50, 100):
        for lr in (1e-3, 2e-3):
            for seed in (0, 1):
                value = length + 1e3 * lr + 0.1 * seed
                overrides = ("cell=gru", "task=adding", f"task.length={length}", f"train.lr={lr}", f"seed={seed}")
                write_run(tmp_path, 0.1, value, *overrides, checksum=f"data of {length}")
    table = tabulate(collect(tmp_path), splits=["test"], rows=["task.length"], columns="train.lr")
    means = table.cells.pivot(index="task.length", columns="train.lr", values="mean")
    assert means.to_numpy().tolist() == [[51.05, 52.05], [101.05, 102.05]]
    assert set(table.cells["variant"]) == {""}  # neither axis, nor the data that goes with a length, is named again
    text = render_table(table, "text")
    assert text.splitlines()[0].split() == ["task.length", "task", "metric", "split", "0.001", "0.002", "baseline"]
    by_cell = tabulate(collect(tmp_path), splits=["valid", "test"], rows=["cell"], columns="split")
    assert "valid" in render_table(by_cell, "text").splitlines()[0]
    with pytest.raises(UserError, match=r"task.lenght: no run has it. Did you mean 'task.length'"):
        tabulate(collect(tmp_path), rows=["task.lenght"])
    with pytest.raises(UserError, match="--columns task: is a key of the rows already"):
        tabulate(collect(tmp_path), rows=["task"], columns="task")


def test_conditions_choose_runs_by_value(tmp_path: Path) -> None:
    for length in (50, 100, 200):
        write_run(tmp_path, 0.1, 0.1, "cell=gru", "task=adding", f"task.length={length}", "train.lr=1e-3")
    write_run(tmp_path, 8, 8, "cell=tanh", MUSIC)
    runs = collect(tmp_path)

    def lengths(*conditions: str) -> list[float]:
        return sorted(only(runs, conditions)["task.length"].dropna())

    assert lengths("task.length=50,200") == [50, 200]
    assert lengths("task.length>=100") == [100, 200]
    assert lengths("task.length<100.0", "cell=gru") == [50]
    assert lengths("train.lr=0.001", "task.length!=100") == [50, 200]
    assert list(only(runs, ["task.length=null"])["task"]) == ["jsb_chorales"]
    for bad, message in [
        ("task.length", "must be a key"),
        ("task.lengt=3", "Did you mean 'task.length'"),
        ("task.length=7", "no run is left. There: task.length=100, 200, 50, null"),
        ("train.lr<fast", "fast must be a number"),
    ]:
        with pytest.raises(UserError, match=message):
            only(runs, [bad])


def test_the_verdict_beside_the_paper_says_agrees_differs_or_why_not(tmp_path: Path) -> None:
    def of(task: str, scores: list[float], *overrides: str) -> str | None:
        root = tmp_path / f"{task}{len(list(tmp_path.iterdir()))}"
        for seed, score in enumerate(scores):
            for index in range(10):
                chosen = [f"train.lr={(index + 1) * 1e-4}", f"task={task}", f"seed={seed}", "train=chung2014"]
                write_run(root, 8.0 + index, score, "cell=gru", *chosen, *overrides)
        runs = next(iter(pool(collect(root)).groups()))
        return verdict(runs, "test", "nll_step")

    assert of("jsb_chorales", [8.44, 8.54, 8.61]) == "agrees (within ±0.42)"
    half = stats.t.ppf(0.975, 2) * np.std([8.44, 8.54, 8.61], ddof=1) * math.sqrt(4 / 3)
    assert f"±{half:.2f}" == "±0.42"
    assert of("nottingham", [3.66, 3.65, 3.64]) == "differs by +0.42 (one more run: ±0.05)"
    assert of("jsb_chorales", [8.5]) == "cannot be compared, because one seed has no spread (it is -0.04)"
    for override, reason in [
        ("train.weight_noise=0", "the paper has train.weight_noise=0.075 and not 0"),
        ("cell.hidden_size=47", "the paper's gru has 46 units and not 47"),
    ]:
        assert of("jsb_chorales", [8.5, 8.6], override) == f"cannot be compared, because {reason}"
    write_cells(tmp_path / "one", {"gru": np.array([8.5, 8.6])}, MUSIC, "train=chung2014")
    runs = next(iter(pool(collect(tmp_path / "one")).groups()))
    assert "chose of 10 learning rates and not of 1" in str(verdict(runs, "test", "nll_step"))
    assert verdict(runs, "valid", "nll_step") is None


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_has_every_number_and_escapes_what_is_not_its_own(tmp_path: Path, fmt: str) -> None:
    scores = {"gru": RNG.normal(8, 0.1, 6), "tanh": RNG.normal(9, 0.1, 6)}
    write_cells(tmp_path, scores, MUSIC)
    result = compared(tmp_path)
    text = render(result, [], fmt)
    assert "jsb_chorales" in text.replace("\\_", "_")
    frame = as_frame(result)
    if fmt == "csv":
        assert str(frame["difference"].iloc[0]) in text
    else:
        assert f"{frame['difference'].iloc[0]:.3f}" in text
    odd = written(pd.DataFrame({"a_b": ["<&> 5 %"]}), ["under $it$ <b>"], fmt)
    assert odd in {
        "text": "a_b\n-------\n<&> 5 %\n\nunder $it$ <b>",
        "markdown": "| a_b     |\n|:--------|\n| <&> 5 % |\n\nunder $it$ <b>",
        "html": "<figure><table><thead><tr><th>a_b</th></tr></thead>"
        "<tbody><tr><td>&lt;&amp;&gt; 5 %</td></tr></tbody></table>"
        "<figcaption><p>under $it$ &lt;b&gt;</p></figcaption></figure>",
        "csv": "a_b\n<&> 5 %\n",
    }.get(fmt, odd)
    if fmt == "latex":
        assert r"a\_b" in odd
        assert r"$<$\&$>$ 5 \%" in odd
        assert r"under \$it\$ $<$b$>$" in odd


def test_the_command_prints_or_writes_and_refuses_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cells(tmp_path / "runs", {"gru": RNG.normal(8, 0.1, 6), "tanh": RNG.normal(9, 0.1, 6)}, MUSIC)
    runs = ["--runs", str(tmp_path / "runs")]
    assert main(runs) == 0
    assert "gru is better" in capsys.readouterr().out
    assert main([*runs, "--format", "csv", "--output", str(tmp_path / "to" / "compare.csv")]) == 0
    assert (tmp_path / "to" / "compare.csv").read_text().startswith("task,setting,metric,split,a,b,seeds")
    for wrong in (["--metric", "nll"], ["--split", "tset"], ["--format", "xml"]):
        with pytest.raises(UserError, match=wrong[1]):
            main([*runs, *wrong])
