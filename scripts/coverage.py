"""`.venv/bin/python scripts/coverage.py`: what the intervals and verdicts of `rnnbench.analysis.statistics` are worth.

By simulation with fixed seeds: how often each interval holds the truth, how often methods that are alike are told
apart, how often a difference is found, and whether `seeds_needed` is right. About a minute; no torch. The README shows
part of what is printed, and the constants `COVERAGE` and `BOOTSTRAP_COVERAGE` there are numbers from it.
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from rnnbench.analysis import statistics
from rnnbench.analysis.statistics import ALPHA, CONFIDENCE, EXACT_UNTIL, Floats

SEEDS = (2, 3, 5, 10, 20, 50)
"""Numbers of seeds for the t interval."""

FEW = (5, 10, 20)
"""And for all else."""

TASKS = 4
EFFECTS = (0.5, 1.0, 2.0)
"""Mean differences, in standard deviations of the differences."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]


@dataclass(frozen=True)
class Row:
    """A share of repetitions, and the standard error of that share."""

    measure: str
    shape: str
    n: int
    value: float
    repetitions: int

    @property
    def error(self) -> float:
        """Of a share: Monte Carlo, one standard deviation."""
        return float(np.sqrt(self.value * (1 - self.value) / self.repetitions))


# ---------------------------------------------------------------- shapes, of mean 0


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    """As sums of many small influences."""
    return rng.normal(size=size)


