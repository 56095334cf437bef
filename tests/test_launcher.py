"""Jobs in processes of their own: killed, stopped, failing, orphaned. Real processes, really killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rnnbench.record import Record
from rnnbench.state import state_of
from tests.conftest import PYTHONPATH, TINY
from tests.test_cli import call

CELL = """
import os, signal, sys, time
from pathlib import Path
import torch
from rnnbench.runner import Runner

class Cell(torch.nn.RNNCell):
    pass

updated = Runner.updated

def disturbed(self, member):
    updated(self, member)
    seed, update = self.config.seed, member.progress.update
    Path(f"pid-{os.getpid()}").touch()
    time.sleep(float(os.environ.get("SLOW", "0")))
    if update >= 5 and str(seed) in os.environ.get("ACCIDENT", "").split(":")[0].split(","):
        exec(os.environ["ACCIDENT"].partition(":")[2])

Runner.updated = disturbed
"""
"""A cell whose runs do what ACCIDENT says, after a few updates: ``SEED,SEED:CODE``."""

SWEEP = ["run", "-m", "--config-dir", "conf", "cell=own", "task=adding", *TINY]
OPTIONS = ["checkpoint_every_s=0", "tensorboard=false", "kernel=reference"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with a cell that meets with accidents."""
    (tmp_path / "conf" / "cell").mkdir(parents=True)
    (tmp_path / "own.py").write_text(CELL)
    (tmp_path / "conf" / "cell" / "own.yaml").write_text("# Own.\n_target_: own.Cell\nhidden_size: 5\n")
    return tmp_path


def states(here: Path) -> dict[int, str]:
    """The state of each run by its seed."""
    runs = sorted((here / "results" / "runs").glob("*/*/s*"))
    return {int(path.name[1:].partition("-")[0]): state_of(Record(path)).status for path in runs}


