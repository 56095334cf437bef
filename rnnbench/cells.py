r"""The recurrent cells, side by side.

σ is the logistic sigmoid, ⊙ the product element by element; h₀ = c₀ = 0. The equations are those of Chung,
Gulcehre, Cho & Bengio (2014, arXiv:1412.3555), section 3, to which every cell adds one bias vector per block
of rows, as the authors' code does (the paper's equations carry none).

Legend: ``B`` sequences, ``I`` inputs, ``H`` units. Weights have torch's names and layout: ``weight_ih``
(blocks·H, I) is the paper's W, ``weight_hh`` (blocks·H, H) its U, ``bias`` (blocks·H,); the order of the
blocks of rows is the class attribute ``blocks``.

A cell of one's own need not derive from `Cell`: any module with the interface of torch's cells will do
(see `rnnbench.model`). If it has a method ``gates``, with the interface of `Cell.gates` but x (B, I) in place of
W x + b, and None for the state before the first step, then `rnnbench.diagnosis` measures its gates too.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from rnnbench.errors import UserError, check_choice, check_number, check_truth, check_whole

State = Tensor | tuple[Tensor, ...]
"""(B, H), or a tuple of such tensors whose first is the output."""

RECURRENT_INITS = ("orthogonal", "uniform")


class Cell(nn.Module, ABC):
    """One step of a recurrence, in two halves: what depends on the input alone, and the rest.

    ``project`` computes W x + b, for all steps of a sequence at once; ``recurrence`` gives the function that
    goes from (W x_t + b, state before) to the state after, and is called once per sequence so that weights
    are sliced once and not at every step.
    """

    blocks: ClassVar[tuple[str, ...]]

    def __init__(
        self, input_size: int, hidden_size: int, *, init_scale: float = 0.1, recurrent_init: str = "orthogonal"
    ) -> None:
        """Make the parameters; `reset_parameters` gives them their values.

        Args:
            input_size: I.
            hidden_size: H, the number of units.
            init_scale: W is drawn from U(-init_scale, init_scale); 0.1 in the authors' code.
            recurrent_init: "orthogonal", each H x H block of U an independent random orthogonal matrix (the
                authors' code), or "uniform", as W.

        Raises:
            UserError: for a size below 1, a negative scale, or an unknown initialisation.
        """
        super().__init__()
        check_whole("input_size", input_size, 1)
        check_whole("cell.hidden_size", hidden_size, 1)
        check_number("cell.init_scale", init_scale, least=0.0)
        check_choice("cell.recurrent_init", recurrent_init, RECURRENT_INITS)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.init_scale = init_scale
        self.recurrent_init = recurrent_init
        rows = len(self.blocks) * hidden_size
        self.weight_ih = nn.Parameter(torch.zeros(rows, input_size))
        self.weight_hh = nn.Parameter(torch.zeros(rows, hidden_size))
        self.bias = nn.Parameter(torch.zeros(rows))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw W and U afresh and set the biases to zero, or to what the cell's options ask."""
        nn.init.uniform_(self.weight_ih, -self.init_scale, self.init_scale, generator=generator)
        for block in self.weight_hh.split(self.hidden_size):
            if self.recurrent_init == "orthogonal":
                nn.init.orthogonal_(block, generator=generator)
            else:
                nn.init.uniform_(block, -self.init_scale, self.init_scale, generator=generator)
        nn.init.zeros_(self.bias)

    def bias_of(self, block: str) -> Tensor:
        """The (H,) piece of the bias that belongs to ``block``, as a view."""
        views: tuple[Tensor, ...] = self.bias.split(self.hidden_size)
        return views[self.blocks.index(block)]

    def project(self, x: Tensor) -> Tensor:
        """W x + b: (..., I) -> (..., blocks·H)."""
        return nn.functional.linear(x, self.weight_ih, self.bias)

    def initial_state(self, wx: Tensor) -> State:
        """The state before the first step, zero, for the rows of ``wx`` (B, blocks·H)."""
        return wx.new_zeros(wx.shape[0], self.hidden_size)

    @abstractmethod
    def recurrence(self) -> Callable[[Tensor, State], State]:
        """The function (W x_t + b (B, blocks·H), state) -> state, for the present parameters."""

    def gates(self, wx: Tensor, before: State, after: State) -> dict[str, Tensor]:
        """The values of the gates in one step, for looking at; the recurrence does not come here.

        Args:
            wx: W x_t + b (B, blocks·H).
            before: the state before the step.
            after: the state after it.

        Returns:
            Name -> (B, H), between 0 and 1; nothing for a cell without gates.
        """
        return {}

    def forward(self, x: Tensor, state: State | None = None) -> State:
        """One step, with the interface of torch's cells: x (B, I), state -> state."""
        wx = self.project(x)
        return self.recurrence()(wx, self.initial_state(wx) if state is None else state)


class TanhCell(Cell):
    """The traditional unit (section 2): h_t = tanh(W x_t + U h_{t-1} + b)."""

    blocks = ("h",)

    def recurrence(self) -> Callable[[Tensor, State], State]:
        """See `Cell.recurrence`; the state is h (B, H)."""
        U = self.weight_hh.T

        def step(wx: Tensor, h: State) -> State:
            assert isinstance(h, Tensor)
            return torch.tanh(torch.addmm(wx, h, U))

        return step


class LSTMCell(Cell):
    """Long short-term memory with diagonal peepholes (section 3.1; Graves 2013, arXiv:1308.0850, eqs. 7-11).

    i_t = σ(W_i x_t + U_i h_{t-1} + V_i ⊙ c_{t-1} + b_i)
    f_t = σ(W_f x_t + U_f h_{t-1} + V_f ⊙ c_{t-1} + b_f)
    c̃_t = tanh(W_c x_t + U_c h_{t-1} + b_c)
    c_t = f_t ⊙ c_{t-1} + i_t ⊙ c̃_t
    o_t = σ(W_o x_t + U_o h_{t-1} + V_o ⊙ c_t + b_o)        -- the new memory
    h_t = o_t ⊙ tanh(c_t)

    The state is (h, c). ``peephole`` (3·H,) holds V_i, V_f, V_o, drawn as W is (the authors' released LSTM
    has none, so this choice is ours). The blocks of rows are in the order of `torch.nn.LSTMCell`.
    """

    blocks = ("i", "f", "c_tilde", "o")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        peepholes: bool = True,
        forget_bias: float = 0.0,
        chrono: int | None = None,
        init_scale: float = 0.1,
        recurrent_init: str = "orthogonal",
    ) -> None:
        """See `Cell.__init__`.

        Args:
            input_size: I.
            hidden_size: H.
            peepholes: False leaves V out.
            forget_bias: what b_f starts at; 0 in the authors' code, 1 in Jozefowicz et al. (2015).
            chrono: the longest dependency T_max in steps: b_f = log U(1, T_max - 1), b_i = -b_f (Tallec &
                Ollivier 2018, arXiv:1804.11188, eq. 16). Replaces ``forget_bias``.
            init_scale: see `Cell`.
            recurrent_init: see `Cell`.

        Raises:
            UserError: as `Cell`, or for a chrono below 3, or both chrono and forget_bias.
        """
        super().__init__(input_size, hidden_size, init_scale=init_scale, recurrent_init=recurrent_init)
        check_truth("cell.peepholes", peepholes)
        _check_bias("forget_bias", forget_bias, chrono)
        self.forget_bias = forget_bias
        self.chrono = chrono
        self.peephole = nn.Parameter(torch.zeros(3 * hidden_size)) if peepholes else None

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """See `Cell.reset_parameters`."""
        super().reset_parameters(generator)
        if self.peephole is not None:
            nn.init.uniform_(self.peephole, -self.init_scale, self.init_scale, generator=generator)
        self.bias_of("f").fill_(self.forget_bias)
        if self.chrono is not None:
            b_f = _chrono_bias(self.hidden_size, self.chrono, generator)
            self.bias_of("f").copy_(b_f)
            self.bias_of("i").copy_(-b_f)

    def initial_state(self, wx: Tensor) -> State:
        """(h₀, c₀), both zero."""
        zeros = wx.new_zeros(wx.shape[0], self.hidden_size)
        return zeros, zeros

    def recurrence(self) -> Callable[[Tensor, State], State]:
        """See `Cell.recurrence`; the state is (h (B, H), c (B, H))."""
        U = self.weight_hh.T
        V = None if self.peephole is None else self.peephole.chunk(3)

        def step(wx: Tensor, state: State) -> State:
            h, c = state
            i, f, c_tilde, o = torch.addmm(wx, h, U).chunk(4, dim=1)
            if V is not None:
                i, f = torch.addcmul(i, V[0], c), torch.addcmul(f, V[1], c)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(c_tilde)
            if V is not None:
                o = torch.addcmul(o, V[2], c)
            return torch.sigmoid(o) * torch.tanh(c), c

        return step

    def gates(self, wx: Tensor, before: State, after: State) -> dict[str, Tensor]:
        """See `Cell.gates`: ``input`` i_t, ``forget`` f_t and ``output`` o_t."""
        h, c_old = before
        _, c = after
        i, f, _, o = torch.addmm(wx, h, self.weight_hh.T).chunk(4, dim=1)
        if self.peephole is not None:
            V_i, V_f, V_o = self.peephole.chunk(3)
            i, f, o = i + V_i * c_old, f + V_f * c_old, o + V_o * c
        return {"input": torch.sigmoid(i), "forget": torch.sigmoid(f), "output": torch.sigmoid(o)}


