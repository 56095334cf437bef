"""Gradients through time, gates and spectral radii, against NumPy and against cases whose answer is known."""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit as sigmoid
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import rnnbench.runner
from rnnbench.cells import Cell, CuDNNGRUCell, GRUCell, LSTMCell, TanhCell
from rnnbench.compose import compose_config
from rnnbench.diagnosis import Diagnosis, Spread, measure, pack, sample, sequence_of, spectral_radii
from rnnbench.errors import UserError
from rnnbench.model import Model, steps
from rnnbench.record import Record, finite
from rnnbench.run import run
from rnnbench.tasks.base import BERNOULLI, Batch
from tests.conftest import TINY
from tests.test_cells import Array, Example, by_block

I, H, O = 3, 6, 2  # noqa: E741 (inputs, units, outputs)
Sequence = tuple[Tensor, Tensor, Tensor]


def random_model(cell: nn.Module, scale: float = 0.5, seed: int = 0) -> Model:
    """A model whose parameters are all random, in double precision."""
    model = Model(cell, H, O).double()
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data.normal_(0, scale, generator=generator)
    return model


def random_sequences(*lengths: int, scored: int | None = None, size: float = 1.0) -> list[Sequence]:
    """Sequences of random inputs and targets, the first ``scored`` steps of which have one."""
    rng = np.random.default_rng(0)
    found = []
    for T in lengths:
        M = T if scored is None else scored
        x, y = size * rng.normal(0, 1, (T, I)), rng.integers(0, 2, (M, O)).astype(float)
        found.append((torch.from_numpy(x), torch.from_numpy(y), torch.arange(M)))
    return found


def norms(found: Diagnosis, state: str = "h") -> Array:
    """The mean norms by lag, of a single sequence."""
    return np.asarray(10.0 ** found.gradient[state].log10_mean)


def by_jacobians(model: Model, x: Array, y: Array, T: int) -> Array:
    """‖∂loss_T/∂h_t‖ for t = T, T-1, … 0 of a tanh model with the Bernoulli loss, as a product of Jacobians."""
    cell = model.cell
    assert isinstance(cell, TanhCell)
    parameters = (cell.weight_ih, cell.weight_hh, cell.bias, model.readout.weight, model.readout.bias)
    W, U, b, V, c = (p.detach().numpy() for p in parameters)
    h, hs = np.zeros(H), []
    for x_t in x[: T + 1]:
        h = np.tanh(W @ x_t + U @ h + b)
        hs.append(h)
    delta = V.T @ (sigmoid(V @ h + c) - y[T])
    found = [np.linalg.norm(delta)]
    for h in reversed(hs[1:]):
        delta = U.T @ ((1 - h**2) * delta)  # h_t = tanh(U h_{t-1} + …)
        found.append(np.linalg.norm(delta))
    return np.array(found)


@pytest.mark.parametrize("scored", [None, 9], ids=["all steps scored", "nine steps scored"])
def test_the_gradient_of_a_tanh_cell_is_the_product_of_its_jacobians(scored: int | None) -> None:
    model, (sequence,) = random_model(TanhCell(I, H)), random_sequences(15, scored=scored)
    T = 14 if scored is None else scored - 1
    expected = by_jacobians(model, sequence[0].numpy(), sequence[1].numpy(), T)
    found = measure(model, BERNOULLI, pack([sequence]))
    np.testing.assert_allclose(norms(found), expected, rtol=1e-4)  # from the last scored row, and not from the last
    np.testing.assert_allclose(found.gradient["h"].log10_ratio, np.log10(expected / expected[0]), atol=1e-9)


def test_each_sequence_is_aligned_at_its_own_end_and_does_not_depend_on_the_others() -> None:
    model, sequences = random_model(LSTMCell(I, H)), random_sequences(5, 12, 9)
    together = measure(model, BERNOULLI, pack(sequences))
    alone = [measure(model, BERNOULLI, pack([s])) for s in sequences]
    for state in ("h", "c"):
        curve = together.gradient[state]
        assert curve.sequences.tolist() == [3] * 5 + [2] * 4 + [1] * 3
        for k in range(12):
            each = [of.gradient[state].log10_mean[k] for of in alone if k < len(of.gradient[state].log10_mean)]
            assert curve.log10_mean[k] == pytest.approx(np.mean(each), abs=1e-12)
            assert curve.log10_sd[k] == pytest.approx(np.std(each), abs=1e-9)


