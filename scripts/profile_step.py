"""`.venv/bin/python scripts/profile_step.py`: where the time of the compiled step goes.

The kernels are compiled with clocks in them (-DPROFILE) and called by `rnnbench run`'s own loop, ten members on one
core. For each phase: nanoseconds per row (a step of one sequence), its share, and, of the phases that are matrix
products, GFLOP/s and share of the core's peak. Their multiply-adds are counted without padding (`workload.Products`);
`forward` and `backward` have the cell's functions in them too. Sizes: those of `bench_training.py`, and JSB Chorales as
it is, one sequence a batch, with the protocol's weight noise.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence

import torch
from workload import (
    CELLS,
    Peak,
    Population,
    Products,
    Synthetic,
    all_cores,
    cores,
    members_of,
    music_of,
    products_of,
    provenance_line,
    provenance_of,
)

from rnnbench.errors import UserError
from rnnbench.kernels.build import NoCompilerError
from rnnbench.kernels.compiled import Compiled
from rnnbench.kernels.library import open_library
from rnnbench.tasks.music import Music

SIZES = {"1": (1, 255), "16": (16, 200), "64": (64, 200)}
"""Batch size and steps."""

MEMBERS = 10
WEIGHT_NOISE = 0.075
"""The paper's, on JSB Chorales; the benchmark has none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each cell and size."""
    args = _arguments(argv)
    torch.set_num_threads(1)
    with cores({max(all_cores())}):
        try:
            peak = Peak()
            for cell in args.cell:
                for size in args.size:
                    print(_table(cell, size, args.turns, peak), flush=True)
        except (UserError, NoCompilerError) as error:
            print(f"profile_step: error: {error}", file=sys.stderr)
            return 1
    print(provenance_line(provenance_of(threads=1)))
    if complaint := peak.complaint():
        print(complaint)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    text = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(description=text[0], epilog=text[1])
    parser.add_argument("--cell", nargs="+", choices=list(CELLS), default=list(CELLS), help="default: all")
    sizes = [*SIZES, "jsb"]
    parser.add_argument("--size", nargs="+", choices=sizes, default=sizes, help="batch size, or jsb; default: all")
    parser.add_argument("--turns", type=int, default=20, help="epochs of each member; default: 20")
    return parser.parse_args(argv)


def _task(size: str) -> tuple[str, int, Music]:
    """What to call it, the batch size, and the data."""
    if size == "jsb":
        task = music_of("jsb_chorales")
        return f"JSB Chorales, {task.rolls['train'].predicted.mean():.0f} steps", 1, task
    batch_size, steps = SIZES[size]
    sequences = batch_size * (40 if batch_size == 1 else 8)
    return f"batch size {batch_size}, {steps} steps", batch_size, Synthetic([steps] * sequences)


def _table(cell: str, size: str, turns: int, peak: Peak) -> str:
    name, batch_size, task = _task(size)
    members = members_of(cell, batch_size, MEMBERS, WEIGHT_NOISE if size == "jsb" else 0.0)
    engine = Compiled(members[0], task)
    engine.library = open_library("float32", "-DPROFILE")
    population = Population(members, task, engine)
    rates = [peak.measure() for _ in range(3)]
    engine.library.phases()  # counted from here
    updates = population.run(turns)
    taken = engine.library.phases()
    rates += [peak.measure() for _ in range(3)]
    rolls = task.rolls["train"]
    rows = MEMBERS * updates / task.updates_in_epoch(batch_size) * float(rolls.predicted.sum())
    return _markdown(f"{CELLS[cell]}, {name}", taken, rows, products_of(members[0]), statistics.median(rates))


def _markdown(title: str, taken: dict[str, float], rows: float, products: Products, rate: float) -> str:
    total = sum(taken.values())
    counts = {
        "forward": products.recurrent,
        "readout": products.readout,
        "readout gradient": 2 * products.readout,
        "backward": products.recurrent,
        "U gradient": products.recurrent,
        "all": products.all,
    }
    lines = [f"### {title}", "", "| phase | ns per row | share | GFLOP/s | of peak |", "|---|---|---|---|---|"]
    for phase, seconds in {**taken, "all": total}.items():
        rated = counts.get(phase, 0) * rows / seconds if seconds else 0.0
        of_peak = f"{2e-9 * rated:.0f} | {rated / rate:.0%}" if rated else " | "
        lines.append(f"| {phase} | {1e9 * seconds / rows:.1f} | {seconds / total:.1%} | {of_peak} |")
    return "\n".join([*lines, "", f"peak of the core: {2e-9 * rate:.0f} GFLOP/s", ""])


if __name__ == "__main__":
    sys.exit(main())
