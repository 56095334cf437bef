"""The kernels against the reference, piece by piece: functions, random numbers, loss, every gradient."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax

from rnnbench.cells import Cell, LSTMCell
from rnnbench.compose import compose_config
from rnnbench.kernels.compiled import CELLS, encode_batches, encode_rolls, places, shape_of
from rnnbench.kernels.library import Data, Flat, Library, open_library
from rnnbench.model import Model
from rnnbench.seeding import noise_key, normals
from rnnbench.tasks.base import BERNOULLI, CATEGORICAL, SQUARED_ERROR, Batch, Loss
from rnnbench.tasks.music import Rolls
from rnnbench.train import Member
from tests.test_cells import ORACLES, VARIANTS, by_block

DTYPES = ("float32", "float64")
Array = np.ndarray

# ------------------------------------------------------------ functions and random numbers

FUNCTIONS: list[tuple[str, int, Callable[[Array], Array], float, float, float]] = [
    ("exp", 0, np.exp, -87.0, 0.0, 2.0),
    ("sigmoid", 1, expit, -87.0, 87.0, 3.0),
    ("tanh", 2, np.tanh, -30.0, 30.0, 4.0),
    ("log(1 + x)", 3, np.log1p, 0.0, 1.0, 2.0),
]
"""Name, number, specification, range, and how many units in the last place they may be away."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "which", "exact", "low", "high", "ulps"), FUNCTIONS)
def test_functions_are_those_of_numpy(
    name: str, which: int, exact: Callable[[Array], Array], low: float, high: float, ulps: float, dtype: str
) -> None:
    near_zero = np.geomspace(1e-30, 1.0, 4096)
    x = np.concatenate([np.linspace(low, high, 1 << 16), near_zero, -near_zero, [low, high, 0.0, -0.0], np.zeros(12)])
    x = x[(x >= low) & (x <= high)].astype(dtype)
    x = np.ascontiguousarray(x[: len(x) // 16 * 16])
    y = open_library(dtype).function(which, x)
    expected = exact(x.astype(np.longdouble))
    unit = np.spacing(np.maximum(np.abs(expected), np.finfo(dtype).tiny).astype(dtype)).astype(np.longdouble)
    assert float((np.abs(y - expected) / unit).max()) <= ulps, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_have_their_limits_and_pass_on_what_is_not_a_number(dtype: str) -> None:
    library = open_library(dtype)
    x = np.array([-np.inf, -1e30, 1e30, np.inf] * 4, dtype=dtype)
    assert library.function(1, x).tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0] * 4, abs=1e-37)
    assert library.function(2, x).tolist() == [-1.0, -1.0, 1.0, 1.0] * 4
    assert library.function(0, np.full(16, -np.inf, dtype=dtype)).tolist() == pytest.approx([0.0] * 16, abs=1e-37)
    for which in range(4):
        assert bool(np.isnan(library.function(which, np.full(16, np.nan, dtype=dtype))).all()), which


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("index", [0, 7, 2**32 + 5])
def test_the_noise_is_that_of_its_specification(dtype: str, error: float, index: int) -> None:
    out = np.empty(128 * 1024, dtype=dtype)
    open_library(dtype).normals(noise_key(3, "noise"), index, out)
    np.testing.assert_allclose(out, normals(3, "noise", index, out.size), rtol=0, atol=error)


# ------------------------------------------------------------ losses and gradients

LENGTHS: dict[str, list[int]] = {
    "one step": [1],
    "two steps": [2],
    "one long": [299],
    "five": [1, 2, 9, 4, 1],
    "twenty": np.random.default_rng(0).integers(1, 40, 20).tolist(),
    "sixteen equal": [17] * 16,
    "seventy": np.random.default_rng(1).integers(1, 12, 70).tolist(),
}
FACTORS: dict[str, tuple[Any, ...]] = {
    "variant": tuple(range(len(VARIANTS))),
    "hidden": (1, 7, 16, 33, 36, 46, 100, 230),
    "inputs": (1, 5, 88),
    "lengths": tuple(LENGTHS),
    "form": ("rolls", "classes", "numbers at the last step", "numbers at some rows"),
    "threads": (1, 2, 3),
}


def pairs(case: tuple[Any, ...]) -> set[tuple[Any, ...]]:
    return set(itertools.combinations(enumerate(case), 2))