@pytest.mark.parametrize("rho", [0.5, 1.0, 1.1])
def test_near_zero_a_tanh_cell_scales_the_gradient_by_rho_at_every_step(rho: float) -> None:
    model = random_model(TanhCell(I, H))
    Q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(H, H)))
    model.cell.get_parameter("weight_hh").data.copy_(torch.from_numpy(rho * Q))
    model.cell.get_parameter("bias").data.zero_()
    (sequence,) = random_sequences(400, size=1e-30)
    found = measure(model, BERNOULLI, pack([sequence]))
    np.testing.assert_allclose(found.gradient["h"].log10_ratio, np.arange(400) * math.log10(rho), atol=1e-9)
    assert found.spectral_radius["h"] == pytest.approx(rho, rel=1e-12)


def held(cell: Cell, **biases: float) -> Model:
    """A random model of ``cell`` with some gates held by their biases."""
    model = random_model(cell)
    for block, bias in biases.items():
        cell.bias_of(block).data.fill_(bias)
    return model


@pytest.mark.parametrize(
    ("model", "state", "constant"),
    [
        (held(LSTMCell(I, H), f=1e3, i=-1e3), "c", True),
        (held(LSTMCell(I, H), f=-1e3, i=-1e3), "c", False),
        (held(GRUCell(I, H), z=-1e3), "h", True),
        (held(GRUCell(I, H), z=1e3), "h", False),
        (held(CuDNNGRUCell(I, H), z=1e3), "h", True),
        (held(CuDNNGRUCell(I, H), z=-1e3), "h", False),
        (held(TanhCell(I, H), h=2.0), "h", False),
    ],
    ids=["lstm f=1 i=0", "lstm f=0 i=0", "gru z=0", "gru z=1", "cudnn z=1", "cudnn z=0", "tanh"],
)
def test_the_gradient_goes_through_a_gate_that_holds_the_memory_and_else_vanishes(
    model: Model, state: str, constant: bool
) -> None:
    curve = measure(model, BERNOULLI, pack(random_sequences(40))).gradient[state]
    if constant:
        np.testing.assert_allclose(curve.log10_mean, curve.log10_mean[0], atol=1e-12)
    else:
        assert curve.zero[39] == 1.0 or curve.log10_ratio[39] < -3


def test_norms_whose_squares_underflow_are_measured_and_zeros_are_counted_and_left_out() -> None:
    model = random_model(TanhCell(I, H))
    model.cell.get_parameter("weight_hh").data.copy_(1e-10 * torch.eye(H))
    model.cell.get_parameter("bias").data.zero_()
    curve = measure(model, BERNOULLI, pack(random_sequences(50, size=1e-30))).gradient["h"]
    np.testing.assert_allclose(curve.log10_ratio[:30], -10.0 * np.arange(30), atol=1e-9)  # to 1e-290
    assert curve.zero[:30].max() == 0.0
    assert curve.zero[40:].min() == 1.0
    assert np.isnan(curve.log10_mean[40:]).all()
    assert json.loads(json.dumps(finite(curve.as_dict())))["log10_mean"][45] is None


# ---------------------------------------------------------------------------------------------------- gates


def states_from_gates(example: Example, gates: dict[str, Array], x: Array, before: tuple[Array, ...]) -> Any:
    """The states that the gates make of the state before, by equations written once more."""
    w, h = by_block(example.oracle.rows, example.cell), before[0]
    g = SimpleNamespace(**gates)
    if isinstance(example.cell, LSTMCell):
        c = g.forget * before[1] + g.input * np.tanh(x @ w.W_c_tilde + h @ w.U_c_tilde + w.b_c_tilde)
        return g.output * np.tanh(c), c
    if isinstance(example.cell, CuDNNGRUCell):
        h_tilde = np.tanh(x @ w.W_h_tilde + g.reset * (h @ w.U_h_tilde) + w.b_h_tilde)
        return ((1 - g.update) * h_tilde + g.update * h,)
    h_tilde = np.tanh(x @ w.W_h_tilde + (g.reset * h) @ w.U_h_tilde + w.b_h_tilde)
    return ((1 - g.update) * h + g.update * h_tilde,)


