"""What rnnbench's step is compared with: the stock torch modules, and jax.

Both make the same update: forward, Bernoulli loss summed over notes, steps and sequences, backward, clipping,
RMSProp. Batches (T + 1, B, 88) are dense, made beforehand, and another one in each update. `bench_training.py` uses it.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from rnnbench.config import TrainConfig
from rnnbench.tasks.base import BERNOULLI, Batch
from rnnbench.train import Member, update

MODULES = {"gru": nn.GRU, "tanh": nn.RNN, "lstm": nn.LSTM}
"""The nearest that torch has: its GRU resets after the product, its LSTM has no peepholes."""


class TorchModule:
    """A stock module, `torch.nn.utils.clip_grad_norm_` and `torch.optim.RMSprop`."""

    def __init__(self, cell: str, hidden_size: int, batches: Sequence[np.ndarray], protocol: TrainConfig) -> None:
        """Build the network."""
        self.batches = [torch.from_numpy(batch) for batch in batches]
        notes = batches[0].shape[2]
        self.module = MODULES[cell](notes, hidden_size)
        self.readout = nn.Linear(hidden_size, notes)
        self.parameters = [*self.module.parameters(), *self.readout.parameters()]
        assert protocol.clip_norm is not None
        self.clip_norm = protocol.clip_norm
        decay, epsilon = protocol.optimizer["decay"], protocol.optimizer["epsilon"]
        self.optimizer = torch.optim.RMSprop(self.parameters, lr=protocol.lr, alpha=decay, eps=epsilon)
        self.done = 0

    def run(self, updates: int) -> int:
        """Make some updates; returns their number."""
        for _ in range(updates):
            x = self.batches[self.done % len(self.batches)]
            self.optimizer.zero_grad()
            y = self.readout(self.module(x[:-1])[0])
            nn.functional.binary_cross_entropy_with_logits(y, x[1:], reduction="sum").backward()
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
            self.optimizer.step()
            self.done += 1
        return updates


def find_jax() -> Any:  # noqa: ANN401 - a module that need not be there
    """The module jax, kept to one thread, or None."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        import jax
    except ImportError:
        return None
    return jax


class Jax:
    """The paper's cells as `lax.scan`, jitted, `vmap` over members, from the weights of rnnbench's own.

    All members see the same batch, which only helps it. U is sliced outside the scan (inside: 3 to 4 times slower).
    """

    def __init__(self, cell: str, members: Sequence[Member], batches: Sequence[np.ndarray]) -> None:
        """Stack the members' weights and compile the step at its first call."""
        import jax

        self.jax = jax
        self.batches = [jax.numpy.asarray(batch) for batch in batches]
        each = [_weights(member) for member in members]
        self.weights = {name: jax.numpy.stack([w[name] for w in each]) for name in each[0]}
        self.mean_square = {name: jax.numpy.zeros_like(w) for name, w in self.weights.items()}
        step = jax.vmap(_step(cell, members[0].protocol), in_axes=(0, 0, None))
        self.step = jax.jit(step, donate_argnums=(0, 1))
        self.done = 0

    def run(self, updates: int) -> int:
        """Make some updates of every member; returns their number."""
        for _ in range(updates):
            x = self.batches[self.done % len(self.batches)]
            self.weights, self.mean_square = self.step(self.weights, self.mean_square, x)
            self.done += 1
        self.jax.block_until_ready(self.weights)
        return updates


def check_against_reference(cell: str, member: Member, batch: np.ndarray, packed: Batch) -> None:
    """Raise an error unless jax's first update has the same squares of the clipped gradient as `train.update`."""
    jax = Jax(cell, [member], [batch])
    jax.run(1)
    update(member, BERNOULLI, packed)
    slots = {"W": "cell.weight_ih", "U": "cell.weight_hh", "V": "readout.weight", "b": "cell.bias", "c": "readout.bias"}
    sizes = [dict(member.model.named_parameters())[name].shape for name in member.parameters]
    pieces = member.optimizer.state["ms"].split([size.numel() for size in sizes])
    ours = {name: piece.view(size) for name, piece, size in zip(member.parameters, pieces, sizes, strict=True)}
    for letter, name in slots.items():
        theirs = np.asarray(jax.mean_square[letter])[0].T
        np.testing.assert_allclose(theirs, ours[name], rtol=1e-2, atol=1e-4 * float(ours[name].max()), err_msg=letter)


