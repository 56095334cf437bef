"""`.venv/bin/python scripts/bench_jobs.py`: a sweep's jobs beside each other on a core each, or in turn on all cores.

`rnnbench run -m` itself, start-up and all, by turns: with `hydra.launcher.jobs=1` one job after another has all cores,
with the default as many run at a time as there are cores, each on its share. Medians of three.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from workload import all_cores, provenance_line, provenance_of

CASES = {
    "2 populations of 10, JSB Chorales, 40 epochs": ["cell=gru,lstm", "search=chung2014", "train.max_epochs=40"],
    "4 single runs, JSB Chorales, 100 epochs": ["cell=gru,lstm,tanh,gru_cudnn", "train.max_epochs=100"],
}
"""What is swept, all under the protocol of the paper."""

REPETITIONS = 3


def seconds(overrides: list[str]) -> float:
    """The wall time of a sweep from nothing."""
    with tempfile.TemporaryDirectory() as directory:
        common = ["task=jsb_chorales", "train=chung2014", f"results_dir={directory}", "progress=false"]
        begun = time.perf_counter()
        command = [sys.executable, "-m", "rnnbench.cli", "run", "-m", *common, *overrides]
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - begun


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the figures, and beside it a JSON file")
    args = parser.parse_args()
    rows = []
    for name, overrides in CASES.items():
        times: dict[str, list[float]] = {"one after another": [], "beside each other": []}
        for _ in range(REPETITIONS):
            times["one after another"].append(seconds([*overrides, "hydra.launcher.jobs=1"]))
            times["beside each other"].append(seconds(overrides))
        medians = {how: statistics.median(found) for how, found in times.items()}
        rows += [{"sweep": name, "jobs": how, "seconds": f"{median:.1f}"} for how, median in medians.items()]
        first, second = medians.values()
        print(f"{name}: one after another {first:.1f} s, beside each other {second:.1f} s, {first / second:.2f} x")
    if args.csv:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["sweep", "jobs", "seconds"])
            writer.writeheader()
            writer.writerows(rows)
        origin = provenance_of(len(all_cores()))
        args.csv.with_suffix(".json").write_text(json.dumps({"provenance": origin, "rows": rows}, indent=2) + "\n")
        print(provenance_line(origin))


if __name__ == "__main__":
    main()
