"""Unrolling over packed sequences, building cells and models, and matching their numbers of parameters."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

from rnnbench.cells import Cell, CuDNNGRUCell, GRUCell, LSTMCell, State, TanhCell
from rnnbench.errors import UserError
from rnnbench.model import Model, build_cell, build_model, count_parameters, match_hidden_size, unroll

I, H, O = 3, 4, 2  # noqa: E741 (inputs, units, outputs)
OWN_CELLS: list[type[nn.Module]] = [nn.RNNCell, nn.LSTMCell, nn.GRUCell]
CELLS: list[type[nn.Module]] = [TanhCell, LSTMCell, GRUCell, CuDNNGRUCell, *OWN_CELLS]


def random_cell(cell_class: type[nn.Module]) -> nn.Module:
    """A cell in float64 whose parameters, biases included, are of order one."""
    rng = np.random.default_rng(1)
    cell = build_cell(cell_class, I, H, {}).double()
    for p in cell.parameters():
        p.data.copy_(torch.from_numpy(rng.normal(0, 0.7, p.shape)))
    return cell


def random_model(link: Callable[[Tensor], Tensor] = torch.sigmoid) -> Model:
    readout_bias = torch.tensor([0.5, -1.0])
    return build_model(random_cell(GRUCell), H, O, readout_bias, seed=0, link=link).double()


def sequences(*lengths: int) -> list[Tensor]:
    rng = np.random.default_rng(2)
    return [torch.from_numpy(rng.normal(0, 1, (length, I))) for length in lengths]


def outputs_alone(cell: nn.Module, x: Tensor) -> Tensor:
    """The outputs (T, H) over one sequence (T, I), calling the cell at each step."""
    state: State | None = None
    outputs = []
    for x_t in x:
        state = cell(x_t[None], state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.cat(outputs)


@pytest.mark.parametrize("lengths", [(7, 7, 4, 1), (9, 3), (2, 2, 2), (5,)])
@pytest.mark.parametrize("cell_class", CELLS)
def test_packed_sequences_give_what_each_gives_alone(cell_class: type[nn.Module], lengths: tuple[int, ...]) -> None:
    cell, xs = random_cell(cell_class), sequences(*lengths)
    packed = pack_sequence(xs)
    h = unroll(cell, packed.data, packed.batch_sizes.tolist())
    for actual, x in zip(unpack_sequence(PackedSequence(h, packed.batch_sizes)), xs, strict=True):
        torch.testing.assert_close(actual, outputs_alone(cell, x), rtol=0, atol=1e-12)


def test_only_the_scored_rows_are_read_out() -> None:
    model, packed = random_model(), pack_sequence(sequences(5, 3, 3))
    everything = model(packed.data, packed.batch_sizes.tolist())
    h = unroll(model.cell, packed.data, packed.batch_sizes.tolist())
    assert torch.equal(everything, h @ model.readout.weight.T + model.readout.bias)
    scored = torch.tensor([10, 0, 4, 4])
    assert torch.equal(model(packed.data, packed.batch_sizes.tolist(), scored), everything[scored])


@pytest.mark.parametrize("link", [torch.sigmoid, torch.nn.Identity()])
def test_predict_gives_what_the_model_expects_of_one_sequence_or_several(link: Callable[[Tensor], Tensor]) -> None:
    model, xs = random_model(link), torch.stack(sequences(6, 6, 6), dim=1)
    together = model.predict(xs.float().double())
    assert together.shape == (6, 3, O)
    assert not together.requires_grad
    for b in range(3):
        x = xs[:, b].float()  # taken in any dtype
        alone = model.predict(x)
        expected = link(outputs_alone(model.cell, x.double()) @ model.readout.weight.T + model.readout.bias)
        torch.testing.assert_close(alone, expected.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(together[:, b], alone, rtol=0, atol=1e-12)


class NoisyOwnCell(nn.Module):
    """A cell of one's own that draws from torch's global generator wherever it can."""

    def __init__(self, input_size: int, hidden_size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale * torch.randn(hidden_size, input_size))

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        h = x @ self.weight.T if state is None else state
        return h + torch.randn_like(h)


@pytest.mark.parametrize("cell_class", [*OWN_CELLS, NoisyOwnCell])
def test_a_cell_of_ones_own_keeps_its_own_initialisation(cell_class: type[nn.Module]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = cell_class(I, H).state_dict()
    actual = build_cell(cell_class, I, H, {}, seed=5).state_dict()
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    other = build_cell(cell_class, I, H, {}, seed=6).state_dict()
    assert not any(torch.equal(actual[name], other[name]) for name in expected)


@pytest.mark.parametrize("cell_class", [GRUCell, LSTMCell])
def test_a_cell_of_ours_is_drawn_from_its_seed(cell_class: type[Cell]) -> None:
    expected = cell_class(I, H, init_scale=0.5)
    expected.reset_parameters(torch.Generator().manual_seed(5))
    actual = build_cell(cell_class, I, H, {"init_scale": 0.5}, seed=5)
    assert torch.equal(*(nn.utils.parameters_to_vector(c.parameters()) for c in (actual, expected)))


@pytest.mark.parametrize("cell_class", [*CELLS, NoisyOwnCell])
def test_the_global_generator_of_torch_is_left_alone(cell_class: type[nn.Module]) -> None:
    before = torch.get_rng_state()
    cell = build_cell(cell_class, I, H, {}, seed=5)
    build_model(cell, H, O, None, seed=5, link=torch.sigmoid)
    match_hidden_size(cell_class, I, O, {}, target=500)
    assert torch.equal(torch.get_rng_state(), before)


class WrongShape(nn.GRUCell):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        return super().forward(input)[:, 1:]


class NoTensor(nn.GRUCell):
    def forward(self, input: Tensor, hx: Any = None) -> Any:  # noqa: A002
        return [super().forward(input)]


class Raises(nn.GRUCell):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        raise ZeroDivisionError("of its own")


class OnlyTheFirstStep(nn.GRUCell):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        assert hx is None
        return super().forward(input)


class NeedsMore(nn.GRUCell):
    def __init__(self, input_size: int, hidden_size: int, *, depth: int) -> None:
        super().__init__(input_size, hidden_size)


@pytest.mark.parametrize(
    ("cell_class", "options", "message"),
    [
        (GRUCell, {"update_bais": 1.0}, "cell.update_bais: GRUCell has no such option. Allowed: chrono, init_scale"),
        (GRUCell, {"update_bais": 1.0}, "Did you mean 'update_bias'?"),
        (nn.GRUCell, {"hidden": 1}, "cell.hidden: GRUCell has no such option. Allowed: bias, device, dtype."),
        (NoisyOwnCell, {"scael": 1}, "Did you mean 'scale'?"),
        (NeedsMore, {}, "cell: NeedsMore(3, 4, **{}) failed: "),
        (WrongShape, {}, "cell: WrongShape.forward returned [(2, 3)] for x (2, 3); expected a state (2, 4)"),
        (NoTensor, {}, "cell: NoTensor.forward returned ['list']"),
        (Raises, {}, "cell: Raises.forward failed on x (2, 3): ZeroDivisionError: of its own"),
        (OnlyTheFirstStep, {}, "cell: OnlyTheFirstStep.forward failed on x (2, 3): AssertionError"),
    ],
)
def test_a_cell_that_cannot_be_used_is_refused_in_words(
    cell_class: type[nn.Module], options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build_cell(cell_class, I, H, options)


def test_a_cell_needs_a_unit() -> None:
    with pytest.raises(UserError, match=re.escape("cell.hidden_size=0: must be a whole number of at least 1")):
        build_cell(nn.GRUCell, I, 0, {})


def test_the_read_out_is_drawn_from_its_seed_with_the_bias_given() -> None:
    def readout(seed: int, bias: Tensor | None = None) -> nn.Linear:
        return build_model(build_cell(GRUCell, I, 50, {}), 50, 40, bias, seed, torch.sigmoid).readout

    weight = readout(3).weight
    assert weight.shape == (40, 50)
    assert 0.099 < weight.abs().max() <= 0.1
    assert weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.05)
    assert torch.equal(readout(3).weight, weight)
    assert not torch.equal(readout(4).weight, weight)
    assert not readout(3).bias.any()
    bias = torch.linspace(-3, 2, 40)
    assert torch.equal(readout(3, bias).bias, bias)
    assert readout(3, bias).bias.requires_grad


def recurrent_parameters(cell_class: type[nn.Module], inputs: int, units: int) -> int:
    """The number of parameters by hand: gates, peepholes, and the second bias of torch's own cell."""
    one_block = units * (inputs + units + 1)
    return {
        TanhCell: one_block,
        LSTMCell: 4 * one_block + 3 * units,
        GRUCell: 3 * one_block,
        CuDNNGRUCell: 3 * one_block,
        nn.GRUCell: 3 * (one_block + units),
    }[cell_class]


