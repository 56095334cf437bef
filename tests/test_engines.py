"""The compiled engine in the place of the reference: metrics, whole runs, divergence, and when it steps aside."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rnnbench import engines
from rnnbench.cells import Cell, GRUCell, LSTMCell, TanhCell
from rnnbench.compose import compose_config
from rnnbench.config import RunConfig, TrainConfig
from rnnbench.engines import Engines
from rnnbench.errors import UserError
from rnnbench.kernels.compiled import Compiled, obstacle
from rnnbench.model import Model, build_model
from rnnbench.tasks.adding import Adding
from rnnbench.tasks.base import SPLITS, SQUARED_ERROR, Loss, Task
from rnnbench.tasks.copy_memory import CopyMemory
from rnnbench.tasks.music import Music, Rolls
from rnnbench.train import DivergedError, Engine, Member, Metrics, Outcome, Reference, train
from tests.test_cells import VARIANTS

CPU = torch.device("cpu")
Cells = type[Cell]


def adding(task_class: type[Adding] = Adding) -> Adding:
    return task_class(
        length=12,
        markers="halves",
        updates_per_epoch=4,
        valid_size=30,
        test_size=30,
        data_seed=0,
        margin=0.5,
        solved=None,
    )


def copy_memory() -> CopyMemory:
    return CopyMemory(length=5, updates_per_epoch=4, valid_size=20, test_size=20, data_seed=0, margin=0.5, solved=None)


def music() -> Music:
    """Random rolls of the real width: 21 sequences of 2 to 40 frames in each split."""
    task, rng = Music("jsb_chorales", pool=2, margin=0.01, solved=None), np.random.default_rng(0)
    lengths = [*rng.integers(2, 20, 20).tolist(), 40]
    task.rolls = {s: Rolls([(rng.random((n, 88)) < 0.05).astype(np.uint8) for n in lengths]) for s in SPLITS}
    return task


TASKS: dict[str, Callable[[], Task]] = {"adding": adding, "copy_memory": copy_memory, "music": music}
HIDDEN = {2: 2, 10: 6, 88: 9}
"""Units by the task's inputs: less than a quarter of a vector, less than one, more than one."""


def protocol(name: str = "chung2014", *overrides: str) -> TrainConfig:
    return compose_config(f"train={name}", "task=adding", *overrides).train


def new_member(variant: int, task: Task, train_config: TrainConfig, hidden: int = 0, seed: int = 2) -> Member:
    """Random parameters of order one half, the biases and the peepholes too."""
    cell_class, options = VARIANTS[variant]
    rng, hidden = np.random.default_rng(seed), hidden or HIDDEN[task.input_size]
    model = build_model(cell_class(task.input_size, hidden, **options), hidden, task.output_size, None, 0, nn.Sigmoid())
    model = model.to(getattr(torch, train_config.dtype))
    for p in model.parameters():
        p.data.copy_(torch.from_numpy(rng.normal(0, 0.3, p.shape)))
    return Member(model, train_config, seed)


@dataclass
class Listener:
    """A recorder that remembers what it is told."""

    rows: list[Metrics] = field(default_factory=list)

    def evaluated(self, member: Member, valid: Metrics, training: Metrics) -> None:
        self.rows.append({**valid, **training})

    def updated(self, member: Member) -> None:
        pass

    def stop_requested(self) -> bool:
        return False


def compiled(member: Member, task: Task, threads: int = 1, rows_at_once: int | None = None) -> Compiled:
    assert obstacle(member.model.cell, task, CPU) is None
    engine = Compiled(member, task, threads)
    engine.rows_at_once = rows_at_once or engine.rows_at_once
    return engine


def trained(member: Member, task: Task, engine: Engine) -> tuple[Outcome, list[Metrics]]:
    listener = Listener()
    return train(member, task, listener, engine), listener.rows


