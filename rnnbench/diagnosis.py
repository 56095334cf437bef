"""How far back a cell's gradient reaches, what its gates do meanwhile, and how much U expands.

For each sequence loss_T is the loss of its last scored row alone, at step T, and not the sum over steps, whose gradient
would say nothing of distances. What is measured is ‖∂loss_T/∂s_t‖, the Euclidean norm over the units of one sequence,
against the *lag* T - t, for each tensor s of the cell's state, as Bengio, Simard & Frasconi (1994) and Pascanu, Mikolov
& Bengio (2013, arXiv:1211.5063) look at it. An LSTM has two: ∂/∂h_t holds c_t fixed and so leaves out the path that is
meant to be long, which runs from memory to memory; ∂/∂c_t has it, together with what passes through h_t.

It is done in float64 on the CPU, on a copy of the model without noise or dropout, since in float32 a norm is 0 below
1e-45. A norm that is 0 even so is counted and left out of the means of logarithms; one that is not finite is left out.

Legend: ``K`` lags, ``B`` sequences, ``N`` packed rows (see `rnnbench.model`), ``H`` units.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rnnbench.errors import UserError
from rnnbench.model import Model, Step, output_of, steps
from rnnbench.tasks.base import Batch, Loss, Task

Array = NDArray[np.float64]

SEQUENCES = 32
"""Of the validation set, evenly spaced in the order in which it is evaluated (music: by length)."""

STEPS = 20_000
"""The most steps of all these sequences together, which bounds memory: of long sequences fewer are taken."""

LAGS = 1000
"""The longest lag that is recorded."""

SHOWN_LAGS = (1, 10, 100, 1000)
"""The lags that are followed over training."""

CLOSED, OPEN = 0.1, 0.9
"""A gate below the one or above the other is saturated (Karpathy, Johnson & Fei-Fei 2015, arXiv:1506.02078)."""

BINS = 20
"""Of a histogram."""


@dataclass(frozen=True)
class Spread:
    """How values between 0 and 1 are spread, over units, steps and sequences alike."""

    mean: float
    below: float
    """The share below `CLOSED`."""
    above: float
    """The share above `OPEN`."""
    counts: list[int]
    """In `BINS` equal bins from 0 to 1."""

    @classmethod
    def of(cls, values: Tensor) -> "Spread":
        """The spread of ``values``, of any shape."""
        below, above = (values < CLOSED).double().mean(), (values > OPEN).double().mean()
        counts = torch.histc(values, BINS, 0.0, 1.0).long().tolist()
        return cls(float(values.mean()), float(below), float(above), counts)

    def in_short(self) -> dict[str, float]:
        """The mean and the saturation."""
        return {"mean": self.mean, f"below_{CLOSED:g}": self.below, f"above_{OPEN:g}": self.above}


@dataclass(frozen=True)
class Curve:
    """The norms of a gradient by lag, each array (K,)."""

    sequences: NDArray[np.int64]
    """How many sequences reach back so far."""
    zero: Array
    """The share of them whose norm is 0."""
    log10_mean: Array
    """The mean over the others of log10 of the norm; not a number where there are none."""
    log10_sd: Array
    """Their standard deviation."""
    log10_ratio: Array
    """The mean of log10 of (norm / the same sequence's norm at lag 0)."""
    log10: Array
    """All logarithms, of every lag and sequence, in no order."""

    @classmethod
    def of(cls, norms: Array) -> "Curve":
        """The curve of ``norms`` (K, B), not a number where a sequence does not reach."""
        norms = np.where(np.isfinite(norms), norms, np.nan)
        log10 = np.full_like(norms, np.nan)
        np.log10(norms, out=log10, where=norms > 0)
        there = np.isfinite(norms)
        mean = _mean(log10)
        sd = np.sqrt(_mean((log10 - mean[:, None]) ** 2))
        zero = _mean(np.where(there, norms == 0.0, np.nan))
        return cls(there.sum(axis=1), zero, mean, sd, _mean(log10 - log10[0]), log10[np.isfinite(log10)])

    def as_dict(self) -> dict[str, list[float]]:
        """The arrays (K,) as lists, to six digits."""
        names = ("zero", "log10_mean", "log10_sd", "log10_ratio")
        rounded = {name: [_rounded(value) for value in getattr(self, name)] for name in names}
        return {"sequences": self.sequences.tolist(), **rounded}


@dataclass(frozen=True)
class Diagnosis:
    """What was measured at one set of weights."""

    gradient: dict[str, Curve]
    """By state: ``h``, and ``c`` where the cell has a second one."""
    gates: dict[str, Spread]
    """By gate, as `rnnbench.cells.Cell.gates` names them."""
    abs_h: Spread
    """Of |h|, whose tanh is saturated near 1; values above 1 are in no bin of its histogram."""
    spectral_radius: dict[str, float]
    """By block of U: the largest absolute value of an eigenvalue."""
    sequences: int
    steps: int
    """Of all sequences together."""

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        spreads = {name: {**s.in_short(), "histogram": s.counts} for name, s in self._spreads().items()}
        return {
            "sequences": self.sequences,
            "steps": self.steps,
            "gradient": {state: curve.as_dict() for state, curve in self.gradient.items()},
            "gates": {name: spreads[f"gates/{name}"] for name in self.gates},
            "abs_h": spreads["abs_h"],
            "spectral_radius": self.spectral_radius,
        }

    def in_short(self) -> dict[str, Any]:
        """The same without histograms, and of the gradients the mean log10 norm at `SHOWN_LAGS` alone."""
        return {
            "gradient": {
                state: {f"lag_{k}": _rounded(c.log10_mean[k]) for k in SHOWN_LAGS if k < len(c.log10_mean)}
                for state, c in self.gradient.items()
            },
            "gates": {name: spread.in_short() for name, spread in self.gates.items()},
            "abs_h": self.abs_h.in_short(),
            "spectral_radius": self.spectral_radius,
        }

    def scalars(self) -> dict[str, float]:
        """The points of TensorBoard's curves (see `rnnbench.events`), by tag."""
        short = self.in_short()
        points = {f"{tag}/{what}": x for tag, s in self._spreads().items() for what, x in s.in_short().items()}
        points |= {f"gradient/{s}/{lag}": x for s, by_lag in short["gradient"].items() for lag, x in by_lag.items()}
        points |= {f"spectral_radius/{block}": x for block, x in self.spectral_radius.items()}
        return {tag: x for tag, x in points.items() if math.isfinite(x)}

    def histograms(self) -> dict[str, tuple[list[float], list[float]]]:
        """TensorBoard's histograms, counts and edges, by tag; none for a gradient that is 0 everywhere."""
        edges = np.linspace(0.0, 1.0, BINS + 1).tolist()
        found = {tag: ([float(n) for n in spread.counts], edges) for tag, spread in self._spreads().items()}
        for state, curve in self.gradient.items():
            if len(curve.log10):
                counts, of_log = np.histogram(curve.log10, BINS)
                found[f"gradient/{state}"] = counts.astype(float).tolist(), of_log.tolist()
        return found

    def _spreads(self) -> dict[str, Spread]:
        return {**{f"gates/{name}": spread for name, spread in self.gates.items()}, "abs_h": self.abs_h}


class Probe:
    """The sequences of a task on which models are measured: of the validation set, the same ones every time."""

    def __init__(self, task: Task) -> None:
        """Choose the sequences; the task has its data."""
        self.loss = task.loss
        self.batch = sample(list(task.evaluation_batches("valid")))

    def __call__(self, model: Model) -> Diagnosis:
        """Measure ``model``, which is left as it is, and so are torch's random numbers.

        Raises:
            UserError: for a cell of one's own that cannot compute in float64 on the CPU.
        """
        return measure(model, self.loss, self.batch)


def sample(batches: Sequence[Batch], most: int = SEQUENCES, most_steps: int = STEPS) -> Batch:
    """At most ``most`` sequences of ``batches``, evenly spaced; so few that they have ``most_steps`` steps, or one."""
    lengths = np.concatenate([_lengths(batch) for batch in batches])
    count = min(most, len(lengths))
    while True:
        chosen = np.linspace(0, len(lengths) - 1, count).round().astype(int)
        if count == 1 or lengths[chosen].sum() <= most_steps:
            break
        count -= 1
    first = np.cumsum([0, *(batch.batch_sizes[0] for batch in batches)])
    where = np.searchsorted(first, chosen, side="right") - 1
    return pack([sequence_of(batches[n], int(i - first[n])) for n, i in zip(where, chosen, strict=True)])


def sequence_of(batch: Batch, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """One sequence of a batch: inputs (T, I), targets (M, O) or (M,), and the steps (M,) that they belong to."""
    sizes = torch.tensor(batch.batch_sizes)
    rows = (sizes.cumsum(0) - sizes + number)[sizes > number]
    mine = batch.sequence == number
    return batch.inputs[rows], batch.targets[mine], torch.searchsorted(rows, _scored(batch)[mine])


def pack(sequences: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Batch:
    """What `sequence_of` returned for several, as one batch, the longest first."""
    longest_first = sorted(sequences, key=lambda sequence: -len(sequence[0]))
    lengths = torch.tensor([len(inputs) for inputs, _, _ in longest_first])
    sizes = (lengths > torch.arange(int(lengths[0]))[:, None]).sum(dim=1)
    start = sizes.cumsum(0) - sizes
    rows = [start[:T] + b for b, T in enumerate(lengths.tolist())]
    inputs = torch.cat([inputs for inputs, _, _ in longest_first])
    return Batch(
        inputs=torch.empty_like(inputs).index_copy_(0, torch.cat(rows), inputs),
        batch_sizes=sizes.tolist(),
        targets=torch.cat([targets for _, targets, _ in longest_first]),
        sequence=torch.cat([torch.full((len(at),), b) for b, (_, _, at) in enumerate(longest_first)]),
        scored=torch.cat([row[at] for row, (_, _, at) in zip(rows, longest_first, strict=True)]),
    )


def measure(model: Model, loss: Loss, batch: Batch) -> Diagnosis:
    """Measure ``model`` on all sequences of ``batch``; see `Probe`."""
    double = copy.deepcopy(model).to("cpu", torch.float64).eval()
    batch = batch.to(torch.device("cpu"), torch.float64)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)  # a cell of one's own may draw even so
        try:
            walk = list(steps(double.cell, batch.inputs.detach().requires_grad_(), batch.batch_sizes))
        except Exception as error:  # whatever a cell of one's own may raise
            raise UserError(
                f"{type(model.cell).__qualname__}: gates and gradients are measured in float64 on the CPU, where it "
                f"fails: {type(error).__name__}: {error}. Make its tensors by x.new_zeros and the like, or leave out "
                "diagnose_every."
            ) from error
        norms = gradient_norms(double, loss, batch, walk)
    with torch.no_grad():
        gates = [_gates(double.cell, step) for step in walk]
        h = torch.cat([output_of(step.after).detach() for step in walk])
    return Diagnosis(
        gradient={state: Curve.of(of_state) for state, of_state in norms.items()},
        gates={name: Spread.of(torch.cat([of_step[name] for of_step in gates])) for name in gates[0]},
        abs_h=Spread.of(h.abs()),
        spectral_radius=spectral_radii(double.cell),
        sequences=batch.batch_sizes[0],
        steps=len(batch.inputs),
    )


def gradient_norms(model: Model, loss: Loss, batch: Batch, walk: Sequence[Step]) -> dict[str, Array]:
    """‖∂loss_T/∂s_t‖ of each state s, (K, B): row k is t = T - k; not a number before the first step.

    Args:
        model: the read-out is used.
        loss: of one row.
        batch: the sequences, each of which has a scored row.
        walk: the cell over ``batch``, with its graph.
    """
    scored, B = _scored(batch), batch.batch_sizes[0]
    last = torch.full((B,), -1).scatter_reduce(0, batch.sequence, scored, "amax")
    assert bool((last >= 0).all()), "a sequence without a scored row"
    final = scored == last[batch.sequence]
    h = torch.cat([output_of(step.after) for step in walk])
    total = loss.row(model.readout(h[scored[final]]), batch.targets[final]).sum()
    end = torch.repeat_interleave(torch.arange(len(walk)), torch.tensor(batch.batch_sizes))[last]  # (B,): T of each
    states = [step.after if isinstance(step.after, tuple) else (step.after,) for step in walk]
    names = [name_of_state(n) for n in range(len(states[0]))]
    wanted = [s for state in states for s in state if s.requires_grad]
    grads = iter(torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True))
    found = {name: torch.full((len(walk), B), math.nan, dtype=torch.float64) for name in names}
    for at, state in enumerate(states):
        for name, s in zip(names, state, strict=True):
            found[name][at, : len(s)] = _norm(next(grads)) if s.requires_grad else 0.0
    t = end - torch.arange(min(LAGS, int(end.max())) + 1)[:, None]  # (K, B)
    return {name: by_t.gather(0, t.clamp(min=0)).where(t.ge(0), math.nan).numpy() for name, by_t in found.items()}


def name_of_state(number: int) -> str:
    """What the n-th tensor of a state is called: h, c, and then by number."""
    return ("h", "c")[number] if number < 2 else f"state_{number}"


def spectral_radii(cell: nn.Module) -> dict[str, float]:
    """The spectral radius of each H x H block of every parameter called weight_hh, by block.

    Blocks are named by the cell's ``blocks``, or numbered; a parameter of another shape is left out.
    """
    found = {}
    for path, U in cell.named_parameters():
        prefix, _, name = path.rpartition(".")
        if name != "weight_hh" or U.dim() != 2 or not len(U) or len(U) % U.shape[1]:
            continue
        pieces = U.detach().double().cpu().split(U.shape[1])
        names = getattr(cell, "blocks", ())
        if prefix or len(names) != len(pieces):
            names = [f"{prefix}.{n}" if prefix else str(n) for n in range(len(pieces))]
        found.update({name: _radius(piece) for name, piece in zip(names, pieces, strict=True)})
    return found


def _radius(U: Tensor) -> float:
    return float(torch.linalg.eigvals(U).abs().max()) if bool(U.isfinite().all()) else math.nan


def _norm(grad: Tensor) -> Tensor:
    """The norms (B,) of the rows of ``grad`` (B, …), also where their squares would be 0 or infinite."""
    rows = grad.reshape(len(grad), -1)
    largest = rows.abs().amax(dim=1)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    norms: Tensor = scale * torch.linalg.vector_norm(rows / scale[:, None], dim=1)
    return norms


def _gates(cell: nn.Module, step: Step) -> Mapping[str, Tensor]:
    look = getattr(cell, "gates", None)
    return look(step.x, step.before, step.after) if callable(look) else {}


def _scored(batch: Batch) -> Tensor:
    return torch.arange(len(batch.inputs)) if batch.scored is None else batch.scored


def _lengths(batch: Batch) -> NDArray[np.int64]:
    sizes = np.asarray(batch.batch_sizes)
    lengths: NDArray[np.int64] = (sizes[:, None] > np.arange(sizes[0])).sum(axis=0)
    return lengths


def _mean(values: Array) -> Array:
    """Means (K,) of the numbers in the rows of ``values`` (K, B), not a number where there are none."""
    count = np.isfinite(values).sum(axis=1)
    total = np.where(np.isfinite(values), values, 0.0).sum(axis=1)
    means: Array = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return means


def _rounded(value: float) -> float:
    """Six digits."""
    return float(f"{value:.6g}")
