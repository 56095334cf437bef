"""The loop: the order of a step, noise, clipping, divergence, early stopping, exact continuation."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rnnbench.assemble import find_class
from rnnbench.cells import GRUCell, LSTMCell
from rnnbench.compose import compose_config
from rnnbench.config import TrainConfig
from rnnbench.model import Model, build_cell, build_model
from rnnbench.seeding import normals
from rnnbench.tasks.adding import Adding
from rnnbench.train import Member, Metrics, evaluate, learning_rate, train, update

CELLS = ["tanh", "lstm", "gru", "gru_cudnn"]
PROTOCOLS = ["modern", "chung2014", "librnn"]


@dataclass
class Listener:
    """A recorder that remembers, and can stop the loop."""

    stop_at: int | None = None
    on_update: Callable[[Member], None] | None = None
    rows: list[tuple[int, int, float]] = field(default_factory=list)
    training: list[Metrics] = field(default_factory=list)

    def evaluated(self, member: Member, valid: Metrics, training: Metrics) -> None:
        self.rows.append((member.progress.epoch, member.progress.update, valid["mse"]))
        self.training.append(training)

    def updated(self, member: Member) -> None:
        self.updates = member.progress.update
        if self.on_update:
            self.on_update(member)

    def stop_requested(self) -> bool:
        return self.updates == self.stop_at


def adding(length: int = 12) -> Adding:
    return Adding(
        length=length,
        markers="halves",
        updates_per_epoch=4,
        valid_size=30,
        test_size=30,
        data_seed=0,
        margin=0.5,
        solved=None,
    )


def protocol(name: str, *overrides: str) -> TrainConfig:
    return compose_config(f"train={name}", "task=adding", *overrides).train


def new_member(cell: str, train_config: TrainConfig, seed: int = 0) -> Member:
    config = compose_config(f"cell={cell}", "cell.hidden_size=5")
    cell_class = find_class(config.cell["_target_"], nn.Module, "cell")
    built = build_cell(cell_class, 2, 5, config.options("cell"), seed)
    model = build_model(built, 5, 1, None, seed, lambda out: out)
    return Member(model.to(getattr(torch, train_config.dtype)), train_config, seed)


def test_the_parameters_of_the_model_are_views_of_theta() -> None:
    member = new_member("lstm", protocol("modern"))
    with torch.no_grad():
        member.theta.fill_(0.5)
    assert all(bool((p == 0.5).all()) for p in member.model.parameters())
    assert sum(p.numel() for p in member.model.parameters()) == len(member.theta)


def test_noise_is_on_the_matrices_of_the_cell_alone() -> None:
    member = new_member("lstm", protocol("chung2014"))
    cell = member.model.cell
    assert isinstance(cell, LSTMCell)
    assert member.noisy_size == cell.weight_ih.numel() + cell.weight_hh.numel()
    member.theta[: member.noisy_size] = 7.0
    for name, p in member.model.named_parameters():
        assert bool((p == 7.0).all()) == (name in ("cell.weight_ih", "cell.weight_hh")), name


def test_an_update_is_that_of_the_definition() -> None:
    """Gradient at θ + ε, then θ, then clipping, then the optimiser: done by hand in another way."""
    train_config = protocol("chung2014", "train.batch_size=3", "train.lr=0.01", "train.clip_norm=0.05")
    task = adding()
    member = new_member("gru", train_config, seed=4)
    twin: Model = copy.deepcopy(member.model)
    batch = task.training_batch(4, 0, 0, 3)
    before = {n: p.detach().clone() for n, p in twin.named_parameters()}
    noise = torch.from_numpy(normals(4, "noise", 0, member.noisy_size)).float()
    cell_size = before["cell.weight_ih"].numel()
    rows = len(before["cell.weight_ih"])
    assert isinstance(twin.cell, GRUCell)
    with torch.no_grad():
        # numbered input by input: number i * rows + j belongs to row j and column i
        twin.cell.weight_ih.add_(noise[:cell_size].view(-1, rows).T, alpha=0.075)
        twin.cell.weight_hh.add_(noise[cell_size:].view(-1, rows).T, alpha=0.075)
    twin.zero_grad(set_to_none=True)
    loss = (twin(batch.inputs, batch.batch_sizes, batch.scored) - batch.targets).square().sum()
    loss.backward()
    parameters = dict(twin.named_parameters())
    norm = nn.utils.clip_grad_norm_(parameters.values(), 0.05)
    got_loss, got_norm = update(member, task.loss, batch)
    assert got_loss == pytest.approx(loss.item() / 3, rel=1e-6)
    assert got_norm == pytest.approx(float(norm), rel=1e-5)
    assert float(norm) > 0.05, "the test must clip"
    for name, p in member.model.named_parameters():
        gradient = parameters[name].grad
        assert gradient is not None
        expected = before[name] - 0.01 * gradient / (0.1 * gradient.square() + 1e-8).sqrt()
        torch.testing.assert_close(p, expected, rtol=2e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("cell", CELLS)
def test_theta_is_untouched_by_noise_and_the_norm_is_at_most_the_threshold(cell: str) -> None:
    task = adding()
    member = new_member(cell, protocol("chung2014", "train.batch_size=4", "train.clip_norm=0.02"))
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy:
        """In the place of the optimiser: sees what it is given and moves nothing."""

        def step(self, theta: Tensor, grad: Tensor, lr: float, t: int) -> None:
            seen.append((theta.clone(), grad.clone()))

    member.optimizer = Spy()  # type: ignore[assignment]
    start = member.theta.clone()
    for index in range(4):
        _, norm = update(member, task.loss, task.training_batch(0, 0, index, 4))
        assert norm > 0.02, "the test must clip"
    for theta, grad in seen:
        assert torch.equal(theta, start)
        assert float(grad.double().norm()) <= 0.02 * (1 + 1e-6)


def test_noise_changes_from_update_to_update_and_changes_the_gradient() -> None:
    task = adding()
    batch = task.training_batch(0, 0, 0, 4)
    quiet, noisy = (new_member("gru", protocol("chung2014", f"train.weight_noise={sigma}")) for sigma in (0.0, 0.075))
    losses = [update(quiet, task.loss, batch)[0]]
    for number in range(2):
        noisy.theta.copy_(noisy.best_theta)
        noisy.progress.update = number
        losses.append(update(noisy, task.loss, batch)[0])
    assert len(set(losses)) == 3


def test_evaluation_is_without_noise_and_changes_nothing() -> None:
    task = adding()
    member = new_member("lstm", protocol("chung2014"))
    before = copy.deepcopy(member.state_dict())
    first = evaluate(member.model, task.loss, task.evaluation_batches("valid"))
    assert first == evaluate(member.model, task.loss, task.evaluation_batches("valid"))
    assert torch.equal(before["theta"], member.theta)
    assert member.model.training


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_reduction_is_over_the_scored_rows_of_the_batch(reduction: str) -> None:
    task = adding()
    member = new_member("gru", protocol("modern", f"train.reduction={reduction}", "train.clip_norm=null"))
    twin = copy.deepcopy(member.model)
    twin.zero_grad(set_to_none=True)
    batch = task.training_batch(0, 0, 0, 6)
    rows = (twin(batch.inputs, batch.batch_sizes, batch.scored) - batch.targets).square()
    (rows.sum() if reduction == "sum" else rows.sum() / 6).backward()
    _, norm = update(member, task.loss, batch)
    assert norm == pytest.approx(
        float(torch.cat([g.flatten() for p in twin.parameters() if (g := p.grad) is not None]).norm()), rel=1e-5
    )


def test_a_loss_that_is_not_finite_ends_the_run_with_its_last_good_weights() -> None:
    task = adding()
    member = new_member("gru", protocol("modern", "train.max_epochs=5"))

    def poison(m: Member) -> None:
        if m.progress.update == 6:
            m.theta[0] = float("nan")

    listener = Listener(on_update=poison)
    assert train(member, task, listener) == "diverged"
    assert member.progress.update == 6
    assert [row[0] for row in listener.rows] == [0, 1]
    assert bool(member.best_theta.isfinite().all())
    assert member.progress.best_metric == min(row[2] for row in listener.rows)


def test_training_ends_when_the_patience_does_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    task = adding()
    member = new_member("gru", protocol("modern", "train.max_epochs=50", "train.patience=3", "train.lr=1e-9"))
    scores = iter([0.5, 0.4, 0.45, 0.41, 0.44, 0.1])
    thetas: list[Tensor] = []

    def scripted(*_: object) -> Metrics:
        thetas.append(member.theta.clone())
        return {"mse": next(scores)}

    monkeypatch.setattr("rnnbench.train.evaluate", scripted)
    assert train(member, task, Listener()) == "done"
    assert member.progress.epoch == 4
    assert (member.progress.best_epoch, member.progress.best_metric) == (1, 0.4)
    assert torch.equal(member.best_theta, thetas[1])


def test_training_ends_when_the_task_is_solved_only_if_the_protocol_says_so() -> None:
    for stop, epochs in ((True, 0), (False, 2)):
        task = adding()
        task.solved = 1e9
        member = new_member("gru", protocol("modern", "train.max_epochs=2", f"train.stop_when_solved={stop}"))
        train(member, task, Listener())
        assert member.progress.epoch == epochs


def test_evaluations_come_every_so_many_epochs_and_after_the_last() -> None:
    member = new_member("tanh", protocol("modern", "train.max_epochs=5", "train.eval_every=2"))
    listener = Listener()
    train(member, adding(), listener)
    assert [row[:2] for row in listener.rows] == [(0, 0), (2, 8), (4, 16), (5, 20)]
    assert listener.training[0] == {}
    assert listener.training[1]["lr"] == 5e-3


def test_the_rate_falls_in_a_straight_line() -> None:
    member = new_member("tanh", protocol("librnn", "train.max_epochs=101"))
    rates = []
    for epoch in (0, 50, 100):
        member.progress.epoch = epoch
        rates.append(learning_rate(member))
    assert rates == pytest.approx([1e-3, 1e-3 * 0.505, 1e-5])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_run_that_stops_anywhere_goes_on_to_the_same_bits(cell: str, name: str, tmp_path: Path) -> None:
    train_config = protocol(name, "train.max_epochs=3", "train.weight_noise=0.075", "train.batch_size=3")
    straight = new_member(cell, train_config, seed=3)
    straight_listener = Listener()
    train(straight, adding(), straight_listener)
    rows: list[tuple[int, int, float]] = []
    member = new_member(cell, train_config, seed=3)
    for stop_at in (1, 4, 6, 7, 12, None):
        torch.save(member.state_dict(), tmp_path / "state.pt")
        member = new_member(cell, train_config, seed=99)
        member.seed = 3
        member.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        listener = Listener(stop_at=stop_at)
        outcome = train(member, adding(), listener)
        assert outcome == ("done" if stop_at is None else "interrupted")
        rows += listener.rows
    assert rows == straight_listener.rows
    assert torch.equal(member.theta, straight.theta)
    assert torch.equal(member.best_theta, straight.best_theta)
    for slot, value in straight.optimizer.state.items():
        assert torch.equal(member.optimizer.state[slot], value), slot


class Dropped(nn.GRUCell):
    """A cell of one's own that draws while it trains, and counts its calls in a buffer."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(1))

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        if self.training:
            self.scale.mul_(1.001)
        return super().forward(nn.functional.dropout(input, 0.3, self.training), hx) * self.scale.item()


