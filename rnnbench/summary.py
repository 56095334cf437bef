"""The last lines of a run, for a person."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnbench.config import RunConfig, identity
from rnnbench.published import PAPER, published


def summarise(result: Mapping[str, Any]) -> str:
    """A score, what it is to be held against, and where the files are.

    Args:
        result: what `rnnbench.run.run` returned.
    """
    who = f"{result['cell']} on {result['task']}, seed {result['seed']}"
    files = f"  files     {result['path']}"
    if not result["trained_now"]:
        files += "\n  (finished before and not repeated; force=true repeats it)"
    if result["status"] == "interrupted":
        where = f"epoch {result['epochs']}, update {result['updates']}"
        return f"{who}: interrupted at {where}; the same command goes on from there\n{files}"
    metric = result["metric"]
    if result["status"] == "pruned":
        return f"{who}: {_given_up(result)}; a run of its own goes on from there\n{files}"
    ended = "" if result["status"] == "done" else " DIVERGED; at its last good weights:"
    scores = f"train {number(result['train'][metric])}, validation {number(result['valid'][metric])}"
    epochs = f"epoch {result['best_epoch']} of {result['epochs']}"
    cost = f"{result['params_recurrent']:,} recurrent parameters; {result['seconds']:.0f} s"
    lines = [
        f"{who}:{ended} test {metric} {number(result['test'][metric])} ({result['unit']})",
        f"  {scores} at {epochs}; {cost}",
    ]
    if "nll_seq" in result["test"]:
        lines.append(f"  per sequence instead of per step: test {number(result['test']['nll_seq'])}")
    rows = [(f"baseline  {name}", values[metric]) for name, values in result["baselines"]["test"].items()]
    paper = published(result["task"], result["cell"], "test", metric)
    if paper is not None:
        rows.append((f"published {PAPER}", paper))
    width = max(len(name) for name, _ in rows)
    lines += [f"  {name:<{width}}  {number(value)}" for name, value in rows]
    beaten = "beats the trivial baseline" if result["test"]["success"] else "does NOT beat the trivial baseline"
    lines.append(f"  {beaten} by the margin of {result['config']['task']['margin']:.0%} that its config asks")
    return "\n".join([*lines, files])


def summarise_population(configs: Sequence[RunConfig], results: Sequence[Mapping[str, Any]]) -> str:
    """A run alone as `summarise` has it; of several a line each, and of each search the chosen candidate in full.

    Runs that failed are left out: their errors are told.

    Args:
        configs: of the runs.
        results: what `rnnbench.run.run_population` returned for them.
    """
    runs = [(c, r) for c, r in zip(configs, results, strict=False) if r["status"] not in ("error", "busy")]
    if len(configs) == 1 or not runs:
        return "\n".join(summarise(result) for _, result in runs)
    names = _told_apart(configs)
    width = max(len(name) for name in names.values())
    failed = f", {len(results) - len(runs)} failed" if len(runs) < len(results) else ""
    lines = [f"{_who(c)}: {len(configs)} runs{failed}" for c in configs[:1]]
    lines += [f"  {names[id(c)]:<{width}}  {_in_a_line(c, r)}" for c, r in runs]
    lines += [f"  files     {Path(runs[0][1]['path']).parent}"]
    return "\n".join([*lines, *_choices(configs, runs, names)])


def _who(config: RunConfig) -> str:
    return f"{config.cell['name']} on {config.task['name']}"


def _told_apart(configs: Sequence[RunConfig]) -> dict[int, str]:
    """For each config, by its id, the keys in which the runs differ, with their values."""
    identities = [identity(config) for config in configs]
    keys = [k for k in identities[0] if any(i.get(k) != identities[0][k] for i in identities)]
    keys.sort(key=lambda key: key != "seed")
    return {id(c): " ".join(f"{k}={i.get(k)}" for k in keys) for c, i in zip(configs, identities, strict=True)}


def _in_a_line(config: RunConfig, result: Mapping[str, Any]) -> str:
    """How a member ended; a candidate shows no test score, since it is chosen without."""
    where = Path(result["path"]).name + ("" if result["trained_now"] else " (finished before)")
    if result["status"] == "interrupted":
        return f"interrupted at epoch {result['epochs']}; the same command goes on from there  {where}"
    metric = result["metric"]
    if result["status"] == "pruned":
        return f"{_given_up(result)}  {where}"
    ended = "" if result["status"] == "done" else "DIVERGED; "
    scores = f"validation {metric} {number(result['valid'][metric])}"
    if config.search is None:
        scores += f", test {number(result['test'][metric])}"
    return f"{ended}{scores} at epoch {result['best_epoch']} of {result['epochs']}  {where}"


def _given_up(result: Mapping[str, Any]) -> str:
    best = f"validation {result['metric']} {number(result['best_valid'])}"
    return f"given up at epoch {result['epochs']}, {best}"


def _choices(
    configs: Sequence[RunConfig], runs: Sequence[tuple[RunConfig, Mapping[str, Any]]], names: Mapping[int, str]
) -> list[str]:
    """Of each search the candidate that is best on validation; one that diverged or is not finished cannot be."""
    searches: dict[str, list[RunConfig]] = {}
    for config in configs:
        if config.search:
            searches.setdefault(_search_of(config), []).append(config)
    lines = []
    for key, tried in searches.items():
        done = [(c, r) for c, r in runs if c.search and _search_of(c) == key and r["status"] == "done"]
        first = tried[0]
        assert first.search is not None
        what = f"search {first.search['name']}, seed {first.seed}"
        if not done:
            lines.append(f"{what}: no candidate is finished and good")
            continue
        best, result = min(done, key=lambda run: run[1]["best_valid"])
        of = f"the {len(done)} good ones of {len(tried)}" if len(done) < len(tried) else str(len(tried))
        lines += [f"{what}: best of {of} on validation, {names[id(best)]}", summarise(result)]
    return lines


def _search_of(config: RunConfig) -> str:
    """Equal for the candidates of one search: the same run but for the learning rate."""
    assert config.search is not None
    return repr((config.search["name"], {k: v for k, v in identity(config).items() if k != "train.lr"}))


def next_steps(results_dir: str) -> str:
    """What to open after a run."""
    runs = Path(results_dir) / "runs"
    table = "rnnbench table" if runs == Path("results/runs") else f"rnnbench table --runs {runs}"
    return f"  next      {table}   |   tensorboard --logdir {runs}"


def counted(number_of: int, noun: str) -> str:
    """How many things: 1 run, 2 runs."""
    return f"{number_of} {noun}" + ("" if number_of == 1 else "s")


def number(value: float | None) -> str:
    """Four significant digits, and at least three decimals where there is room."""
    if value is None:
        return "not finite"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.2g}" if abs(value) < 1e-3 else f"{value:.4f}"
