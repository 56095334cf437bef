"""The music task: the data, the packing, and the metric against golden baselines."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rnnbench.cells import GRUCell
from rnnbench.errors import UserError
from rnnbench.model import Model, build_cell, build_model
from rnnbench.tasks import music, store
from rnnbench.tasks.base import SPLITS, Batch
from rnnbench.tasks.music import Music
from rnnbench.train import evaluate
from tests.test_store import described, mat_file, random_rolls

RealTask = Callable[[str], Music]

LENGTHS = {"train": [5, 1, 9, 2, 2, 30, 3, 7, 12, 8, 8], "valid": [4, 6], "test": [8, 2, 3, 12, 1]}
"""Of the sequences of a small set: very unequal, some equal, some too short to predict anything."""


@dataclass(frozen=True)
class Golden:
    """What is known of a set."""

    sequences: tuple[int, int, int]  # of train, valid and test
    frames: tuple[int, int, int]
    train_lengths: tuple[int, int, int]  # min, median, max
    longest_test: int
    twice: tuple[int, int, int]  # in train; in valid and in test, and in train too
    new_notes: tuple[int, int, int]  # never on in train
    marginal: tuple[float, float]  # nats on test: step mean, sequence mean
    repeat: tuple[float, float]


# fmt: off
GOLDEN = {
    "nottingham": Golden(
        (694, 173, 170), (176_561, 45_513, 44_463), (40, 255, 1788), 1793, (1, 1, 1), (0, 0, 1),
        marginal=(10.261, 10.125), repeat=(5.153, 5.195)),
    "jsb_chorales": Golden(
        (229, 76, 77), (13_807, 4_602, 4_725), (25, 57, 129), 160, (0, 0, 0), (0, 0, 1),
        marginal=(11.093, 11.038), repeat=(10.490, 10.488)),
    "musedata": Golden(
        (524, 135, 124), (245_202, 82_755, 64_339), (9, 237, 3457), 4273, (1, 0, 0), (0, 2, 5),
        marginal=(11.514, 10.558), repeat=(8.560, 8.194)),
    "piano_midi": Golden(
        (87, 12, 25), (75_911, 8_540, 19_036), (111, 663, 3857), 2645, (0, 0, 0), (0, 0, 0),
        marginal=(11.052, 11.394), repeat=(8.265, 8.587)),
}
# fmt: on
each_set = pytest.mark.parametrize("name", GOLDEN)


class Echo(nn.Module):
    """A cell whose output is its input."""

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        return x


@pytest.fixture(scope="module")
def real(data_dir: Path) -> RealTask:
    """The task of a real set, loaded once."""
    return functools.cache(lambda name: prepared(name, data_dir))


@pytest.fixture
def tiny_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the small set, "tiny"."""
    content = mat_file({split: random_rolls(lengths, seed) for seed, (split, lengths) in enumerate(LENGTHS.items())})
    tiny = described(content)
    monkeypatch.setitem(store.DATA_SETS, tiny.name, tiny)
    (tmp_path / tiny.file).write_bytes(content)
    return tmp_path


def prepared(name: str, data_dir: Path, pool: int = 8, margin: float = 0.05) -> Music:
    task = Music(data=name, pool=pool, margin=margin, solved=None)
    task.prepare(data_dir)
    return task


def random_gru(dtype: torch.dtype = torch.float64) -> Model:
    """A small GRU whose predictions vary from frame to frame."""
    cell = build_cell(GRUCell, 88, 4, {}, seed=1)
    model = build_model(cell, 4, 88, torch.full((88,), -2.0), seed=2, link=torch.sigmoid)
    model.readout.weight.data.mul_(10.0)
    return model.to(dtype)


def memoryless(bias: Tensor, weight: Tensor | None = None) -> Model:
    """The model whose outputs are its bias, and the last frame times its weights (default: zero)."""
    model = Model(Echo(), 88, 88)
    model.readout.bias.data.copy_(bias)
    model.readout.weight.data.copy_(torch.zeros(88, 88) if weight is None else weight)
    return model


def scores(task: Music, model: Model) -> tuple[float, float]:
    metrics = evaluate(model, task.loss, task.evaluation_batches("test"))
    assert list(metrics) == ["nll_step", "nll_seq"]
    return metrics["nll_step"], metrics["nll_seq"]


def unpack(batch: Batch) -> Iterator[np.ndarray]:
    """The sequences of a batch, from its rows alone; checks that targets are the inputs one frame later."""
    steps = torch.arange(len(batch.inputs)).split(list(batch.batch_sizes))
    for b in range(batch.batch_sizes[0]):
        rows = torch.stack([step[b] for step in steps if b < len(step)])
        inputs, targets = batch.inputs[rows], batch.targets[rows]
        assert batch.sequence[rows].eq(b).all()
        assert torch.equal(inputs[1:], targets[:-1])
        yield torch.cat([inputs, targets[-1:]]).numpy().astype(np.uint8)


