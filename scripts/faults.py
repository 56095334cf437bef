"""``python scripts/faults.py [RUNS]``: a sweep of tiny runs that meet with accidents; what is lost, what is listed?

200 runs by default, of which three in eight meet one of fifteen accidents (`faulty_cell.KINDS`). The sweep is
interrupted by Ctrl-C, then killed by SIGKILL, then two of the same command run at once, to their ends. Then `rnnbench
clean`, and the command once more with no accidents. Every run must end with the numbers of an undisturbed sweep, to
the bit, and every run that is not finished after the two sweeps must be in the lists of both.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from faulty_cell import CYCLE, KINDS, kind_of

HERE = Path(__file__).resolve().parent
FOR_GOOD = ("raises", "exits", "killed always", "out of memory", "checkpoint damaged once", "result cut short")
"""The accidents after which a run cannot end while nobody does anything about it."""


class LostError(Exception):
    """Something was lost, or not told."""


def command(results: str, runs: int) -> list[str]:
    """The sweep."""
    tiny = ["task=adding", "task.length=8", "task.updates_per_epoch=5", "task.valid_size=20", "task.test_size=20"]
    more = ["train.max_epochs=4", "checkpoint_every_s=0", "tensorboard=false", "kernel=reference"]
    where = ["--config-dir", "conf", f"results_dir={results}", f"seed=range({runs})"]
    return [sys.executable, "-m", "rnnbench.cli", "run", "-m", *where, "cell=faulty", *tiny, *more]


def start(directory: Path, results: str, runs: int, faults: bool) -> subprocess.Popen[str]:
    """Begin the sweep, with accidents or without."""
    env = {key: value for key, value in os.environ.items() if key != "FAULTS"}
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), env.get("PYTHONPATH", "")])
    if faults:
        env["FAULTS"] = str(directory / "faults")
    return subprocess.Popen(
        command(results, runs),
        cwd=directory,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def results_of(root: Path) -> dict[int, dict[str, Any]]:
    """By seed, the content of result.json, where there is one that can be read."""
    found = {}
    for path in root.glob("runs/*/*/s*/result.json"):
        try:
            result = json.loads(path.read_text())
        except ValueError:
            continue
        found[int(result["seed"])] = {**result, "path": path.parent}
    return found


def finished(root: Path) -> dict[int, dict[str, Any]]:
    """Those that have ended for good."""
    return {seed: result for seed, result in results_of(root).items() if result["status"] in ("done", "diverged")}


def numbers(result: dict[str, Any]) -> tuple[object, ...]:
    """All that a run computed: its scores, its counts, its best weights."""
    best = torch.load(result["path"] / "best.pt", weights_only=True)
    scores = [result[key] for key in ("status", "train", "valid", "test", "epochs", "updates", "best_epoch")]
    return (json.dumps(scores), best["theta"].numpy().tobytes())


def wait_for(root: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until ``count`` runs are finished, or the sweep is."""
    while len(finished(root)) < count and process.poll() is None:
        time.sleep(0.2)


def listed(output: str) -> set[int]:
    """The seeds in a sweep's list of failures."""
    _, _, tail = output.rpartition("runs failed:\n")
    return {int(seed) for seed in re.findall(r"^  (?:.* )?seed=(\d+)$", tail, re.MULTILINE)}


def check(held: bool, what: str) -> None:
    """Say what holds, and fail if it does not."""
    print(f"{'ok    ' if held else 'FAILED'} {what}", flush=True)
    if not held:
        raise LostError(what)


