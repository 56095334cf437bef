"""Hydra's own launchers for one machine, under our sweeper: joblib, and submitit in its local mode."""

from pathlib import Path

import pytest

from tests.test_cli import call
from tests.test_launcher import OPTIONS, SWEEP, here, states

__all__ = ["here"]


@pytest.mark.parametrize(
    ("launcher", "accident"),
    [
        ("joblib", "os.kill(os.getpid(), signal.SIGKILL)"),
        ("submitit_local", "os.kill(os.getpid(), signal.SIGKILL)"),
    ],
)
def test_hydras_own_launchers_lose_no_more(launcher: str, accident: str, here: Path) -> None:
    """Two of them give up at the first job that dies; the runs of the other jobs are not lost with it."""
    more = [f"hydra/launcher={launcher}", "seed=0,1,2", "hydra.sweeper.retries=1", "hydra.sweeper.max_members=2"]
    done = call(*SWEEP, *OPTIONS, *more, cwd=here, ACCIDENT=f"1:{accident}")
    assert done.returncode == 1
    assert {seed: state for seed, state in states(here).items() if seed != 1} == {0: "done", 2: "done"}
    assert "rnnbench: error: 1 of 3 runs failed:\n  seed=1\n" in done.stderr
