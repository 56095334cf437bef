"""`.venv/bin/python scripts/bench_study.py`: the wall time of `rnnbench run` itself, beside its training steps alone.

JSB Chorales and Nottingham, the ten learning rates of the paper's search, its protocol (`chung2014`) without early
stopping, a fixed number of epochs, into a directory that is deleted afterwards. Start-up, weight noise, evaluation
every epoch, logging, checkpoints and scores are all in the wall time.

Columns of the CSV:

  member_steps             epochs x predicted frames of the training set, summed over the members
  seconds_per_step_member  of `bench_training.py` at batch 1, 255 steps, 10 members, on as many threads: wall time of an
                           update / steps / members, the mean of measurements right before and right after
  ratio                    wall_s / (member_steps x seconds_per_step_member); it is to be at most 1.5
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from io import StringIO
from pathlib import Path

import torch
from bench_training import BLOCK_S, MEMBERS, SHAPES, measure, ours
from workload import CELLS, Peak, Synthetic, all_cores, music_of, provenance_line, provenance_of

from rnnbench.errors import UserError
from rnnbench.files import write_atomically
from rnnbench.kernels.build import NoCompilerError

EPOCHS = {"jsb_chorales": 500, "nottingham": 40}
"""Such that start-up is small beside them."""

BAR = 1.5


@dataclass
class Row:
    """A row of the CSV."""

    task: str
    cell: str
    epochs: int
    members: int
    threads: int
    wall_s: float
    member_steps: int
    member_steps_per_s: float
    seconds_per_step_member: float
    ratio: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    args = _arguments(argv)
    torch.set_num_threads(1)
    allowed = all_cores()
    threads = args.threads or len(allowed)
    rows = []
    try:
        peak = Peak()
        for cell in args.cell:
            for task in args.task:
                rows.append(study(cell, task, args.epochs or EPOCHS[task], threads, args.rounds, peak))
    except (UserError, NoCompilerError) as error:
        print(f"bench_study: error: {error}", file=sys.stderr)
        return 1
    names = [f.name for f in fields(Row)]
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for row in rows:
        print(f"| {' | '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in astuple(row))} |")
    origin = provenance_of(threads)
    print(f"\n{provenance_line(origin)}\n")
    if complaint := peak.complaint():
        print(f"{complaint}\n")
    for row in rows:
        verdict = "met    " if row.ratio <= BAR else "NOT MET"
        print(f"{verdict} {row.cell} on {row.task}: wall time {row.ratio:.2f} x its steps, bar {BAR} x")
    if args.csv:
        _write(args.csv, rows, origin)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    text = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=text[0], epilog=text[1], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cell", nargs="+", choices=list(CELLS), default=["gru"], help="default: gru")
    parser.add_argument("--task", nargs="+", choices=list(EPOCHS), default=list(EPOCHS), help="default: both")
    parser.add_argument("--epochs", type=int, help="default: 500 on JSB Chorales, 40 on Nottingham")
    parser.add_argument("--threads", type=int, help="default: all cores that this process may use")
    parser.add_argument("--rounds", type=int, default=25, help="blocks of each measurement of the step; default: 25")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table, and beside it a JSON file")
    return parser.parse_args(argv)


def study(cell: str, task: str, epochs: int, threads: int, rounds: int, peak: Peak) -> Row:
    """One population by `rnnbench run`, its step measured before and after."""
    print(f"{CELLS[cell]} on {task}, {epochs} epochs …", file=sys.stderr, flush=True)
    before = step_seconds(cell, threads, rounds, peak)
    with tempfile.TemporaryDirectory() as directory:
        wall_s = run(cell, task, epochs, threads, Path(directory))
        trained = [_epochs_of(path) for path in sorted(Path(directory).glob("runs/*/*/*/result.json"))]
    step = (before + step_seconds(cell, threads, rounds, peak)) / 2
    steps = sum(trained) * int(music_of(task).rolls["train"].predicted.sum())
    return Row(
        task, CELLS[cell], epochs, len(trained), threads, wall_s, steps, steps / wall_s, step, wall_s / (steps * step)
    )


def step_seconds(cell: str, threads: int, rounds: int, peak: Peak) -> float:
    """Seconds per step and member, as `bench_training.py` has it at batch size 1, on ``threads``."""
    batch_size, steps = SHAPES[0]
    contender = ours(cell, batch_size, Synthetic([steps] * 40), MEMBERS, threads, all_cores())
    measure([contender], steps, rounds, BLOCK_S, peak)
    return contender.median


def run(cell: str, task: str, epochs: int, threads: int, directory: Path) -> float:
    """The wall time in seconds of `rnnbench run`.

    Raises:
        UserError: if it fails.
    """
    command = [sys.executable, "-m", "rnnbench.cli", "run", f"cell={cell}", f"task={task}", "train=chung2014"]
    overrides = ["search=chung2014", f"train.max_epochs={epochs}", "train.patience=null", f"threads={threads}"]
    where = [f"results_dir={directory}", "progress=false", "kernel=compiled"]
    start = time.perf_counter()
    done = subprocess.run([*command, *overrides, *where], capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - start
    if done.returncode != 0:
        raise UserError(f"rnnbench run ended with exit status {done.returncode}: {done.stderr.strip()}")
    return wall_s


def _epochs_of(path: Path) -> int:
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["status"] != "done":
        raise UserError(f"{path.parent.name}: ended as {result['status']}, so that its steps cannot be counted")
    return int(result["epochs"])


def _write(path: Path, rows: Sequence[Row], origin: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: float(f"{v:.5g}") if isinstance(v, float) else v for key, v in asdict(row).items()})
    write_atomically(path, text.getvalue().encode())
    content = {"provenance": origin, "bar": BAR, "met": all(row.ratio <= BAR for row in rows)}
    write_atomically(path.with_suffix(".json"), (json.dumps(content, indent=2) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
