"""The optimisers of the protocols, on one flat vector of parameters.

Each is written for θ and g of shape (..., P): a leading axis of members, if there is one, is carried along,
with a learning rate of shape (..., 1).

The state of an optimiser is a dictionary of tensors, which is all that a checkpoint has to keep.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from rnnbench.errors import UserError, check_choice, check_number, did_you_mean


class Optimizer(ABC):
    """A rule that moves θ by a gradient; its options are the keyword arguments of its constructor."""

    slots: ClassVar[tuple[str, ...]]
    """The names of its accumulators, each of the shape of θ, zero at first."""

    def __init__(self) -> None:
        """Start with no state: `start` makes it."""
        self.state: dict[str, Tensor] = {}

    def start(self, theta: Tensor) -> None:
        """Make the accumulators for ``theta`` (..., P)."""
        self.state = {slot: torch.zeros_like(theta) for slot in self.slots}

    @abstractmethod
    def step(self, theta: Tensor, grad: Tensor, lr: float | Tensor, t: int) -> None:
        """Move ``theta`` in place against ``grad``, both (..., P), in update ``t``, counted from 1."""


class RMSProp(Optimizer):
    """ms ← ρ ms + (1 - ρ) g²;  θ ← θ - lr · g / √(ms + ε).

    Hinton, "Neural networks for machine learning", lecture 6e (2012), which gives ρ = 0.9. ε stands inside
    the root, unlike in `torch.optim.RMSprop`; its value is ours.
    """

    slots = ("ms",)

    def __init__(self, decay: float = 0.9, epsilon: float = 1e-8) -> None:
        """Take ρ and ε."""
        super().__init__()
        _check_fraction("decay", decay)
        _check_positive("epsilon", epsilon)
        self.decay = decay
        self.epsilon = epsilon

    def step(self, theta: Tensor, grad: Tensor, lr: float | Tensor, t: int) -> None:
        """See `Optimizer.step`."""
        ms = self.state["ms"]
        ms.mul_(self.decay).addcmul_(grad, grad, value=1 - self.decay)
        theta.sub_(lr * grad / torch.sqrt(ms + self.epsilon))


class LibrnnRMSProp(Optimizer):
    """RMSProp with momentum and a bound on the update, as in the authors' code (jych/librnn).

    ms ← ρ ms + (1 - ρ) g²;  v ← μ v - lr · g / max(√ms, floor);  θ ← θ + v · 1 / max(1, ‖v‖ / limit).
    """

    slots = ("ms", "v")

    def __init__(
        self, decay: float = 0.95, momentum: float = 0.9, floor: float = 1e-2, update_norm: float = 1.0
    ) -> None:
        """Take ρ, μ, the floor of the root and the limit of the update's norm."""
        super().__init__()
        _check_fraction("decay", decay)
        _check_fraction("momentum", momentum)
        _check_positive("floor", floor)
        _check_positive("update_norm", update_norm)
        self.decay = decay
        self.momentum = momentum
        self.floor = floor
        self.update_norm = update_norm

    def step(self, theta: Tensor, grad: Tensor, lr: float | Tensor, t: int) -> None:
        """See `Optimizer.step`."""
        ms, v = self.state["ms"], self.state["v"]
        ms.mul_(self.decay).addcmul_(grad, grad, value=1 - self.decay)
        v.mul_(self.momentum).sub_(lr * grad / ms.sqrt().clamp_min(self.floor))
        norm = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        theta.add_(v / (norm / self.update_norm).clamp_min(1.0))


class Adam(Optimizer):
    """Kingma & Ba (2015, arXiv:1412.6980), algorithm 1.

    m ← β₁ m + (1 - β₁) g;  v ← β₂ v + (1 - β₂) g²;  θ ← θ - lr · m̂ / (√v̂ + ε), where m̂ and v̂ are m and v
    divided by 1 - β₁ᵗ and 1 - β₂ᵗ.
    """

    slots = ("m", "v")

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        """Take β₁, β₂ and ε."""
        super().__init__()
        _check_fraction("beta1", beta1)
        _check_fraction("beta2", beta2)
        _check_positive("epsilon", epsilon)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def step(self, theta: Tensor, grad: Tensor, lr: float | Tensor, t: int) -> None:
        """See `Optimizer.step`."""
        m, v = self.state["m"], self.state["v"]
        m.lerp_(grad, 1 - self.beta1)
        v.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        denominator = (v / (1 - self.beta2**t)).sqrt_().add_(self.epsilon)
        theta.sub_(lr / (1 - self.beta1**t) * m / denominator)


OPTIMIZERS: dict[str, type[Optimizer]] = {"rmsprop": RMSProp, "librnn": LibrnnRMSProp, "adam": Adam}


def build_optimizer(config: Mapping[str, Any]) -> Optimizer:
    """The optimiser called ``config["name"]``, with the rest of ``config`` as its options.

    Raises:
        UserError: for an unknown name or option, or a value out of range.
    """
    options = dict(config)
    name = options.pop("name", None)
    check_choice("train.optimizer.name", str(name), OPTIMIZERS)
    kind = OPTIMIZERS[str(name)]
    allowed = list(inspect.signature(kind).parameters)
    for option in options:
        if option not in allowed:
            raise UserError(
                f"train.optimizer.{option}: '{name}' has no such option. Allowed: {', '.join(allowed)}."
                f"{did_you_mean(option, allowed)} For another optimiser, write a protocol of your own in train/ of "
                "your --config-dir."
            )
    return kind(**options)


def _check_fraction(option: str, value: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 <= value < 1.0:
        raise UserError(f"train.optimizer.{option}={value}: must be a number of at least 0 and below 1.")


def _check_positive(option: str, value: float) -> None:
    check_number(f"train.optimizer.{option}", value, above=0)