def counted(sequences: Iterable[np.ndarray]) -> Counter[bytes]:
    """The sequences as a bag, those of one frame left out."""
    return Counter(s.tobytes() for s in sequences if len(s) > 1)


def naive_nll(model: Model, roll: np.ndarray) -> list[float]:
    """Nats of each predicted frame of one sequence, note by note."""
    p = model.predict(torch.from_numpy(roll[:-1])).tolist()
    frames = enumerate(roll[1:].tolist())
    return [-sum(math.log(p[t][k] if on else 1.0 - p[t][k]) for k, on in enumerate(frame)) for t, frame in frames]


@each_set
def test_the_sets_are_those_that_were_published(name: str, data_dir: Path) -> None:
    golden, loaded = GOLDEN[name], store.load(store.DATA_SETS[name], data_dir)
    lengths = [len(s) for s in loaded["train"]]
    assert tuple(len(loaded[split]) for split in SPLITS) == golden.sequences
    assert tuple(sum(map(len, loaded[split])) for split in SPLITS) == golden.frames
    assert np.quantile(lengths, [0.0, 0.5, 1.0]).tolist() == list(golden.train_lengths)
    assert max(map(len, loaded["test"])) == golden.longest_test
    train, valid, test = ([s.tobytes() for s in loaded[split]] for split in SPLITS)
    known = set(train)
    assert (len(train) - len(known), *(sum(s in known for s in part) for part in (valid, test))) == golden.twice
    assert set(valid).isdisjoint(test)
    on = [np.concatenate(loaded[split]).any(axis=0) for split in SPLITS]
    assert tuple(int((notes & ~on[0]).sum()) for notes in on) == golden.new_notes


@each_set
def test_the_baselines_are_the_golden_ones(name: str, real: RealTask) -> None:
    baselines = real(name).baselines("test")
    assert list(baselines) == ["marginal frequencies", "repeat previous"]
    measured = [tuple(round(b[key], 3) for key in ("nll_step", "nll_seq")) for b in baselines.values()]
    assert measured == [GOLDEN[name].marginal, GOLDEN[name].repeat]


@each_set
def test_a_model_that_answers_the_prior_scores_the_marginal_baseline(name: str, real: RealTask) -> None:
    task = real(name)
    measured = scores(task, memoryless(task.output_prior()))
    assert measured == pytest.approx(GOLDEN[name].marginal, abs=6e-4)
    assert measured == pytest.approx(tuple(task.baselines("test")["marginal frequencies"].values()), rel=1e-6)


@each_set
def test_a_model_that_answers_one_half_scores_88_ln_2(name: str, real: RealTask) -> None:
    assert scores(real(name), memoryless(torch.zeros(88))) == pytest.approx((88 * math.log(2.0),) * 2, rel=1e-6)


@each_set
def test_a_markov_chain_as_a_model_scores_the_repeat_previous_baseline(name: str, real: RealTask) -> None:
    task = real(name)
    off, on = (torch.from_numpy(np.log(p / (1 - p))) for p in task.transitions)
    assert scores(task, memoryless(off, torch.diag(on - off))) == pytest.approx(GOLDEN[name].repeat, abs=6e-4)


def test_an_evaluation_agrees_with_a_naive_computation(real: RealTask, data_dir: Path) -> None:
    task, model = real("jsb_chorales"), random_gru()
    nll = [naive_nll(model, roll) for roll in store.load(task.data_set, data_dir)["test"]]
    by_step = sum(map(sum, nll)) / sum(map(len, nll))
    by_sequence = sum(sum(frames) / len(frames) for frames in nll) / len(nll)
    assert abs(by_step - by_sequence) > 1e-3
    assert scores(task, model) == pytest.approx((by_step, by_sequence), rel=1e-12)


