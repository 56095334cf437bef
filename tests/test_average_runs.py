"""The mean over seeds and its interval, read back as TensorBoard reads them; and what may not be written over."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rnnbench.analysis.average_runs import MARK, write_averages
from rnnbench.analysis.collect import collect
from rnnbench.analysis.pool import pool
from rnnbench.commands.report import main
from rnnbench.errors import UserError
from tests.fake_runs import write_curve
from tests.test_report import LEVEL, STEPS, curves_of

SEEDS = 4


def scalars(path: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(path))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_the_mean_curves_are_those_of_scipy_as_runs_with_the_tags_of_the_runs(tmp_path: Path) -> None:
    runs_dir, directory = tmp_path / "runs", tmp_path / "curves"
    for task, cell, seed in itertools.product(("jsb_chorales", "nottingham"), LEVEL, range(SEEDS)):
        write_curve(runs_dir, curves_of(cell, seed), f"cell={cell}", f"task={task}", f"seed={seed}")
    assert main(["--runs", str(runs_dir), "--output", str(tmp_path / "r.html"), "--curves", str(directory)]) == 0
    assert sorted(path.relative_to(directory).as_posix() for path in directory.glob("*/*/*")) == [
        f"{task}/{cell}/{end}"
        for task in ("jsb_chorales", "nottingham")
        for cell in sorted(LEVEL)
        for end in ("high", "low", "mean")
    ]
    values = np.array([curves_of("lstm", seed) for seed in range(SEEDS)])
    low, high = stats.t.interval(0.95, SEEDS - 1, values.mean(axis=0), stats.sem(values, axis=0))
    for end, expected in (("mean", values.mean(axis=0)), ("low", low), ("high", high)):
        found = scalars(directory / "nottingham" / "lstm" / end, "valid/nll_step")
        assert list(found) == [100 * i for i in range(STEPS)], "updates"
        assert list(found.values()) == pytest.approx(list(expected), rel=1e-6)
    training = scalars(directory / "nottingham" / "lstm" / "mean", "train/loss")
    assert list(training.values()) == pytest.approx(list(0.9 * values.mean(axis=0)[1:]), rel=1e-6)


def test_a_second_call_replaces_the_curves_and_leaves_nothing_behind(tmp_path: Path) -> None:
    runs, directory = tmp_path / "runs", tmp_path / "curves"
    for seed in range(2):
        write_curve(runs, [9.0, 8.0 + seed], "cell=gru", "task=jsb_chorales", f"seed={seed}")
    write_curve(runs, [9.0, 8.0], "cell=tanh", "task=jsb_chorales")
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    for _ in range(2):
        names = write_averages(pool(collect(runs)), directory, runs)
        assert names == ["jsb_chorales/gru", "jsb_chorales/tanh"]
        assert len(list(directory.glob("**/events*"))) == 2, "of fewer than three seeds the mean alone"
    assert scalars(directory / names[0] / "mean", "valid/nll_step") == {0: 9.0, 100: 8.5}
    write_averages(pool(collect(runs).query("cell == 'tanh'")), directory, runs)
    assert [path.name for path in directory.glob("*/*")] == ["tanh"], "what is no longer there is gone"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves", "runs"]
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before


def test_variants_of_a_cell_and_names_that_are_no_file_names_have_directories_of_their_own(tmp_path: Path) -> None:
    runs, directory = tmp_path / "runs", tmp_path / "curves"
    for rate in ("1e-3", "2e-3"):
        write_curve(runs, [9.0, 8.0], "cell=gru", "task=jsb_chorales", f"train.lr={rate}", "train.max_epochs=7")
    write_curve(runs, [9.0, 8.0], "cell=gru", "task=jsb_chorales")
    pooled = pool(collect(runs))
    pooled.runs["variant"] = ["../../../out", "x" * 300][: len(pooled.runs)]
    pooled.runs["setting"] = pooled.runs["variant"]
    names = write_averages(pooled, directory, runs)
    assert len(names) == len(pooled.runs) == 2
    assert {path.relative_to(directory).as_posix() for path in directory.glob("*/*")} == set(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves", "runs"]


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    runs = tmp_path / "results" / "runs"
    write_curve(runs, [9.0, 8.0], "cell=gru", "task=jsb_chorales")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    pooled = pool(collect(runs))
    output = tmp_path / "r.html"
    with pytest.raises(UserError, match="holds something"):
        main(["--runs", str(runs), "--output", str(output), "--curves", str(mine)])
    assert (mine / "thesis.tex").read_text() == "years of work"
    assert not output.exists(), "it is asked before anything is written"
    for there in (runs, runs / "jsb_chorales", tmp_path / "results", tmp_path):
        with pytest.raises(UserError, match="the runs are there"):
            write_averages(pooled, there, runs)
    (mine / "thesis.tex").unlink()
    write_averages(pooled, mine, runs)
    assert (mine / MARK).is_file()
