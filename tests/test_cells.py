"""Every cell against its equations written a second time in NumPy, and against `torch.nn`."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit as sigmoid
from scipy.stats import kstest
from torch import Tensor, nn

from rnnbench import cells
from rnnbench.cells import Cell, CuDNNGRUCell, GRUCell, LSTMCell, State, TanhCell
from rnnbench.errors import UserError

Array = NDArray[np.float64]
Options = dict[str, Any]
TorchCell = type[nn.RNNCell] | type[nn.LSTMCell] | type[nn.GRUCell]
CELLS = [c for c in vars(cells).values() if isinstance(c, type) and issubclass(c, Cell) and not inspect.isabstract(c)]
VARIANTS: list[tuple[type[Cell], Options]] = [*((c, {}) for c in CELLS), (LSTMCell, {"peepholes": False})]
T, B, I, H = 6, 3, 4, 5  # noqa: E741 (steps, sequences, inputs, units)


def by_block(rows: tuple[str, ...], cell: Cell) -> SimpleNamespace:
    """A cell's parameters by letter and block: W_i (I, H), U_i (H, H), b_i and V_i (H,)."""
    letters = {"weight_ih": "W", "weight_hh": "U", "bias": "b", "peephole": "V"}
    named: dict[str, Any] = dict.fromkeys(("V_i", "V_f", "V_o"), 0.0)
    for name, p in cell.named_parameters():
        blocks = ("i", "f", "o") if name == "peephole" else rows
        for k, piece in zip(blocks, np.split(p.detach().numpy(), len(blocks)), strict=True):
            named[f"{letters[name]}_{k}"] = piece.T
    return SimpleNamespace(**named)


def tanh(w: SimpleNamespace, x: Array, h: Array) -> tuple[Array, ...]:
    return (np.tanh(x @ w.W_h + h @ w.U_h + w.b_h),)


def lstm(w: SimpleNamespace, x: Array, h: Array, c_old: Array) -> tuple[Array, ...]:
    i = sigmoid(x @ w.W_i + h @ w.U_i + w.V_i * c_old + w.b_i)
    f = sigmoid(x @ w.W_f + h @ w.U_f + w.V_f * c_old + w.b_f)
    c = f * c_old + i * np.tanh(x @ w.W_c_tilde + h @ w.U_c_tilde + w.b_c_tilde)
    o = sigmoid(x @ w.W_o + h @ w.U_o + w.V_o * c + w.b_o)
    return o * np.tanh(c), c


def gru(w: SimpleNamespace, x: Array, h: Array) -> tuple[Array, ...]:
    z = sigmoid(x @ w.W_z + h @ w.U_z + w.b_z)
    r = sigmoid(x @ w.W_r + h @ w.U_r + w.b_r)
    h_tilde = np.tanh(x @ w.W_h_tilde + (r * h) @ w.U_h_tilde + w.b_h_tilde)
    return ((1 - z) * h + z * h_tilde,)


def cudnn_gru(w: SimpleNamespace, x: Array, h: Array) -> tuple[Array, ...]:
    r = sigmoid(x @ w.W_r + h @ w.U_r + w.b_r)
    z = sigmoid(x @ w.W_z + h @ w.U_z + w.b_z)
    h_tilde = np.tanh(x @ w.W_h_tilde + r * (h @ w.U_h_tilde) + w.b_h_tilde)
    return ((1 - z) * h_tilde + z * h,)


@dataclass(frozen=True)
class Oracle:
    """One step of a cell, the order of its blocks of rows, and how many tensors its state has."""

    step: Callable[..., tuple[Array, ...]]
    rows: tuple[str, ...]
    states: int = 1

    def mutated(self, old: str, new: str) -> "Oracle":
        """The oracle with one change in the text of its equations."""
        source, namespace = inspect.getsource(self.step), dict(globals())
        assert source.count(old) == 1, f"not in the equations exactly once: {old}"
        exec(source.replace(old, new), namespace)
        return replace(self, step=namespace[self.step.__name__])


ORACLES: dict[type[Cell], Oracle] = {
    TanhCell: Oracle(tanh, ("h",)),
    LSTMCell: Oracle(lstm, ("i", "f", "c_tilde", "o"), states=2),
    GRUCell: Oracle(gru, ("z", "r", "h_tilde")),
    CuDNNGRUCell: Oracle(cudnn_gru, ("r", "z", "h_tilde")),
}


