"""Sweeps through Hydra's launcher for Slurm, on a real cluster, end as if run here and undisturbed.

``make test-slurm``, as root; `slurm.py` beside this file starts the cluster.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cluster.slurm import NODES, Cluster, missing, wait_until
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parent.parent.parent
SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1"]
TWO_RUNS = [
    "cell=gru,tanh",
    "task=adding",
    *TINY,
    "task.length=30",
    "task.updates_per_epoch=50",
    "train.max_epochs=10",
    "cell.hidden_size=8",
    "kernel=reference",  # slow, so that it can be disturbed
    "tensorboard=false",
]
UPDATES = 500

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def started() -> Iterator[Cluster]:
    assert not missing(), f"a Slurm cluster needs {', '.join(missing())}: make test-slurm, as root"
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(started: Cluster) -> Cluster:
    """The one cluster, with nothing left of an earlier test."""
    started.wait_until_idle()
    return started


class Sweep:
    """`rnnbench run -m` in a directory of its own."""

    def __init__(self, directory: Path, *args: str, env: dict[str, str] | None = None) -> None:
        self.directory = directory
        environment = {**(env or os.environ), "PYTHONPATH": f"{ROOT}:{directory}"}
        self.output = directory / "sweep.log"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rnnbench.cli", "run", "-m", *args],
                cwd=directory,
                env=environment,
                stdout=output,
                stderr=output,
            )

    def wait(self, timeout_s: float = 300) -> int:
        try:
            return self.process.wait(timeout_s)
        finally:
            self.process.kill()

    def files(self, name: str) -> list[Path]:
        """Those of that name that the runs have by now."""
        return sorted(self.directory.glob(f"results/runs/*/*/*/{name}"))

    def log(self, cell: str) -> str:
        """What happened when in the only run of a cell."""
        (found,) = (self.directory / "results/runs/adding" / cell).glob("s0-*/run.log")
        return found.read_text()

    def resumed_at(self, cell: str) -> list[int]:
        """The updates at which it went on from a checkpoint."""
        return [int(update) for update in re.findall(r"resume: at epoch \d+, update (\d+)", self.log(cell))]

    def outcome(self) -> dict[str, Any]:
        """What the runs computed, to the bit."""
        return {str(path.relative_to(self.directory).parent): _computed(path) for path in self.files("result.json")}

    def logs(self) -> str:
        """What the sweep and its jobs printed."""
        jobs = sorted((self.directory / "results/sweeps/.submitit").glob("*/*.err"))
        return "\n".join(f"--- {path}\n{path.read_text()}" for path in (self.output, *jobs))


def _computed(path: Path) -> dict[str, Any]:
    result = json.loads(path.read_text())
    theta = torch.load(path.parent / "best.pt", weights_only=True)["theta"].tolist()
    return {**{key: result.get(key) for key in ("status", "valid", "test", "updates")}, "theta": theta}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the two runs compute here."""
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"), *TWO_RUNS)
    assert sweep.wait() == 0, sweep.logs()
    found = sweep.outcome()
    assert [run["updates"] for run in found.values()] == [UPDATES, UPDATES]
    return found


def test_a_sweep_on_two_nodes_gives_the_numbers_of_a_sweep_here(cluster: Cluster, tmp_path: Path) -> None:
    args = ["cell=gru,tanh", "task=adding", "seed=0,1", *TINY, "tensorboard=false"]
    sweeps = []
    for name, more, env in (("here", ["hydra/launcher=basic"], None), ("slurm", SLURM, cluster.env)):
        (tmp_path / name).mkdir()
        sweeps.append(Sweep(tmp_path / name, *args, *more, env=env))
        assert sweeps[-1].wait() == 0, sweeps[-1].logs()
    here, slurm = (sweep.outcome() for sweep in sweeps)
    assert len(here) == 4
    assert slurm == here
    nodes = cluster.call("sacct", "--noheader", "--allocations", "--format=NodeList").split()
    assert sorted(nodes) == list(NODES)
    for path in sweeps[1].files("result.json"):
        assert json.loads(path.read_text())["threads"] == 1, "a node has one core, this machine may have more"


@pytest.mark.parametrize("back", [False, True], ids=["it stays away", "it comes back"])
def test_a_node_that_is_killed_with_its_run_costs_nothing(
    back: bool, cluster: Cluster, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path, *TWO_RUNS, "checkpoint_every_s=1", *SLURM, env=cluster.env)
    wait_until(lambda: len(sweep.files("last.pt")) == 2, "a checkpoint of each run")
    cells = {node: ("gru", "tanh")[int(job[-1])] for job, node in cluster.jobs().items()}
    assert set(cells) == set(NODES)
    cluster.kill_node("n2")
    try:
        if back:
            cluster.start_node("n2")
        assert sweep.wait() == 0, sweep.logs()
    finally:
        if not back:
            cluster.start_node("n2")
    assert sweep.outcome() == undisturbed
    assert sweep.resumed_at(cells["n1"]) == []
    (update,) = sweep.resumed_at(cells["n2"])
    assert 0 < update < UPDATES


def test_jobs_whose_time_is_up_are_queued_again_and_go_on(
    cluster: Cluster, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """SIGUSR2 reaches the steps of a job as Slurm sends it shortly before the limit."""
    limit = ["hydra.launcher.timeout_min=5", "hydra.launcher.signal_delay_s=30", "hydra.launcher.max_num_timeout=1"]
    sweep = Sweep(tmp_path, *TWO_RUNS, "checkpoint_every_s=1000", *SLURM, *limit, env=cluster.env)
    wait_until(lambda: len(sweep.files("metrics.jsonl")) == 2, "an evaluation of each run")
    cluster.call("scancel", "--signal=USR2", *cluster.jobs())
    assert sweep.wait() == 0, sweep.logs()
    assert sweep.outcome() == undisturbed
    for cell in ("gru", "tanh"):
        assert sweep.log(cell).count("INFO interrupted") == 1
        (update,) = sweep.resumed_at(cell)
        assert 0 < update < UPDATES


MORTAL = """\
import os, signal
from pathlib import Path
from rnnbench.cells import TanhCell

class Mortal(TanhCell):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "SLURM_JOB_ID" in os.environ and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_job_that_is_killed_is_not_waited_for_and_the_others_finish(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL)
    (tmp_path / "own" / "cell").mkdir(parents=True)
    (tmp_path / "own" / "cell" / "mortal.yaml").write_text("_target_: mortal.Mortal\nhidden_size: 5\n")
    args = ["--config-dir", "own", "cell=mortal,gru,tanh", "task=adding", *TINY, "tensorboard=false"]
    sweep = Sweep(tmp_path, *args, *SLURM, env=cluster.env)
    sweep.wait(timeout_s=180)
    assert (tmp_path / "killed").exists(), sweep.logs()
    cluster.wait_until_idle()
    done = {Path(path).parts[-2] for path, run in sweep.outcome().items() if run["status"] == "done"}
    assert done >= {"gru", "tanh"}, sweep.logs()
    assert "FAILED" in cluster.call("sacct", "--noheader", "--allocations", "--format=State")
