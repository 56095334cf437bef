"""The training loop, and nothing else: a step, an epoch, evaluation, early stopping.

Everything that changes while a member trains is in `Member`: what is saved with it and loaded again goes on to
the same weights and metrics, to the bit, as if it had never stopped. Random numbers need no saving, being
functions of (seed, name, index): see `rnnbench.seeding`.
"""

import math
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from rnnbench.config import TrainConfig
from rnnbench.model import Model
from rnnbench.optim import build_optimizer
from rnnbench.seeding import normals, torch_seed
from rnnbench.tasks.base import Batch, Loss, Split, Task

Metrics = dict[str, float]
Outcome = Literal["done", "diverged", "interrupted", "pruned"]


class DivergedError(Exception):
    """The loss or the gradient is not finite; θ is as it was before the step."""


class GivenUpError(Exception):
    """An evaluation was so bad that the member is not worth its time: it ends there, and may go on another day."""


@dataclass
class Progress:
    """How far a member has come."""

    epoch: int = 0
    """Finished epochs."""
    update_in_epoch: int = 0
    update: int = 0
    """Updates since the beginning."""
    evaluated: int = -1
    """The epoch of the last evaluation."""
    evaluated_update: int = -1
    best_epoch: int = 0
    best_update: int = 0
    best_metric: float = math.inf
    loss_sum: float = 0.0
    """Sum over the updates of the present epoch of the training loss per scored row, noise and all."""
    norm_sum: float = 0.0
    """The same of the gradient's norm before clipping."""
    diverged: bool = False
    """Whether the last validation loss was not finite."""
    wall_s: float = 0.0
    """Seconds spent on this member's updates and evaluations, other members' turns left out."""