def skewed(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    """Exponential, skewness 2: most runs near their best, a few behind."""
    return rng.exponential(size=size) - 1


def very_skewed(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    """Lognormal, σ = 1, skewness 6."""
    return rng.lognormal(size=size) - float(np.exp(0.5))


def heavy_tailed(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    """Student's t with 3 degrees of freedom."""
    return rng.standard_t(3, size=size)


def adding(rng: np.random.Generator, size: tuple[int, ...], solved: float) -> Floats:
    """Scores on the adding problem, less their mean: about 1e-4 with probability ``solved``, else about 1/6."""
    good = 1e-4 * rng.lognormal(sigma=0.5, size=size)
    poor = 1 / 6 + 1e-3 * rng.normal(size=size)
    mean = solved * 1e-4 * np.exp(0.125) + (1 - solved) / 6
    return np.asarray(np.where(rng.random(size) < solved, good, poor) - mean, dtype=np.float64)


SHAPES: dict[str, Draw] = {
    "normal": normal,
    "skewed": skewed,
    "heavy tails": heavy_tailed,
    "very skewed": very_skewed,
    "1 in 5 fails": lambda rng, size: adding(rng, size, 0.8),
    "1 in 2 fails": lambda rng, size: adding(rng, size, 0.5),
}
"""Of differences; the last two where one method fails now and then and the other never."""

PAIRS: dict[str, Draw] = {
    "1 in 5 fails, both": lambda rng, size: adding(rng, size, 0.8) - adding(rng, size, 0.8),
    "1 in 2 fails, both": lambda rng, size: adding(rng, size, 0.5) - adding(rng, size, 0.5),
}
"""Differences of two methods that fail equally often."""

FAMILIES: dict[str, tuple[Draw, Draw, Draw]] = {
    "normal": (normal, normal, normal),
    "skewed": (skewed, skewed, skewed),
    "1 in 5 fails": (SHAPES["1 in 5 fails"],) * 3,
    "means alike, one skewed": (skewed, normal, normal),
}
"""Three methods without a difference of means; only the last can mislead a permutation test."""


# ---------------------------------------------------------------- intervals


def t_coverage(draw: Draw, n: int, repetitions: int) -> float:
    """The share of samples of n differences whose `paired_t_interval` holds their mean, 0."""
    d = draw(np.random.default_rng([1, n]), (repetitions, n))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * d.std(axis=1, ddof=1) / np.sqrt(n)
    found = statistics.paired_t_interval(d[0])
    assert np.isclose(found.high - found.estimate, half[0])
    return float(np.mean(np.abs(d.mean(axis=1)) <= half))


def scores(draw: Draw, rng: np.random.Generator, size: tuple[int, ...], apart: float) -> Floats:
    """Scores (..., R, T) of tasks of which each is ``apart`` harder than the one before."""
    return np.asarray(draw(rng, size) + apart * np.arange(size[-1]), dtype=np.float64)


def interquartile_means(x: Floats) -> Floats:
    """`interquartile_mean` (IQM) of each row."""
    cut = x.shape[-1] // 4
    return np.asarray(np.sort(x, axis=-1)[..., cut : x.shape[-1] - cut].mean(axis=-1), dtype=np.float64)


def means(x: Floats) -> Floats:
    """The mean of each row."""
    return np.asarray(x.mean(axis=-1), dtype=np.float64)


def bootstrap_coverage(
    draw: Draw,
    n: int,
    repetitions: int,
    tasks: int = TASKS,
    resamples: int = 2_000,
    of: Callable[[Floats], Floats] = interquartile_means,
) -> float:
    """The share of samples (n, tasks) whose `bootstrap_interval` of the aggregate ``of`` all scores holds the true one.

    The interval draws the same rows for any scores, and so does this; the two are compared on the first sample.
    """
    apart = 0.0 if draw in (SHAPES["1 in 5 fails"], SHAPES["1 in 2 fails"]) else 1.0
    rng = np.random.default_rng([2, n, tasks])
    truth = float(of(scores(draw, rng, (500_000, tasks), apart).ravel()))
    rows = np.random.default_rng(0).integers(n, size=(resamples, n, tasks))
    flat = (rows * tasks + np.arange(tasks)).reshape(resamples, -1)
    samples = scores(draw, rng, (repetitions, n, tasks), apart)
    bounds = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    found = np.array([np.quantile(of(x.ravel()[flat]), bounds) for x in samples])
    ours = statistics.bootstrap_interval(samples[0], lambda x: float(of(x.ravel())), resamples=resamples)
    assert np.allclose(found[0], (ours.low, ours.high))
    return float(np.mean((found[:, 0] <= truth) & (truth <= found[:, 1])))


# ---------------------------------------------------------------- verdicts


def sign_flip_ps(d: Floats, resamples: int = 99_999) -> Floats:
    """`sign_flip_p` of each row (M, n)."""
    n = d.shape[1]
    if n <= EXACT_UNTIL:
        signs = (1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)).astype(np.float64)
        extra = 0
    else:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(resamples, n))
        extra = 1
    seen = np.abs(d.sum(axis=1)) * (1 - 1e-12)
    count = [np.count_nonzero(np.abs(signs @ x) >= s) for x, s in zip(d, seen, strict=True)]
    p = (np.array(count) + extra) / (len(signs) + extra)
    assert np.isclose(p[0], statistics.sign_flip_p(d[0]))
    return np.asarray(p, dtype=np.float64)


def false_alarms(family: tuple[Draw, Draw, Draw], n: int, repetitions: int) -> float:
    """The share of families of three comparisons of methods with equal means in which any is decided."""
    rng = np.random.default_rng([3, n])
    a, b, c = (draw(rng, (repetitions, n)) for draw in family)
    ps = [sign_flip_ps(x - y) for x, y in ((a, b), (a, c), (b, c))]
    alarms = statistics.smallest_p(n) * 3 <= ALPHA and np.min(ps, axis=0) * 3 <= ALPHA  # Holm's first step
    first = statistics.compare_all([(a[0], b[0]), (a[0], c[0]), (b[0], c[0])])
    assert np.broadcast_to(alarms, repetitions)[0] == any(found.verdict != "undecided" for found in first)
    return float(np.mean(alarms))


def power(effect: float, n: int, comparisons: int, repetitions: int) -> float:
    """How often an effect of normal differences is decided, alone or first among ``comparisons``."""
    d = np.random.default_rng([4, n]).normal(effect, 1.0, size=(repetitions, n))
    return float(np.mean(sign_flip_ps(d) * comparisons <= ALPHA))


def seeds_for(effect: float, comparisons: int) -> int:
    """What `seeds_needed` says of five differences whose estimated effect is the true one."""
    d = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    unit = statistics.hedges_g(d + 1)
    found = statistics.seeds_needed(d + effect / unit, comparisons)
    assert found is not None
    return found


def after_a_pilot(effect: float, n: int, pilots: int) -> tuple[Floats, float]:
    """Of pilots of n seeds that end undecided: quartiles of the seeds they ask for, and the mean power at those."""
    rng = np.random.default_rng([5, n])
    asked = []
    for d in rng.normal(effect, 1.0, size=(pilots, n)):
        if statistics.sign_flip_p(d) > ALPHA and (more := statistics.seeds_needed(d)) is not None:
            asked.append(more)
    N = np.array(asked)
    found = stats.nct.sf(stats.t.ppf(1 - ALPHA / 2, N - 1), N - 1, np.minimum(effect * np.sqrt(N), 30.0))
    return np.quantile(N, [0.25, 0.5, 0.75]), float(np.mean(found))


# ---------------------------------------------------------------- all of it


def measured(scale: float) -> Iterator[Row]:
    """All that is measured, with ``scale`` times the usual repetitions."""
    often, some, few = (max(20, round(scale * usual)) for usual in (100_000, 2_000, 500))
    for shape, draw in {**SHAPES, **PAIRS}.items():
        for n in SEEDS:
            yield Row("t interval", shape, n, t_coverage(draw, n, often), often)
    for shape, draw in SHAPES.items():
        for n in FEW:
            yield Row(f"bootstrap of IQM, {TASKS} tasks", shape, n, bootstrap_coverage(draw, n, some), some)
            yield Row(f"bootstrap of mean, {TASKS} tasks", shape, n, bootstrap_coverage(draw, n, some, of=means), some)
        yield Row("bootstrap of IQM, 1 task", shape, 20, bootstrap_coverage(draw, 20, some, tasks=1), some)
    for shape, family in FAMILIES.items():
        for n in FEW:
            repetitions = some if n <= EXACT_UNTIL else few
            yield Row("false alarms of 3", shape, n, false_alarms(family, n, repetitions), repetitions)
    for comparisons in (1, 3):
        for effect in EFFECTS:
            for n in FEW:
                repetitions = some if n <= EXACT_UNTIL else few
                value = power(effect, n, comparisons, repetitions)
                yield Row(f"power, 1 of {comparisons}", f"effect {effect:g}", n, value, repetitions)
            n = seeds_for(effect, comparisons)
            value = power(effect, n, comparisons, few)
            yield Row(f"power at seeds_needed, 1 of {comparisons}", f"effect {effect:g}", n, value, few)


def markdown(rows: list[Row]) -> str:
    """A table for each measure: shapes by seeds, in percent."""
    lines = []
    for measure in dict.fromkeys(row.measure for row in rows):
        own = [row for row in rows if row.measure == measure]
        seeds = sorted({row.n for row in own})
        error = max(row.error for row in own)
        lines += [f"| {measure}, % (± {100 * error:.1f}) | {' | '.join(f'n = {n}' for n in seeds)} |"]
        lines += ["|---" * (len(seeds) + 1) + "|"]
        for shape in dict.fromkeys(row.shape for row in own):
            values = {row.n: f"{100 * row.value:.1f}" for row in own if row.shape == shape}
            lines.append(f"| {shape} | {' | '.join(values.get(n, '') for n in seeds)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, default=Path("results/statistics/coverage.csv"), metavar="FILE")
    parser.add_argument("--scale", type=float, default=1.0, metavar="S", help="times the usual repetitions")
    args = parser.parse_args()
    rows = list(measured(args.scale))
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with args.csv.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*asdict(rows[0]), "error"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(row), "error": f"{row.error:.4f}"} for row in rows)
    print(markdown(rows))
    for n in (5, 10):
        quartiles, chance = after_a_pilot(1.0, n, round(400 * args.scale))
        print(
            f"Effect 1, pilots of {n} seeds that end undecided ask for {quartiles[1]:.0f} seeds "
            f"({quartiles[0]:.0f} to {quartiles[2]:.0f}, quartiles); at what they ask for the power is {chance:.0%}."
        )


if __name__ == "__main__":
    main()
