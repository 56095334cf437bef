"""What rnnbench does where torch is not installed: all but training. Where torch is installed, it is hidden."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rnnbench
from rnnbench.compose import compose_config, compose_population, options_of
from rnnbench.config import run_key
from rnnbench.errors import UserError
from tests.conftest import TINY
from tests.fake_runs import write_run
from tests.test_cli import ROOT, call

HIDDEN = """
import os, signal, sys, time
class Blind:  # as if it were not installed; None in sys.modules would be seen by who looks whether it is imported
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *rest):
        return None if name.split(".")[0] == "torch" else self.finder.find_spec(name, *rest)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Blind(finder) for finder in sys.meta_path]
if "rnnbench.job" in sys.orig_argv:
    exec(os.environ.get("ACCIDENT", ""))
"""
"""Python reads it before anything else; ACCIDENT is what happens to the jobs of a launcher."""

SWEEP = ["run", "-m", "cell=gru", "task=adding", *TINY, "seed=0,1"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory for commands that find no torch."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDDEN)
    return tmp_path


def environment(here: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(here / "hidden"), str(ROOT)])}


def answer(here: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    done = call(*args, cwd=here, **environment(here), **env)
    assert "Traceback" not in done.stderr
    return done


def test_every_config_composes() -> None:
    cells, tasks, trains = ([f"{group}={name}" for name in options_of(group)] for group in ("cell", "task", "train"))
    chosen = [*itertools.product(cells, tasks), *itertools.product(trains, ["task=jsb_chorales"])]
    keys = {run_key(compose_config(*overrides)) for overrides in chosen}
    assert len(keys) == len(chosen) - 1  # one protocol is the default, and the default cell has it
    for group in ("search", "experiment"):
        for name in options_of(group):
            assert compose_population(f"{group}={name}")


def test_a_run_says_what_to_install_and_leaves_nothing_behind(here: Path) -> None:
    done = answer(here, "run", "cell=gru", "task=adding", *TINY)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"rnnbench: error: torch is not installed for {sys.executable} (Python ")
    assert line.endswith("pip install torch")
    assert not (here / "results").exists()


def test_a_mistake_is_told_before_that(here: Path) -> None:
    done = answer(here, "run", "cell=gru", "train.lrr=1")
    assert "Did you mean 'train.lr'?" in done.stderr
    assert "torch is not" not in done.stderr


@pytest.mark.parametrize("launcher", ["rnnbench", "basic"])
def test_each_run_of_a_sweep_is_listed_with_the_reason(launcher: str, here: Path) -> None:
    done = answer(here, *SWEEP, f"hydra/launcher={launcher}")
    assert done.returncode == 1
    assert done.stdout.startswith("2 runs: 2 to run, 0 to resume, 0 done\n")
    head, *lines = done.stderr[done.stderr.index("rnnbench: error: 2 of") :].splitlines()
    assert head == "rnnbench: error: 2 of 2 runs failed:"
    assert lines[:2] == ["  seed=0", "  seed=1"]
    assert lines[2].startswith("    torch is not installed for "), "told once for both"
    logs = [path.read_text() for path in here.glob("results/sweeps/*/job-*.log")]
    assert len(logs) == (launcher == "rnnbench")
    assert all("pip install torch" in log for log in logs)
    assert not (here / "results" / "runs").exists()


def test_a_job_that_is_killed_is_tried_again_and_told(here: Path) -> None:
    accident = "os.kill(os.getpid(), signal.SIGKILL)"
    done = answer(here, *SWEEP, "hydra.sweeper.retries=1", ACCIDENT=accident)
    assert done.returncode == 1
    assert "not finished: 2 runs; to go on in 2 jobs" in done.stderr
    assert done.stderr.count("lost 2 times, lastly: its process was killed by SIGKILL") == 1, "told once for both"
    assert len(list(here.glob("results/sweeps/*/job-*.log"))) == 3


def test_ctrl_c_stops_the_jobs_of_a_sweep(here: Path) -> None:
    accident = "open(f'pid-{os.getpid()}', 'w').close(); time.sleep(100)"
    process = subprocess.Popen(
        [sys.executable, "-m", "rnnbench.cli", *SWEEP],
        cwd=here,
        env={**os.environ, **environment(here), "ACCIDENT": accident},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (pids := [int(path.name[4:]) for path in here.glob("pid-*")]) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on with it" in errors
    (pid,) = pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_plan_has_a_question_mark_for_the_parameters(here: Path) -> None:
    done = answer(here, *SWEEP, "dry_run=true")
    assert done.returncode == 0, done.stderr
    _, *rows, last = done.stdout.splitlines()
    assert [row.split()[:3] for row in rows] == [["1", "new", "?"]] * 2
    assert last == "2 runs: 2 to run, 0 to resume, 0 done; 1 job"


def test_what_only_torch_can_tell_cannot_be_planned_and_the_reason_is_told(here: Path) -> None:
    done = answer(here, "run", "-m", "cell=gru,tanh", "task=adding", "match_params=500", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("    torch is not installed for ") == 2
    assert "2 that cannot be" in done.stdout


def test_the_list_has_the_units_and_says_what_is_missing_for_the_rest(here: Path) -> None:
    done = answer(here, "list")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert lines["gru"].split() == ["gru", "46", "?"]
    assert lines["?:"].startswith("  ?: torch is not installed for ")
    for group in ("task", "train", "search"):
        assert options_of(group).keys() <= lines.keys()


def test_records_are_shown_tabulated_and_cleaned(here: Path) -> None:
    runs = here / "results" / "runs"
    kept = [write_run(runs, 8.0, 8.5 + seed, "task=jsb_chorales", f"seed={seed}") for seed in (0, 1)]
    failed = write_run(runs, 8.0, 8.5, "task=jsb_chorales", "seed=2", status="error")
    shown = answer(here, "status")
    assert shown.stdout.splitlines()[-1] == "3 runs: 2 done, 1 in error"
    table = answer(here, "table", "--split", "test", "--format", "csv", "--runs-csv", "runs.csv")
    assert table.returncode == 0, table.stderr
    assert "jsb_chorales" in table.stdout
    assert (here / "runs.csv").is_file()
    for form in ("text", "markdown", "latex"):
        assert "9.00" in answer(here, "table", "--format", form).stdout
    assert answer(here, "clean", "--yes").stdout.splitlines()[-1] == "1 of 1 removed"
    assert not failed.exists()
    assert all(path.is_dir() for path in kept)


def test_loading_a_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"torch is not installed for .*: pip install torch"):
        rnnbench.load(tmp_path)