class Member:
    """A model in training: its parameters as one flat vector, its optimiser, its progress.

    ``theta`` and ``grad`` (P,) are what the model's parameters and their gradients are views of. The
    parameters that take weight noise come first: those of the cell with two or more dimensions, that is W and
    U of the project's cells, and neither biases, nor peepholes, nor the read-out.
    """

    def __init__(self, model: Model, protocol: TrainConfig, seed: int) -> None:
        """Take ``model`` over: its parameters become views of one vector."""
        self.model = model
        self.protocol = protocol
        self.seed = seed
        noisy = [p for p in model.cell.parameters() if p.dim() >= 2 and p.requires_grad]
        first = {id(p) for p in noisy}
        rest = [p for p in model.parameters() if id(p) not in first]
        parameters: list[nn.Parameter] = [*noisy, *rest]
        names = {id(p): name for name, p in model.named_parameters()}
        self.parameters = [names[id(p)] for p in parameters]
        """The names of what ``theta`` holds, in its order."""
        self.noisy_shapes = [p.shape for p in noisy]
        self.noisy_size = sum(p.numel() for p in noisy)
        self.theta = torch.cat([p.detach().reshape(-1) for p in parameters])
        self.grad = torch.zeros_like(self.theta)
        start = 0
        for p in parameters:
            end = start + p.numel()
            p.data = self.theta[start:end].view_as(p)
            p.grad = self.grad[start:end].view_as(p)
            start = end
        self.optimizer = build_optimizer(protocol.optimizer)
        self.optimizer.start(self.theta)
        self.progress = Progress()
        self.best_theta = self.theta.clone()
        self.best_buffers = self._copy_buffers()

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Count the seconds of what is done inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.progress.wall_s += time.perf_counter() - start

    def _copy_buffers(self) -> dict[str, Tensor]:
        """The buffers of a cell of one's own; the project's cells have none."""
        return {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    def keep_as_best(self) -> None:
        """Remember the present weights as the best so far."""
        self.best_theta.copy_(self.theta)
        self.best_buffers = self._copy_buffers()

    def set_weights(self, theta: Tensor, buffers: dict[str, Tensor]) -> None:
        """Go to other weights, those of `best_weights` or of a checkpoint."""
        if theta.shape != self.theta.shape:
            raise ValueError(f"weights {tuple(theta.shape)} for a model of {tuple(self.theta.shape)}")
        self.theta.copy_(theta)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])

    def best_weights(self) -> dict[str, Any]:
        """The weights with the lowest validation loss, for `set_weights`."""
        return {"theta": self.best_theta, "buffers": self.best_buffers}

    def state_dict(self) -> dict[str, Any]:
        """All that has to be saved, as tensors and plain numbers."""
        return {
            "theta": self.theta,
            "buffers": self._copy_buffers(),
            "best": self.best_weights(),
            "optimizer": self.optimizer.state,
            "progress": asdict(self.progress),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.set_weights(state["best"]["theta"], state["best"]["buffers"])
        self.keep_as_best()
        self.set_weights(state["theta"], state["buffers"])
        for slot, value in state["optimizer"].items():
            self.optimizer.state[slot].copy_(value)
        self.progress = Progress(**{f.name: state["progress"][f.name] for f in fields(Progress)})


class Engine(Protocol):
    """What computes updates and evaluations: `Reference`, operator by operator, or `kernels.compiled.Compiled`."""

    name: str

    def advance(self, member: Member, task: Task, most: int) -> Iterator[tuple[float, float]]:
        """Make some of the next updates of the present epoch, at least one and at most ``most``.

        Yields for each the training loss per scored row, and the norm of the gradient before clipping.

        Raises:
            DivergedError: in place of an update whose loss or gradient is not finite; it changes nothing.
        """

    def evaluate(self, member: Member, task: Task, split: Split) -> Metrics:
        """The metrics of the present weights on a split, without noise; nothing is changed."""


class Reference:
    """`update` and `evaluate` as they stand here: the specification, and what runs any cell on any device."""

    name = "reference"

    def advance(self, member: Member, task: Task, most: int) -> Iterator[tuple[float, float]]:
        """One update; see `Engine.advance`."""
        progress = member.progress
        batch = task.training_batch(member.seed, progress.epoch, progress.update_in_epoch, member.protocol.batch_size)
        yield update(member, task.loss, batch)

    def evaluate(self, member: Member, task: Task, split: Split) -> Metrics:
        """See `Engine.evaluate`."""
        return evaluate(member.model, task.loss, task.evaluation_batches(split))


class Recorder(Protocol):
    """What the loop tells of itself."""

    def evaluated(self, member: Member, valid: Metrics, training: Metrics) -> None:
        """An evaluation took place; ``training`` has the means over the epoch before it, if there was one.

        Raises:
            GivenUpError: to end here.
        """

    def updated(self, member: Member) -> None:
        """Updates took place: the state is whole, and may be saved."""

    def stop_requested(self) -> bool:
        """Whether to end here, to be resumed later."""


def train(member: Member, task: Task, recorder: Recorder, engine: Engine | None = None) -> Outcome:
    """Train ``member`` to its end; see `training`."""
    steps = training(member, task, recorder, engine or Reference())
    while True:
        try:
            next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


def training(member: Member, task: Task, recorder: Recorder, engine: Engine) -> Generator[None, None, Outcome]:
    """Train ``member`` until its protocol says to stop; ``best_theta`` then holds the weights that count.

    Yields after every few updates, where another member may have its turn. The initial weights are evaluated too, as
    epoch 0, so that there is always a best.
    """
    protocol, progress = member.protocol, member.progress
    in_epoch = task.updates_in_epoch(protocol.batch_size)
    try:
        if progress.evaluated < 0:
            select(member, task, recorder, engine, {})
        while not finished(member, task):
            while progress.update_in_epoch < in_epoch:
                with member.clock():
                    for loss, norm in engine.advance(member, task, in_epoch - progress.update_in_epoch):
                        progress.update += 1
                        progress.update_in_epoch += 1
                        progress.loss_sum += loss
                        progress.norm_sum += norm
                recorder.updated(member)
                if recorder.stop_requested():
                    return "interrupted"
                yield
            means = end_epoch(member)
            if progress.epoch % protocol.eval_every == 0 or progress.epoch == protocol.max_epochs:
                select(member, task, recorder, engine, means)
    except DivergedError:
        return "diverged"
    except GivenUpError:
        return "pruned"
    return "diverged" if progress.diverged else "done"


def update(member: Member, loss: Loss, batch: Batch) -> tuple[float, float]:
    """One step: zero gradients, noise, loss and backward at θ + ε, back to θ, clip, step.

    Returns:
        The training loss per scored row, and the norm of the gradient before clipping.

    Raises:
        DivergedError: before θ is touched.
    """
    protocol = member.protocol
    batch = batch.to(member.theta.device, member.theta.dtype)
    clean = member.theta.clone()
    torch.manual_seed(torch_seed(member.seed, "cell", member.progress.update))  # for a cell of one's own with dropout
    member.grad.zero_()
    if protocol.weight_noise > 0.0:
        member.theta[: member.noisy_size].add_(draw_noise(member), alpha=protocol.weight_noise)
    rows = loss.row(member.model(batch.inputs, batch.batch_sizes, batch.scored), batch.targets)
    (rows.sum() if protocol.reduction == "sum" else rows.mean()).backward()
    member.theta.copy_(clean)
    norm = clip(member.grad, protocol.clip_norm)
    mean_loss = float(rows.detach().mean())
    if not (math.isfinite(mean_loss) and math.isfinite(norm)):
        raise DivergedError
    member.optimizer.step(member.theta, member.grad, learning_rate(member), member.progress.update + 1)
    return mean_loss, norm


def draw_noise(member: Member) -> Tensor:
    """Standard normal noise (noisy_size,) for the next update, from the stream ``noise``.

    It is numbered matrix by matrix, and within one column by column (input by input), whatever the memory layout.
    """
    z = torch.from_numpy(normals(member.seed, "noise", member.progress.update, member.noisy_size))
    sizes = [shape.numel() for shape in member.noisy_shapes]
    matrices = zip(member.noisy_shapes, z.split(sizes), strict=True)
    noise = torch.cat([part.view(-1, shape[0]).T.reshape(-1) for shape, part in matrices])
    return noise.to(member.theta.device, member.theta.dtype)


def clip(grad: Tensor, limit: float | None) -> float:
    """Rescale ``grad`` (P,) in place to the norm ``limit`` where it is longer; returns its norm before."""
    norm = float(torch.linalg.vector_norm(grad))
    if math.isinf(norm):  # of float32 numbers the squares may be too large for float32
        norm = float(torch.linalg.vector_norm(grad, dtype=torch.float64))
    if limit is not None and norm > limit:
        grad.mul_(limit / norm)
    return norm


def learning_rate(member: Member) -> float:
    """The rate of the present epoch: from ``lr`` in a straight line to ``lr_final`` times it at the last one."""
    protocol = member.protocol
    last = max(1, protocol.max_epochs - 1)
    return protocol.lr * (1.0 - (1.0 - protocol.lr_final) * member.progress.epoch / last)


def end_epoch(member: Member) -> Metrics:
    """Count the epoch; returns the means over its updates."""
    progress = member.progress
    training = {
        "loss": progress.loss_sum / progress.update_in_epoch,
        "grad_norm": progress.norm_sum / progress.update_in_epoch,
        "lr": learning_rate(member),
    }
    progress.epoch += 1
    progress.update_in_epoch, progress.loss_sum, progress.norm_sum = 0, 0.0, 0.0
    return training


def select(member: Member, task: Task, recorder: Recorder, engine: Engine, training: Metrics) -> None:
    """Evaluate on the validation set, without noise, and keep the weights if they are the best so far."""
    progress = member.progress
    with member.clock():
        valid = engine.evaluate(member, task, "valid")
    metric = valid[task.metric]
    if metric < progress.best_metric:
        progress.best_metric = metric
        progress.best_epoch, progress.best_update = progress.epoch, progress.update
        member.keep_as_best()
    progress.evaluated, progress.evaluated_update = progress.epoch, progress.update
    progress.diverged = not math.isfinite(metric)
    recorder.evaluated(member, valid, training)


def finished(member: Member, task: Task) -> bool:
    """Whether the budget is spent, the patience at an end, the task solved, or the validation loss not finite."""
    protocol, progress = member.protocol, member.progress
    if progress.update_in_epoch:
        return False
    waited = progress.evaluated - progress.best_epoch
    solved = protocol.stop_when_solved and task.solved is not None and progress.best_metric <= task.solved
    impatient = protocol.patience is not None and waited >= protocol.patience
    return progress.diverged or progress.epoch >= protocol.max_epochs or impatient or solved


@torch.no_grad()
def evaluate(model: Model, loss: Loss, batches: Iterable[Batch]) -> Metrics:
    """The loss of ``model`` over a whole set, averaged over rows and, where in use, over sequences.

    Sums are taken in float64; no noise, no dropout, nothing is changed.
    """
    theta = next(model.parameters())
    was_training = model.training
    model.eval()
    row_sum, rows, sequence_sum, sequences = 0.0, 0, 0.0, 0
    for batch in batches:
        there = batch.to(theta.device, theta.dtype)
        nll = loss.row(model(there.inputs, there.batch_sizes, there.scored), there.targets).cpu().double()
        row_sum += float(nll.sum())
        rows += len(nll)
        totals = nll.new_zeros(batch.batch_sizes[0]).index_add(0, batch.sequence, nll)
        counts = torch.bincount(batch.sequence, minlength=batch.batch_sizes[0])
        sequence_sum += float((totals / counts).sum())
        sequences += len(counts)
    model.train(was_training)
    metrics = {loss.per_step: row_sum / rows}
    if loss.per_sequence is not None:
        metrics[loss.per_sequence] = sequence_sum / sequences
    return metrics
