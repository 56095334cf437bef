"""The launcher for Ray, on a cluster of nodes that are processes of this machine: ``make test-ray``.

Each node is a group of processes, as `ray start` makes them on a machine of its own, with one core.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import initialize_config_module
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from rnnbench.errors import UserError

pytestmark = [
    pytest.mark.skipif(not find_spec("ray"), reason="needs ray, which make test-ray installs"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # Ray's are not ours
]
NAME = "rnnbench_ray"
ON_RAY = [f"hydra/launcher={NAME}", "hydra.launcher.address=auto"]
"""``auto``: Ray takes the address from the environment, where `head` puts it."""


class Node:
    """One node: raylet, workers and whatever else is in its group of processes."""

    def __init__(self, log: Path, *args: str) -> None:
        """Start it, and wait until it is up."""
        ray = str(Path(sys.executable).parent / "ray")
        with log.open("wb") as file:
            command = [ray, "start", "--block", "--num-cpus=1", *args]
            self.process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        wait_for(lambda: "Ray runtime started" in log.read_text() or self.process.poll() is not None, "a node of Ray")
        assert self.process.poll() is None, log.read_text()

    def kill(self) -> None:
        """What a failing machine does: all of it ends at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)


def wait_for(true: Callable[[], object], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module", autouse=True)
def head() -> Iterator[str]:
    """The address of a cluster of one node, which is in the environment too."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as free:
        assert "ray" not in sys.modules, "Ray reads these variables when it is imported"
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)  # and not one in the home directory
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        temp = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # names of sockets must be short
        args = ["--head", f"--port={port}", f"--temp-dir={temp}", "--include-dashboard=false"]
        node = Node(temp / "head.log", *args)
        yield os.environ["RAY_ADDRESS"]
        import ray

        ray.shutdown()
        node.kill()
        shutil.rmtree(temp, ignore_errors=True)


# ------------------------------------------------------------ Hydra's own tests of launchers


@pytest.mark.parametrize(("launcher_name", "overrides"), [(NAME, ["hydra.launcher.address=auto"])])
class TestLauncher(LauncherTestSuite):
    pass


@pytest.mark.parametrize(("task_launcher_cfg", "extra_flags"), [({}, ["-m", *ON_RAY])])
class TestIntegration(IntegrationTestSuite):
    pass


# ------------------------------------------------------------ jobs that fail and jobs that die


@pytest.fixture
def launch(hydra_restore_singletons: None, tmp_path: Path) -> Callable[..., list[JobReturn]]:
    """Run ``task`` once for each of the ``jobs``, which are overrides; returns what comes back to a sweeper."""

    def launched(task: Callable[[DictConfig], Any], jobs: Sequence[str] = ("+a=0",), *keys: str) -> list[JobReturn]:
        with initialize_config_module("hydra.test_utils.configs", version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            overrides = [*ON_RAY, f"hydra.sweep.dir={tmp_path / 'sweep'}", *keys]
            config = loader.load_configuration("compose.yaml", overrides, RunMode.MULTIRUN)
            context = HydraContext(config_loader=loader, callbacks=Callbacks())
            launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
            return list(launcher.launch([[job] for job in jobs], initial_job_idx=0))

    return launched


def statuses(returns: list[JobReturn]) -> list[JobStatus]:
    return [job.status for job in returns]


OK, FAILED = JobStatus.COMPLETED, JobStatus.FAILED


def test_a_job_whose_process_dies_each_time_is_a_failure_and_the_others_go_on(
    launch: Callable[..., list[JobReturn]], tmp_path: Path
) -> None:
    def task(cfg: DictConfig) -> int:
        if cfg.a == 1:
            with (tmp_path / "attempts").open("a") as file:
                file.write(".")
            os.kill(os.getpid(), signal.SIGKILL)
        return int(cfg.a)

    returns = launch(task, ["+a=0", "+a=1", "+a=2"], "hydra.launcher.max_retries=1")
    assert statuses(returns) == [OK, FAILED, OK]
    assert [returns[0].return_value, returns[2].return_value] == [0, 2]
    assert returns[1].overrides == ["+a=1"]
    assert "died" in str(returns[1]._return_value)
    assert (tmp_path / "attempts").read_text() == "..", "the first time and one more"


def test_a_job_whose_process_dies_once_is_run_again(launch: Callable[..., list[JobReturn]], tmp_path: Path) -> None:
    def task(cfg: DictConfig) -> str:
        attempts = tmp_path / "attempts"
        with attempts.open("a") as file:
            file.write(".")
        if attempts.read_text() == ".":
            os.kill(os.getpid(), signal.SIGKILL)
        return attempts.read_text()

    (returned,) = launch(task)
    assert returned.return_value == ".."


def test_an_error_comes_back_as_it_was_raised_and_is_not_tried_again(
    launch: Callable[..., list[JobReturn]], tmp_path: Path
) -> None:
    def task(cfg: DictConfig) -> int:
        with (tmp_path / "attempts").open("a") as file:
            file.write(".")
        if cfg.a == 0:
            raise UserError("a=0: too small")
        return int(cfg.a)

    returns = launch(task, ["+a=0", "+a=1"])
    assert statuses(returns) == [FAILED, OK]
    assert isinstance(returns[0]._return_value, UserError)
    assert str(returns[0]._return_value) == "a=0: too small"
    assert (tmp_path / "attempts").read_text() == ".."


def test_what_cannot_be_pickled_is_a_failure_of_its_job_alone(launch: Callable[..., list[JobReturn]]) -> None:
    returns = launch(lambda cfg: threading.Lock() if cfg.a == 0 else 1, ["+a=0", "+a=1"])
    assert statuses(returns) == [FAILED, OK]


def test_a_job_finds_the_directory_and_the_variables_of_the_driver(
    launch: Callable[..., list[JobReturn]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNNBENCH_FOR_A_TEST", "here")
    (returned,) = launch(lambda cfg: (str(Path.cwd()), os.environ["RNNBENCH_FOR_A_TEST"]))
    assert returned.return_value == (str(tmp_path), "here")


def test_a_directory_that_a_node_does_not_have_is_told_in_words(
    launch: Callable[..., list[JobReturn]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    monkeypatch.setattr(Path, "cwd", lambda: gone)
    (returned,) = launch(lambda cfg: 1)
    assert returned.status is FAILED
    assert "a directory that all of them share" in str(returned._return_value)


@pytest.mark.parametrize(
    ("given", "told"),
    [("num_cpus=2", "no node of this Ray is so large"), ("num_gpus=1", "1 and 0"), ("num_cpus=0", "above 0")],
)
def test_a_job_that_no_node_can_take_is_an_error_and_not_a_wait(
    given: str, told: str, launch: Callable[..., list[JobReturn]]
) -> None:
    with pytest.raises(UserError, match=told):
        launch(lambda cfg: 1, ["+a=0"], f"hydra.launcher.{given}")


# ------------------------------------------------------------ runs of rnnbench


RUNS = [
    "cell=gru,tanh,lstm",
    "task=adding",
    "task.length=100",
    "task.valid_size=500",
    "task.test_size=500",
    "task.updates_per_epoch=100",
    "task.solved=null",
    "train.max_epochs=30",
    "train.patience=null",
    "checkpoint_every_s=1",
    "tensorboard=false",
]


def rnnbench(cwd: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rnnbench.cli", "run", "-m", *args]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str], seconds: float = 400) -> str:
    """What a process has printed, when it has ended."""
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    print(output)
    return output


def runs(root: Path) -> dict[str, Path]:
    """The directory of the run of each cell that has begun."""
    return {path.parent.name: path for path in root.glob("results/runs/adding/*/s*")}


def training(root: Path) -> set[str]:
    """The cells that are in the middle of their training."""
    return {cell for cell, path in runs(root).items() if (path / "last.pt").exists() and not finished(path)}


def finished(path: Path) -> bool:
    return (path / "result.json").exists()


def numbers(path: Path) -> dict[str, Any]:
    """What a run found, to the bit."""
    result = json.loads((path / "result.json").read_text())
    weights = torch.load(path / "best.pt", weights_only=True)["theta"]
    kept = ("status", "train", "valid", "test", "epochs", "updates", "best_update", "run_key")
    return {**{key: result[key] for key in kept}, "theta": weights.numpy().tobytes()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the runs come to on this machine without Ray."""
    root = tmp_path_factory.mktemp("undisturbed")
    process = rnnbench(root, *RUNS, "hydra/launcher=basic", "threads=1")
    output = ended(process)
    assert process.returncode == 0, output
    found = {cell: numbers(path) for cell, path in runs(root).items()}
    assert len(found) == 3
    return found


def test_a_node_that_is_killed_while_it_trains_changes_no_number(
    undisturbed: dict[str, dict[str, Any]], head: str, tmp_path: Path
) -> None:
    node = Node(tmp_path / "node.log", f"--address={head}", "--node-ip-address=127.0.0.2")
    try:
        process = rnnbench(tmp_path, *RUNS, *ON_RAY)
        wait_for(lambda: len(training(tmp_path)) == 2 or process.poll() is not None, "a run on each node")
        before = training(tmp_path)
        node.kill()
        output = ended(process)
    finally:
        node.kill()
    assert process.returncode == 0, output
    found = {cell: numbers(path) for cell, path in runs(tmp_path).items()}
    assert found == undisturbed
    resumed = {cell for cell, path in runs(tmp_path).items() if "resume: at epoch" in (path / "run.log").read_text()}
    assert len(before) == 2
    assert len(resumed) == 1
    assert resumed < before, "a run of the dead node went on, on the other"


def test_ctrl_c_lets_the_runs_save_themselves_and_the_same_command_goes_on(
    undisturbed: dict[str, dict[str, Any]], head: str, tmp_path: Path
) -> None:
    once = [*RUNS, *ON_RAY, "checkpoint_every_s=1000"]  # a checkpoint is then the last act
    process = rnnbench(tmp_path, *once)
    wait_for(lambda: [*tmp_path.glob("results/**/metrics.jsonl")], "a run")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output = ended(process, seconds=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    (path,) = runs(tmp_path).values()
    assert json.loads((path / "result.json").read_text())["status"] == "interrupted"
    assert (path / "last.pt").exists()
    again = rnnbench(tmp_path, *once)
    output = ended(again)
    assert again.returncode == 0, output
    assert "resume: at epoch" in (path / "run.log").read_text()
    assert {cell: numbers(path) for cell, path in runs(tmp_path).items()} == undisturbed


def test_a_ray_of_our_own_takes_the_cores_of_a_job_as_threads_and_lists_failures(tmp_path: Path) -> None:
    own = ["hydra/launcher=rnnbench_ray", "hydra.launcher.num_cpus=2"]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as temp:
        init = f"+hydra.launcher.init={{num_cpus: 2, _temp_dir: {temp}}}"
        process = rnnbench(tmp_path, *RUNS, *own, init, "cell=gru,tanh", "seed=0,-1", "train.max_epochs=1")
        output = ended(process)
    assert process.returncode == 1, output
    assert "seed=-1" in output
    found = [json.loads((path / "result.json").read_text()) for path in runs(tmp_path).values()]
    assert [(result["status"], result["threads"]) for result in found] == [("done", 2)] * 2


def test_an_address_without_ray_is_told_in_words(tmp_path: Path) -> None:
    process = rnnbench(tmp_path, *RUNS, f"hydra/launcher={NAME}", "hydra.launcher.address=127.0.0.1:1")
    output = ended(process)
    assert process.returncode == 1
    assert "rnnbench: error: hydra.launcher.address=127.0.0.1:1" in output