class Example:
    """A cell with random weights, biases and peepholes, all of order one; inputs and a starting state."""

    def __init__(self, cell_class: type[Cell], **options: Any) -> None:
        rng = np.random.default_rng(0)
        self.oracle = ORACLES[cell_class]
        self.cell = cell_class(I, H, **options).double()
        for p in self.cell.parameters():
            p.data.copy_(torch.from_numpy(rng.normal(0, 0.8, p.shape)))
        self.x = rng.normal(0, 1, (T, B, I))
        self.state = tuple(rng.normal(0, 0.8, (B, H)) for _ in range(self.oracle.states))

    def expected(self, oracle: Oracle | None = None) -> Array:
        """The states (T, states, B, H) after each step by the oracle, or by another."""
        step, state = (oracle or self.oracle).step, self.state
        w = by_block((oracle or self.oracle).rows, self.cell)
        return np.stack([state := step(w, x_t, *state) for x_t in self.x])

    def states(self, other: nn.Module | None = None, *, halves: bool = False) -> Tensor:
        """The states by the forward of the cell, or of another, or by project and recurrence."""
        x, start = torch.from_numpy(self.x), tuple(torch.from_numpy(s) for s in self.state)
        state: State = start if len(start) > 1 else start[0]
        xs, step = (self.cell.project(x), self.cell.recurrence()) if halves else (x, other or self.cell)
        states = [state := step(x_t, state) for x_t in xs]
        return torch.stack([torch.stack((s,) if isinstance(s, Tensor) else s) for s in states])


def assert_same(actual: Tensor, expected: Tensor | Array) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell_class", CELLS)
def test_every_cell_has_an_oracle_with_its_order_of_rows(cell_class: type[Cell]) -> None:
    assert cell_class in ORACLES, f"write {cell_class.__name__}'s equations in NumPy and add them to ORACLES"
    assert cell_class.blocks == ORACLES[cell_class].rows


@pytest.mark.parametrize("halves", [False, True], ids=["forward", "project and recurrence"])
@pytest.mark.parametrize(("cell_class", "options"), VARIANTS)
def test_a_cell_computes_its_equations(cell_class: type[Cell], options: Options, halves: bool) -> None:
    example = Example(cell_class, **options)
    assert_same(example.states(halves=halves), example.expected())


@pytest.mark.parametrize(("cell_class", "options"), VARIANTS)
def test_gradients_are_the_finite_differences_of_the_equations(cell_class: type[Cell], options: Options) -> None:
    example, rng, step = Example(cell_class, **options), np.random.default_rng(1), 1e-5
    weight = rng.normal(0, 1, example.expected().shape)  # of each state in the loss
    (example.states() * torch.from_numpy(weight)).sum().backward()
    for name, p in example.cell.named_parameters():
        assert p.grad is not None, name
        for at in rng.choice(p.numel(), 12, replace=p.numel() < 12):
            theta = p.detach().view(-1)
            theta[at] += step
            above = example.expected()
            theta[at] -= 2 * step
            difference = float((weight * (above - example.expected())).sum()) / (2 * step)
            theta[at] += step
            assert p.grad.flatten()[at].item() == pytest.approx(difference, rel=1e-6, abs=1e-8), (name, at)


@pytest.mark.parametrize("cell_class", CELLS)
def test_the_first_state_is_zero(cell_class: type[Cell]) -> None:
    example = Example(cell_class)
    example.state = tuple(np.zeros_like(s) for s in example.state)
    state = example.cell(torch.from_numpy(example.x[0]))
    assert_same(torch.stack(state if isinstance(state, tuple) else (state,)), example.expected()[0])