# ------------------------------------------------------------ evaluation


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
@pytest.mark.parametrize("name", TASKS)
def test_metrics_are_those_of_the_reference(name: str, variant: int) -> None:
    task = TASKS[name]()
    member = new_member(variant, task, protocol("chung2014", "train.dtype=float64"))
    before = copy.deepcopy(member.state_dict())
    for split in SPLITS[:0:-1]:
        found, expected = (e.evaluate(member, task, split) for e in (compiled(member, task), Reference()))
        assert found == pytest.approx(expected, rel=1e-12)
    assert torch.equal(before["theta"], member.theta)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 2e-6), ("float64", 1e-12)])
def test_metrics_of_real_music_are_those_of_the_reference_in_both_averagings(
    data_dir: Path, dtype: str, error: float
) -> None:
    task = Music("jsb_chorales", pool=1, margin=0.01, solved=None)
    task.prepare(data_dir)
    member = new_member(0, task, protocol("chung2014", f"train.dtype={dtype}"), hidden=36)
    engine = compiled(member, task)
    for split in ("valid", "test"):
        found, expected = (e.evaluate(member, task, split) for e in (engine, Reference()))
        assert set(found) == {"nll_step", "nll_seq"}
        assert found["nll_step"] != pytest.approx(found["nll_seq"], rel=1e-4), "the two averagings must differ"
        assert found == pytest.approx(expected, rel=error), split


# ------------------------------------------------------------ whole runs

RUNS = [
    ("rmsprop", "chung2014", ["train.lr=3e-3", "train.clip_norm=0.5", "train.weight_noise=0.075"]),
    ("librnn", "librnn", ["train.lr=1e-3", "train.weight_noise=0.05", "train.optimizer.update_norm=0.01"]),
    ("adam", "modern", ["train.lr=1e-2", "train.clip_norm=0.1", "train.reduction=mean"]),
]


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
@pytest.mark.parametrize(("optimizer", "name", "overrides"), RUNS, ids=[run[0] for run in RUNS])
@pytest.mark.parametrize("task_name", TASKS)
def test_a_whole_run_is_that_of_the_reference(
    task_name: str, optimizer: str, name: str, overrides: list[str], variant: int
) -> None:
    batch_size = 3 if optimizer == "rmsprop" else 20
    common = ["train.dtype=float64", "train.max_epochs=6", "train.patience=2", f"train.batch_size={batch_size}"]
    config, task = protocol(name, *common, *overrides), TASKS[task_name]()
    assert config.optimizer["name"] == optimizer
    ours, theirs = new_member(variant, task, config), new_member(variant, task, config)
    start = ours.theta.clone()
    found, expected = trained(ours, task, compiled(ours, task)), trained(theirs, task, Reference())
    assert found[0] == expected[0] == "done"
    assert len(found[1]) == len(expected[1]) > 1
    for row, other in zip(found[1], expected[1], strict=True):
        assert row == pytest.approx(other, rel=1e-9, abs=1e-12)
    a, b = ours.progress, theirs.progress
    assert (a.epoch, a.update, a.best_epoch, a.best_update) == (b.epoch, b.update, b.best_epoch, b.best_update)
    torch.testing.assert_close(ours.theta, theirs.theta, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ours.best_theta, theirs.best_theta, rtol=1e-8, atol=1e-10)
    assert float((ours.theta - start).abs().max()) > 1e-3, "the run must move the weights"
    for slot, value in theirs.optimizer.state.items():
        torch.testing.assert_close(ours.optimizer.state[slot], value, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("task_name", "variant"), [("music", 0), ("music", 2), ("adding", 1), ("copy_memory", 3)])
def test_neither_threads_nor_the_cutting_of_an_epoch_change_a_bit(task_name: str, variant: int, dtype: str) -> None:
    config = protocol("librnn", f"train.dtype={dtype}", "train.max_epochs=2", "train.weight_noise=0.05")
    config.batch_size = {"music": 20, "adding": 50, "copy_memory": 33}[task_name]  # more than one tile
    task, seen = TASKS[task_name](), []
    for threads, rows in [(1, None), (2, None), (3, None), (1, 1), (2, 1000), (1, 10**9)]:
        member = new_member(variant, task, config)
        outcome, curves = trained(member, task, compiled(member, task, threads, rows))
        state = [member.theta, member.best_theta, *member.optimizer.state.values()]
        seen.append((outcome, curves, [tensor.numpy().tobytes() for tensor in state]))
    assert all(other == seen[0] for other in seen[1:])


