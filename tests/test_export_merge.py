"""A study in a file: what goes along, what comes back, and what is refused before anything is written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from rnnbench.analysis.collect import collect
from rnnbench.analysis.layout import render
from rnnbench.analysis.merging import merge
from rnnbench.analysis.tables import tabulate
from rnnbench.commands.clean import main as clean
from rnnbench.commands.export import main as export
from rnnbench.errors import UserError
from rnnbench.lock import locked
from rnnbench.record import Record
from tests import zygote
from tests.conftest import PYTHONPATH, ROOT, TINY
from tests.fake_runs import composed, record_run

Files = dict[str, bytes]
JSB = ("cell=gru", "task=jsb_chorales")


def record(runs: Path, *overrides: str, test: float = 8.5, **more: Any) -> Path:
    """A run as it would be recorded on a machine whose user is called alice."""
    config = composed(*overrides)
    path = record_run(runs, config, more.pop("valid", 8.0), test, **more)
    own = {**config.as_dict(), "results_dir": "/home/alice/results", "data_dir": "/home/alice/music"}
    (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(own)))
    rows = [{"epoch": epoch, "update": 9 * epoch, "wall_s": 1.5 * epoch, "valid/nll_step": 9.0} for epoch in range(3)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "last.pt").write_bytes(b"weights of alice")
    (path / "run.log").write_text("/home/alice\n")
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs, one of them diverged, and a study of them."""
    runs = tmp_path_factory.mktemp("there") / "runs"
    record(runs, *JSB, "seed=0")
    record(runs, *JSB, "seed=1", test=8.75)
    record(runs, "cell=lstm", "task=jsb_chorales", test=8.25)
    record(runs, "task=adding", "train.lr=1.0", valid=0.1, test=0.2, status="diverged", checksum="drawn")
    exported(runs, runs.with_name("alice.rnnbench.zip"))
    return runs.parent


@pytest.fixture
def runs(prepared: Path, tmp_path: Path) -> Path:
    """Runs on another machine."""
    return Path(shutil.copytree(prepared / "runs", tmp_path / "there" / "runs"))


@pytest.fixture
def study(prepared: Path, tmp_path: Path) -> Path:
    """What was exported from there."""
    return Path(shutil.copy(prepared / "alice.rnnbench.zip", tmp_path))


def exported(runs: Path, output: Path, *more: str) -> Path:
    assert export(["--runs", str(runs), "--output", str(output), *more]) == 0
    return output


def content(path: Path) -> Files:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def last(files: Files, name: str) -> str:
    """The path of the file of that name of the last run, which is done."""
    return [path for path in sorted(files) if path.endswith(name)][-1]


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns=["path", "study"], errors="ignore")


def tree(root: Path) -> Files:
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


# ---------------------------------------------------------------- there and back


def test_what_is_merged_is_what_was_exported(runs: Path, study: Path, tmp_path: Path) -> None:
    (merged,) = merge([study], tmp_path / "here")
    assert (merged.added, merged.there, merged.bundle.name) == (4, 0, "alice")
    here, there = collect(tmp_path / "here" / "runs"), collect(runs)
    pd.testing.assert_frame_equal(plain(here), plain(there))
    assert set(here["study"]) == {"alice"}
    assert render(tabulate(here), "text") == render(tabulate(there), "text")
    for path in (tmp_path / "here").glob("runs/*/*/*"):
        run = Record(path)
        config = run.config()
        assert (config.results_dir, config.data_dir) == ("results", None)
        assert Record.of(config).path.name == path.name
        assert len(run.metrics()) == 3


def test_nothing_of_the_user_or_the_machine_goes_along(runs: Path, tmp_path: Path) -> None:
    path = next(runs.glob("jsb_chorales/lstm/*"))
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**result, "kernel": "of /home/alice/k.so", "unit": "nats/step"}))
    (path / "diagnosis.json").write_text('{"weights": "/home/alice/best.pt"}\n')
    (path / "diagnostics.jsonl").write_text('{"epoch": 1, "from": "~/alice"}\n')
    found = content(exported(runs, tmp_path / "study.zip"))
    assert not [name for name, data in found.items() if b"alice" in data or "alice" in name]
    assert {name.rpartition("/")[2] for name in found} == {
        *("manifest.json", "config.yaml", "result.json", "metrics.jsonl", "diagnosis.json", "diagnostics.jsonl")
    }
    assert json.loads(found[last(found, "lstm/" + path.name + "/result.json")])["unit"] == "nats/step"


