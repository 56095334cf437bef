"""What a set of runs allows to say, in sentences: what was run, what follows from it, and what does not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from rnnbench.analysis import statistics
from rnnbench.analysis.collect import UNFINISHED
from rnnbench.analysis.compare import TIME, Aggregate, Comparisons, aggregate, compare
from rnnbench.analysis.conclusions import sentence
from rnnbench.analysis.pool import Pool
from rnnbench.analysis.tables import Table
from rnnbench.record import STATUSES
from rnnbench.summary import counted


@dataclass(frozen=True)
class Findings:
    """Sentences, each by itself."""

    ran: list[str]
    """What was run."""
    headline: list[str]
    """What the comparisons come to, in numbers of them."""
    decided: list[str]
    undecided: list[str]
    """One for each comparison, as `conclusions.sentence` has it."""
    times: list[str]
    """The same for time, where times may be compared."""
    over_tasks: list[str]
    caveats: list[str]
    """What cannot be concluded, and why."""


@dataclass(frozen=True)
class Evidence:
    """What was compared."""

    scores: Comparisons
    aggregates: list[Aggregate]
    times: Comparisons
    """By `TIME`, a family of its own; empty with its reasons where no times may be compared."""


def compared(pool: Pool, metrics: Sequence[str] = ()) -> Evidence:
    """Compare the runs of ``pool`` by score on test, over tasks, and by time where that is allowed.

    Args:
        pool: the runs, without axes.
        metrics: see `rnnbench.analysis.compare.compare`.
    """
    scores = compare(pool, metrics)
    return Evidence(scores, aggregate(pool, scores, metrics), compare(pool, [TIME]))


def findings(runs: pd.DataFrame, pool: Pool, table: Table, evidence: Evidence) -> Findings:
    """All that may be said in words.

    Args:
        runs: a row a run, whatever became of it.
        pool: those that count.
        table: of them.
        evidence: of them.
    """
    contests, times = evidence.scores.contests, evidence.times.contests
    told = [(c.found.verdict, sentence(c, len(contests))) for c in contests]
    return Findings(
        [*what_was_run(runs), *_sizes(pool.runs), *_searched(table)],
        _headline(evidence.scores),
        [text for verdict, text in told if verdict != "undecided"],
        [text for verdict, text in told if verdict == "undecided"],
        [sentence(c, len(times)) for c in times],
        _over_tasks(evidence.aggregates),
        _caveats(pool.runs, evidence),
    )


def what_was_run(runs: pd.DataFrame) -> list[str]:
    """How many runs of which cells, tasks, seeds and protocols, and what became of them."""
    counts = runs["status"].value_counts()
    statuses = [f"{counts[status]:,} {status}" for status in (*STATUSES, UNFINISHED) if status in counts]
    seeds = sorted(set(runs["seed"]))
    named = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 2 and seeds == [*range(seeds[0], seeds[-1] + 1)] else None
    what = [
        _listed("cell", sorted(set(runs["cell"]))),
        _listed("task", sorted(set(runs["task"]))),
        f"{counted(len(seeds), 'seed')} ({named or ', '.join(map(str, seeds))})",
    ]
    if "train.name" in runs and runs["train.name"].notna().any():
        what.append(_listed("protocol", sorted(set(runs["train.name"].dropna()))))
    return [f"{counted(len(runs), 'run')}: {', '.join(statuses)}.", f"{'; '.join(what)}."]


def _listed(noun: str, names: Sequence[str]) -> str:
    return f"{counted(len(names), noun)} ({', '.join(names)})"


def _sizes(runs: pd.DataFrame) -> list[str]:
    """The recurrent parameters of each cell that counts, and those with the read-out."""
    if runs["params_recurrent"].isna().any():
        return []
    texts = []
    for cell, of_cell in runs.groupby("cell"):
        recurrent, total = (_range(of_cell[f"params_{which}"]) for which in ("recurrent", "total"))
        texts.append(f"{cell} {recurrent} ({total} with the read-out)")
    return [f"Recurrent parameters: {'; '.join(texts)}."]


def _range(counts: "pd.Series[int]") -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _searched(table: Table) -> list[str]:
    tried = sorted(set(table.cells["candidates"]))
    if tried[-1] == 1:
        return []
    rates = f"{tried[0]}" if len(tried) == 1 else f"{tried[0]} to {tried[-1]}"
    return [
        f"For each seed, of {rates} learning rates the one that is best on validation counts; test is looked at once."
    ]


def _headline(scores: Comparisons) -> list[str]:
    """How many comparisons decide something; that none does is said before anything else."""
    n, open_ = len(scores.contests), [c for c in scores.contests if c.found.verdict == "undecided"]
    if n == 0:
        return ["Nothing can be compared, so no cell can be called better than another."]
    if not open_:
        return [f"Decided: {_all(n)} of two cells on a task."]
    few = sum(c.found.smallest_p > statistics.ALPHA for c in open_)
    least = f"at least {statistics.fewest_seeds(n)} seeds are needed for {counted(n, 'comparison')} at once"
    some = "There are" if few == n else f"For {few} of them there are"
    why = f" {some} too few seeds, whatever the scores: {least}." if few else ""
    if len(open_) == n:
        return [f"Undecided: {_all(n)} of two cells on a task. No cell can be called better than another.{why}"]
    decided = f"{n - len(open_)} are decided and {len(open_)} undecided"
    return [f"Of {counted(n, 'comparison')} of two cells on a task, {decided}.{why}"]


def _all(n: int) -> str:
    return "the one comparison" if n == 1 else f"all {n} comparisons"


def _over_tasks(aggregates: Sequence[Aggregate]) -> list[str]:
    """The interquartile mean of each cell where it has an interval; none is called better by it."""
    texts = []
    for a in aggregates:
        if a.middle.low == a.middle.low:
            where = f" ({a.setting})" if a.setting else ""
            texts.append(
                f"Over {', '.join(a.tasks)}{where}: {a.method} scores {a.middle.estimate:.3f} of the trivial baseline, "
                f"interquartile mean of {counted(a.seeds, 'seed')} (95 % interval {a.middle.low:.3f} to "
                f"{a.middle.high:.3f}); lower is better."
            )
    return texts


def _caveats(runs: pd.DataFrame, evidence: Evidence) -> list[str]:
    seeds = {c.found.seeds for c in evidence.scores.contests}
    with_interval = {a.seeds for a in evidence.aggregates if a.middle.low == a.middle.low}
    found = []
    if runs.groupby(["task", "setting", "cell", "own"])["seed"].nunique().min() == 1:
        found.append("Where there is one seed, there is no spread: a difference may be chance, and has no interval.")
    found += [statistics.coverage_note(n) for n in sorted(seeds)]
    found += [statistics.bootstrap_note(n) for n in sorted(with_interval)]
    if evidence.aggregates and not with_interval:
        found.append("Over tasks there are too few scores for an interval, so the aggregates below decide nothing.")
    found += [f"Not compared: {line}" for line in evidence.scores.refused]
    found += _no_times(evidence)
    return [line for line in dict.fromkeys([*found, *evidence.scores.notes]) if line]


def _no_times(evidence: Evidence) -> Iterable[str]:
    """Why times are not compared, once for each reason."""
    refused = [line for line in evidence.times.refused if line not in evidence.scores.refused]
    reasons = dict.fromkeys(line.partition(f", {TIME}: ")[2] or line for line in refused)
    if not evidence.times.contests:
        return [f"Nothing is said of time: {reason}" for reason in reasons]
    return [f"Not compared: {line}" for line in refused]
