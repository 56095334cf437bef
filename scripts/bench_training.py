"""`.venv/bin/python scripts/bench_training.py`: rnnbench's training step beside those of torch and jax.

One process, one core, one thread for each; blocks of at least 20 ms by turns, over and over; medians. A step is
forward, loss, backward, clipping and RMSProp, for 88 notes in and out, each 1 with probability 4/88; batches change
from update to update. The rows of a cell and batch size:

  rnnbench    `rnnbench run`'s own loop and compiled engine, alone and with 10 members; then 10 members on 2 threads
  torch       the stock nn.GRU, nn.RNN or nn.LSTM with nn.Linear, clip_grad_norm_ and torch.optim.RMSprop
  torch loop  the paper's cell as a Python loop over torch's operators: rnnbench's own reference engine
  jax         the paper's cell as lax.scan, jitted, vmap over 10 members (`pip install -e .[bench]`)

Columns of the CSV:

  seconds_per_step_member  wall time of an update / seq_len / members: one time step of a whole batch of one member
  spread                   interquartile range of the blocks / median
  ratio_to_ours            seconds_per_step_member / that of rnnbench with 10 members on 1 thread

The table has the share of the core's peak besides: 2 operations for each multiply-add of the matrix products of a
step, padding and all else left out (`workload.Products`), over the rate of independent multiply-adds measured in the
same rounds. Provenance, peak, shares and bars go to the JSON file beside the CSV.
"""

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from io import StringIO
from pathlib import Path

import torch
from rivals import Jax, TorchModule, check_against_reference, find_jax
from workload import (
    CELLS,
    Peak,
    Population,
    Products,
    Synthetic,
    all_cores,
    cores,
    members_of,
    products_of,
    provenance_line,
    provenance_of,
    seconds,
)

from rnnbench.files import write_atomically
from rnnbench.kernels.build import NoCompilerError
from rnnbench.kernels.compiled import Compiled
from rnnbench.train import Reference

SHAPES = ((1, 255), (16, 200), (64, 200))
"""Batch size and steps."""

MEMBERS = 10
BLOCK_S = 0.02

BARS = {
    ("torch", 1): {"gru": 100.0, "tanh": 25.0, "lstm": 6.0},
    ("torch", 16): {"gru": 12.0, "tanh": 4.5, "lstm": 3.0},
    ("torch", 64): {"gru": 6.5, "tanh": 3.5, "lstm": 4.5},
    ("jax", 1): {"gru": 4.0, "tanh": 3.5, "lstm": 4.0},
    ("jax", 16): {"gru": 4.0, "tanh": 3.0, "lstm": 5.0},
    ("jax", 64): {"gru": 3.5, "tanh": 2.5, "lstm": 4.0},
}
"""How many times faster than another implementation ours is to be, with 10 members on 1 thread."""

TWO_THREADS_BAR = 1.7
"""The throughput of two threads over that of one."""


@dataclass
class Row:
    """A row of the CSV."""

    cell: str
    batch_size: int
    seq_len: int
    implementation: str
    members: int
    threads: int
    seconds_per_step_member: float
    spread: float
    ratio_to_ours: float


@dataclass
class Result:
    """A row, and what the CSV has no column for."""

    row: Row
    share: float | None
    """Of the core's peak, on each thread."""
    peak: float
    """Multiply-adds per second of a core, in the same rounds."""


