"""The optimisers against `torch.optim`, against loops in NumPy, and with members against without."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnnbench.errors import UserError
from rnnbench.optim import OPTIMIZERS, Adam, LibrnnRMSProp, Optimizer, RMSProp, build_optimizer

Array = NDArray[np.float64]
STEPS, P = 40, 37


def gradients(*shape: int, seed: int = 0) -> Tensor:
    """Gradients (STEPS, ..., P) of very different sizes, some of them zero."""
    rng = np.random.default_rng(seed)
    g = rng.normal(0, 1, (STEPS, *shape)) * 10.0 ** rng.uniform(-4, 2, shape)
    return torch.from_numpy(g * (rng.random(g.shape) > 0.1))


def trajectory(optimizer: Optimizer, grads: Tensor, lr: float | Tensor, theta: Tensor) -> Tensor:
    """θ after each of the updates (STEPS, ..., P)."""
    theta = theta.clone()
    optimizer.start(theta)
    path = []
    for t, grad in enumerate(grads, start=1):
        optimizer.step(theta, grad.clone(), lr, t)
        path.append(theta.clone())
    return torch.stack(path)


def torch_trajectory(make: Callable[[list[Tensor]], torch.optim.Optimizer], grads: Tensor, theta: Tensor) -> Tensor:
    """θ after each of the updates of an optimiser of `torch.optim`."""
    parameter = torch.nn.Parameter(theta.clone())
    optimizer = make([parameter])
    path = []
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
        path.append(parameter.detach().clone())
    return torch.stack(path)


def start(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(9).normal(0, 1, shape))


@pytest.mark.parametrize("options", [{}, {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3}, {"beta1": 0.0}])
def test_adam_is_that_of_torch(options: dict[str, float]) -> None:
    betas, eps = (options.get("beta1", 0.9), options.get("beta2", 0.999)), options.get("epsilon", 1e-8)
    expected = torch_trajectory(lambda p: torch.optim.Adam(p, lr=0.03, betas=betas, eps=eps), gradients(P), start(P))
    actual = trajectory(Adam(**options), gradients(P), 0.03, start(P))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99])
def test_rmsprop_is_that_of_torch_when_epsilon_vanishes(decay: float) -> None:
    expected = torch_trajectory(
        lambda p: torch.optim.RMSprop(p, lr=0.03, alpha=decay, eps=1e-30), gradients(P), start(P)
    )
    actual = trajectory(RMSProp(decay, epsilon=1e-60), gradients(P), 0.03, start(P))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def rmsprop(theta: Array, grads: Array, lr: float, decay: float = 0.9, epsilon: float = 1e-8) -> list[Array]:
    ms, path = np.zeros_like(theta), []
    for g in grads:
        ms = decay * ms + (1 - decay) * g**2
        theta = theta - lr * g / np.sqrt(ms + epsilon)
        path.append(theta)
    return path


def librnn(
    theta: Array,
    grads: Array,
    lr: float,
    decay: float = 0.95,
    momentum: float = 0.9,
    floor: float = 1e-2,
    update_norm: float = 1.0,
) -> list[Array]:
    ms, v, path = np.zeros_like(theta), np.zeros_like(theta), []
    for g in grads:
        ms = decay * ms + (1 - decay) * g**2
        v = momentum * v - lr * g / np.maximum(np.sqrt(ms), floor)
        theta = theta + v / max(1.0, float(np.sqrt((v**2).sum())) / update_norm)
        path.append(theta)
    return path


@pytest.mark.parametrize(
    ("optimizer", "formula", "options"),
    [
        (RMSProp, rmsprop, {}),
        (RMSProp, rmsprop, {"decay": 0.5, "epsilon": 0.1}),
        (LibrnnRMSProp, librnn, {}),
        (LibrnnRMSProp, librnn, {"decay": 0.5, "momentum": 0.0, "floor": 0.3, "update_norm": 0.02}),
        (LibrnnRMSProp, librnn, {"update_norm": 1e6}),
    ],
)
@pytest.mark.parametrize("lr", [1e-3, 0.3])
def test_an_optimizer_follows_its_formula(
    optimizer: type[Optimizer], formula: Callable[..., list[Array]], options: dict[str, float], lr: float
) -> None:
    actual = trajectory(optimizer(**options), gradients(P), lr, start(P))
    expected = np.stack(formula(start(P).numpy(), gradients(P).numpy(), lr, **options))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("update_norm", [0.01, 1.0])
def test_no_update_of_librnn_is_longer_than_its_limit(update_norm: float) -> None:
    theta = torch.zeros(P, dtype=torch.float64)
    path = trajectory(LibrnnRMSProp(update_norm=update_norm), gradients(P), 10.0, theta)
    lengths = torch.diff(path, dim=0, prepend=theta[None]).norm(dim=1)
    assert lengths.max().item() == pytest.approx(update_norm, rel=1e-9)  # reached, never passed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, P, 1003])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_members_together_move_as_each_alone(name: str, size: int, dtype: torch.dtype) -> None:
    M = 5
    grads, theta = gradients(M, size).to(dtype), start(M, size).to(dtype)
    lr = torch.logspace(-4, 0, M, dtype=dtype)[:, None]
    together = trajectory(OPTIMIZERS[name](), grads, lr, theta)
    for m in range(M):
        alone = trajectory(OPTIMIZERS[name](), grads[:, m], lr[m], theta[m])
        assert torch.equal(together[:, m], alone), f"member {m}"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_is_all_that_an_optimizer_remembers(name: str) -> None:
    grads, theta, half = gradients(P), start(P), STEPS // 2
    whole = trajectory(OPTIMIZERS[name](), grads, 0.01, theta)
    first, second = OPTIMIZERS[name](), OPTIMIZERS[name]()
    theta = trajectory(first, grads[:half], 0.01, theta)[-1].clone()
    assert tuple(first.state) == first.slots
    second.state = {slot: value.clone() for slot, value in first.state.items()}
    for t in range(half, STEPS):
        second.step(theta, grads[t], 0.01, t + 1)
    assert torch.equal(theta, whole[-1])


def test_build_optimizer_passes_the_options_on() -> None:
    optimizer = build_optimizer({"name": "librnn", "decay": 0.5, "update_norm": 2.0})
    assert isinstance(optimizer, LibrnnRMSProp)
    assert (optimizer.decay, optimizer.momentum, optimizer.update_norm) == (0.5, 0.9, 2.0)


FRACTIONS = [("rmsprop", "decay"), ("librnn", "decay"), ("librnn", "momentum"), ("adam", "beta1"), ("adam", "beta2")]
POSITIVE = [("rmsprop", "epsilon"), ("librnn", "floor"), ("librnn", "update_norm"), ("adam", "epsilon")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "rmsprp"}, "train.optimizer.name=rmsprp: not known. Allowed: adam, librnn, rmsprop."),
        ({"name": "rmsprp"}, "Did you mean 'rmsprop'?"),
        ({"decay": 0.9}, "train.optimizer.name=None: not known"),
        ({"name": "rmsprop", "momentum": 0.9}, "'rmsprop' has no such option. Allowed: decay, epsilon."),
        ({"name": "adam", "epsilom": 0.9}, "train.optimizer.epsilom: 'adam' has no such option"),
        ({"name": "adam", "epsilom": 0.9}, "Did you mean 'epsilon'?"),
        *(
            ({"name": name, key: value}, f"train.optimizer.{key}={value}: must be a number of at least 0 and below 1")
            for name, key in FRACTIONS
            for value in (-0.1, 1.0)
        ),
        *(
            ({"name": name, key: value}, f"train.optimizer.{key}={value}: must be a finite number above 0")
            for name, key in POSITIVE
            for value in (0.0, -1.0)
        ),
    ],
)
def test_an_optimizer_that_cannot_be_built_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build_optimizer(config)
