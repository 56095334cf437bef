"""What comparisons allow to conclude, in words and as tables."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from rnnbench.analysis import statistics
from rnnbench.analysis.compare import TIME, Aggregate, Comparisons, Contest, where
from rnnbench.analysis.layout import CAPTIONS, FORMATS, listed, written
from rnnbench.errors import check_choice

DIFFERENCE = (
    "difference: of means, a minus b, over the seeds that both have; [95 % paired t interval]. Lower is better."
)
TEST = (
    "p: paired permutation test, two-sided, corrected for all comparisons here (Holm). effect: Hedges' g of the "
    "differences. P(a better): the probability that a run of a scores lower than one of b."
)


def render(result: Comparisons, aggregates: Sequence[Aggregate], fmt: str) -> str:
    """What was compared, as a table with sentences under it, in one of `layout.FORMATS`; the CSV is the tidy frame.

    Raises:
        UserError: for an unknown format.
    """
    check_choice("--format", fmt, FORMATS)
    if fmt == "csv":
        return as_frame(result).to_csv(index=False)
    parts = []
    if result.contests:
        parts.append(written(contest_frame(result), explanations(result), fmt))
    if aggregates:
        parts.append(written(aggregate_frame(aggregates), aggregate_captions(aggregates), fmt))
    remarks = [*refusals(result), *_not_aggregated(result, aggregates), *result.notes]
    if not parts:
        remarks = [*remarks, "There are no two cells that could be held against each other."]
    return "\n\n".join([*parts, *([listed(remarks, fmt)] if remarks else [])])


def sentence(contest: Contest, comparisons: int) -> str:
    """What a contest allows to conclude, in words.

    Args:
        contest: one of a family.
        comparisons: how many the family has.
    """
    found, d = contest.found, contest.found.difference
    metric = "microseconds an update" if contest.metric == TIME else f"{contest.split} {contest.metric}"
    corrected = f" corrected for {comparisons} comparisons" if comparisons > 1 else ""
    evidence = f"{counted(found.seeds)}, p = {found.p:.2g}{corrected}"
    between = f"95 % interval {d.low:.3g} to {d.high:.3g}" if math.isfinite(d.low) else "no interval from one seed"
    if found.verdict != "undecided":
        good, bad = (contest.a, contest.b) if found.verdict == "better" else (contest.b, contest.a)
        return (
            f"{where(contest.task, contest.setting)}: {good} is better than {bad}, {metric} differing by "
            f"{d.estimate:.3g} ({contest.a} minus {contest.b}; {between}; {evidence})."
        )
    return (
        f"{where(contest.task, contest.setting)}: {contest.a} and {contest.b} are undecided, {metric} differing by "
        f"{d.estimate:.3g} ({between}; {evidence}); {more_seeds(contest, comparisons)}."
    )


def more_seeds(contest: Contest, comparisons: int) -> str:
    """How many more seeds an undecided contest needs, as far as it can be told."""
    found = contest.found
    if found.smallest_p > statistics.ALPHA:
        return (
            f"so few seeds cannot decide it, whatever the scores: at least {_missing(found, comparisons)} more needed"
        )
    if found.seeds_needed is None:
        return "no number of seeds can be told that would decide it"
    return f"about {found.seeds_needed - found.seeds} more seeds needed, if the difference is what it seems"


def _missing(found: statistics.Comparison, comparisons: int) -> int:
    """How many more seeds halve the smallest p, each, until it can be decided; were all else as it is."""
    if found.smallest_p < 1:
        return math.ceil(math.log2(found.smallest_p / statistics.ALPHA))
    return max(1, statistics.fewest_seeds(comparisons) - found.seeds)


def refusals(result: Comparisons) -> list[str]:
    """What was not compared, a sentence for each reason."""
    by_reason: dict[str, list[str]] = {}
    for line in result.refused:
        who, _, reason = line.partition(": ")
        by_reason.setdefault(reason, []).append(who)
    return [f"Not compared: {'; '.join(who)}: {reason}" for reason, who in by_reason.items()]


def _not_aggregated(result: Comparisons, aggregates: Sequence[Aggregate]) -> list[str]:
    """Which tasks no aggregate has, where there is one."""
    left_out = sorted({c.task for c in result.contests} - {task for a in aggregates for task in a.tasks})
    if not aggregates or not left_out:
        return []
    return [
        f"Over tasks nothing is said of {', '.join(left_out)}: settings, cells or sizes are not those of the others."
    ]


def counted(seeds: int) -> str:
    """1 seed, 2 seeds."""
    return f"{seeds} seed" + "s" * (seeds != 1)


COLUMNS = (
    *("task", "setting", "metric", "split", "a", "b", "seeds", "mean_a", "mean_b", "difference", "low", "high"),
    *("p", "smallest_p", "effect", "improvement", "verdict", "seeds_needed"),
)


def as_frame(result: Comparisons) -> pd.DataFrame:
    """The contests as a tidy frame, a row each, numbers unrounded."""
    rows: list[dict[str, Any]] = [
        {
            "task": c.task,
            "setting": c.setting,
            "metric": c.metric,
            "split": c.split,
            "a": c.a,
            "b": c.b,
            "seeds": c.found.seeds,
            "mean_a": c.means[0],
            "mean_b": c.means[1],
            "difference": c.found.difference.estimate,
            "low": c.found.difference.low,
            "high": c.found.difference.high,
            "p": c.found.p,
            "smallest_p": c.found.smallest_p,
            "effect": c.found.effect,
            "improvement": c.found.improvement,
            "verdict": c.found.verdict,
            "seeds_needed": c.found.seeds_needed,
        }
        for c in result.contests
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def contest_frame(result: Comparisons) -> pd.DataFrame:
    """The contests as texts; columns that are the same everywhere and say nothing are left out."""
    comparisons = len(result.contests)
    rows = [
        {
            "task": c.task,
            "setting": c.setting,
            "metric": c.metric,
            "a": c.a,
            "b": c.b,
            "seeds": str(c.found.seeds),
            "mean a": _number(c.means[0]),
            "mean b": _number(c.means[1]),
            "difference": _interval(c.found.difference),
            "p": f"{c.found.p:.2g}",
            "effect": f"{c.found.effect:.2f}" if c.found.seeds > 2 else "",
            "P(a better)": f"{c.found.improvement:.2f}",
            "verdict": verdict(c, comparisons),
        }
        for c in result.contests
    ]
    frame = pd.DataFrame(rows)
    return frame if frame["setting"].any() else frame.drop(columns="setting")


def verdict(contest: Contest, comparisons: int) -> str:
    """In a few words: who is better, or that it is undecided and what would decide it."""
    found = contest.found
    if found.verdict != "undecided":
        return f"{contest.a if found.verdict == 'better' else contest.b} is better"
    if found.smallest_p > statistics.ALPHA:
        return f"undecided: too few seeds, at least {found.seeds + _missing(found, comparisons)} needed"
    if found.seeds_needed is None:
        return "undecided"
    return f"undecided, about {found.seeds_needed - found.seeds} more seeds needed"


def _interval(found: statistics.Interval) -> str:
    known = math.isfinite(found.low)
    return _number(found.estimate) + (f" [{_number(found.low)}, {_number(found.high)}]" if known else "")


def _number(value: float) -> str:
    """Three decimals, or three significant digits where that says more."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.0995 else f"{value:.3g}"