class GRUCell(Cell):
    """The gated recurrent unit in the paper's form: reset gate before the product (section 3.2).

    z_t = σ(W_z x_t + U_z h_{t-1} + b_z)
    r_t = σ(W_r x_t + U_r h_{t-1} + b_r)
    h̃_t = tanh(W_h x_t + U_h (r_t ⊙ h_{t-1}) + b_h)
    h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ h̃_t                   -- z weighs the candidate
    """

    blocks = ("z", "r", "h_tilde")
    update_sign: ClassVar[int] = -1
    """The sign with which b_z makes the memory longer: z weighs the candidate, so a negative one."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        update_bias: float = 0.0,
        chrono: int | None = None,
        init_scale: float = 0.1,
        recurrent_init: str = "orthogonal",
    ) -> None:
        """See `Cell.__init__`.

        Args:
            input_size: I.
            hidden_size: H.
            update_bias: what b_z starts at; 0 in the authors' code.
            chrono: the longest dependency T_max in steps: b_z = ∓log U(1, T_max - 1), with the sign that
                keeps the old state (Tallec & Ollivier 2018, section 2). Replaces ``update_bias``.
            init_scale: see `Cell`.
            recurrent_init: see `Cell`.

        Raises:
            UserError: as `Cell`, or for a chrono below 3, or both chrono and update_bias.
        """
        super().__init__(input_size, hidden_size, init_scale=init_scale, recurrent_init=recurrent_init)
        _check_bias("update_bias", update_bias, chrono)
        self.update_bias = update_bias
        self.chrono = chrono

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """See `Cell.reset_parameters`."""
        super().reset_parameters(generator)
        self.bias_of("z").fill_(self.update_bias)
        if self.chrono is not None:
            b_z = self.update_sign * _chrono_bias(self.hidden_size, self.chrono, generator)
            self.bias_of("z").copy_(b_z)

    def recurrence(self) -> Callable[[Tensor, State], State]:
        """See `Cell.recurrence`; the state is h (B, H)."""
        H = self.hidden_size
        U_zr, U_h = (U.T for U in self.weight_hh.split([2 * H, H]))

        def step(wx: Tensor, h: State) -> State:
            assert isinstance(h, Tensor)
            wx_zr, wx_h = wx.split([2 * H, H], dim=1)
            z, r = torch.sigmoid(torch.addmm(wx_zr, h, U_zr)).chunk(2, dim=1)
            h_tilde = torch.tanh(torch.addmm(wx_h, r * h, U_h))
            return torch.lerp(h, h_tilde, z)  # (1 - z) h + z h_tilde

        return step

    def gates(self, wx: Tensor, before: State, after: State) -> dict[str, Tensor]:
        """See `Cell.gates`: ``update`` z_t and ``reset`` r_t, each cell's own z."""
        assert isinstance(before, Tensor)
        a = dict(zip(self.blocks, torch.addmm(wx, before, self.weight_hh.T).chunk(3, dim=1), strict=True))
        return {"update": torch.sigmoid(a["z"]), "reset": torch.sigmoid(a["r"])}