def covering() -> Iterator[tuple[Any, ...]]:
    """Cases in which every two values of two factors meet at least once: of some, always the one that adds most."""
    product = list(itertools.product(*FACTORS.values()))
    left = set().union(*map(pairs, product))
    generator = np.random.default_rng(0)
    while left:
        sample = [product[i] for i in generator.choice(len(product), 150, replace=False)]
        best = max(sample, key=lambda case: len(pairs(case) & left))
        if found := pairs(best) & left:
            left -= found
            yield best


@dataclass
class Problem:
    """A model with random parameters, biases and peepholes too, and one batch of random data."""

    member: Member
    loss: Loss
    batch: Batch
    sequences: Array
    """The place of each sequence of ``batch`` (longest first) in the numbering of the kernels."""
    rolls: Rolls | None

    @classmethod
    def random(cls, variant: int, hidden: int, inputs: int, lengths: list[int], form: str, seed: int = 0) -> "Problem":
        rng = np.random.default_rng(seed)
        cell_class, options = VARIANTS[variant]
        loss = {"rolls": BERNOULLI, "classes": CATEGORICAL}.get(form, SQUARED_ERROR)
        model = Model(cell_class(inputs, hidden, **options), hidden, inputs if form == "rolls" else 9).double()
        for name, p in model.named_parameters():
            scale = {"cell.weight_hh": hidden**-0.5, "cell.weight_ih": (1 + inputs / 4) ** -0.5}.get(name, 0.5)
            p.data.copy_(torch.from_numpy(rng.normal(0, scale, p.shape)))
        member = Member(model, compose_config("train=chung2014", "task=adding").train, seed)
        chosen = np.arange(len(lengths))
        if form == "rolls":
            rolls = Rolls([(rng.random((n + 1, inputs)) < 0.2).astype(np.uint8) for n in lengths])
            return cls(member, loss, rolls.batch(chosen), chosen[np.argsort(-np.array(lengths), kind="stable")], rolls)
        return cls(member, loss, packed(rng, sorted(lengths, reverse=True), inputs, form), chosen, None)

    def reference(self, weight: float) -> tuple[Array, Array]:
        """The loss of each sequence in the numbering of the kernels, and the gradient of ``weight`` times their sum."""
        member, batch = self.member, self.batch.to(torch.device("cpu"), torch.float64)
        member.grad.zero_()
        rows = self.loss.row(member.model(batch.inputs, batch.batch_sizes, batch.scored), batch.targets)
        (weight * rows.sum()).backward()
        losses = np.zeros(len(self.sequences))
        np.add.at(losses, self.sequences[batch.sequence.numpy()], rows.detach().numpy())
        return losses, member.grad.numpy()

    def compiled(self, library: Library, weight: float, threads: int) -> tuple[Array, Array, Array]:
        """The same by the kernels, with the losses once more as `Library.evaluate` has them."""
        dtype: torch.dtype = getattr(torch, library.dtype)
        task: Any = SimpleNamespace(loss=self.loss, output_size=self.member.model.readout.out_features)
        shape = shape_of(self.member.model, task)
        data, chosen = self.encoded(dtype)
        theta = self.member.theta.to(dtype)
        gradient = torch.full_like(theta, torch.nan)
        place = places(self.member, library, shape)
        flat = Flat(len(theta), place.ctypes.data, theta.data_ptr(), gradient.data_ptr(), None)
        count = len(self.sequences)
        losses = library.gradient(shape, data, flat, chosen, weight, count, threads)
        evaluated = library.evaluate(shape, data, flat, [chosen], count)
        return losses, gradient.numpy().astype(np.float64), evaluated

    def encoded(self, dtype: torch.dtype) -> tuple[Data, Array]:
        if self.rolls is not None:
            return encode_rolls(self.rolls), np.arange(len(self.sequences))
        encoded = encode_batches([self.batch], self.loss, dtype)
        return encoded.data, encoded.order[0]

    def assert_close(self, actual: Array, expected: Array, error: float) -> None:
        """Every parameter's gradient by itself, relative to its own largest number."""
        shapes = dict(self.member.model.named_parameters())
        ends = np.cumsum([shapes[name].numel() for name in self.member.parameters])
        for name, a, b in zip(self.member.parameters, np.split(actual, ends), np.split(expected, ends), strict=False):
            assert float(np.abs(a - b).max()) <= error * float(np.abs(b).max()) + 1e-30, name