def test_a_path_that_is_part_of_what_a_run_is_keeps_it_here(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    record(runs, *JSB, "+cell.weights=/home/alice/w.npy")
    with pytest.raises(UserError, match=r"cell\.weights=/home/alice/w\.npy is a path.*Leave the run out"):
        exported(runs, tmp_path / "study.zip")


def test_the_same_runs_give_the_same_bytes(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1400000000")
    one = exported(runs, tmp_path / "one.zip", "--name", "alice").read_bytes()
    for path in runs.rglob("*.json"):
        os.utime(path, (1, 1))
    assert exported(runs, tmp_path / "two.zip", "--name", "alice").read_bytes() == one
    assert json.loads(content(tmp_path / "two.zip")["manifest.json"])["created"] == "2014-05-13"


def test_what_is_exported_can_be_chosen_and_what_is_left_out_is_said(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(runs, *JSB, "seed=7", status="interrupted")
    record(runs, *JSB, "seed=8", status="pruned")
    exported(runs, tmp_path / "study.zip", "--task", "jsb_chorales", "--cell", "gru", "--name", "of alice")
    said = capsys.readouterr().out
    assert "3 runs of study of alice" in said
    assert "left out, for they are not finished: 1 interrupted" in said
    assert {run["status"] for run in json.loads(content(tmp_path / "study.zip")["manifest.json"])["runs"]} == {
        *("done", "pruned")
    }
    with pytest.raises(UserError, match="no such runs"):
        exported(runs, tmp_path / "none.zip", "--cell", "rnn")


def test_a_second_merge_changes_nothing(study: Path, tmp_path: Path) -> None:
    merge([study], tmp_path / "here")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "here" / "runs").rglob("*")}
    (merged,) = merge([study, study], tmp_path / "here")[1:]
    assert (merged.added, merged.there) == (0, 4)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "here" / "runs").rglob("*")} == before


def test_a_run_that_was_merged_and_is_exported_again_keeps_its_study(study: Path, tmp_path: Path) -> None:
    merge([study], tmp_path / "bob")
    record(tmp_path / "bob" / "runs", *JSB, "seed=2")
    merge([exported(tmp_path / "bob" / "runs", tmp_path / "bob.zip")], tmp_path / "here")
    assert collect(tmp_path / "here" / "runs")["study"].value_counts().to_dict() == {"alice": 4, "bob": 1}


def test_the_table_says_that_runs_of_two_studies_were_pooled(study: Path, tmp_path: Path) -> None:
    merge([study], tmp_path)
    record(tmp_path / "runs", *JSB, "seed=2")
    notes = tabulate(collect(tmp_path / "runs")).notes
    assert "gru on jsb_chorales: the pooled runs differ in study." in notes


# ---------------------------------------------------------------- what cannot stand together


@pytest.mark.parametrize("target", [True, False])
def test_the_same_task_with_other_data_or_another_metric_is_refused(target: bool, runs: Path, tmp_path: Path) -> None:
    mine = exported(runs, tmp_path / "mine.zip")
    here = tmp_path / "here"
    if target:
        merge([mine], here)
    files = [] if target else [mine]
    record(tmp_path / "b", *JSB, "seed=5", checksum="other")
    with pytest.raises(UserError, match=r"is on other data than .*\(data_checksum other and data\)"):
        merge([*files, exported(tmp_path / "b", tmp_path / "b.zip")], here)
    path = record(tmp_path / "c", *JSB, "seed=5")
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**result, "metric": "nll_seq"}))
    with pytest.raises(UserError, match=r"another metric than .*\(metric nll_seq and nll_step\)"):
        merge([*files, exported(tmp_path / "c", tmp_path / "c.zip")], here)
    assert here.exists() == target
    assert not list(here.rglob("s5-*"))


def test_other_data_of_another_task_config_is_no_matter(runs: Path, tmp_path: Path) -> None:
    merge([exported(runs, tmp_path / "mine.zip")], tmp_path / "here")
    record(tmp_path / "b", "task=adding", "task.length=20", checksum="other")
    merge([exported(tmp_path / "b", tmp_path / "b.zip")], tmp_path / "here")


