"""The tasks that are drawn: the adding problem and copy memory."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rnnbench.cells import GRUCell, TanhCell
from rnnbench.errors import UserError
from rnnbench.model import Model, build_cell, build_model
from rnnbench.tasks import generated
from rnnbench.tasks.adding import Adding
from rnnbench.tasks.base import SPLITS, Batch, Split, Task
from rnnbench.tasks.copy_memory import CopyMemory
from rnnbench.tasks.generated import GeneratedTask
from rnnbench.train import evaluate

OPTIONS: dict[str, Any] = {
    "updates_per_epoch": 3,
    "valid_size": 20,
    "test_size": 30,
    "data_seed": 0,
    "margin": 0.2,
    "solved": 1e-3,
}
BLANK, DELIMITER = 8, 9


def adding(**options: Any) -> Adding:
    return Adding(**{"length": 8, "markers": "halves", **OPTIONS, **options})


def copy_memory(**options: Any) -> CopyMemory:
    return CopyMemory(**{"length": 5, **OPTIONS, **options})


both_tasks = pytest.mark.parametrize("task_of", [adding, copy_memory])


def random_model(task: Task) -> Model:
    """A GRU whose outputs vary from step to step, in float64."""
    cell = build_cell(GRUCell, task.input_size, 4, {}, seed=1)
    model = build_model(cell, 4, task.output_size, None, seed=2, link=task.loss.link)
    model.readout.weight.data.mul_(10.0)
    return model.double()


def constant_model(task: Task) -> Model:
    """The model that always answers the prior."""
    model = Model(build_cell(TanhCell, task.input_size, 1, {}, seed=0), 1, task.output_size, task.loss.link)
    model.readout.bias.data.copy_(task.output_prior())
    return model


def digest(batch: Batch) -> str:
    return hashlib.sha256(batch.inputs.numpy().tobytes() + batch.targets.numpy().tobytes()).hexdigest()


def rows_of(task: GeneratedTask, split: Split) -> set[bytes]:
    sequences, _ = task.fixed_set(split)
    return {row.tobytes() for row in sequences}


def steps_of(batch: Batch) -> Tensor:
    """The inputs of a batch of equal lengths as (T, B, I)."""
    assert len(set(batch.batch_sizes)) == 1
    return batch.inputs.reshape(len(batch.batch_sizes), batch.batch_sizes[0], -1)


@given(T=st.integers(2, 33), markers=st.sampled_from(["halves", "anywhere"]), seed=st.integers(0, 2**32))
@settings(derandomize=True, database=None, deadline=None, max_examples=200)
def test_the_adding_target_is_the_sum_of_the_two_marked_values(T: int, markers: str, seed: int) -> None:
    sequences, target = adding(length=T, markers=markers).draw(np.random.default_rng(seed), 16)
    values, marker = sequences[..., 0], sequences[..., 1]
    assert sequences.shape == (16, T, 2)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    for b in range(16):
        marked = [t for t in range(T) if marker[b, t] == 1.0]
        assert len(marked) == 2
        assert np.count_nonzero(marker[b]) == 2
        assert target[b] == values[b, marked[0]] + values[b, marked[1]]
        if markers == "halves":
            assert marked[0] < T // 2 <= marked[1]


@pytest.mark.parametrize("T", [2, 7, 8])
@pytest.mark.parametrize("markers", ["halves", "anywhere"])
def test_all_pairs_of_steps_are_marked_equally_often(T: int, markers: str) -> None:
    size = 20_000
    sequences, _ = adding(length=T, markers=markers).draw(np.random.default_rng(0), size)
    seen = np.triu(sequences[..., 1].T @ sequences[..., 1], k=1) / size
    step = np.arange(T)
    allowed = (step[:, None] < T // 2) & (step >= T // 2) if markers == "halves" else step[:, None] < step
    expected = allowed / allowed.sum()
    error = np.sqrt(expected * (1 - expected) / size)
    assert (np.abs(seen - expected) <= 4.5 * error + 1e-9).all()


@pytest.mark.parametrize("markers", ["halves", "anywhere"])
def test_always_answering_one_costs_a_sixth(markers: str) -> None:
    size = 200_000
    task = adding(length=4, markers=markers, test_size=size)
    _, target = task.fixed_set("test")
    squared = (target.astype(np.float64) - 1.0) ** 2
    standard_error = squared.std() / math.sqrt(size)
    assert task.baselines("test") == {"always 1": {"mse": 1 / 6}}
    assert abs(squared.mean() - 1 / 6) < 3 * standard_error < 0.002
    measured = evaluate(constant_model(task), task.loss, task.evaluation_batches("test"))
    assert measured == {"mse": pytest.approx(squared.mean(), rel=1e-6)}


def test_only_the_last_step_of_the_adding_problem_is_scored() -> None:
    task = adding()
    (batch,) = task.evaluation_batches("test")
    sequences, targets = (torch.from_numpy(array) for array in task.fixed_set("test"))
    assert batch.scored is not None
    assert torch.equal(batch.inputs[batch.scored], sequences[:, -1])
    assert torch.equal(batch.sequence, torch.arange(30))
    model = random_model(task)
    last = torch.cat([model.predict(sequence)[-1:] for sequence in sequences])
    naive = float((last - targets).square().mean())
    assert evaluate(model, task.loss, [batch]) == {"mse": pytest.approx(naive, rel=1e-12)}


@pytest.mark.parametrize("T", [1, 2, 5, 100])
def test_copy_memory_is_laid_out_as_the_paper_says(T: int) -> None:
    task = copy_memory(length=T)
    (batch,) = task.evaluation_batches("valid")
    x = steps_of(batch)
    assert x.shape == (T + 20, 20, 10)
    assert torch.equal(x.sum(dim=2), torch.ones(T + 20, 20))
    targets = batch.targets.reshape(T + 20, 20)
    assert torch.equal(batch.sequence, torch.arange(20).repeat(T + 20))
    assert batch.scored is None
    for b in range(20):
        example, target = x[:, b].argmax(dim=1).tolist(), targets[:, b].tolist()
        symbols = example[:10]
        assert set(symbols) <= set(range(8))
        assert example == symbols + [BLANK] * (T - 1) + [DELIMITER] + [BLANK] * 10
        assert target == [BLANK] * (T + 10) + symbols


@pytest.mark.parametrize(("T", "listed"), [(100, 0.1733), (200, 0.0945), (500, 0.0400), (1000, 0.0204)])
def test_the_copy_memory_baseline_is_that_of_the_paper(T: int, listed: float) -> None:
    baseline = copy_memory(length=T).baselines("test")["no memory"]["xent"]
    assert baseline == pytest.approx(10 * math.log(8) / (T + 20), rel=1e-12)
    assert round(baseline, 4) == listed


def test_the_best_predictor_without_memory_attains_the_copy_memory_baseline() -> None:
    """It knows the step, and how often each class is due there: by the rule, and by counting in train."""
    task = copy_memory(length=5, valid_size=20_000, test_size=20_000)
    seen, due = (task.fixed_set(split)[1].astype(int) for split in ("train", "test"))
    by_rule = np.zeros((25, 9))
    by_rule[:15, BLANK], by_rule[15:, :BLANK] = 1.0, 1 / 8
    counted = np.stack([(seen == c).mean(axis=0) for c in range(9)], axis=1)
    baseline = task.baselines("test")["no memory"]["xent"]
    for p, tolerance in ((by_rule, 1e-12), (counted, 1e-3)):
        cost = -np.log(p[np.arange(25), due]).mean()
        assert cost == pytest.approx(baseline, rel=tolerance)


@both_tasks
def test_the_prior_is_the_mean_of_the_training_targets(task_of: Callable[..., GeneratedTask]) -> None:
    task = task_of(valid_size=50_000)
    _, targets = task.fixed_set("train")
    prior = task.loss.link(task.output_prior()).double().numpy()
    seen = [targets.mean(dtype=np.float64)] if len(prior) == 1 else [(targets == c).mean() for c in range(len(prior))]
    assert prior == pytest.approx(np.array(seen), abs=0.005)


@both_tasks
def test_training_batches_are_functions_of_seed_and_update_alone(task_of: Callable[..., GeneratedTask]) -> None:
    task, other = task_of(), task_of(data_seed=1, test_size=7)
    drawn = {
        (seed, epoch, index): digest(task.training_batch(seed, epoch, index, 4))
        for seed in range(3)
        for epoch in range(2)
        for index in range(task.updates_in_epoch(4))
    }
    assert len(set(drawn.values())) == len(drawn) == 18
    for (seed, epoch, index), known in reversed(drawn.items()):
        assert digest(other.training_batch(seed, epoch, index, 4)) == known
    rest = [digest(batch) for batch in task.training_batches(2, 1, 4, start=1)]
    assert rest == [drawn[2, 1, 1], drawn[2, 1, 2]]


@both_tasks
def test_no_sequence_is_in_two_sets(task_of: Callable[..., GeneratedTask]) -> None:
    task = task_of(valid_size=200, test_size=300)
    sets = [rows_of(task, split) for split in SPLITS]
    sequences = steps_of(task.training_batch(task.data_seed, 0, 0, 100)).transpose(0, 1)
    if isinstance(task, CopyMemory):
        sequences = sequences.argmax(dim=2).to(torch.uint8)
    sets.append({row.tobytes() for row in sequences.contiguous().numpy()})
    assert [len(rows) for rows in sets] == [200, 200, 300, 100]
    assert len(set().union(*sets)) == 800


@both_tasks
def test_the_fixed_sets_depend_on_the_data_seed_alone(task_of: Callable[..., GeneratedTask]) -> None:
    task, same, other = task_of(), task_of(), task_of(data_seed=1)
    for seed in range(3):
        same.training_batch(seed, 0, 0, 4)
    for split in reversed(SPLITS):
        assert all(np.array_equal(a, b) for a, b in zip(task.fixed_set(split), same.fixed_set(split), strict=True))
        assert rows_of(task, split).isdisjoint(rows_of(other, split))


@both_tasks
def test_the_checksum_tells_apart_what_differs_and_nothing_else(task_of: Callable[..., GeneratedTask]) -> None:
    known = task_of().checksum
    for same in ({}, {"margin": 0.5}, {"solved": None}, {"updates_per_epoch": 7}):
        assert task_of(**same).checksum == known
    changes: list[dict[str, Any]] = [{"data_seed": 1}, {"length": 9}, {"valid_size": 21}, {"test_size": 31}]
    if task_of is adding:
        changes.append({"markers": "anywhere"})
    assert len({known, *(task_of(**change).checksum for change in changes)}) == 1 + len(changes)


@both_tasks
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_the_size_of_an_evaluation_batch_changes_no_loss(
    task_of: Callable[..., GeneratedTask], dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of()
    model = random_model(task).to(dtype)
    measured = []
    for size, batches in ((1000, 1), (7, 5), (1, 30)):
        monkeypatch.setattr(generated, "EVALUATION_BATCH", size)
        assert len(list(task.evaluation_batches("test"))) == batches
        measured.append(evaluate(model, task.loss, task.evaluation_batches("test")))
    assert measured[1:] == [pytest.approx(measured[0], rel=tolerance)] * 2


@both_tasks
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, r"task\.length=0: must be a whole number of at least [12]"),
        ({"length": 8.5}, r"task\.length=8\.5: must be a whole number"),
        ({"updates_per_epoch": 0}, r"task\.updates_per_epoch=0: must be a whole number of at least 1"),
        ({"valid_size": -1}, r"task\.valid_size=-1: must be"),
        ({"test_size": 0}, r"task\.test_size=0: must be a whole number of at least 1"),
        ({"data_seed": -1}, r"task\.data_seed=-1: must be a whole number of at least 0"),
        ({"margin": 1.5}, r"task\.margin=1\.5: must be below 1"),
        ({"margin": 0.0}, r"task\.margin=0\.0: must be a finite number above 0"),
        ({"solved": -1}, r"task\.solved \(null for never\)=-1: must be a finite number above 0"),
        ({"solved": math.nan}, r"task\.solved \(null for never\)=nan: must be a finite number above 0"),
    ],
    ids=str,
)
def test_a_bad_option_is_named_with_its_value(
    task_of: Callable[..., GeneratedTask], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        task_of(**options)


def test_the_checksum_tells_apart_rules_that_draw_the_same() -> None:
    halves, anywhere = (adding(length=2, markers=markers) for markers in ("halves", "anywhere"))
    assert rows_of(halves, "test") == rows_of(anywhere, "test")
    assert halves.checksum != anywhere.checksum


def test_markers_that_are_not_known_are_told_with_the_closest_ones() -> None:
    with pytest.raises(UserError, match=r"task\.markers=halfs: .*anywhere, halves\. Did you mean 'halves'\?"):
        adding(markers="halfs")


def test_two_markers_need_two_steps() -> None:
    with pytest.raises(UserError, match=r"task\.length=1: must be a whole number of at least 2"):
        adding(length=1)
