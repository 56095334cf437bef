"""What a few seeds allow to conclude: pure functions over arrays. Lower scores are better throughout.

Letters: n seeds, d = a − b the differences of two methods at the same seeds, R runs (seeds) of each of T tasks.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.8
"""The chance that so many seeds as `seeds_needed` says find the effect, if it is as large as it seems."""

EXACT_UNTIL = 16
"""Pairs up to which all sign flips are tried, 65,536; beyond, a sample of them."""

RESAMPLES = 19_999
"""How many are in that sample."""

BOOTSTRAP_FROM = 20
"""Scores from which a percentile bootstrap has about the coverage of its name; with fewer it is far too narrow."""

COVERAGE = {
    "normal": {2: 0.949, 3: 0.949, 5: 0.949, 10: 0.950, 20: 0.950, 50: 0.950},
    "heavy tails": {2: 0.957, 3: 0.962, 5: 0.962, 10: 0.959, 20: 0.957, 50: 0.955},
    "skewed": {2: 0.910, 3: 0.886, 5: 0.883, 10: 0.900, 20: 0.921, 50: 0.935},
    "1 in 5 fails": {2: 0.320, 3: 0.478, 5: 0.664, 10: 0.888, 20: 0.923, 50: 0.936},
}
"""By the shape of the differences and the number of seeds: how often `paired_t_interval` holds the truth, as measured
by ``python scripts/coverage.py``; in the last shape, one method fails in a fifth of its runs and the other never."""

BOOTSTRAP_COVERAGE = {5: 0.900, 10: 0.930, 20: 0.940}
"""By the seeds of each of four tasks: the same of `bootstrap_interval` of the interquartile mean; the shape of the
scores hardly matters."""

GOOD_COVERAGE = 0.93
"""A measured coverage from which the output says nothing of it."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate, and between what it lies."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """What the paired runs of two methods say of a difference d = a − b; negative: a is better."""

    seeds: int
    difference: Interval
    """Of means, with the paired t interval."""
    p: float
    """Of the paired permutation test, two-sided, corrected for the comparisons made with it (Holm)."""
    smallest_p: float
    """The smallest that this many seeds and comparisons could have given."""
    effect: float
    """Hedges' g of the differences: their mean in units of their standard deviation, corrected for few seeds."""
    improvement: float
    """The probability that a run of a is better than one of b."""
    verdict: str
    """"better" (a), "worse" or "undecided"."""
    seeds_needed: int | None
    """Where it is undecided: with how many seeds it might be; None if no number can be told."""