@pytest.mark.parametrize("name", ["jsb_chorales", "piano_midi"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_batches_by_length_do_not_change_a_loss(
    name: str, dtype: torch.dtype, tolerance: float, real: RealTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, model = real(name), random_gru(dtype)
    measured = []
    for size in (64, 7, 1):
        monkeypatch.setattr(music, "EVALUATION_BATCH", size)
        batches = list(task.evaluation_batches("valid"))
        assert len(batches) == -(-GOLDEN[name].sequences[1] // size)
        measured.append(evaluate(model, task.loss, batches))
    assert measured[1:] == [pytest.approx(measured[0], rel=tolerance)] * 2


@each_set
def test_an_evaluation_meets_every_sequence_once(name: str, real: RealTask, data_dir: Path) -> None:
    task = real(name)
    raw = store.load(task.data_set, data_dir)
    for split in SPLITS[1:]:
        met = counted(s for batch in task.evaluation_batches(split) for s in unpack(batch))
        assert met == counted(raw[split])


@pytest.mark.parametrize("pool", [1, 8])
@pytest.mark.parametrize("batch_size", [1, 10, 1000])
def test_an_epoch_meets_every_sequence_once(pool: int, batch_size: int, data_dir: Path) -> None:
    task = prepared("jsb_chorales", data_dir, pool)
    raw = counted(store.load(task.data_set, data_dir)["train"])
    for epoch in range(2):
        batches = list(task.training_batches(3, epoch, batch_size))
        assert len(batches) == task.updates_in_epoch(batch_size) == -(-229 // batch_size)
        assert sorted(b.batch_sizes[0] for b in batches)[1:] == [batch_size] * (len(batches) - 1)
        assert counted(s for batch in batches for s in unpack(batch)) == raw


def test_a_pool_makes_batches_of_similar_length(data_dir: Path) -> None:
    steps = [
        sum(len(batch.batch_sizes) for batch in prepared("nottingham", data_dir, pool).training_batches(0, 0, 10))
        for pool in (1, 8)
    ]
    assert steps[1] < 0.67 * steps[0]


def order_of(task: Music, seed: int, epoch: int) -> list[bytes]:
    return [batch.inputs.numpy().tobytes() for batch in task.training_batches(seed, epoch, 2)]


@pytest.mark.parametrize("pool", [1, 2])
def test_the_order_is_a_function_of_seed_and_epoch(tiny_dir: Path, pool: int) -> None:
    task, other = (prepared("tiny", tiny_dir, pool) for _ in range(2))
    orders = {(seed, epoch): order_of(task, seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(set(map(tuple, orders.values()))) == 9
    assert all(order_of(other, *key) == known for key, known in reversed(orders.items()))
    tail = [batch.inputs.numpy().tobytes() for batch in task.training_batches(1, 2, 2, start=3)]
    assert tail == orders[1, 2][3:]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10, 11])
@pytest.mark.parametrize("pool", [1, 2, 8])
def test_packing_loses_and_invents_nothing(tiny_dir: Path, pool: int, batch_size: int) -> None:
    task = prepared("tiny", tiny_dir, pool)
    raw = store.load(task.data_set, tiny_dir)
    batches = list(task.training_batches(0, 0, batch_size))
    assert counted(s for batch in batches for s in unpack(batch)) == counted(raw["train"])
    assert sum(len(batch.inputs) for batch in batches) == sum(T - 1 for T in LENGTHS["train"])
    assert len(batches) == task.updates_in_epoch(batch_size) == -(-10 // batch_size)


def test_padding_never_counts(tiny_dir: Path) -> None:
    """The losses, and the gradient, of a packed batch are those of its sequences alone."""
    task, model = prepared("tiny", tiny_dir), random_gru()
    batch = task.training_batch(0, 0, 0, 100).to(torch.device("cpu"), torch.float64)

    def loss_and_gradient(batches: list[Batch]) -> tuple[float, Tensor]:
        model.zero_grad()
        losses = [task.loss.row(model(b.inputs, b.batch_sizes), b.targets).sum() for b in batches]
        torch.stack(losses).sum().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return sum(loss.item() for loss in losses), torch.cat(gradients)

    singles = [torch.from_numpy(roll).double() for roll in unpack(batch)]
    alone = [Batch(s[:-1], [1] * (len(s) - 1), s[1:], torch.zeros(len(s) - 1, dtype=torch.long)) for s in singles]
    (packed, packed_grad), (summed, summed_grad) = loss_and_gradient([batch]), loss_and_gradient(alone)
    assert len(alone) == 10
    assert packed == pytest.approx(summed, rel=1e-12)
    assert torch.allclose(packed_grad, summed_grad, rtol=1e-10, atol=1e-10)
    assert packed == pytest.approx(sum(sum(naive_nll(model, s.numpy().astype(np.uint8))) for s in singles), rel=1e-12)


@pytest.mark.parametrize(("factor", "succeeds"), [(0.0, True), (0.79, True), (0.81, False), (1.0, False)])
def test_success_is_to_beat_the_marginal_baseline_by_the_margin(tiny_dir: Path, factor: float, succeeds: bool) -> None:
    task = prepared("tiny", tiny_dir, margin=0.2)
    for split in SPLITS:
        baseline = task.baselines(split)["marginal frequencies"]["nll_step"]
        assert task.succeeds({"nll_step": factor * baseline, "nll_seq": 1e9}, split) is succeeds


@pytest.mark.parametrize(
    ("data", "pool", "message"),
    [
        ("jsb", 8, r"task\.data=jsb: not known\. Allowed: jsb_chorales, musedata, nottingham, piano_midi"),
        ("jsb_chorale", 8, r"Did you mean 'jsb_chorales'\?"),
        ("nottingham", 0, r"task\.pool=0: must be a whole number of at least 1"),
    ],
)
def test_a_bad_option_is_named_with_its_value(data: str, pool: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Music(data=data, pool=pool, margin=0.05, solved=None)
