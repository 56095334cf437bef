"""A cell unrolled over sequences, with a linear read-out; counting and matching its parameters.

Sequences of unequal length are *packed* as in `torch.nn.utils.rnn.PackedSequence`: time-major, longest
first, so that the rows of step t are those of the ``batch_sizes[t]`` sequences that are that long. There is
no padding and no mask; a sequence that has ended costs nothing and cannot count.

Legend: ``N`` packed rows, ``B`` sequences, ``I`` inputs, ``H`` units, ``O`` outputs.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnnbench.cells import Cell, State
from rnnbench.errors import UserError, check_choice, check_whole, did_you_mean

READOUT_SCALE = 0.1
"""The read-out's weights are drawn from U(±0.1), as the authors' code draws every matrix but the recurrent."""

LARGEST_HIDDEN_SIZE = 1 << 16


class Model(nn.Module):
    """A recurrent cell and the linear read-out of its output: y_t = V h_t + c."""

    def __init__(
        self, cell: nn.Module, hidden_size: int, output_size: int, link: Callable[[Tensor], Tensor] = torch.sigmoid
    ) -> None:
        """Take ``cell`` as it is; the read-out's parameters are zero until they are given values.

        Args:
            cell: see `steps`.
            hidden_size: H.
            output_size: O.
            link: the function from outputs to predictions, which only `predict` applies.
        """
        super().__init__()
        self.cell = cell
        self.link: Callable[[Tensor], Tensor] = link
        with torch.random.fork_rng(devices=[]):  # its values are drawn anew; nn.utils.skip_init imports half a second
            self.readout = nn.Linear(hidden_size, output_size)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, inputs: Tensor, batch_sizes: Sequence[int], scored: Tensor | None = None) -> Tensor:
        """Outputs before any link function.

        Args:
            inputs: (N, I), packed.
            batch_sizes: the number of rows of each step.
            scored: the rows (M,) to read out; all N of them by default.

        Returns:
            (M, O).
        """
        h = unroll(self.cell, inputs, batch_sizes)
        out: Tensor = self.readout(h if scored is None else h[scored])
        return out

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """What the model expects after each step of ``x``: probabilities, or the regressed value.

        Args:
            x: one sequence (T, I), or several of equal length (T, B, I).

        Returns:
            (T, O) or (T, B, O).
        """
        theta = self.readout.weight
        sequences = x.reshape(x.shape[0], -1, x.shape[-1]).to(theta.device, theta.dtype)
        T, B, inputs = sequences.shape
        out = self.link(self(sequences.reshape(T * B, inputs), [B] * T))
        return out.reshape(*x.shape[:-1], -1)


def unroll(cell: nn.Module, inputs: Tensor, batch_sizes: Sequence[int]) -> Tensor:
    """The outputs h_t (N, H) of ``cell`` over packed ``inputs`` (N, I)."""
    return torch.cat([output_of(step.after) for step in steps(cell, inputs, batch_sizes)])


class Step(NamedTuple):
    """A step of the sequences that are long enough to have it."""

    x: Tensor
    """What the cell is given: W x_t + b (B, blocks·H) if it is a `Cell`, else x_t (B, I)."""
    before: State | None
    """The state before; None at the first step of a cell that is no `Cell`."""
    after: State


def steps(cell: nn.Module, inputs: Tensor, batch_sizes: Sequence[int]) -> Iterator[Step]:
    """``cell`` step by step over packed ``inputs`` (N, I).

    A cell that is no `Cell` is called as torch's own are, ``cell(x, state)``, with None for the first state.
    """
    rows = batch_sizes[0]
    inputs, function, state = _start(cell, inputs, rows)
    for x in inputs.split(list(batch_sizes)):
        if len(x) < rows:  # the shortest sequences have ended
            rows = len(x)
            assert state is not None
            state = state[:rows] if isinstance(state, Tensor) else tuple(s[:rows] for s in state)
        before, state = state, function(x, state)
        yield Step(x, before, state)


def _start(cell: nn.Module, inputs: Tensor, rows: int) -> tuple[Tensor, Callable[..., State], State | None]:
    """What `steps` splits into steps, the function it calls at each, and the state of the first ``rows``."""
    if not isinstance(cell, Cell):
        return inputs, cell, None
    wx = cell.project(inputs)
    return wx, cell.recurrence(), cell.initial_state(wx[:rows])


def output_of(state: State) -> Tensor:
    """The output (B, H) of a state."""
    return state if isinstance(state, Tensor) else state[0]


def build_cell(
    cell_class: type[nn.Module],
    input_size: int,
    hidden_size: int,
    options: Mapping[str, Any],
    seed: int = 0,
) -> nn.Module:
    """A cell with its initial parameters, drawn from ``seed`` alone.

    The project's cells draw theirs by `Cell.reset_parameters`; one's own cell keeps the initialisation of its
    constructor, run with torch's global generator seeded for the time of the call.

    Raises:
        UserError: for an option the cell does not have, or a cell that cannot be constructed or called.
    """
    check_whole("cell.hidden_size", hidden_size, 1)
    _check_options(cell_class, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            cell = cell_class(input_size, hidden_size, **options)
        except UserError:
            raise
        except Exception as error:  # whatever a cell of one's own may raise
            raise UserError(
                f"cell: {cell_class.__qualname__}({input_size}, {hidden_size}, **{dict(options)}) failed: {error}. "
                "A cell is constructed with (input_size, hidden_size, **options)."
            ) from error
    if isinstance(cell, Cell):
        cell.reset_parameters(torch.Generator().manual_seed(seed))
    else:
        _check_interface(cell, input_size, hidden_size)
    return cell


def _check_options(cell_class: type[nn.Module], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(cell_class).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    allowed = list(parameters)[2:]
    for name in options:
        if name not in allowed:
            raise UserError(
                f"cell.{name}: {cell_class.__qualname__} has no such option. Allowed: "
                f"{', '.join(sorted(allowed)) or 'none'}.{did_you_mean(name, allowed)}"
            )


@torch.no_grad()
def _check_interface(cell: nn.Module, input_size: int, hidden_size: int) -> None:
    """Two steps of a cell of one's own, so that a wrong interface is told at once and in words."""
    name = type(cell).__qualname__
    x = torch.zeros(2, input_size)
    try:
        with torch.random.fork_rng(devices=[]):
            probe = copy.deepcopy(cell)  # a cell may keep buffers
            state = probe(x, probe(x, None))
    except Exception as error:  # whatever a cell of one's own may raise
        raise UserError(
            f"cell: {name}.forward failed on x (2, {input_size}): {type(error).__name__}: {error}. It is called as "
            "forward(x (B, I), state) -> state, with state None at the first step, as torch.nn.GRUCell is."
        ) from error
    states = state if isinstance(state, tuple) else (state,)
    whole = all(isinstance(s, Tensor) and s.shape[:1] == (2,) for s in states)
    output = states[0] if states else None
    if not whole or not isinstance(output, Tensor) or output.shape != (2, hidden_size):
        shape = [tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__ for s in states]
        raise UserError(
            f"cell: {name}.forward returned {shape} for x (2, {input_size}); expected a state (2, {hidden_size}), "
            "or a tuple of states (2, ...) whose first is the output."
        )