def packed(rng: np.random.Generator, lengths: list[int], inputs: int, form: str) -> Batch:
    """Random inputs, scored as ``form`` says, for sequences of ``lengths``, longest first."""
    sizes = [sum(n > t for n in lengths) for t in range(lengths[0])]
    first, sequence = np.cumsum([0, *sizes]), np.concatenate([np.arange(size) for size in sizes])
    scored = None
    if form == "numbers at the last step":
        scored = np.array([first[n - 1] + s for s, n in enumerate(lengths)])
    elif form == "numbers at some rows":
        scored = np.sort(rng.choice(len(sequence), -(-len(sequence) // 3), replace=False))
    rows = len(sequence) if scored is None else len(scored)
    return Batch(
        inputs=torch.from_numpy(rng.normal(0, 1, (len(sequence), inputs))).float(),
        batch_sizes=sizes,
        targets=torch.from_numpy(rng.integers(0, 9, rows) if form == "classes" else rng.normal(0, 1, (rows, 9))),
        sequence=torch.from_numpy(sequence if scored is None else sequence[scored]),
        scored=None if scored is None else torch.from_numpy(scored),
    )


def assert_gradients_agree(case: tuple[Any, ...], libraries: dict[float, Library]) -> None:
    variant, hidden, inputs, lengths, form, threads = case
    problem = Problem.random(variant, hidden, inputs, LENGTHS[lengths], form)
    losses, gradient = problem.reference(weight=0.7)
    for error, library in libraries.items():
        got_losses, got, evaluated = problem.compiled(library, 0.7, threads)
        np.testing.assert_allclose(got_losses, losses, rtol=error, atol=error)
        np.testing.assert_allclose(evaluated, got_losses, rtol=error / 10, atol=error / 10)
        problem.assert_close(got, gradient, error)


@pytest.mark.parametrize("case", list(covering()), ids=lambda case: "-".join(map(str, case)))
def test_loss_and_every_gradient_are_those_of_the_reference(case: tuple[Any, ...]) -> None:
    assert_gradients_agree(case, {1e-4: open_library("float32"), 1e-10: open_library("float64")})


@pytest.mark.parametrize("form", FACTORS["form"])
@pytest.mark.parametrize("variant", FACTORS["variant"])
def test_the_loss_is_that_of_the_equations_in_numpy(variant: int, form: str) -> None:
    cell_class, _ = VARIANTS[variant]
    problem = Problem.random(variant, 7, 5, [9], form, seed=1)
    model, batch, oracle = problem.member.model, problem.batch, ORACLES[cell_class]
    assert isinstance(model.cell, Cell)
    w = by_block(oracle.rows, model.cell)
    state: tuple[Array, ...] = (np.zeros((1, 7)),) * oracle.states
    outputs = np.stack([(state := oracle.step(w, x[None], *state))[0][0] for x in batch.inputs.double().numpy()])
    y = outputs @ model.readout.weight.detach().numpy().T + model.readout.bias.detach().numpy()
    y = y if batch.scored is None else y[batch.scored.numpy()]
    target = batch.targets.numpy()
    if form == "rolls":
        p = expit(y)
        expected = -np.log(np.where(target == 1, p, 1 - p)).sum()
    elif form == "classes":
        expected = -log_softmax(y, axis=1)[np.arange(len(y)), target].sum()
    else:
        expected = ((y - target) ** 2).sum()
    losses, _, evaluated = problem.compiled(open_library("float64"), 1.0, 1)
    assert losses[0] == pytest.approx(expected, rel=1e-12)
    assert evaluated[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_computed_before_leaves_no_trace(dtype: str) -> None:
    """Memory is kept from call to call: what a step of another size left there must not be read."""
    library, number = open_library(dtype), VARIANTS.index((LSTMCell, {}))
    problem = Problem.random(number, 5, 3, [40, 3, 3], "rolls")
    losses, gradient, _ = problem.compiled(library, 1.0, 1)
    for other in range(6):
        Problem.random(other % len(VARIANTS), 33 - other, 9, [60 + 13 * other] * 3, "rolls").compiled(library, 1.0, 1)
        again, got, _ = problem.compiled(library, 1.0, 1)
        assert np.array_equal(losses, again)
        assert np.array_equal(gradient, got)


def test_every_cell_that_has_kernels_is_compared() -> None:
    assert {cell for cell, _ in VARIANTS} == set(CELLS)