def test_a_batch_of_one_sequence_may_be_cut_anywhere_too() -> None:
    config, task, seen = protocol("chung2014", "train.max_epochs=2", "train.lr=1e-3"), music(), []
    for rows in (1, 50, 10**9):
        member = new_member(1, task, config)
        outcome, curves = trained(member, task, compiled(member, task, rows_at_once=rows))
        seen.append((outcome, curves, member.theta.numpy().tobytes()))
    assert seen[0] == seen[1] == seen[2]


# ------------------------------------------------------------ divergence


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", range(len(VARIANTS)))
@pytest.mark.parametrize("task_name", TASKS)
def test_a_number_that_is_not_finite_stops_both_engines_wherever_it_stands(
    task_name: str, variant: int, dtype: str
) -> None:
    """In each parameter in turn; of W, for an input that is on."""
    task, config = TASKS[task_name](), protocol("modern", f"train.dtype={dtype}", "train.batch_size=5")
    member = new_member(variant, task, config)
    for name, _ in member.model.named_parameters():
        poisoned = new_member(variant, task, config)
        target = poisoned.model.get_parameter(name)
        with torch.no_grad():
            target[0] = torch.nan
        before = poisoned.theta.clone()
        for engine in (Reference(), compiled(poisoned, task)):
            with pytest.raises(DivergedError):
                list(engine.advance(poisoned, task, 1))
            torch.testing.assert_close(poisoned.theta, before, rtol=0, atol=0, equal_nan=True, msg=name)
            assert not any(slot.any() for slot in poisoned.optimizer.state.values()), name


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_a_run_that_diverges_does_so_at_the_same_update_with_the_same_weights(variant: int) -> None:
    """A rate of 1e153 on outputs of order one: the square of the next error is too large for a float64."""
    config = protocol("chung2014", "train.dtype=float64", "train.batch_size=20", "train.clip_norm=null")
    config.lr, config.max_epochs = 1e153, 5
    seen = []
    for make in (compiled, lambda *_: Reference()):
        task = adding()
        member = new_member(variant, task, config)
        outcome, rows = trained(member, task, make(member, task))
        assert bool(member.theta.isfinite().all())
        seen.append((outcome, member.progress.update, member.progress.update_in_epoch, rows, member.theta))
    assert seen[0][:3] == seen[1][:3] == ("diverged", 1, 1)
    assert [row == pytest.approx(other) for row, other in zip(seen[0][3], seen[1][3], strict=True)] == [True]
    torch.testing.assert_close(seen[0][4], seen[1][4], rtol=1e-6, atol=0)


# ------------------------------------------------------------ when the kernels step aside


@pytest.mark.parametrize("engine_name", ["reference", "compiled"])
def test_a_gradient_whose_squares_are_too_large_for_float32_is_clipped_as_any_other(engine_name: str) -> None:
    """The norm is taken anew in float64; θ moves by what a gradient of norm 1 moves it."""
    task = music()
    norms, steps = [], []
    for scale in (1.0, 1e12):  # of the read-out's weights, and so of the gradient of the cell's
        member = new_member(2, task, protocol("chung2014", "train.weight_noise=0", "train.lr=1e-3"))
        with torch.no_grad():
            member.model.readout.weight.mul_(scale * 1e15)
        before = member.theta.clone()
        engine = Reference() if engine_name == "reference" else compiled(member, task)
        ((_, norm),) = engine.advance(member, task, 1)
        norms.append(norm)
        steps.append((member.theta - before)[: member.noisy_size].abs().max().item())
    assert norms[0] > 1e12
    assert norms[1] > 2e19, "its square is no float32"
    assert np.isfinite(norms[1])
    assert norms[1] / norms[0] == pytest.approx(1e12, rel=1e-3)
    assert 0 < steps[1] == pytest.approx(steps[0], rel=1e-3)