def count_parameters(module: nn.Module) -> int:
    """The number of trainable scalars of ``module``, biases and peepholes included."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def match_hidden_size(
    cell_class: type[nn.Module],
    input_size: int,
    output_size: int,
    options: Mapping[str, Any],
    target: int,
    count: str = "recurrent",
) -> int:
    """The hidden size whose number of parameters is nearest to ``target`` (the smaller one of a tie).

    Args:
        cell_class: any cell; its number of parameters must grow with the hidden size.
        input_size: I.
        output_size: O, which matters for count="all".
        options: the cell's options.
        target: the number of parameters asked for.
        count: "recurrent", the cell alone, as the paper's Table 1 counts; "all", the read-out too.

    Raises:
        UserError: for an unknown ``count``, or a target that no hidden size comes near.
    """
    check_choice("match_count", count, ("recurrent", "all"))
    check_whole("match_params", target, 1)

    def parameters(hidden_size: int) -> int:
        recurrent = count_parameters(_uninitialised(cell_class, input_size, hidden_size, options))
        return recurrent + (hidden_size + 1) * output_size * (count == "all")

    high = 1
    while parameters(high) < target:
        high *= 2
        if high > LARGEST_HIDDEN_SIZE:
            raise UserError(
                f"match_params={target}: no hidden size up to {LARGEST_HIDDEN_SIZE} gives {cell_class.__qualname__} "
                "so many parameters; ask for fewer."
            )
    low = high // 2  # parameters(low) < target <= parameters(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle) < target else (low, middle)
    smallest = parameters(1)
    if high == 1 and smallest > 2 * target:
        raise UserError(
            f"match_params={target}: {cell_class.__qualname__} has {smallest} parameters at one unit; ask for more."
        )
    if low and target - parameters(low) <= parameters(high) - target:
        return low
    return high


def _uninitialised(
    cell_class: type[nn.Module], input_size: int, hidden_size: int, options: Mapping[str, Any]
) -> nn.Module:
    """A cell made only to be counted: on torch's meta device, which holds no numbers, where it lets itself be."""
    _check_options(cell_class, options)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return cell_class(input_size, hidden_size, **options)
    except UserError:
        raise
    except Exception:  # noqa: BLE001 - a constructor that needs real numbers; what is wrong with it is told there
        return build_cell(cell_class, input_size, hidden_size, options)


def build_model(
    cell: nn.Module,
    hidden_size: int,
    output_size: int,
    readout_bias: Tensor | None,
    seed: int,
    link: Callable[[Tensor], Tensor],
) -> Model:
    """A model around ``cell``, its read-out drawn from ``seed``.

    Args:
        cell: a cell with its initial parameters.
        hidden_size: H.
        output_size: O.
        readout_bias: (O,), or None for zero.
        seed: of the read-out's weights.
        link: see `Model`.
    """
    model = Model(cell, hidden_size, output_size, link)
    generator = torch.Generator().manual_seed(seed)
    nn.init.uniform_(model.readout.weight, -READOUT_SCALE, READOUT_SCALE, generator=generator)
    if readout_bias is not None:
        with torch.no_grad():
            model.readout.bias.copy_(readout_bias)
    return model