COUNTED: list[type[nn.Module]] = [TanhCell, LSTMCell, GRUCell, CuDNNGRUCell, nn.GRUCell]


@pytest.mark.parametrize("cell_class", COUNTED)
def test_parameters_are_counted_with_biases_and_peepholes(cell_class: type[nn.Module]) -> None:
    assert count_parameters(build_cell(cell_class, 7, 5, {})) == recurrent_parameters(cell_class, 7, 5)


def test_parameters_that_are_not_trained_are_not_counted() -> None:
    cell = build_cell(LSTMCell, 7, 5, {})
    cell.get_parameter("peephole").requires_grad_(False)
    assert count_parameters(cell) == recurrent_parameters(LSTMCell, 7, 5) - 15


TABLE_1 = [  # cell, units and parameters on speech, units and parameters on music
    (LSTMCell, 195, 169_065, 36, 19_764),
    (GRUCell, 227, 168_888, 46, 20_217),
    (TanhCell, 400, 168_400, 100, 20_050),
]


@pytest.mark.parametrize(("cell_class", "speech", "speech_parameters", "music", "music_parameters"), TABLE_1)
def test_the_sizes_are_those_of_table_1(
    cell_class: type[Cell], speech: int, speech_parameters: int, music: int, music_parameters: int
) -> None:
    assert count_parameters(build_cell(cell_class, 20, speech, {})) == speech_parameters
    assert match_hidden_size(cell_class, 20, 1, {}, speech_parameters) == speech
    cells = [cell_class(inputs, music) for inputs in (93, 96, 105, 108)]  # 100.5 on average; counted without biases
    assert sum(count_parameters(cell) - cell.bias.numel() for cell in cells) == 4 * music_parameters


