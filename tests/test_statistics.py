"""The statistics against scipy, against enumeration, and against what they promise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rnnbench.analysis.statistics import (
    ALPHA,
    POWER,
    bootstrap_interval,
    compare_all,
    expected_best,
    hedges_g,
    holm,
    interquartile_mean,
    paired_t_interval,
    performance_profile,
    probability_of_improvement,
    seeds_needed,
    sign_flip_p,
    smallest_p,
)

RNG = np.random.default_rng(7)


def drawn(n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Two methods that share what the seed does to them."""
    luck = RNG.normal(size=n)
    return luck + shift + 0.3 * RNG.normal(size=n), luck + 0.3 * RNG.normal(size=n)


@pytest.mark.parametrize("n", [2, 3, 10, 40])
def test_the_t_interval_is_that_of_scipy(n: int) -> None:
    a, b = drawn(n, 0.2)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = paired_t_interval(a - b)
    assert found.estimate == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("n", [2, 5, 8, 12])
def test_the_permutation_test_is_that_of_scipy(n: int) -> None:
    for shift in (0.0, 0.3, 2.0):
        a, b = drawn(n, shift)
        expected = stats.permutation_test(
            (a, b), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", n_resamples=100_000
        )
        assert sign_flip_p(a - b) == pytest.approx(expected.pvalue)


def test_many_pairs_are_sampled_and_agree_with_the_t_test() -> None:
    a, b = drawn(60, 0.12)
    p = sign_flip_p(a - b)
    assert p == sign_flip_p(a - b), "the same flips each time"
    assert p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.01)
    assert sign_flip_p(np.ones(30)) == 1 / 20_000, "never 0, which no sample can show"


@pytest.mark.parametrize("n", range(1, 12))
def test_no_differences_can_give_less_than_the_smallest_p(n: int) -> None:
    assert sign_flip_p(np.arange(1.0, n + 1)) == smallest_p(n)
    assert sign_flip_p(np.zeros(n)) == 1