def begun(here: Path, *args: str, **env: str) -> subprocess.Popen[str]:
    """A sweep, as soon as one of its runs has a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rnnbench.cli", *SWEEP, *OPTIONS, *args],
        cwd=here,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until(lambda: bool(list(here.glob("results/runs/*/*/*/last.pt"))) or process.poll() is not None)
    return process


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def job_pids(here: Path) -> list[int]:
    return [int(path.name.partition("-")[2]) for path in here.glob("pid-*")]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


ACCIDENTS = {
    1: "os.kill(os.getpid(), signal.SIGKILL)",
    2: "sys.exit('enough')",
    3: "raise ValueError('boom')",
    4: "os._exit(3)",
}
"""What happens to the run of which seed."""


@pytest.mark.needs_torch
def test_a_run_that_breaks_costs_only_itself_and_is_listed(here: Path) -> None:
    accident = f"0,1,2,3,4,5:exec({ACCIDENTS!r}.get(seed, ''))"
    done = call(*SWEEP, *OPTIONS, "seed=range(6)", "hydra.sweeper.retries=1", cwd=here, ACCIDENT=accident)
    assert done.returncode == 1
    assert {seed: state for seed, state in states(here).items() if seed in (0, 5)} == {0: "done", 5: "done"}
    listed = done.stderr[done.stderr.index("rnnbench: error: 4 of 6 runs failed:") :].splitlines()[1:]
    found = {name.strip(): (error.strip(), log) for name, log, error in zip(*[iter(listed)] * 3, strict=True)}
    for _, log in found.values():
        assert (here / log.strip().removeprefix("log: ")).is_file()
    killed = "its process was lost 2 times, lastly: its process was killed by SIGKILL; perhaps for want of memory"
    assert {name: error for name, (error, _) in found.items()} == {
        "seed=1": killed,
        "seed=2": "RuntimeError: it called sys.exit('enough')",
        "seed=3": "ValueError: boom",
        "seed=4": "its process was lost 2 times, lastly: its process ended with exit status 3",
    }
    mended = call(*SWEEP, *OPTIONS, "seed=range(6)", cwd=here)
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.startswith("6 runs: 0 to run, 4 to resume, 2 done\n")
    assert set(states(here).values()) == {"done"}


@pytest.mark.needs_torch
def test_ctrl_c_stops_all_jobs_and_the_same_command_goes_on(here: Path) -> None:
    process = begun(here, "seed=0,1", "hydra.sweeper.max_members=1", SLOW="0.3")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "the same command goes on with it" in errors
    assert not [pid for pid in job_pids(here) if alive(pid)]
    assert "interrupted" in states(here).values()
    again = call(*SWEEP, *OPTIONS, "seed=0,1", cwd=here)
    assert again.returncode == 0, again.stderr
    assert " to resume" in again.stdout
    assert "0 to resume" not in again.stdout
    assert states(here) == {0: "done", 1: "done"}


@pytest.mark.needs_torch
def test_jobs_do_not_outlive_a_sweep_that_is_killed(here: Path) -> None:
    process = begun(here, "seed=0", SLOW="0.3")
    process.kill()
    process.communicate(timeout=100)
    until(lambda: states(here) == {0: "interrupted"})
    until(lambda: not [pid for pid in job_pids(here) if alive(pid)])
    result = json.loads(next(here.glob("results/runs/*/*/*/result.json")).read_text())
    assert result["updates"] > 0, "it has saved itself"


@pytest.mark.needs_torch
def test_two_sweeps_at_once_share_the_runs(here: Path) -> None:
    """The first goes on only when the second has nothing left to do but to wait for the first."""
    first = begun(here, "seed=0,1", ACCIDENT="0,1:while not Path('go').exists(): time.sleep(0.05)")
    second = begun(here, "seed=0,1,2")
    until(lambda: states(here).get(2) == "done")
    (here / "go").touch()
    for process in (first, second):
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    assert output.startswith("3 runs: 1 to run, 0 to resume, 0 done, 2 in another process")
    assert "waiting for 2 runs that another process trains" in errors
    assert states(here) == {0: "done", 1: "done", 2: "done"}
    for path in here.glob("results/runs/*/*/*/run.log"):
        assert path.read_text().count(" start: ") == 1, "none was run twice"


@pytest.mark.needs_torch
def test_status_tells_what_runs_and_how_far_it_is(here: Path) -> None:
    process = begun(here, "seed=0", "train.max_epochs=30", SLOW="0.1")
    until(lambda: "\n" in (p.read_text() if (p := next(here.glob("results/runs/*/*/*/metrics.jsonl"))) else ""))
    shown = call("status", cwd=here).stdout
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    assert "running" in shown
    assert " of 30" in shown
    assert f"by pid {job_pids(here)[0]} on " in shown
    after = call("status", "--only", "interrupted", cwd=here).stdout
    assert "goes on from its checkpoint" in after
    assert after.splitlines()[-1] == "1 run: 1 interrupted"


@pytest.mark.needs_torch
def test_clean_shows_first_and_removes_only_what_is_in_error_or_superseded(here: Path) -> None:
    failing = {"ACCIDENT": "1:raise ValueError('boom')"}
    call(*SWEEP, *OPTIONS, "seed=0,1", cwd=here, **failing)
    (here / "own.py").write_text(CELL + "# a later version\n")
    call(*SWEEP, *OPTIONS, "seed=0", cwd=here)
    cell = here / "results" / "runs" / "adding" / "own"
    (cell / ".s0-0123456789.new").mkdir()
    assert len(list(cell.glob("s*"))) == 3
    shown = call("clean", cwd=here)
    assert "in error: ValueError: boom" in shown.stdout
    assert "superseded: its class has changed since" in shown.stdout
    assert "left over from a repetition by force" in shown.stdout
    assert "nothing was removed" in shown.stdout
    assert len(list(cell.glob("s*"))) == 3
    cleaned = call("clean", "--yes", cwd=here)
    assert cleaned.stdout.splitlines()[-1] == "3 of 3 removed"
    (left,) = cell.glob("s*")
    assert state_of(Record(left)).status == "done"
    assert "nothing to remove" in call("clean", cwd=here).stdout


@pytest.mark.needs_torch
def test_a_dry_run_runs_nothing(here: Path) -> None:
    done = call(*SWEEP, *OPTIONS, "seed=0,1", "dry_run=true", cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("2 runs: 2 to run, 0 to resume, 0 done; 1 job")
    assert not (here / "results" / "runs").exists()


@pytest.mark.needs_torch
@pytest.mark.parametrize("launcher", ["basic", "rnnbench"])
def test_a_job_gets_its_share_of_the_cores(launcher: str, tmp_path: Path) -> None:
    more = ["cell=gru,tanh", "task=adding", *TINY, f"hydra/launcher={launcher}"]
    done = call("run", "-m", *more, cwd=tmp_path, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    threads = [json.loads(path.read_text())["threads"] for path in tmp_path.glob("results/runs/*/*/*/result.json")]
    cores = min(2, len(os.sched_getaffinity(0)))
    assert threads == ([1, 1] if launcher == "rnnbench" else [cores, cores])