MUTANTS: list[tuple[type[Cell], str, Callable[[Oracle], Oracle]]] = [
    (GRUCell, "z and 1-z swapped", lambda o: o.mutated("(1 - z) * h + z * h_tilde", "z * h + (1 - z) * h_tilde")),
    (CuDNNGRUCell, "z and 1-z swapped", lambda o: o.mutated("(1 - z) * h_tilde + z * h", "z * h_tilde + (1 - z) * h")),
    (GRUCell, "reset after the product", lambda o: o.mutated("(r * h) @ w.U_h_tilde", "r * (h @ w.U_h_tilde)")),
    (CuDNNGRUCell, "reset before the product", lambda o: o.mutated("r * (h @ w.U_h_tilde)", "(r * h) @ w.U_h_tilde")),
    (GRUCell, "gate rows swapped", lambda o: replace(o, rows=("r", "z", "h_tilde"))),
    (CuDNNGRUCell, "gate rows swapped", lambda o: replace(o, rows=("z", "r", "h_tilde"))),
    (LSTMCell, "gate rows swapped", lambda o: replace(o, rows=("f", "i", "c_tilde", "o"))),
    (LSTMCell, "output peephole on the old memory", lambda o: o.mutated("w.V_o * c", "w.V_o * c_old")),
    (LSTMCell, "forget gate with the input peephole", lambda o: o.mutated("w.V_f", "w.V_i")),
]


@pytest.mark.parametrize(("cell_class", "mutant", "mutate"), MUTANTS)
def test_the_oracle_tells_each_mutant(cell_class: type[Cell], mutant: str, mutate: Callable[[Oracle], Oracle]) -> None:
    example = Example(cell_class)
    with pytest.raises(AssertionError, match="not close"):
        assert_same(example.states(), example.expected(mutate(example.oracle)))


def block(cell: Cell, name: str, k: str) -> Tensor:
    """The piece of a parameter that belongs to block ``k``, in the order of rows that the oracle states."""
    rows = ORACLES[type(cell)].rows
    pieces: tuple[Tensor, ...] = cell.get_parameter(name).detach().chunk(len(rows))
    return pieces[rows.index(k)]


def twin(kind: TorchCell, cell: Cell, *rows: str) -> nn.RNNCellBase:
    """A cell of `torch.nn` with the weights of ``cell``: blocks in the order ``rows``, "-z" for z's negated."""
    W, U, b = (
        torch.cat([-block(cell, name, k[1:]) if k[0] == "-" else block(cell, name, k) for k in rows])
        for name in ("weight_ih", "weight_hh", "bias")
    )
    other = kind(I, H).double()
    other.load_state_dict({"weight_ih": W, "weight_hh": U, "bias_ih": b, "bias_hh": torch.zeros_like(b)})
    return other


@pytest.mark.parametrize(("cell_class", "kind"), [(TanhCell, nn.RNNCell), (CuDNNGRUCell, nn.GRUCell)])
def test_a_cell_is_the_one_of_torch(cell_class: type[Cell], kind: TorchCell) -> None:
    example = Example(cell_class)
    assert_same(example.states(), example.states(twin(kind, example.cell, *example.oracle.rows)))


def test_an_lstm_without_peepholes_or_with_zero_ones_is_the_one_of_torch() -> None:
    example, without = Example(LSTMCell), LSTMCell(I, H, peepholes=False).double()
    without.load_state_dict({name: p for name, p in example.cell.named_parameters() if name != "peephole"})
    other = twin(nn.LSTMCell, example.cell, "i", "f", "c_tilde", "o")
    assert_same(example.states(without), example.states(other))
    assert not torch.allclose(example.states(), example.states(other), atol=1e-2)
    example.cell.get_parameter("peephole").data.zero_()
    assert_same(example.states(), example.states(other))


def test_a_gru_is_the_one_of_torch_only_while_its_reset_gate_is_held_open() -> None:
    example = Example(GRUCell)
    other = twin(nn.GRUCell, example.cell, "r", "-z", "h_tilde")
    assert not torch.allclose(example.states(), example.states(other), atol=1e-2)
    block(example.cell, "bias", "r").fill_(1e3)
    other = twin(nn.GRUCell, example.cell, "r", "-z", "h_tilde")
    assert_same(example.states(), example.states(other))


UNIFORM = {"init_scale": 0.3, "recurrent_init": "uniform"}
GATED = [(LSTMCell, "forget_bias", "f"), (GRUCell, "update_bias", "z"), (CuDNNGRUCell, "update_bias", "z")]