def gates_of(example: Example, cell: Cell, n: int) -> dict[str, Array]:
    """The gates of ``cell`` at step ``n`` of an example, by its own states."""
    states = [tuple(torch.from_numpy(s) for s in example.state), *(tuple(s) for s in example.states())]
    before, after = (s if len(s) > 1 else s[0] for s in (states[n], states[n + 1]))
    wx = cell.project(torch.from_numpy(example.x[n]))
    return {name: gate.detach().numpy() for name, gate in cell.gates(wx, before, after).items()}


def off(example: Example, cell: Cell) -> float:
    """By how much the states that the gates of ``cell`` make differ from the oracle's."""
    expected = [example.state, *(tuple(s) for s in example.expected())]
    worst = 0.0
    for n, x in enumerate(example.x):
        made = states_from_gates(example, gates_of(example, cell, n), x, expected[n])
        worst = max(worst, *(float(abs(a - b).max()) for a, b in zip(made, expected[n + 1], strict=True)))
    return worst


GATED = [(LSTMCell, {}), (LSTMCell, {"peepholes": False}), (GRUCell, {}), (CuDNNGRUCell, {})]


@pytest.mark.parametrize(("cell_class", "options"), GATED)
def test_the_gates_make_the_states_of_the_equations(cell_class: type[Cell], options: dict[str, Any]) -> None:
    example = Example(cell_class, **options)
    assert off(example, example.cell) < 1e-12


class OldMemory(LSTMCell):
    def gates(self, wx: Tensor, before: Any, after: Any) -> dict[str, Tensor]:
        return super().gates(wx, before, before)


class InputAndForgetSwapped(LSTMCell):
    def gates(self, wx: Tensor, before: Any, after: Any) -> dict[str, Tensor]:
        found = super().gates(wx, before, after)
        return {**found, "input": found["forget"], "forget": found["input"]}


class Complement(GRUCell):
    def gates(self, wx: Tensor, before: Any, after: Any) -> dict[str, Tensor]:
        found = super().gates(wx, before, after)
        return {**found, "update": 1 - found["update"]}


class UpdateAndResetSwapped(GRUCell):
    def gates(self, wx: Tensor, before: Any, after: Any) -> dict[str, Tensor]:
        found = super().gates(wx, before, after)
        return {"update": found["reset"], "reset": found["update"]}


@pytest.mark.parametrize("mutant", [OldMemory, InputAndForgetSwapped, Complement, UpdateAndResetSwapped])
def test_the_oracle_of_the_gates_tells_each_mutant(mutant: type[Cell]) -> None:
    example = Example(LSTMCell if issubclass(mutant, LSTMCell) else GRUCell)
    other = mutant(example.cell.input_size, example.cell.hidden_size).double()
    other.load_state_dict(example.cell.state_dict())
    assert off(example, other) > 1e-3


def test_a_gate_that_is_held_open_has_mean_one_and_is_saturated() -> None:
    cell = LSTMCell(I, H, forget_bias=100.0)
    cell.reset_parameters(torch.Generator().manual_seed(0))
    model = Model(cell, H, O).double()
    found = measure(model, BERNOULLI, pack(random_sequences(9, 7)))
    assert set(found.gates) == {"input", "forget", "output"}
    forget = found.gates["forget"]
    assert (forget.mean, forget.below, forget.above) == (1.0, 0.0, 1.0)
    assert forget.counts == [0] * 19 + [16 * H]
    assert found.gates["input"].above == 0.0
    assert found.sequences == 2
    assert found.steps == 16


def test_a_spread_counts_what_is_there() -> None:
    spread = Spread.of(torch.tensor([[0.0, 0.04, 0.12], [0.5, 0.92, 1.0]], dtype=torch.float64))
    assert spread.mean == pytest.approx(0.43)
    assert (spread.below, spread.above) == (2 / 6, 2 / 6)
    assert spread.counts == [2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]