@dataclass
class Contender:
    """An implementation, and the times it took."""

    implementation: str
    members: int
    threads: int
    run: Callable[[int], int]
    """Given a number of turns: takes them, and returns how many updates each member has made."""
    turns: int = 1
    """Of a block."""
    times: list[float] = field(default_factory=list)
    """Seconds per step and member, of each block."""

    @property
    def median(self) -> float:
        """Seconds per step and member."""
        return statistics.median(self.times)

    @property
    def spread(self) -> float:
        """Interquartile range / median."""
        low, _, high = statistics.quantiles(self.times, n=4, method="inclusive")
        return (high - low) / self.median


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    args = _arguments(argv)
    torch.set_num_threads(1)
    allowed = all_cores()
    with cores({max(allowed)}):  # what is started from now on stays on this core too
        found = None if args.no_jax else find_jax()
        if found is None:
            reason = "is not asked for" if args.no_jax else "is not installed (pip install -e .[bench])"
            print(f"jax {reason}: its rows are left out")
        if len(allowed) < 2:
            print("one core: the rows with 2 threads are left out")
        try:
            setting = Setting(Peak(), allowed, args.rounds, args.quick, found is not None)
            shapes = [(cell, B, 8 if args.quick else T) for cell in args.cell for B, T in SHAPES]
            results = [result for cell, B, T in shapes for result in compare(cell, B, T, setting)]
        except NoCompilerError as error:
            print(f"bench_training: error: {error}; without the kernels there is nothing to compare", file=sys.stderr)
            return 1
    origin = provenance_of(threads=1)
    if found is not None:
        origin["versions"]["jax"] = found.__version__
    print(_markdown(results))
    print(f"\n{provenance_line(origin)}")
    print(f"peak of a core: {statistics.median(r.peak for r in results) * 2e-9:.0f} GFLOP/s\n")
    if complaint := setting.peak.complaint():
        print(f"{complaint}\n")
    judged = list(bars([result.row for result in results]))
    print("\n".join(str(bar) for bar in judged))
    if args.csv:
        origin["core_share"] = setting.peak.core_share
        write(args.csv, results, {"provenance": origin, "bars": [asdict(bar) | {"met": bar.met} for bar in judged]})
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    text = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=text[0], epilog=text[1], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the table, and beside it a JSON file of the same name"
    )
    parser.add_argument("--cell", nargs="+", choices=list(CELLS), default=list(CELLS), help="default: all")
    parser.add_argument("--rounds", type=int, metavar="N", help="blocks of each; default: 25 at batch size 1, else 15")
    parser.add_argument("--quick", action="store_true", help="8 steps and two short blocks: to see whether it works")
    parser.add_argument("--no-jax", action="store_true", help="leave jax out")
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: must be at least 2, to have a spread")
    return args


# ------------------------------------------------------------ measuring


@dataclass
class Setting:
    """How to measure."""

    peak: Peak
    cores: set[int]
    """Those that this process may use."""
    rounds: int | None
    quick: bool
    with_jax: bool


def compare(cell: str, batch_size: int, steps: int, setting: Setting) -> list[Result]:
    """All implementations of a cell at a batch size, by turns."""
    print(f"{CELLS[cell]}, batch size {batch_size} …", file=sys.stderr, flush=True)
    task = Synthetic([steps] * batch_size * (40 if batch_size == 1 else 8))
    contenders = [*_ours(cell, batch_size, task, setting.cores), *_others(cell, batch_size, task, setting.with_jax)]
    rounds = setting.rounds or (2 if setting.quick else 25 if batch_size == 1 else 15)
    rate = measure(contenders, steps, rounds, 0.0 if setting.quick else BLOCK_S, setting.peak)
    base = next(c.median for c in contenders if (c.implementation, c.members, c.threads) == ("rnnbench", MEMBERS, 1))
    products = products_of(members_of(cell, batch_size, 1)[0])
    results = []
    for c in contenders:
        values = (CELLS[cell], batch_size, steps, c.implementation, c.members, c.threads)
        row = Row(*values, c.median, c.spread, c.median / base)
        results.append(Result(row, _share(row, products, rate) if c.implementation == "rnnbench" else None, rate))
    return results


def _share(row: Row, products: Products, rate: float) -> float:
    return row.batch_size * products.all / row.seconds_per_step_member / (rate * row.threads)


def ours(cell: str, batch_size: int, task: Synthetic, members: int, threads: int, on: set[int]) -> Contender:
    """`rnnbench run`'s loop over the compiled engine, on the cores ``on``."""
    each = members_of(cell, batch_size, members)
    population = Population(each, task, Compiled(each[0], task), threads)

    def run(turns: int) -> int:
        with cores(on):
            return population.run(turns)

    return Contender("rnnbench", members, threads, run)


def _ours(cell: str, batch_size: int, task: Synthetic, allowed: set[int]) -> Iterator[Contender]:
    yield ours(cell, batch_size, task, 1, 1, all_cores())
    yield ours(cell, batch_size, task, MEMBERS, 1, all_cores())
    if len(allowed) > 1:
        yield ours(cell, batch_size, task, MEMBERS, 2, allowed)


