"""Members train side by side as if each were alone: to the bit, whatever happens to the others or to the process."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from rnnbench.compose import compose_population
from rnnbench.population import take_turns
from rnnbench.record import Record
from rnnbench.run import run_population
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parent.parent
OF_THE_OCCASION = ("wall_s", "seconds", "population", "threads")
TINY_NOISY = ("cell=lstm", "task=adding", "train=chung2014", *TINY, "train.batch_size=4", "train.lr=0.01")


def rnnbench(*args: str, module: str = "rnnbench.cli", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    path = f"{ROOT}:{ROOT / 'rnnbench' / '_plugins'}"
    return subprocess.run(
        [sys.executable, "-m", module, *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def remains(path: Path) -> dict[str, Any]:
    """What a run leaves behind, without times and without the names of its neighbours."""
    result = json.loads((path / "result.json").read_text())
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    state = torch.load(path / "last.pt", weights_only=True)
    best = torch.load(path / "best.pt", weights_only=True)
    return {
        "result": {k: v for k, v in result.items() if k not in OF_THE_OCCASION},
        "rows": [{k: v for k, v in row.items() if k not in OF_THE_OCCASION} for row in rows],
        "theta": state["theta"].tolist(),
        "best": best["theta"].tolist(),
        "optimizer": {k: v.tolist() for k, v in state["optimizer"].items()},
        "progress": {k: v for k, v in state["progress"].items() if k not in OF_THE_OCCASION},
    }


def all_remains(results: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: remains(path.parent) for path in results.glob("runs/*/*/*/last.pt")}


def train_all(results: Path, *overrides: str) -> dict[str, dict[str, Any]]:
    ended = run_population(compose_population(*overrides, f"results_dir={results}"))
    assert [r.get("error") for r in ended] == [None] * len(ended)
    return all_remains(results)


@pytest.mark.parametrize(
    ("kernel", "dtype", "sizes"),
    [("compiled", "float32", (3, 30)), ("compiled", "float64", (3,)), ("reference", "float32", (3,))],
)
def test_a_member_ends_with_the_same_bits_alone_and_among_others(
    kernel: str, dtype: str, sizes: tuple[int, ...], tmp_path: Path
) -> None:
    common = (*TINY_NOISY, f"kernel={kernel}", f"train.dtype={dtype}")
    one = (
        "threads=1" if kernel == "compiled" else "threads=3"
    )  # torch's own products round by the number of its threads
    alone = train_all(tmp_path / "alone", *common, "seed=1", one)
    ((name, expected),) = alone.items()
    for size in sizes:
        seeds = ",".join(map(str, range(size)))
        found = train_all(tmp_path / str(size), *common, f"seed=[{seeds}]", "threads=3")
        assert len(found) == size
        assert len({tuple(member["theta"]) for member in found.values()}) == size
        assert found[name] == expected


def test_members_on_music_of_different_rates_and_orders_do_not_touch_each_other(data_dir: Path, tmp_path: Path) -> None:
    common = ("task=jsb_chorales", "train=chung2014", "train.max_epochs=1", f"data_dir={data_dir}", "progress=false")
    together = train_all(
        tmp_path / "together",
        *common,
        "cell=gru",
        "threads=2",
        "members=[['seed=0','train.lr=1e-3'],['seed=1','train.lr=3e-4'],['seed=0','train.weight_noise=0']]",
    )
    assert len(together) == 3
    (alone,) = train_all(tmp_path / "alone", *common, "cell=gru", "seed=1", "train.lr=3e-4").items()
    assert together[alone[0]] == alone[1]


def test_a_diverging_member_ends_alone(tmp_path: Path) -> None:
    rates = "members=[['train.lr=0.01'],['train.lr=1e40'],['train.lr=0.02']]"
    overrides = ("cell=tanh", "task=copy_memory", *TINY, "kernel=compiled")
    ended = run_population(compose_population(*overrides, rates, f"results_dir={tmp_path}"))
    assert [r["status"] for r in ended] == ["done", "diverged", "done"]
    alone = train_all(tmp_path / "alone", *overrides, "train.lr=0.02")
    assert all_remains(tmp_path)[next(iter(alone))] == next(iter(alone.values()))


def test_a_member_that_another_process_trains_is_told_and_the_others_train(tmp_path: Path) -> None:
    configs = compose_population(*TINY_NOISY, "seed=[0,1]", f"results_dir={tmp_path}")
    with Record.of(configs[0]).locked():
        held, free = run_population(configs)
    assert "another process is training this run" in held["error"]
    assert free["status"] == "done"


MEMBERS = "members=[['seed=0','train.max_epochs=2'],['seed=1','train.max_epochs=5'],['seed=2','train.max_epochs=5']]"


@pytest.mark.parametrize("kills", [[("update", 32), ("update", 4)], [("write", 20)], [("result", 1)]])
def test_a_population_killed_and_resumed_ends_with_the_same_bits(kills: list[tuple[str, int]], tmp_path: Path) -> None:
    """One member stops early: some kills come when it has ended already, others while it trains."""
    common = [*TINY_NOISY, "checkpoint_every_s=0", "threads=2", MEMBERS]
    arguments = [*common, f"results_dir={tmp_path / 'killed'}"]
    for point, number in kills:
        killed = rnnbench(point, str(number), *arguments, module="tests.kill_me")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert rnnbench("run", *arguments).returncode == 0
    found, expected = all_remains(tmp_path / "killed"), train_all(tmp_path / "whole", *common)
    assert len(expected) == 3
    assert sorted(member["progress"]["epoch"] for member in expected.values()) == [2, 5, 5]
    assert found == expected


def test_a_cell_of_ones_own_trains_in_a_population_as_it_does_alone(tmp_path: Path) -> None:
    """Its dropout draws from torch's global generator, and it counts its calls in a buffer."""
    (tmp_path / "my_cells.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Leaky(nn.Module):\n"
        "    def __init__(self, input_size, hidden_size):\n        super().__init__()\n"
        "        self.inner = nn.RNNCell(input_size, hidden_size)\n        self.drop = nn.Dropout(0.3)\n"
        "        self.register_buffer('calls', torch.zeros(()))\n\n"
        "    def forward(self, x, h=None):\n        self.calls += self.training\n"
        "        return self.drop(self.inner(x, h))\n"
    )
    (tmp_path / "conf" / "cell").mkdir(parents=True)
    (tmp_path / "conf" / "cell" / "leaky.yaml").write_text("_target_: my_cells.Leaky\nhidden_size: 5\n")
    common = ["--config-dir", "conf", "cell=leaky", "task=adding", *TINY, "train.weight_noise=0.1"]
    together = rnnbench("run", *common, "seed=[0,1,2]", "results_dir=together", "threads=2", cwd=tmp_path)
    assert together.returncode == 0, together.stderr
    assert together.stderr.count("without the compiled kernels") == 1
    assert "Leaky is not one of the cells of rnnbench" in together.stderr
    assert rnnbench("run", *common, "seed=1", "results_dir=alone", cwd=tmp_path).returncode == 0
    found = all_remains(tmp_path / "together")
    ((name, alone),) = all_remains(tmp_path / "alone").items()
    assert len(found) == 3
    assert found[name] == alone