def _weights(member: Member) -> dict[str, np.ndarray]:
    """The weights of a member under the paper's letters, a column a unit."""
    p = {name: value.detach().numpy() for name, value in member.model.named_parameters()}
    weights = {"W": p["cell.weight_ih"].T, "U": p["cell.weight_hh"].T, "b": p["cell.bias"]}
    if "cell.peephole" in p:
        weights["peephole"] = p["cell.peephole"].reshape(3, -1)
    return {**weights, "V": p["readout.weight"].T, "c": p["readout.bias"]}


def _step(cell: str, protocol: TrainConfig) -> Callable[..., Any]:
    """(weights, mean squares, x (T + 1, B, I)) -> (weights, mean squares), of one member."""
    import jax
    import jax.numpy as jnp

    decay, epsilon = protocol.optimizer["decay"], protocol.optimizer["epsilon"]
    unroll = {"gru": _gru, "tanh": _tanh, "lstm": _lstm}[cell]

    def loss(p: dict[str, Any], x: Any) -> Any:  # noqa: ANN401 - jax's arrays
        h = unroll(p, x[:-1] @ p["W"] + p["b"])
        y = h @ p["V"] + p["c"]
        return (jax.nn.softplus(y) - x[1:] * y).sum()

    def step(p: dict[str, Any], ms: dict[str, Any], x: Any) -> Any:  # noqa: ANN401
        g = jax.grad(loss)(p, x)
        norm = jnp.sqrt(sum((v * v).sum() for v in g.values()))
        scale = jnp.minimum(1.0, protocol.clip_norm / norm)
        g = {name: v * scale for name, v in g.items()}
        ms = {name: decay * ms[name] + (1 - decay) * v * v for name, v in g.items()}
        return {name: v - protocol.lr * g[name] / jnp.sqrt(ms[name] + epsilon) for name, v in p.items()}, ms

    return step


def _tanh(p: dict[str, Any], wx: Any) -> Any:  # noqa: ANN401
    import jax
    import jax.numpy as jnp

    def step(h: Any, a: Any) -> Any:  # noqa: ANN401
        h = jnp.tanh(a + h @ p["U"])
        return h, h

    return jax.lax.scan(step, jnp.zeros(wx.shape[1:]), wx)[1]


def _gru(p: dict[str, Any], wx: Any) -> Any:  # noqa: ANN401
    import jax
    import jax.numpy as jnp

    H = p["U"].shape[0]
    U_zr, U_h = p["U"][:, : 2 * H], p["U"][:, 2 * H :]

    def step(h: Any, a: Any) -> Any:  # noqa: ANN401
        zr = jax.nn.sigmoid(a[:, : 2 * H] + h @ U_zr)
        z, r = zr[:, :H], zr[:, H:]
        h = h + z * (jnp.tanh(a[:, 2 * H :] + (r * h) @ U_h) - h)
        return h, h

    return jax.lax.scan(step, jnp.zeros((wx.shape[1], H)), wx)[1]


def _lstm(p: dict[str, Any], wx: Any) -> Any:  # noqa: ANN401
    import jax
    import jax.numpy as jnp

    H = p["U"].shape[0]
    sigmoid, (V_i, V_f, V_o) = jax.nn.sigmoid, p["peephole"]

    def step(state: Any, a: Any) -> Any:  # noqa: ANN401
        h, c = state
        a = a + h @ p["U"]
        i, f = sigmoid(a[:, :H] + V_i * c), sigmoid(a[:, H : 2 * H] + V_f * c)
        c = f * c + i * jnp.tanh(a[:, 2 * H : 3 * H])
        h = sigmoid(a[:, 3 * H :] + V_o * c) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((wx.shape[1], H))
    return jax.lax.scan(step, (zero, zero), wx)[1]
