"""What the benchmarks have in common: the networks, synthetic music, `rnnbench run`'s own steps, the core's peak.

No command: `bench_training.py`, `bench_study.py` and `profile_step.py` use it.
"""

import ctypes
import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from rnnbench import provenance
from rnnbench.assemble import new_model, prepare
from rnnbench.compose import compose_config
from rnnbench.config import RunConfig
from rnnbench.kernels import build
from rnnbench.population import take_turns
from rnnbench.tasks.base import Task
from rnnbench.tasks.music import Music, Rolls
from rnnbench.train import Engine, Member, Metrics, training

CELLS = {"gru": "GRU-46", "tanh": "tanh-100", "lstm": "LSTM-36"}
"""The cells of Table 1, music half, as `configs/cell/` has them; the LSTM has peepholes."""

NOTES_ON = 4 / 88
"""The chance of a note, near that of the data sets."""

NEVER = 10**9

QUIET = 0.95
"""The share of its core that a process has at least on a machine fit for measuring."""


class Synthetic(Music):
    """Sequences of independent notes, in the form, and in the changing order, of the real ones."""

    def __init__(self, lengths: Sequence[int], seed: int = 0) -> None:
        """Draw a training sequence for each of ``lengths``, its number of predicted frames."""
        super().__init__(data="jsb_chorales", pool=1, margin=0.05, solved=None)
        generator = np.random.default_rng(seed)
        sequences = [(generator.random((T + 1, self.input_size)) < NOTES_ON).astype(np.uint8) for T in lengths]
        self.rolls = {"train": Rolls(sequences), "valid": Rolls(sequences[:1]), "test": Rolls(sequences[:1])}

    def prepare(self, data_dir: Path | None) -> None:
        """Nothing is loaded."""

    def dense(self, batch_size: int) -> list[np.ndarray]:
        """The batches of an epoch as (T + 1, B, 88), float32, for sequences of one length."""
        sequences = self.rolls["train"].sequences
        order = self.training_order(0, 0, batch_size)
        return [np.stack([sequences[q] for q in batch], axis=1).astype(np.float32) for batch in order]


def music_of(name: str) -> Music:
    """The task of `configs/task/` with its data, from where `rnnbench run` has it.

    Raises:
        UserError: if the data is not to be had.
    """
    config = compose_config("cell=gru", f"task={name}")
    task = Music(**config.options("task"))
    task.prepare(Path(config.data_dir).expanduser() if config.data_dir else None)
    return task


@functools.cache
def config_of(cell: str, batch_size: int, weight_noise: float) -> RunConfig:
    """The `chung2014` protocol without end and without evaluations."""
    return compose_config(
        f"cell={cell}",
        "task=jsb_chorales",
        "train=chung2014",
        f"train.weight_noise={weight_noise}",
        "train.patience=null",
        f"train.batch_size={batch_size}",
        f"train.max_epochs={NEVER}",
        f"train.eval_every={NEVER}",
    )


def members_of(cell: str, batch_size: int, count: int, weight_noise: float = 0.0) -> list[Member]:
    """Members that differ in their seeds."""
    config = config_of(cell, batch_size, weight_noise)
    members = []
    for seed in range(count):
        prepared = prepare(replace(config, seed=seed))
        members.append(Member(new_model(prepared), config.train, seed))
    return members


class Silent:
    """A `train.Recorder` that keeps nothing."""

    def evaluated(self, member: Member, valid: Metrics, training: Metrics) -> None:
        """See `train.Recorder`."""

    def updated(self, member: Member) -> None:
        """See `train.Recorder`."""

    def stop_requested(self) -> bool:
        """See `train.Recorder`."""
        return False


class Population:
    """Members that take turns as those of `rnnbench run` do; a turn is an epoch, or what the engine makes of it."""

    def __init__(self, members: Sequence[Member], task: Task, engine: Engine, threads: int = 1) -> None:
        """Take the members, and evaluate each once, as every run does at first."""
        self.members = members
        self.threads = threads
        self.loops = [training(member, task, Silent(), engine) for member in members]
        self.run(1)

    def run(self, turns: int) -> int:
        """Let every member have ``turns`` turns; returns the number of updates that each has made in them."""
        before = self.members[0].progress.update
        for end in take_turns([_turns(loop, turns) for loop in self.loops], lambda: self.threads):
            if isinstance(end, Exception):
                raise end
        return self.members[0].progress.update - before


