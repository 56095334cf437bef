"""What TensorBoard itself, asked over HTTP, shows of runs."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rnnbench.compose import compose_config
from rnnbench.run import run
from tests.conftest import TINY


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class Server:
    """A TensorBoard over a directory."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}/data/plugin"

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    results = tmp_path_factory.mktemp("results")
    for seed in (0, 1):
        run(compose_config("cell=lstm", "task=adding", *TINY, f"seed={seed}", f"results_dir={results}"))
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(results / "runs"), "--port", str(port),
               "--host", "127.0.0.1", "--load_fast=false"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            found = Server(port)
            deadline = time.monotonic() + 90
            while time.monotonic() < deadline:
                try:
                    if len(found.ask("scalars/tags")) == 2:
                        break
                except OSError:
                    pass
                time.sleep(0.3)
            yield found
        finally:
            process.kill()


def test_there_is_one_tensorboard_run_for_each_run_and_no_stray_ones(server: Server) -> None:
    tags = server.ask("scalars/tags")
    assert [name.rsplit("-", 1)[0] for name in sorted(tags)] == ["adding/lstm/s0", "adding/lstm/s1"]
    expected = {"train/loss", "train/grad_norm", "train/lr", "valid/mse", "baseline/mse", "final/valid", "final/test"}
    for shown in tags.values():
        assert expected <= set(shown)


def test_the_curves_are_those_of_the_record(server: Server) -> None:
    name = min(server.ask("scalars/tags"))
    points = server.ask(f"scalars/scalars?tag=valid%2Fmse&run={name.replace('/', '%2F')}")
    assert [step for _, step, _ in points] == [0, 5, 10, 15]
    baseline = server.ask(f"scalars/scalars?tag=baseline%2Fmse&run={name.replace('/', '%2F')}")
    assert {round(value, 6) for _, _, value in baseline} == {0.166667}


def test_the_hyperparameters_and_final_scores_are_shown(server: Server) -> None:
    experiment = server.ask("hparams/experiment", {"experimentName": ""})
    names = {info["name"] for info in experiment["hparamInfos"]}
    assert {"cell", "task", "seed", "train.lr", "cell.hidden_size", "train.optimizer.name"} <= names
    groups = server.ask(
        "hparams/session_groups",
        {
            "experimentName": "",
            "allowedStatuses": ["STATUS_SUCCESS"],
            "colParams": [{"metric": {"tag": "final/test"}}],
            "startIndex": 0,
            "sliceSize": 10,
        },
    )["sessionGroups"]
    assert sorted(group["hparams"]["seed"] for group in groups) == [0, 1]
    assert all(group["hparams"]["cell.hidden_size"] == 5 for group in groups)
    assert all(group["metricValues"][0]["value"] > 0 for group in groups)


def test_the_event_files_lie_in_the_directories_of_the_runs(server: Server, tmp_path: Path) -> None:
    run(compose_config("cell=tanh", "task=adding", *TINY, f"results_dir={tmp_path}", "tensorboard=false"))
    assert not list(tmp_path.glob("**/events*")), "tensorboard=false writes none"
