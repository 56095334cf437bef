"""What is searched: Hydra's sweeps as distributions of Optuna, and what is drawn as overrides."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from rnnbench.errors import UserError

SEARCHED = ("cell", "train", "match_params", "match_count")
"""The groups and keys that may be searched: the others change what the score is of, or nothing."""

DECIDING = (*SEARCHED, "task", "seed", "experiment")
"""The groups and keys that make one search another."""


@dataclass(frozen=True)
class Space:
    """What all trials have, as overrides, and what each draws."""

    fixed: list[str]
    searched: dict[str, BaseDistribution]

    def canonical(self) -> dict[str, Any]:
        """What makes the search this one, in plain containers."""
        return {
            "space": {key: json.loads(distribution_to_json(d)) for key, d in sorted(self.searched.items())},
            "fixed": sorted(override for override in self.fixed if _head(override) in DECIDING),
        }

    def example(self) -> list[str]:
        """Overrides of a trial that might be."""
        return overrides_of({key: _middle(distribution) for key, distribution in self.searched.items()})

    def described(self) -> str:
        """A line for each key."""
        width = max(map(len, self.searched))
        return "\n".join(f"  {key:<{width}}  {_described(d)}" for key, d in self.searched.items())


def space_of(overrides: Sequence[Override]) -> Space:
    """The space of a command line.

    Raises:
        UserError: if nothing is searched, or what cannot be.
    """
    fixed, searched = [], {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed.append(f"{key}={override.get_value_element_as_str()}")
            continue
        if _head(key) == "seed":
            raise UserError(f"{override.input_line}: a seed is not searched; seed=[0,1,2] gives each trial three runs.")
        if _head(key) not in SEARCHED:
            raise UserError(f"{override.input_line}: cannot be searched. Allowed: {', '.join(SEARCHED)}.")
        searched[key] = distribution_of(override)
    for given in fixed:
        if _head(given) in ("members", "trial"):
            raise UserError(f"{given}: a search makes them itself; leave it out.")
    if not searched:
        raise UserError(
            "hydra/sweeper=rnnbench_optuna: nothing to search. Give a space, as in "
            "'train.lr=tag(log,interval(1e-4,1e-1))'."
        )
    return Space(fixed, searched)


def distribution_of(override: Override) -> BaseDistribution:
    """The distribution that a sweep stands for.

    ``a,b,c`` and ``choice`` are categories; ``interval(a,b)`` are floats, and whole numbers as ``int(interval(a,b))``
    or tagged ``int``; tagged ``log``, logarithms are uniform; ``range`` is what Hydra's is, without its stop.
    """
    value = override.value()
    if getattr(value, "shuffle", False):
        raise UserError(f"{override.input_line}: a search draws at random without being told to shuffle.")
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None
        assert high is not None
        whole = "int" in value.tags or (isinstance(low, int) and isinstance(high, int))
        if unknown := value.tags - {"int", "log"}:
            raise UserError(f"{override.input_line}: tag {', '.join(sorted(unknown))}: not known. Allowed: int, log.")
        if not low < high or (low <= 0 and "log" in value.tags):
            raise UserError(f"{override.input_line}: must go from a smaller number to a larger one, above 0 with log.")
        if whole:
            return IntDistribution(int(low), int(high), log="log" in value.tags)
        return FloatDistribution(float(low), float(high), log="log" in value.tags)
    if isinstance(value, RangeSweep):
        values = sorted(float(text) for text in _texts(override))
        if not values:
            raise UserError(f"{override.input_line}: is an empty range.")
        step = abs(float(value.step))
        if all(number.is_integer() for number in (*values, step)):
            return IntDistribution(int(values[0]), int(values[-1]), step=int(step))
        return FloatDistribution(values[0], values[-1], step=step)
    return CategoricalDistribution(list(dict.fromkeys(_texts(override))))


def _texts(override: Override) -> list[str]:
    """The values of a sweep as they would be typed."""
    return [str(text) for text in override.sweep_string_iterator()]


def overrides_of(drawn: Mapping[str, Any]) -> list[str]:
    """What was drawn, as it would be typed."""
    return [f"{key}={value}" for key, value in drawn.items()]


def sampler_of(kind: str, seed: int) -> BaseSampler:
    """The sampler ``tpe`` or ``random``; what it draws has six significant digits, so that it can be typed."""
    return _RoundedTPE(seed=seed) if kind == "tpe" else _RoundedRandom(seed=seed)


class _RoundedTPE(TPESampler):
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn = super().sample_relative(study, trial, search_space)
        return {name: rounded(value, search_space[name]) for name, value in drawn.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401 - as in the base class
        drawn = super().sample_independent(study, trial, param_name, param_distribution)
        return rounded(drawn, param_distribution)


class _RoundedRandom(RandomSampler):
    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401 - as in the base class
        drawn = super().sample_independent(study, trial, param_name, param_distribution)
        return rounded(drawn, param_distribution)


def rounded(value: Any, distribution: BaseDistribution) -> Any:  # noqa: ANN401 - whatever is drawn
    """A float with six significant digits, within its bounds; anything else as it is."""
    if not isinstance(distribution, FloatDistribution):
        return value
    return min(max(float(f"{value:.6g}"), distribution.low), distribution.high)


def _head(key: str) -> str:
    """The group or the key without dots that an override is about."""
    return key.partition("=")[0].lstrip("+").split(".")[0].split("/")[0].split("@")[0]


def _middle(distribution: BaseDistribution) -> Any:  # noqa: ANN401 - a category is text, the others are numbers
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    if isinstance(distribution, IntDistribution):
        steps = (distribution.high - distribution.low) // distribution.step
        return distribution.low + steps // 2 * distribution.step
    assert isinstance(distribution, FloatDistribution)
    return rounded((distribution.low + distribution.high) / 2, distribution)


def _described(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    kind = "whole numbers " if isinstance(distribution, IntDistribution) else ""
    step = "" if distribution.step in (None, 1) else f" by {distribution.step:g}"
    return f"{kind}{distribution.low:g} to {distribution.high:g}{step}{', log' if distribution.log else ''}"