def explanations(result: Comparisons) -> list[str]:
    """The sentences under the table of contests."""
    of = next((c.split for c in result.contests if c.split), "")
    split = f"Scores on {of}, at the best validation of each run. " if of else ""
    metrics = [CAPTIONS[m] for m in CAPTIONS if m in {c.metric for c in result.contests}]
    if any(c.metric == TIME for c in result.contests):
        metrics.append(f"{TIME}: microseconds of training, evaluation included, for each update, of runs made alone.")
    notes = {
        statistics.coverage_note(c.found.seeds): None for c in result.contests
    }  # told once for each number of seeds
    return [split + DIFFERENCE, TEST, *metrics, *(note for note in notes if note)]


def aggregate_frame(aggregates: Sequence[Aggregate]) -> pd.DataFrame:
    """Each cell over the tasks, as texts."""
    rows = [
        {
            "setting": a.setting,
            "cell": a.method,
            "tasks": ", ".join(a.tasks),
            "seeds": str(a.seeds),
            "interquartile mean": _interval(a.middle),
        }
        for a in aggregates
    ]
    frame = pd.DataFrame(rows)
    return frame if frame["setting"].any() else frame.drop(columns="setting")


def aggregate_captions(aggregates: Sequence[Aggregate]) -> list[str]:
    """The sentences under the table over tasks."""
    few = all(math.isnan(a.middle.low) for a in aggregates)
    interval = f"95 % bootstrap interval, seeds drawn anew within each task, from {statistics.BOOTSTRAP_FROM} scores on"
    notes = {statistics.bootstrap_note(a.seeds): None for a in aggregates if math.isfinite(a.middle.low)}
    return [
        "Over tasks: scores as a share of the trivial baseline's, so that 1 is no better than that.",
        f"The mean of the middle half of all of them [{interval}{', which these are too few for' if few else ''}].",
        *(note for note in notes if note),
    ]