def nearest(cell_class: type[nn.Module], inputs: int, outputs: int, target: int) -> int:
    """The nearest size, the smaller one of a tie, among all up to 300; ``outputs`` is 0 if not counted."""
    return min(
        range(1, 301),
        key=lambda units: abs(recurrent_parameters(cell_class, inputs, units) + (units + 1) * outputs - target),
    )


@pytest.mark.parametrize("count", ["recurrent", "all"])
@pytest.mark.parametrize("cell_class", COUNTED)
@given(inputs=st.integers(1, 60), outputs=st.integers(1, 60), units=st.integers(1, 200), data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_no_other_size_is_nearer_to_the_target(
    cell_class: type[nn.Module], count: str, inputs: int, outputs: int, units: int, data: st.DataObject
) -> None:
    counted = outputs * (count == "all")
    size, next_size = (recurrent_parameters(cell_class, inputs, n) + (n + 1) * counted for n in (units, units + 1))
    target = data.draw(st.integers(size, next_size))
    actual = match_hidden_size(cell_class, inputs, outputs, {}, target, count)
    assert actual == nearest(cell_class, inputs, counted, target)


@pytest.mark.parametrize("units", [1, 2, 3, 7, 8, 31])
def test_of_a_tie_the_smaller_size_is_taken(units: int) -> None:
    below, above = (recurrent_parameters(TanhCell, 2, n) for n in (units, units + 1))
    middle, rest = divmod(below + above, 2)
    assert rest == 0, "not a tie"
    assert [match_hidden_size(TanhCell, 2, 1, {}, middle + d) for d in (-1, 0, 1)] == [units, units, units + 1]


def test_the_options_of_a_cell_count() -> None:
    # ten and eleven units: 790 and 913 with peepholes, 760 and 880 without
    with_peepholes = match_hidden_size(LSTMCell, 8, 1, {}, 826)
    without = match_hidden_size(LSTMCell, 8, 1, {"peepholes": False}, 826)
    assert (with_peepholes, without) == (10, 11)


LARGEST = 65536 * (20 + 65536 + 1)  # of a TanhCell with 20 inputs


def test_the_largest_size_can_be_matched() -> None:
    assert match_hidden_size(TanhCell, 20, 1, {}, LARGEST) == 65536


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TanhCell, 20, 1, {}, LARGEST + 1), f"match_params={LARGEST + 1}: no hidden size up to 65536 gives TanhCell"),
        ((LSTMCell, 100, 1, {}, 205), "match_params=205: LSTMCell has 411 parameters at one unit; ask for more."),
        ((LSTMCell, 100, 1, {}, 0), "match_params=0: must be a whole number of at least 1"),
        ((LSTMCell, 100, 1, {}, 500, "al"), "match_count=al: not known. Allowed: all, recurrent. Did you mean 'all'?"),
        ((LSTMCell, 100, 1, {"peephole": 1}, 500), "Did you mean 'peepholes'?"),
    ],
)
def test_a_target_that_cannot_be_met_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        match_hidden_size(*arguments)


def test_a_target_below_one_unit_is_met_by_one_unit_while_it_is_near() -> None:
    assert match_hidden_size(LSTMCell, 100, 1, {}, 206) == 1