def test_the_same_run_with_another_outcome_is_refused_unless_mine_is_to_be_kept(study: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    mine = record(here / "runs", *JSB, "seed=1", test=8.750001)
    before = tree(here)
    with pytest.raises(UserError) as told:
        merge([study], here)
    for part in ("jsb_chorales/gru/s1-", "test nll_step 8.750001 (", "test nll_step 8.75 (", str(mine), "--keep-mine"):
        assert part in str(told.value)
    assert tree(here) == before
    (merged,) = merge([study], here, keep_mine=True)
    assert (merged.added, merged.there, merged.kept) == (3, 0, 1)
    assert tree(mine) == {name.rpartition("/")[2]: data for name, data in before.items()}


def test_an_unfinished_run_of_ones_own_is_not_written_over(study: Path, tmp_path: Path) -> None:
    mine = record(tmp_path / "runs", *JSB, "seed=1")
    (mine / "result.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        merge([study], tmp_path)
    merge([study], tmp_path, keep_mine=True)
    assert not (mine / "result.json").exists()
    assert (mine / "last.pt").exists()


def test_one_merge_at_a_time(study: Path, tmp_path: Path) -> None:
    with locked(tmp_path / ".merge.lock", "here"), pytest.raises(UserError, match="another merge is writing there"):
        merge([study], tmp_path)


# ---------------------------------------------------------------- accidents and what comes after

KILLED = """
import os, signal, sys
from rnnbench.analysis import merging
from rnnbench.cli import main
write, times = merging.write_atomically, iter(range(100))
def dies(path, content):
    if next(times) == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)
merging.write_atomically = dies
main(["merge", *sys.argv[1:]])
"""


@pytest.mark.parametrize("after", [0, 6])
def test_a_merge_that_is_killed_is_ended_by_the_same_command(after: int, study: Path, tmp_path: Path) -> None:
    merge([study], tmp_path / "undisturbed")
    command = [sys.executable, "-c", KILLED.format(after=after), str(study), "--into", str(tmp_path / "here")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": PYTHONPATH}, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    left = list((tmp_path / "here").glob("runs/*/*/.*.merge"))
    assert len(left) == (after > 0)
    if after:
        assert len(collect(tmp_path / "here" / "runs")) == 1, "only what is whole counts"
    merge([study], tmp_path / "here")
    assert tree(tmp_path / "here") == tree(tmp_path / "undisturbed")
    assert not list((tmp_path / "here").glob("runs/*/*/.*.merge"))


def test_clean_finds_what_a_killed_merge_left(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merge([study], tmp_path)
    path = next(tmp_path.glob("runs/*/*/s*"))
    left = path.with_name(f".{path.name}.merge")
    left.mkdir()
    assert clean(["--runs", str(tmp_path / "runs"), "--yes"]) == 0
    assert "left over from a merge that was cut off" in capsys.readouterr().out
    assert (path.exists(), left.exists()) == (True, False)


@pytest.mark.needs_torch
def test_a_run_that_was_trained_there_is_found_done_here(tmp_path: Path) -> None:
    def rnnbench(*args: str) -> str:
        done = zygote.run(list(args), tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    overrides = ["cell=gru", "task=adding", *TINY]
    rnnbench("run", *overrides, f"results_dir={tmp_path}/there")
    rnnbench("export", "--runs", "there/runs", "--output", "study.zip")
    files = content(tmp_path / "study.zip")
    assert not [name for name, data in files.items() if str(tmp_path).encode() in data]
    assert "1 run, 1 new" in rnnbench("merge", "study.zip")
    assert rnnbench("table", "--runs", "results/merged/runs") == rnnbench("table", "--runs", "there/runs")
    merged = tree(tmp_path / "results" / "merged" / "runs")
    assert "finished before and not repeated" in rnnbench("run", *overrides, "results_dir=results/merged")
    assert tree(tmp_path / "results" / "merged" / "runs") == merged
    (path,) = tmp_path.glob("results/merged/runs/*/*/s*")
    done = zygote.run(["run", *overrides, "results_dir=results/merged", "force=true"], tmp_path)
    assert done.returncode == 0
    assert not (path / "origin.json").exists(), "it is now a run of here"


@pytest.mark.needs_torch
def test_a_given_up_run_that_goes_on_here_is_of_here_and_weights_that_did_not_come_are_named(tmp_path: Path) -> None:
    overrides = ("cell=gru", "task=adding", *TINY)
    record(tmp_path / "runs", *overrides, status="pruned")
    merge([exported(tmp_path / "runs", tmp_path / "study.zip")], tmp_path / "here")
    (path,) = tmp_path.glob("here/runs/*/*/s*")
    import rnnbench

    with pytest.raises(UserError, match=r"best\.pt: there is no such checkpoint; it came without them"):
        rnnbench.load(path)
    done = zygote.run(["run", *overrides, f"results_dir={tmp_path}/here"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (path / "origin.json").exists()
    assert "study" not in collect(tmp_path / "here" / "runs")