def _turns(loop: Generator[None, None, Any], count: int) -> Generator[None, None, None]:
    yield  # the first turn of each is in the calling thread
    for _ in range(count):
        if next(loop, "ended") == "ended":
            raise RuntimeError("a member of the benchmark diverged")
        yield


@dataclass(frozen=True)
class Products:
    """The multiply-adds of a row (step, sequence), without padding: matrix products alone.

    Of each matrix there are three: forward, the gradient of what it is multiplied with, and its own. The sums of W's
    rows of the notes that are on, and of their gradients, are additions, and not counted; nor are the cell's
    functions, the loss and the update.
    """

    recurrent: int
    """Of U, one product."""
    readout: int
    """Of V, one product."""

    @property
    def all(self) -> int:
        """Forward and back."""
        return 3 * (self.recurrent + self.readout)


def products_of(member: Member) -> Products:
    """The multiply-adds of a row of a member's network."""
    weights = dict(member.model.named_parameters())
    return Products(weights["cell.weight_hh"].numel(), weights["readout.weight"].numel())


class Peak:
    """The rate of independent multiply-adds on one core."""

    def __init__(self) -> None:
        """Compile `peak.cpp` with the compiler and the vectors of the kernels.

        Raises:
            NoCompilerError: if that cannot be done.
        """
        compiler = build.find_compiler()
        source = Path(__file__).with_name("peak.cpp")
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "peak.so"
            for tuning in ("-march=native", "-mcpu=native"):
                command = [
                    compiler,
                    *build.FLAGS,
                    tuning,
                    f"-I{build.SOURCES}",
                    "-shared",
                    "-o",
                    str(path),
                    str(source),
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    break
            else:
                raise build.NoCompilerError(f"{compiler} failed: {done.stderr}")
            self._function = ctypes.CDLL(str(path)).multiply_adds
        self._function.restype = ctypes.c_int64
        self._out = ctypes.c_float()
        self._wall_s = self._cpu_s = 0.0

    def measure(self, repetitions: int = 4_000_000) -> float:
        """Multiply-adds per second, over some 12 ms."""
        arguments = (ctypes.c_int64(repetitions), ctypes.c_float(0.999), ctypes.c_float(1e-4), ctypes.byref(self._out))
        start, cpu = time.perf_counter(), time.thread_time()
        done = self._function(*arguments)
        wall_s = time.perf_counter() - start
        self._wall_s += wall_s
        self._cpu_s += time.thread_time() - cpu
        return float(done / wall_s)

    @property
    def core_share(self) -> float:
        """How much of its core this process had in all measurements so far: 1 on a quiet machine."""
        return self._cpu_s / self._wall_s

    def complaint(self) -> str | None:
        """What to say where other processes were running."""
        if self.core_share >= QUIET:
            return None
        return (
            f"warning: this process had {self.core_share:.0%} of its core; others were running, and neither ratios nor "
            "shares of the peak count. Run again on a quiet machine."
        )


@contextmanager
def cores(allowed: set[int]) -> Iterator[None]:
    """Keep this thread, and those that it starts, on some cores, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def all_cores() -> set[int]:
    """The cores that this process may use."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def provenance_of(threads: int) -> dict[str, Any]:
    """Where the numbers come from."""
    return {**provenance.describe("cpu", threads), "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}


def provenance_line(found: dict[str, Any]) -> str:
    """The same in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    commit = f"commit {found['commit']}{'+' if found['dirty'] else ''}"
    return f"{found['device_name']}; {versions}; {commit}; {found['date']}"


def seconds(run: Callable[[int], int], times: int) -> tuple[float, int]:
    """How long ``run(times)`` takes, and what it returns."""
    start = time.perf_counter()
    made = run(times)
    return time.perf_counter() - start, made