def test_the_saturation_of_h_is_that_of_its_absolute_value() -> None:
    found = measure(held(TanhCell(I, H), h=-100.0), BERNOULLI, pack(random_sequences(6)))
    assert found.abs_h.above == 1.0
    assert found.gates == {}


# ---------------------------------------------------------------------------------------------------- radii, samples


@pytest.mark.parametrize("cell_class", [TanhCell, LSTMCell, GRUCell, CuDNNGRUCell])
def test_the_spectral_radius_is_the_largest_eigenvalue_and_one_at_orthogonal_initialisation(
    cell_class: type[Cell],
) -> None:
    cell = cell_class(I, H)
    cell.reset_parameters(torch.Generator().manual_seed(0))
    assert list(spectral_radii(cell)) == list(cell_class.blocks)
    assert all(radius == pytest.approx(1.0, abs=1e-5) for radius in spectral_radii(cell).values())
    cell.weight_hh.data.normal_(generator=torch.Generator().manual_seed(1))
    pieces = np.split(cell.weight_hh.detach().double().numpy(), len(cell_class.blocks))
    expected = [np.abs(np.linalg.eigvals(U)).max() for U in pieces]
    assert list(spectral_radii(cell).values()) == pytest.approx(expected, rel=1e-12)


def test_a_cell_of_torch_is_measured_too_and_one_without_weight_hh_has_no_radius() -> None:
    found = measure(random_model(nn.LSTMCell(I, H)), BERNOULLI, pack(random_sequences(5, 3)))
    assert list(found.spectral_radius) == ["0", "1", "2", "3"]
    assert set(found.gradient) == {"h", "c"}
    assert found.gates == {}
    assert spectral_radii(nn.Linear(3, 3)) == {}