def test_ten_members_on_musedata_stay_below_two_gibibytes(data_dir: Path, tmp_path: Path) -> None:
    arguments = ["cell=lstm", "task=musedata", "train=chung2014", "train.max_epochs=1", "search=chung2014"]
    code = (
        "import resource, sys; from rnnbench.cli import main; "
        f"status = main(['run', *{arguments!r}, 'data_dir={data_dir}', 'results_dir={tmp_path}', 'progress=false']); "
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'rnnbench' / '_plugins'}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env, cwd=ROOT)
    peak_bytes = int(done.stdout.rpartition("peak ")[2]) * (1 if sys.platform == "darwin" else 1024)
    assert peak_bytes < 2 << 30


# ---------------------------------------------------------------- turns


def counting(n: int, log: list[tuple[int, str]], name: int) -> Generator[None, None, int]:
    for _ in range(n):
        log.append((name, threading.current_thread().name))
        yield
    return n


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_loop_gets_all_its_turns_and_its_own_end(threads: int) -> None:
    log: list[tuple[int, str]] = []
    lengths = [3, 0, 7, 1]
    assert take_turns([counting(n, log, i) for i, n in enumerate(lengths)], lambda: threads) == lengths
    assert [sum(name == i for name, _ in log) for i in range(4)] == lengths
    main = threading.main_thread().name
    first = [log[next(k for k, (name, _) in enumerate(log) if name == i)] for i in (0, 2, 3)]
    assert {thread for _, thread in first} == {main}, "first turns are in the calling thread"
    assert threads > 1 or {thread for _, thread in log} == {main}


def test_turns_go_round() -> None:
    log: list[tuple[int, str]] = []
    take_turns([counting(2, log, 0), counting(4, log, 1)], lambda: 1)
    assert [name for name, _ in log] == [0, 1, 0, 1, 1, 1]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_is_the_end_of_its_loop_alone(threads: int) -> None:
    def failing() -> Generator[None, None, int]:
        yield
        raise ValueError("mine")

    log: list[tuple[int, str]] = []
    ends = take_turns([counting(3, log, 0), failing(), counting(5, log, 2)], lambda: threads)
    assert ends[0] == 3
    assert isinstance(ends[1], ValueError)
    assert ends[2] == 5


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_closes_all_loops(threads: int) -> None:
    closed: list[int] = []

    def loop(i: int) -> Generator[None, None, None]:
        try:
            for turn in range(10_000_000):
                if i == 0 and turn == 50:
                    signal.raise_signal(signal.SIGINT) if threads == 1 else os.kill(os.getpid(), signal.SIGINT)
                yield
        finally:
            closed.append(i)

    with pytest.raises(KeyboardInterrupt):
        take_turns([loop(i) for i in range(3)], lambda: threads)
    assert sorted(closed) == [0, 1, 2]