def test_a_cell_of_ones_own_that_draws_and_keeps_buffers_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def member() -> Member:
        train_config = protocol("modern", "train.max_epochs=2", "train.batch_size=3")
        cell = build_cell(Dropped, 2, 5, {}, 0)
        return Member(build_model(cell, 5, 1, None, 0, lambda out: out), train_config, 0)

    straight, stopped, resumed = member(), member(), member()
    train(straight, adding(), Listener())
    train(stopped, adding(), Listener(stop_at=3))
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    torch.rand(7)  # the global generator is elsewhere
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(resumed, adding(), Listener())
    assert torch.equal(resumed.theta, straight.theta)
    for found, expected in zip(resumed.model.buffers(), straight.model.buffers(), strict=True):
        assert torch.equal(found, expected)
    assert resumed.best_buffers["cell.scale"] == straight.best_buffers["cell.scale"]
    quiet = evaluate(resumed.model, adding().loss, adding().evaluation_batches("valid"))
    assert quiet == evaluate(straight.model, adding().loss, adding().evaluation_batches("valid"))


def test_a_validation_loss_that_is_not_finite_ends_the_run_too(monkeypatch: pytest.MonkeyPatch) -> None:
    member = new_member("gru", protocol("modern", "train.max_epochs=5"))
    scores = iter([0.5, float("nan"), 0.1])
    monkeypatch.setattr("rnnbench.train.evaluate", lambda *_: {"mse": next(scores)})
    listener = Listener()
    assert train(member, adding(), listener) == "diverged"
    assert (member.progress.best_epoch, member.progress.best_metric) == (0, 0.5)
    assert [row[0] for row in listener.rows] == [0, 1], "what was seen is recorded"
    resumed = new_member("gru", protocol("modern", "train.max_epochs=5"))
    resumed.load_state_dict(member.state_dict())
    assert train(resumed, adding(), Listener()) == "diverged", "a kill after the evaluation does not undo it"
    assert resumed.progress.update == member.progress.update


def test_parameters_that_are_frozen_take_no_noise_and_do_not_move() -> None:
    train_config = protocol("chung2014", "train.batch_size=3")
    cell = build_cell(nn.GRUCell, 2, 5, {}, 0)
    next(cell.parameters()).requires_grad_(False)
    member = Member(build_model(cell, 5, 1, None, 0, lambda out: out), train_config, 0)
    assert member.noisy_size == 15 * 5
    before = [p.detach().clone() for p in cell.parameters()]
    update(member, adding().loss, adding().training_batch(0, 0, 0, 3))
    moved = [not torch.equal(p, b) for p, b in zip(cell.parameters(), before, strict=True)]
    assert moved == [False, True, True, True]
