"""Runs that are killed, stopped or repeated, in real processes, end as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rnnbench.compose import compose_config
from rnnbench.record import Record
from rnnbench.run import run
from tests import zygote
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = [
    "cell=lstm",
    "task=adding",
    "train=chung2014",
    *TINY,
    "train.batch_size=4",
    "train.lr=0.01",
    "train.max_epochs=4",
    "checkpoint_every_s=0",
    "seed=5",
]
TIMES = ("wall_s", "seconds")


def rnnbench(*args: str, module: str = "rnnbench.cli", **options: Any) -> subprocess.CompletedProcess[str]:
    if module == "rnnbench.cli" and not options:
        return zygote.run(list(args), ROOT)
    command = [sys.executable, "-m", module, *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, **options)


def run_dir(results: Path) -> Path:
    (found,) = results.glob("runs/adding/lstm/s5-*")
    return found


def outcome(results: Path) -> dict[str, Any]:
    """All that a run leaves behind, without the times."""
    path = run_dir(results)
    result = json.loads((path / "result.json").read_text())
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    state = torch.load(path / "last.pt", weights_only=True)
    best = torch.load(path / "best.pt", weights_only=True)
    events = EventAccumulator(str(path))
    events.Reload()
    return {
        "result": {k: v for k, v in result.items() if k not in TIMES},
        "rows": [{k: v for k, v in row.items() if k not in TIMES} for row in rows],
        "theta": state["theta"].tolist(),
        "best_theta": best["theta"].tolist(),
        "optimizer": {k: v.tolist() for k, v in state["optimizer"].items()},
        "progress": {k: v for k, v in state["progress"].items() if k not in TIMES},
        "curves": {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in sorted(events.Tags()["scalars"])},
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("undisturbed")
    done = rnnbench("run", *OVERRIDES, f"results_dir={results}")
    assert done.returncode == 0, done.stderr
    return outcome(results)


@pytest.mark.parametrize(
    "kills",
    [
        [("update", 1)],
        [("update", 7), ("update", 6)],
        [("metrics", 1)],
        [("metrics", 3), ("write", 1)],
        [("write", 3), ("rename", 4), ("between", 5)],
        [("result", 1)],
    ],
    ids=lambda kills: "+".join(f"{point}{n}" for point, n in kills),
)
def test_a_run_killed_at_any_point_ends_with_the_same_bits(
    kills: list[tuple[str, int]], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    arguments = [*OVERRIDES, f"results_dir={tmp_path}"]
    for point, number in kills:
        killed = rnnbench(point, str(number), *arguments, module="tests.kill_me")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (run_dir(tmp_path) / "result.json").exists()
    finished = rnnbench("run", *arguments)
    assert finished.returncode == 0, finished.stderr
    found = outcome(tmp_path)
    for part, value in undisturbed.items():
        assert found[part] == value, part
    assert not list(run_dir(tmp_path).glob("*.tmp")) + list(run_dir(tmp_path).glob(".*.tmp"))


SLOW = (
    "import time; from rnnbench.runner import Runner as R; u = R.updated; "
    "R.updated = lambda *a: (time.sleep(0.4), u(*a))[1]; "
)
"""Code that makes an update last long enough to be disturbed."""


def signalled(signum: int, arguments: list[str], results: Path, before: str = "") -> tuple[int, str]:
    """The exit status and the output of a slow run that gets a signal in its middle."""
    code = f"{SLOW}{before}import sys; from rnnbench.cli import main; sys.exit(main(['run', *{arguments!r}]))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_for_metrics(results)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def wait_for_metrics(results: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(results.glob("runs/adding/lstm/s5-*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)


def check_interrupted(results: Path) -> None:
    result = json.loads((run_dir(results) / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert 0 < result["updates"] < 20


def check_going_on(arguments: list[str], undisturbed: dict[str, Any], results: Path) -> None:
    assert rnnbench("run", *arguments).returncode == 0
    found = outcome(results)
    for part, value in undisturbed.items():
        assert found[part] == value, part


def test_ctrl_c_ends_a_run_cleanly_and_the_same_command_goes_on(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    arguments = [*OVERRIDES, f"results_dir={tmp_path}", "checkpoint_every_s=1000"]
    status, output = signalled(signal.SIGINT, arguments, tmp_path)
    assert status == 130
    assert "interrupted at epoch" in output
    check_interrupted(tmp_path)
    check_going_on(arguments, undisturbed, tmp_path)


def test_a_handler_of_the_launcher_is_called_when_the_run_has_saved_itself(
    undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """As submitit's, which puts the job back into the queue and ends the process."""
    arguments = [*OVERRIDES, f"results_dir={tmp_path}", "checkpoint_every_s=1000"]
    handler = (
        "import os, signal; from pathlib import Path; "
        f"results = lambda: list(Path({str(tmp_path)!r}).rglob('result.json')); "
        f"signal.signal(signal.SIGUSR2, lambda s, _: (print('handled', len(results()), flush=True), os._exit(7))); "
    )
    status, output = signalled(signal.SIGUSR2, arguments, tmp_path, before=handler)
    assert status == 7
    assert output.splitlines()[-1] == "handled 1", "result.json is written by then"
    check_interrupted(tmp_path)
    check_going_on(arguments, undisturbed, tmp_path)