class CuDNNGRUCell(GRUCell):
    """The gated recurrent unit as cuDNN and `torch.nn.GRUCell` have it: reset gate after the product.

    r_t = σ(W_r x_t + U_r h_{t-1} + b_r)
    z_t = σ(W_z x_t + U_z h_{t-1} + b_z)
    h̃_t = tanh(W_h x_t + r_t ⊙ (U_h h_{t-1}) + b_h)
    h_t = (1 - z_t) ⊙ h̃_t + z_t ⊙ h_{t-1}                   -- z weighs the old state

    It is `torch.nn.GRUCell` with the second bias vector at zero; the blocks of rows are in its order. A
    footnote of the paper reports that the form r_t ⊙ (U h_{t-1}) did about as well as its own.
    """

    blocks = ("r", "z", "h_tilde")
    update_sign = 1

    def recurrence(self) -> Callable[[Tensor, State], State]:
        """See `Cell.recurrence`; the state is h (B, H)."""
        H = self.hidden_size
        U = self.weight_hh.T

        def step(wx: Tensor, h: State) -> State:
            assert isinstance(h, Tensor)
            uh_rz, uh_h = (h @ U).split([2 * H, H], dim=1)
            wx_rz, wx_h = wx.split([2 * H, H], dim=1)
            r, z = torch.sigmoid(wx_rz + uh_rz).chunk(2, dim=1)
            h_tilde = torch.tanh(torch.addcmul(wx_h, r, uh_h))
            return torch.lerp(h_tilde, h, z)  # (1 - z) h_tilde + z h

        return step


def _check_bias(name: str, bias: float, chrono: int | None) -> None:
    check_number(f"cell.{name}", bias)
    if chrono is None:
        return
    check_whole("cell.chrono", chrono, 3)
    if bias != 0.0:
        raise UserError(f"cell.chrono={chrono} and cell.{name}={bias}: both set the same bias; give one.")


def _chrono_bias(size: int, longest: int, generator: torch.Generator) -> Tensor:
    """Logarithms of U(1, longest - 1), shape (size,): Tallec & Ollivier (2018), eq. 16."""
    u = torch.rand(size, generator=generator)
    return torch.log1p(u * (longest - 2))