def initialised(cell_class: type[Cell], seed: int = 1, /, **options: Any) -> Cell:
    """A cell of 100 units, initialised after its parameters have been spoiled."""
    cell = cell_class(20, 100, **options)
    for p in cell.parameters():
        p.data.fill_(7.0)
    cell.reset_parameters(torch.Generator().manual_seed(seed))
    return cell


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    assert low <= values.min() <= values.max() <= high
    assert kstest(values.flatten().double().numpy(), "uniform", (low, high - low)).pvalue > 1e-3


@pytest.mark.parametrize(("options", "scale", "orthogonal"), [({}, 0.1, True), (UNIFORM, 0.3, False)])
@pytest.mark.parametrize("cell_class", CELLS)
def test_initial_weights_are_drawn_as_asked_and_biases_zero(
    cell_class: type[Cell], options: Options, scale: float, orthogonal: bool
) -> None:
    cell = initialised(cell_class, **options)
    for name, p in cell.named_parameters():  # W and the peepholes, and U too if it is uniform
        if name != "bias" and not (name == "weight_hh" and orthogonal):
            assert_uniform(p.detach(), -scale, scale)
    blocks = [block(cell, "weight_hh", k) for k in cell.blocks]
    for n, U in enumerate(blocks):
        assert torch.allclose(U @ U.T, torch.eye(len(U)), atol=1e-5) == orthogonal
        assert all((U - other).abs().max() > 0.1 for other in blocks[:n]), "two blocks are the same matrix"
    assert not cell.bias.any()


@pytest.mark.parametrize("cell_class", CELLS)
def test_the_same_seed_gives_the_same_bytes(cell_class: type[Cell]) -> None:
    a, b, other = (nn.utils.parameters_to_vector(initialised(cell_class, s).parameters()) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


@pytest.mark.parametrize(("cell_class", "option", "k"), GATED)
def test_a_bias_asked_for_is_set_in_its_own_block_alone(cell_class: type[Cell], option: str, k: str) -> None:
    cell = initialised(cell_class, **{option: 1.5})
    for other in cell.blocks:
        assert (block(cell, "bias", other) == (1.5 if other == k else 0.0)).all(), other


@pytest.mark.parametrize("longest", [3, 100])
@pytest.mark.parametrize(("cell_class", "sign"), [(LSTMCell, 1), (GRUCell, -1), (CuDNNGRUCell, 1)])
def test_chrono_draws_time_scales_up_to_the_longest(cell_class: type[Cell], sign: int, longest: int) -> None:
    cell = initialised(cell_class, chrono=longest)
    biases = {k: block(cell, "bias", k) for k in cell.blocks}
    memory = biases.pop("f" if cell_class is LSTMCell else "z")  # ±log U(1, longest - 1), with the sign that keeps it
    assert_uniform((sign * memory).exp(), 1 - 1e-5, (longest - 1) * (1 + 1e-5))
    if cell_class is LSTMCell:
        assert torch.equal(biases.pop("i"), -memory)
    assert not torch.cat(list(biases.values())).any()


REFUSED: list[tuple[Any, Options, str]] = [
    (CELLS, {"hidden_size": 0}, "cell.hidden_size=0: must be a whole number of at least 1"),
    (CELLS, {"init_scale": -0.1}, "cell.init_scale=-0.1: must be a finite number of at least 0"),
    (CELLS, {"recurrent_init": "orthogonl"}, "Allowed: orthogonal, uniform. Did you mean 'orthogonal'?"),
    ([LSTMCell, GRUCell, CuDNNGRUCell], {"chrono": 2}, "cell.chrono=2: must be a whole number of at least 3"),
    ([LSTMCell], {"chrono": 9, "forget_bias": 1.0}, "cell.chrono=9 and cell.forget_bias=1.0: both set"),
    ([GRUCell, CuDNNGRUCell], {"chrono": 9, "update_bias": 1.0}, "cell.chrono=9 and cell.update_bias=1.0: both set"),
]


@pytest.mark.parametrize(("cell_classes", "options", "message"), REFUSED)
def test_what_a_cell_cannot_take_is_refused(cell_classes: list[type[Cell]], options: Options, message: str) -> None:
    arguments: Options = {"input_size": I, "hidden_size": H} | options
    for cell_class in cell_classes:
        with pytest.raises(UserError, match=re.escape(message)):
            cell_class(**arguments)