def compare_all(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> list[Comparison]:
    """Compare methods pair by pair, as one family of tests.

    Args:
        pairs: for each comparison the scores of a and of b, (n,) each, at the same seeds in the same order.

    Raises:
        ValueError: if the two of a pair are not as many, or not finite.
    """
    scores = [(_scores(a), _scores(b)) for a, b in pairs]
    for a, b in scores:
        if len(a) != len(b):
            raise ValueError(f"{len(a)} and {len(b)} scores: must be as many, a pair for each seed")
    raw = [sign_flip_p(a - b) for a, b in scores]
    corrected = holm(raw)
    least = [holm([*raw[:i], smallest_p(len(a)), *raw[i + 1 :]])[i] for i, (a, _) in enumerate(scores)]
    return [
        _compared(a, b, float(p), float(q), len(scores)) for (a, b), p, q in zip(scores, corrected, least, strict=True)
    ]


def _compared(a: Floats, b: Floats, p: float, smallest: float, comparisons: int) -> Comparison:
    d = a - b
    decided = p <= ALPHA and smallest <= ALPHA
    verdict = "undecided" if not decided else "better" if d.mean() < 0 else "worse"
    return Comparison(
        len(d),
        paired_t_interval(d),
        p,
        smallest,
        hedges_g(d),
        probability_of_improvement(a, b),
        verdict,
        None if decided else seeds_needed(d, comparisons),
    )


def paired_t_interval(d: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """The mean of differences (n,) and Student's interval for it; endless with fewer than two."""
    x = _scores(d)
    mean = float(x.mean())
    if len(x) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half)


def coverage_note(n: int) -> str:
    """What to say of the t interval of n paired seeds where it holds the truth less often than its name says.

    Returns:
        A sentence, by the largest number of seeds in `COVERAGE` that is not above n; empty where ordinary shapes have
        at least `GOOD_COVERAGE`, and with fewer than two seeds, where the interval is endless.
    """
    if n < 2:
        return ""
    measured = _measured_at(n, COVERAGE["skewed"])
    at = {shape: share[measured] for shape, share in COVERAGE.items()}
    if at["skewed"] >= GOOD_COVERAGE:
        return ""
    return (
        f"{_with_seeds(n, measured)} the {CONFIDENCE:.0%} interval of a difference holds the truth {at['normal']:.0%} "
        f"of the time if differences are normal, {at['skewed']:.0%} if they are skewed, and {at['1 in 5 fails']:.0%} "
        "if one of the two methods fails in a fifth of its runs."
    )


def bootstrap_note(n: int) -> str:
    """What to say of the bootstrap interval of an aggregate over tasks with n seeds each; empty where it is good.

    Returns:
        A sentence, by the largest number of seeds in `BOOTSTRAP_COVERAGE` that is not above n, or by the smallest.
    """
    measured = _measured_at(n, BOOTSTRAP_COVERAGE)
    share = BOOTSTRAP_COVERAGE[measured]
    if n >= measured and share >= GOOD_COVERAGE:
        return ""
    less = "less than " if n < measured else ""
    return (
        f"{_with_seeds(n, measured)} of each task the {CONFIDENCE:.0%} bootstrap interval holds the truth "
        f"{less}{share:.0%} of the time."
    )


def _measured_at(n: int, table: Mapping[int, float]) -> int:
    return max((seeds for seeds in table if seeds <= n), default=min(table))


def _with_seeds(n: int, measured: int) -> str:
    return f"With {n} seeds" + ("" if n == measured else f" (measured: {measured})")


def mean_band(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[Floats, Floats, Floats]:
    """The mean of values (n, X) over n, and Student's interval for it at each x; endless with fewer than two.

    Returns:
        Mean, lower and upper end, (X,) each. At each x the interval is that of `paired_t_interval`: it says nothing
        of the curve as a whole.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    mean: Floats = x.mean(axis=0)
    if n < 2:
        return mean, np.full_like(mean, -math.inf), np.full_like(mean, math.inf)
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * x.std(axis=0, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def wilson_interval(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The share of successes in n tries, and Wilson's interval for the chance of one (1927).

    Unlike share ± z·s it stays within 0 and 1, and is not empty where all or none of a few tries succeed.

    Raises:
        ValueError: unless 0 ≤ successes ≤ n and n ≥ 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}: must be from 0 to n, and n at least 1")
    share = successes / n
    z2 = float(stats.norm.ppf((1 + confidence) / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def sign_flip_p(d: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """The two-sided p of the paired permutation test of the mean.

    If the methods are alike, each difference might as well have had the other sign. With up to `EXACT_UNTIL` pairs all
    2ⁿ flips are tried; with more, ``resamples`` of them, and the one observed (Phipson & Smyth 2010).
    """
    x = _scores(d)
    seen = abs(x.sum()) * (1 - 1e-12)  # sums in another order must not make a tie a difference
    if len(x) <= EXACT_UNTIL:
        flips = 1 - 2 * ((np.arange(2 ** len(x))[:, None] >> np.arange(len(x))) & 1)
        return float(np.mean(np.abs(flips @ x) >= seen))
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, resamples, 10_000):  # not all at once: with hundreds of pairs they are gigabytes
        signs = rng.integers(2, size=(min(10_000, resamples - start), len(x)), dtype=np.int8) * 2.0 - 1.0
        extreme += int(np.count_nonzero(np.abs(signs @ x) >= seen))
    return (1 + extreme) / (1 + resamples)


def smallest_p(n: int) -> float:
    """The smallest p that `sign_flip_p` can give for n pairs: all signs alike, one way or the other."""
    return min(1.0, max(2.0 ** (1 - n), 1 / (1 + RESAMPLES) if n > EXACT_UNTIL else 0.0))


def fewest_seeds(comparisons: int) -> int:
    """The fewest pairs with which the smallest of ``comparisons`` tests can reach α after Holm's correction."""
    return math.ceil(1 + math.log2(comparisons / ALPHA))


def holm(p: Sequence[float]) -> Floats:
    """Holm's step-down correction (1979): the chance of any false alarm in the family stays below α."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * (len(values) - np.arange(len(values)))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def hedges_g(d: ArrayLike) -> float:
    """The mean of differences (n,) over their standard deviation, without its upward bias at small n (Hedges 1981)."""
    x = _scores(d)
    if len(x) < 2:
        return math.nan
    spread = x.std(ddof=1)
    if spread == 0:
        return math.nan if x.mean() == 0 else math.copysign(math.inf, x.mean())
    df = len(x) - 1
    correction = (
        math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2) if df > 1 else 0.0
    )
    return float(x.mean() / spread * correction)


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """The probability that a run of a scores lower than one of b, over all pairs of runs; a tie is half."""
    x, y = _scores(a)[:, None], _scores(b)[None, :]
    return float(np.mean((x < y) + 0.5 * (x == y)))


def seeds_needed(d: ArrayLike, comparisons: int = 1, most: int = 10_000) -> int | None:
    """With how many seeds a difference like that of d (n,) would probably be decided.

    Enough for the permutation test to reach α at all, and for a paired t test at α over ``comparisons`` (Bonferroni,
    which Holm is not worse than) to find the effect with probability `POWER`, if it is as large as it seems now. The
    effect of few seeds is uncertain, and so is this number.

    Returns:
        At least n + 1; None with fewer than two seeds, no spread, no difference, or if more than ``most`` are needed.
    """
    x = _scores(d)
    effect = abs(hedges_g(x)) if len(x) > 2 else math.nan
    if not math.isfinite(effect) or effect == 0:
        return None
    alpha = ALPHA / comparisons
    fewest = ((stats.norm.isf(alpha / 2) + stats.norm.isf(1 - POWER)) / effect) ** 2  # were the spread known
    for n in range(max(len(x) + 1, math.ceil(min(fewest, most + 1))), most + 1):
        if smallest_p(n) > alpha:
            continue
        critical = stats.t.ppf(1 - alpha / 2, n - 1)
        shift = effect * math.sqrt(n)
        # the other tail is left out: below 1e-3 where this one is 0.8; and far out scipy's nct is no number
        if shift > critical + 20 or stats.nct.sf(critical, n - 1, shift) >= POWER:
            return n
    return None


# ---------------------------------------------------------------- over tasks


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of all scores: neither one lucky run nor one lost one moves it much."""
    x = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    cut = len(x) // 4
    return float(x[cut : len(x) - cut].mean())


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Floats:
    """For each threshold the share of runs that score at most that, tasks weighing the same.

    Args:
        scores: (R, T), normalised so that they can be compared between tasks.
        thresholds: (K,).

    Returns:
        (K,), rising from 0 to 1.
    """
    x, tau = np.asarray(scores, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    return np.asarray((x[None] <= tau[:, None, None]).mean(axis=1).mean(axis=1), dtype=np.float64)


def bootstrap_interval(
    scores: ArrayLike,
    statistic: Callable[[Floats], float],
    confidence: float = CONFIDENCE,
    resamples: int = 2_000,
    seed: int = 0,
) -> Interval:
    """A percentile interval of an aggregate over tasks, runs drawn anew within each task (stratified).

    Args:
        scores: (R, T).
        statistic: of an array of that shape.
        confidence: of the interval.
        resamples: how many are drawn.
        seed: of what is drawn.

    Raises:
        ValueError: with fewer than `BOOTSTRAP_FROM` scores, where it would be too narrow to mean what it says.
    """
    x = np.asarray(scores, dtype=np.float64)
    if x.size < BOOTSTRAP_FROM:
        raise ValueError(f"{x.size} scores: a bootstrap interval needs at least {BOOTSTRAP_FROM}")
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(x), size=(resamples, *x.shape))
    found = [statistic(np.take_along_axis(x, chosen, axis=0)) for chosen in rows]
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(statistic(x), float(low), float(high))


def expected_best(valid: ArrayLike, score: ArrayLike) -> Floats:
    """The score to be expected of the best of k candidates on validation, for k = 1 … n (Dodge et al. 2019).

    Exact: of n candidates in the order of validation, the i-th is the best of k drawn without replacement with
    probability C(n − i, k − 1) / C(n, k).

    Args:
        valid: (n,), by which the best is chosen.
        score: (n,), on test, say; or ``valid`` itself.

    Returns:
        (n,); the last is the score of the candidate that is best on validation.
    """
    v, s = _scores(valid), _scores(score)
    ordered = s[np.argsort(v, kind="stable")]
    n = len(ordered)
    i, k = np.arange(1, n + 1)[None, :], np.arange(1, n + 1)[:, None]
    return np.asarray((special.comb(n - i, k - 1) / special.comb(n, k)) @ ordered, dtype=np.float64)


def _scores(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"{x}: must be one or more finite numbers")
    return x