def test_a_signal_that_has_no_handler_does_what_it_always_does(tmp_path: Path) -> None:
    status, _ = signalled(signal.SIGUSR2, [*OVERRIDES, f"results_dir={tmp_path}"], tmp_path)
    assert status == -signal.SIGUSR2


def test_a_finished_run_is_shown_and_force_repeats_it(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    arguments = [*OVERRIDES, f"results_dir={tmp_path}"]
    assert rnnbench("run", *arguments).returncode == 0
    files = {path.name: path.stat().st_mtime_ns for path in run_dir(tmp_path).iterdir()}
    again = rnnbench("run", *arguments)
    assert again.returncode == 0
    assert "not repeated" in again.stdout
    assert files == {path.name: path.stat().st_mtime_ns for path in run_dir(tmp_path).iterdir()}
    killed = rnnbench("update", "8", *arguments, "force=true", module="tests.kill_me")
    assert killed.returncode == -signal.SIGKILL
    kept = {path.name: path.stat().st_mtime_ns for path in run_dir(tmp_path).iterdir()}
    assert files == kept, "the old result is kept until the new one is finished"
    forced = rnnbench("run", *arguments, "force=true")
    assert forced.returncode == 0, forced.stderr
    assert "not repeated" not in forced.stdout
    assert files["result.json"] != (run_dir(tmp_path) / "result.json").stat().st_mtime_ns
    assert outcome(tmp_path) == undisturbed
    assert [p.name for p in run_dir(tmp_path).parent.iterdir() if p.is_dir()] == [run_dir(tmp_path).name]


def test_two_processes_cannot_train_the_same_run(tmp_path: Path) -> None:
    """The second is told so; once the first is dead, even by SIGKILL, nothing stands in the way."""
    arguments = [*OVERRIDES, f"results_dir={tmp_path}"]
    record = Record.of(compose_config(*arguments))
    holder = (
        "import sys, time; from pathlib import Path; from rnnbench.record import Record\n"
        f"with Record(Path({str(record.path)!r})).locked(): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holder], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        refused = rnnbench("run", *arguments)
        assert refused.returncode == 1
        assert "another process is training this run" in refused.stderr
        process.send_signal(signal.SIGKILL)
    assert rnnbench("run", *arguments).returncode == 0


def test_a_disk_that_fills_up_is_told_and_loses_no_checkpoint(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Files may grow to 3,000 bytes at first: the first checkpoint does not fit."""
    arguments = [*OVERRIDES, f"results_dir={tmp_path}"]
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY)); "
    code = limit + f"import sys; from rnnbench.cli import main; sys.exit(main(['run', *{arguments!r}]))"
    full = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert full.returncode == 1
    assert "cannot be written: File too large" in full.stderr
    assert "Traceback" not in full.stderr
    finished = rnnbench("run", *arguments)
    assert finished.returncode == 0, finished.stderr
    found = outcome(tmp_path)
    assert found["theta"] == undisturbed["theta"]
    assert found["rows"] == undisturbed["rows"]


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk needs root on Linux")
def test_a_small_disk_that_is_full_is_told(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr}")
    try:
        arguments = [*OVERRIDES, f"results_dir={tmp_path}"]
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(48 * 1024))
        full = rnnbench("run", *arguments)
        assert full.returncode == 1
        assert "No space left on device" in full.stderr
        assert "Traceback" not in full.stderr
        ballast.unlink()
        finished = rnnbench("run", *arguments)
        assert finished.returncode == 0, finished.stderr
        assert outcome(tmp_path)["theta"] == undisturbed["theta"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_run_ends_with_the_same_bits_whatever_this_process_did_before(tmp_path: Path) -> None:
    """A run alone and one inside a sweep: torch's threads and its global generator may stand anywhere."""
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(threads)
        config = compose_config(
            "cell=gru", "task=adding", *TINY, "cell.hidden_size=100", f"results_dir={tmp_path}/{threads}"
        )
        run(config)
        found.append(torch.load(Record.of(config).last, weights_only=True)["theta"])
    torch.set_num_threads(1)
    assert torch.equal(*found)