def _others(cell: str, batch_size: int, task: Synthetic, with_jax: bool) -> Iterator[Contender]:
    members = members_of(cell, batch_size, MEMBERS)
    alone, protocol, batches = members[0], members[0].protocol, task.dense(batch_size)
    hidden_size = alone.model.readout.in_features
    yield Contender("torch", 1, 1, TorchModule(cell, hidden_size, batches, protocol).run)
    yield Contender("torch loop", 1, 1, Population(members_of(cell, batch_size, 1), task, Reference()).run)
    if with_jax:
        fresh = members_of(cell, batch_size, 1)[0]
        check_against_reference(cell, fresh, batches[0], task.training_batch(0, 0, 0, batch_size))
        yield Contender("jax", MEMBERS, 1, Jax(cell, members, batches).run)


PAUSE_S = 0.05
"""After every block: threads of a library (jax's) that spin when their work is done must not do so in another's."""


def measure(contenders: Sequence[Contender], steps: int, rounds: int, block_s: float, peak: Peak) -> float:
    """Blocks by turns, ``rounds`` of each; returns the median of the core's peak in multiply-adds per second."""
    for c in contenders:
        c.run(1)
        c.run(1)
        taken, _ = seconds(c.run, 1)
        c.turns = max(1, round(block_s / taken + 0.5))
    rates = []
    for _ in range(rounds):
        rates.append(peak.measure())
        for c in contenders:
            taken, updates = seconds(c.run, c.turns)
            time.sleep(PAUSE_S)
            c.times.append(taken / (updates * steps * c.members))
    return statistics.median(rates)


# ------------------------------------------------------------ bars


@dataclass
class Bar:
    """What is to be reached, and what was."""

    cell: str
    batch_size: int
    what: str
    reached: float
    wanted: float

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.reached >= self.wanted

    def __str__(self) -> str:
        """In a line."""
        verdict = "met    " if self.met else "NOT MET"
        return f"{verdict} {self.cell} batch {self.batch_size}: {self.what} {self.reached:.2f}x, bar {self.wanted:g}x"


def bars(rows: Sequence[Row]) -> Iterator[Bar]:
    """The bars of issue 3, as far as the rows tell."""
    names = {label: cell for cell, label in CELLS.items()}
    for row in rows:
        if wanted := BARS.get((row.implementation, row.batch_size)):
            yield Bar(
                row.cell,
                row.batch_size,
                f"faster than {row.implementation}",
                row.ratio_to_ours,
                wanted[names[row.cell]],
            )
        if row.threads == 2:
            yield Bar(row.cell, row.batch_size, "two threads over one", 1 / row.ratio_to_ours, TWO_THREADS_BAR)


# ------------------------------------------------------------ output


def _markdown(results: Sequence[Result]) -> str:
    names = [f.name for f in fields(Row)]
    lines = [f"| {' | '.join([*names, 'share of peak'])} |", "|---" * (len(names) + 1) + "|"]
    for result in results:
        r = result.row
        numbers = [f"{r.seconds_per_step_member:.3e}", f"{r.spread:.1%}", f"{r.ratio_to_ours:.2f}"]
        share = "" if result.share is None else f"{result.share:.0%}"
        lines.append(f"| {' | '.join([*map(str, astuple(r)[:6]), *numbers, share])} |")
    return "\n".join(lines)


def write(path: Path, results: Sequence[Result], rest: dict[str, object]) -> None:
    """Write the rows as CSV, and the rest beside them as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for result in results:
        rounded = {key: float(f"{v:.5g}") if isinstance(v, float) else v for key, v in asdict(result.row).items()}
        writer.writerow(rounded)
    write_atomically(path, text.getvalue().encode())
    peaks = [
        {
            **{key: getattr(r.row, key) for key in ("cell", "batch_size", "members", "threads")},
            "share_of_peak": r.share,
            "peak_gflops_of_a_core": r.peak * 2e-9,
        }
        for r in results
        if r.share is not None
    ]
    write_atomically(path.with_suffix(".json"), (json.dumps({**rest, "peak": peaks}, indent=2) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