class OwnCell(nn.GRUCell):
    """Not of the project."""


class DerivedCell(GRUCell):
    """Of the project's family, but it may compute anything."""


class OwnLoss(Adding):
    """A loss that the kernels do not know."""

    loss = Loss(lambda y, t: (y - t).abs().sum(dim=1), SQUARED_ERROR.link, per_step="mae")


class RollsWithAnotherLoss(Music):
    loss = SQUARED_ERROR


class OwnTask(Adding):
    """One's own data with a loss of the project: the kernels serve it."""


def frozen() -> Cell:
    cell = LSTMCell(2, 5)
    cell.get_parameter("bias").requires_grad_(False)
    return cell


def test_what_the_kernels_cannot_do_is_said_in_words() -> None:
    music_rolls = RollsWithAnotherLoss("jsb_chorales", pool=1, margin=0.1, solved=None)
    own_loss = adding(OwnLoss)
    for cell, task, device, words in [
        (OwnCell(2, 5), adding(), CPU, "OwnCell is not one of the cells of rnnbench"),
        (DerivedCell(2, 5), adding(), CPU, "DerivedCell is not one of the cells of rnnbench"),
        (GRUCell(2, 5), own_loss, CPU, "OwnLoss has a loss or a form of data that they do not know"),
        (GRUCell(2, 5), music_rolls, CPU, "RollsWithAnotherLoss has a loss or a form of data"),
        (GRUCell(2, 5), adding(), torch.device("cuda"), "the kernels are for the CPU, not for cuda"),
        (frozen(), adding(), CPU, "LSTMCell has parameters that are not trained"),
    ]:
        assert (obstacle(cell, task, device) or "").startswith(words)
    assert obstacle(TanhCell(2, 5), adding(OwnTask), CPU) is None


def chosen(kernel: str, member: Member, task: Task) -> Engine:
    config: RunConfig = compose_config("cell=gru", "task=adding", f"kernel={kernel}")
    return Engines(config, members=1).of(member, task, CPU)


def own_member() -> Member:
    return Member(Model(OwnCell(2, 5), 5, 1), protocol("modern"), 0)


def test_auto_takes_the_reference_where_it_must_and_says_so_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_told", set())
    task = adding()
    assert [chosen("auto", own_member(), task).name for _ in range(2)] == ["reference"] * 2
    (line,) = capsys.readouterr().err.splitlines()
    reason = "OwnCell is not one of the cells of rnnbench"
    assert line == f"rnnbench: training without the compiled kernels, and so more slowly: {reason}"
    assert chosen("auto", new_member(0, task, protocol("modern")), task).name == "compiled"
    assert capsys.readouterr().err == ""


def test_compiled_refuses_what_it_cannot_do_and_reference_is_never_compiled() -> None:
    task = adding()
    with pytest.raises(UserError, match=r"kernel=compiled: OwnCell is not one of the cells.*Use kernel=auto"):
        chosen("compiled", own_member(), task)
    member = new_member(0, task, protocol("modern"))
    assert chosen("compiled", member, task).name == "compiled"
    assert chosen("reference", member, task).name == "reference"


def test_members_share_an_engine_only_if_they_are_of_one_kind_and_size() -> None:
    config, task = compose_config("cell=gru", "task=adding", "kernel=compiled"), adding()
    shared = Engines(config, members=3)
    size_six, again, seven = (new_member(2, task, protocol("modern"), hidden=h) for h in (6, 6, 7))
    assert shared.of(size_six, task, CPU) is shared.of(again, task, CPU)
    assert shared.of(size_six, task, CPU) is not shared.of(seven, task, CPU)
    assert shared.of(size_six, task, CPU) is not shared.of(new_member(3, task, protocol("modern")), task, CPU)
