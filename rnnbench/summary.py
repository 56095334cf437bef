"""The last lines of a run, for a person."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def next_steps(results_dir: str) -> str:
    """What to open after a run."""
    runs = Path(results_dir) / "runs"
    table = "rnnbench table" if runs == Path("results/runs") else f"rnnbench table --runs {runs}"
    return f"  next      {table}   |   tensorboard --logdir {runs}"


def number(value: float | None) -> str:
    """Four significant digits, and at least three decimals where there is room."""
    if value is None:
        return "not finite"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.2g}" if abs(value) < 1e-3 else f"{value:.4f}"