class Own(nn.Module):
    """A cell of one's own with gates and dropout, and a state that counts steps."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(I + H, H)

    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
        h, n = (x.new_zeros(len(x), H), x.new_zeros(len(x))) if state is None else state
        h = torch.tanh(self.linear(torch.cat([x, h], 1)))
        return h + 0.1 * torch.rand_like(h), n + 1

    def gates(self, x: Tensor, before: Any, after: Any) -> dict[str, Tensor]:
        assert (before is None) == bool((after[1] == 1).all())
        return {"half": torch.full_like(after[0], 0.5)}


def test_a_cell_of_ones_own_may_show_its_gates_and_its_random_numbers_are_put_back() -> None:
    model, batch = random_model(Own()), pack(random_sequences(5, 3))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    found = measure(model, BERNOULLI, batch)
    assert torch.equal(torch.rand(1), expected)
    assert found.gates["half"].mean == 0.5
    assert found.gradient["c"].zero.tolist() == [1.0] * 5
    assert measure(model, BERNOULLI, batch).as_dict()["gradient"]["h"] == found.as_dict()["gradient"]["h"]


class Single(Own):
    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
        return super().forward(x.float(), state)


def test_a_cell_that_cannot_compute_in_double_precision_is_told() -> None:
    with pytest.raises(UserError, match=r"Single: gates and gradients are measured in float64.*x\.new_zeros"):
        measure(random_model(Single()), BERNOULLI, pack(random_sequences(5)))


def test_a_sample_is_evenly_spaced_the_same_sequences_and_bounded() -> None:
    sequences = random_sequences(*range(40, 0, -1))
    batches = [pack(sequences[:25]), pack(sequences[25:])]
    lengths = lengths_of(sample(batches, most=4))
    assert lengths == [40, 27, 14, 1]
    assert lengths_of(sample(batches, most=4, most_steps=60)) == [40, 1]
    assert lengths_of(sample(batches, most=4, most_steps=5)) == [40]
    assert lengths_of(sample(batches)) == sorted(lengths_of(sample(batches)), reverse=True)
    chosen = sample(batches, most=4)
    for n, length in enumerate(lengths):
        for a, b in zip(sequence_of(chosen, n), sequences[40 - length], strict=True):
            assert torch.equal(a, b)


def lengths_of(batch: Batch) -> list[int]:
    return [sum(n > b for n in batch.batch_sizes) for b in range(batch.batch_sizes[0])]


def test_every_step_is_that_of_the_unrolled_cell() -> None:
    model, batch = random_model(GRUCell(I, H)), pack(random_sequences(5, 3, 2))
    walk = list(steps(model.cell, batch.inputs, batch.batch_sizes))
    outputs = model(batch.inputs, batch.batch_sizes)
    h = torch.cat([step.after for step in walk if isinstance(step.after, Tensor)])
    assert torch.equal(model.readout(h), outputs)


# ---------------------------------------------------------------------------------------------------- while training

ARGUMENTS = ("cell=lstm", "task=adding", *TINY, "train.max_epochs=4", "checkpoint_every_s=0")


def trained(results: Path, *overrides: str) -> Record:
    config = compose_config(*ARGUMENTS, f"results_dir={results}", *overrides)
    assert run(config)["status"] == "done"
    return Record.of(config)


def weights(record: Record) -> Tensor:
    theta: Tensor = torch.load(record.last, weights_only=True)["theta"]
    return theta


@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_measuring_while_training_changes_no_bit_of_it(kernel: str, tmp_path: Path) -> None:
    without = trained(tmp_path / "without", f"kernel={kernel}")
    with_ = trained(tmp_path / "with", f"kernel={kernel}", "diagnose_every=1")
    assert with_.path.name == without.path.name, "it is no part of a run's identity"
    assert torch.equal(weights(without), weights(with_))
    shown = [{k: v for k, v in row.items() if k != "wall_s"} for row in without.metrics()]
    assert shown == [{k: v for k, v in row.items() if k != "wall_s"} for row in with_.metrics()]
    assert not without.diagnostics_file.exists()
    assert [row["epoch"] for row in with_.diagnostics()] == [0, 1, 2, 3, 4]


def test_what_is_measured_is_in_the_record_and_in_tensorboard(tmp_path: Path) -> None:
    record = trained(tmp_path, "diagnose_every=2")
    rows = record.diagnostics()
    assert [(row["epoch"], row["update"]) for row in rows] == [(0, 0), (2, 10), (4, 20)]
    assert all(radius == pytest.approx(1.0, abs=1e-5) for radius in rows[0]["spectral_radius"].values())
    events = EventAccumulator(str(record.path), size_guidance={"histograms": 0})
    events.Reload()
    tags = events.Tags()
    for tag in ("gates/forget/mean", "gates/input/below_0.1", "gates/output/above_0.9", "abs_h/above_0.9"):
        assert tag in tags["scalars"]
    assert {"gradient/h/lag_1", "gradient/c/lag_10", "spectral_radius/c_tilde"} <= set(tags["scalars"])
    assert {"gates/forget", "abs_h", "gradient/h", "gradient/c"} <= set(tags["histograms"])
    shown = [(e.step, e.value) for e in events.Scalars("gates/forget/mean")]
    assert shown == [(row["update"], pytest.approx(row["gates"]["forget"]["mean"])) for row in rows]
    last = events.Histograms("gates/forget")[-1].histogram_value
    assert last.num == 32 * 12 * 5


class KilledError(BaseException):
    """Stands for a signal that cannot be caught."""


def test_a_run_that_was_stopped_has_the_same_measurements_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("diagnose_every=1", "kernel=reference")
    expected = trained(tmp_path / "whole", *arguments).diagnostics_file.read_bytes()
    calls = itertools.count(1)
    save = rnnbench.runner.Runner._save_sometimes

    def kill(self: rnnbench.runner.Runner) -> None:
        if next(calls) == 1 + 2 * 6:  # epoch 2 is measured, and the checkpoint after it not written
            raise KilledError
        save(self)

    config = compose_config(*ARGUMENTS, f"results_dir={tmp_path / 'killed'}", *arguments)
    record = Record.of(config)
    with monkeypatch.context() as patch:
        patch.setattr(rnnbench.runner.Runner, "_save_sometimes", kill)
        with pytest.raises(KilledError):
            run(config)
    assert [row["epoch"] for row in record.diagnostics()] == [0, 1, 2]
    with record.diagnostics_file.open("a") as file:
        file.write('{"epoch": 3, "upd')
    assert run(config)["status"] == "done"
    assert record.diagnostics_file.read_bytes() == expected


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "often"])
def test_a_wrong_interval_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="diagnose_every"):
        compose_config(f"diagnose_every={value}")