def test_ties_of_sums_are_ties() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in floating point, and must not be told from it."""
    d = np.array([0.1, 0.2, -0.3, 0.3])
    counted = [abs(sum(s * x for s, x in zip(signs, (1, 2, -3, 3), strict=True))) >= 3 for signs in flips(4)]
    assert sign_flip_p(d) == np.mean(counted)


def flips(n: int) -> list[tuple[int, ...]]:
    return list(itertools.product((1, -1), repeat=n))


def test_holm_is_as_its_paper_has_it() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_keeps_their_order_and_is_at_most_bonferroni(p: list[float]) -> None:
    corrected = holm(p)
    assert (corrected >= np.array(p) - 1e-15).all()
    assert (corrected <= np.minimum(np.array(p) * len(p), 1) + 1e-15).all()
    for (p1, c1), (p2, c2) in itertools.combinations(zip(p, corrected, strict=True), 2):
        assert (p1 - p2) * (c1 - c2) >= 0


def test_the_effect_size_is_without_bias_at_five_seeds() -> None:
    found = [hedges_g(x) for x in np.random.default_rng(0).normal(0.8, 1.0, size=(20_000, 5))]
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)
    assert math.isnan(hedges_g([1.0]))
    assert hedges_g([2.0, 2.0, 2.0]) == math.inf


def test_the_probability_of_improvement_is_that_of_mann_and_whitney() -> None:
    a, b = RNG.integers(0, 6, size=(2, 20)).astype(float)
    expected = 1 - stats.mannwhitneyu(a, b).statistic / 400
    assert probability_of_improvement(a, b) == pytest.approx(expected)
    assert probability_of_improvement([1, 2], [3, 4]) == 1
    assert probability_of_improvement([1, 2], [1, 2]) == 0.5


def test_three_seeds_never_decide_and_say_so() -> None:
    (found,) = compare_all([([1.0, 1.1, 1.2], [3.0, 3.1, 3.3])])
    assert found.verdict == "undecided"
    assert found.smallest_p == 0.25
    assert found.difference.high < 0, "though the interval lies far off zero"
    assert found.seeds_needed == 6, "the fewest with which p can be below 0.05"


def test_several_comparisons_need_more_seeds() -> None:
    a = np.arange(6.0) * 0.01
    one = compare_all([(a, a + 1 + RNG.normal(size=6) * 0.01)])
    assert one[0].verdict == "better"
    pairs = [(a, a + 1 + RNG.normal(size=6) * 0.01) for _ in range(3)]
    assert [found.verdict for found in compare_all(pairs)] == ["undecided"] * 3
    assert {found.seeds_needed for found in compare_all(pairs)} == {7}


def test_worse_is_the_other_way_round() -> None:
    a, b = drawn(12, 3.0)
    first, second = compare_all([(a, b), (b, a)])
    assert (first.verdict, second.verdict) == ("worse", "better")
    assert first.difference.low == pytest.approx(-second.difference.high)
    assert first.improvement == pytest.approx(1 - second.improvement)


@pytest.mark.parametrize("comparisons", [1, 3])
def test_the_seeds_needed_find_the_effect_as_often_as_promised(comparisons: int) -> None:
    d = np.array([0.5, 1.5, -0.5, 1.0, 0.2, 0.9])
    n = seeds_needed(d, comparisons)
    assert n is not None
    alpha = ALPHA / comparisons
    draws = np.random.default_rng(3).normal(hedges_g(d), 1.0, size=(4_000, n))
    found = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue <= alpha)
    assert POWER - 0.02 <= found <= POWER + 0.12
    fewer = np.mean(stats.ttest_1samp(draws[:, : n - 1], 0, axis=1).pvalue <= alpha)
    assert fewer < POWER + 0.02 or smallest_p(n - 1) > alpha


@pytest.mark.parametrize("d", [[1.0], [0.1, 0.2], [0.0, 0.0, 0.0], [1.0, -1.0, 0.0]])
def test_where_no_number_of_seeds_can_be_told_none_is(d: list[float]) -> None:
    assert seeds_needed(d) is None


def test_the_test_cries_wolf_as_seldom_as_it_says() -> None:
    """Over families of three comparisons between methods that are alike, n = 8."""
    rng = np.random.default_rng(5)
    false = 0
    for _ in range(600):
        scores = rng.normal(size=(3, 8)) + rng.normal(size=8)
        pairs = [(scores[i], scores[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        false += any(found.verdict != "undecided" for found in compare_all(pairs))
    assert false / 600 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


def test_the_interquartile_mean_forgets_both_ends() -> None:
    assert interquartile_mean([[1, 2, 3, 4], [5, 6, 7, 1000]]) == 4.5
    assert interquartile_mean(np.arange(20)) == pytest.approx(stats.trim_mean(np.arange(20), 0.25))


def test_a_profile_rises_from_none_to_all() -> None:
    scores = np.array([[0.1, 0.5], [0.3, 0.5]])
    assert performance_profile(scores, [0.0, 0.1, 0.3, 0.5]) == pytest.approx([0, 0.25, 0.5, 1])


def test_the_bootstrap_is_that_of_scipy_and_refuses_few_scores() -> None:
    scores = RNG.gamma(2.0, size=(40, 1))
    found = bootstrap_interval(scores, lambda x: float(x.mean()), resamples=10_000)
    expected = stats.bootstrap((scores[:, 0],), np.mean, method="percentile", n_resamples=10_000, rng=1)
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval, rel=0.02)
    assert found == bootstrap_interval(scores, lambda x: float(x.mean()), resamples=10_000), "the same each time"
    with pytest.raises(ValueError, match="12 scores: a bootstrap interval needs at least 20"):
        bootstrap_interval(scores[:12], lambda x: float(x.mean()))


def test_the_bootstrap_draws_within_each_task() -> None:
    scores = np.stack([np.zeros(10), np.full(10, 100.0)], axis=1)
    found = bootstrap_interval(scores, lambda x: float(x.mean()))
    assert (found.low, found.high) == (50, 50)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=7, unique_by=lambda x: x[0]))
def test_the_best_of_k_is_the_mean_over_all_choices_of_k(candidates: list[tuple[int, float]]) -> None:
    valid, score = zip(*candidates, strict=True)
    found = expected_best(valid, score)
    for k in range(1, len(candidates) + 1):
        chosen = [min(some)[1] for some in itertools.combinations(candidates, k)]
        assert found[k - 1] == pytest.approx(np.mean(chosen))


@pytest.mark.parametrize("bad", [[], [math.nan], [math.inf, 1.0]])
def test_scores_that_are_none_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="must be one or more finite numbers"):
        compare_all([(bad, bad)])
    with pytest.raises(ValueError, match="must be as many"):
        compare_all([([1.0], [1.0, 2.0])])