def prepare(directory: Path, runs: int) -> None:
    """A cell that meets with accidents, and those that have happened before the sweep begins."""
    (directory / "conf" / "cell").mkdir(parents=True)
    (directory / "faults").mkdir()
    shutil.copy(HERE / "faulty_cell.py", directory)
    (directory / "conf" / "cell" / "faulty.yaml").write_text("# Faulty.\n_target_: faulty_cell.Cell\nhidden_size: 3\n")
    begun = time.monotonic()
    output, _ = (undisturbed := start(directory, "undisturbed", runs, faults=False)).communicate()
    print("" if undisturbed.returncode == 0 else output)
    check(undisturbed.returncode == 0, f"undisturbed, {runs} runs end in {time.monotonic() - begun:.0f} s")
    for seed, result in finished(directory / "undisturbed").items():
        path = directory / "disturbed" / result["path"].relative_to(directory / "undisturbed")
        if kind_of(seed) == "result cut short":
            shutil.copytree(result["path"], path)
            (path / "result.json").write_bytes((path / "result.json").read_bytes()[:100])
        if kind_of(seed) == "stale lock":
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / f".{path.name}.lock").write_text('{"host": "here", "pid": 1}')


def disturb(directory: Path, runs: int) -> None:
    """Ctrl-C, SIGKILL, and two at once."""
    root = directory / "disturbed"
    first = start(directory, "disturbed", runs, faults=True)
    wait_for(root, runs // 8, first)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate()
    check(first.returncode == 130, f"Ctrl-C: exit status 130, {len(finished(root))} runs are done")
    second = start(directory, "disturbed", runs, faults=True)
    wait_for(root, runs // 4, second)
    second.kill()
    second.communicate()
    print(f"       SIGKILL for the sweep itself: {len(finished(root))} runs are done")
    both = [start(directory, "disturbed", runs, faults=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    check([process.returncode for process in both] == [1, 1], "two at once: both end with exit status 1")
    missing = set(range(runs)) - finished(root).keys()
    kinds = Counter(kind_of(seed) or "none" for seed in missing)
    print(f"       not finished: {len(missing)} ({', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))})")
    for output in outputs:
        check(missing <= listed(output), f"every one of them is in the list of {len(listed(output))} failures")
    for_good = {seed for seed in range(runs) if kind_of(seed) in FOR_GOOD}
    check(for_good <= missing, f"what cannot end is not taken for a result: {len(for_good)} runs")
    spent = {int(path.name) for path in (directory / "faults").iterdir()}
    print(f"       accidents: {Counter(kind_of(seed) for seed in spent | for_good).most_common()}")


def mend(directory: Path, runs: int) -> None:
    """Clean, and the command once more."""
    root = directory / "disturbed"
    env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    clean = [sys.executable, "-m", "rnnbench.cli", "clean", "--yes", "--runs", str(root / "runs")]
    cleaned = subprocess.run(clean, cwd=directory, env=env, capture_output=True, text=True, check=True).stdout
    print(f"       rnnbench clean: {cleaned.splitlines()[-1]}")
    last = start(directory, "disturbed", runs, faults=False)
    output, _ = last.communicate()
    check(last.returncode == 0, f"without accidents: {output.splitlines()[0]}")
    expected, found = finished(directory / "undisturbed"), finished(root)
    check(found.keys() == expected.keys(), f"all {len(expected)} runs are finished")
    same = [seed for seed in expected if numbers(found[seed]) == numbers(expected[seed])]
    diverged = [seed for seed in expected if kind_of(seed) == "diverges"]
    check(
        sorted([*same, *diverged]) == sorted(expected),
        f"{len(same)} have the bits of the undisturbed sweep; the other {len(diverged)} are those made to diverge",
    )


def main() -> int:
    """Run it; returns the exit status."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    met = sum(kind_of(seed) is not None for seed in range(runs))
    print(f"{runs} runs, {len(KINDS)} kinds of accidents, {met} runs meet one")
    print(f"(of every {CYCLE} seeds, {len(KINDS)}; besides Ctrl-C and SIGKILL for the sweep, and two sweeps at once)")
    with tempfile.TemporaryDirectory(prefix="rnnbench-faults-") as name:
        begun = time.monotonic()
        directory = Path(name)
        prepare(directory, runs)
        disturb(directory, runs)
        mend(directory, runs)
        print(f"{time.monotonic() - begun:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
