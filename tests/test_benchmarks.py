"""The benchmarks run, and write what they say; what they measure is no matter here."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rnnbench.kernels.build import NoCompilerError, find_compiler

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
pytestmark = [pytest.mark.needs_torch, pytest.mark.more]
COMMANDS = [path for path in SCRIPTS if path.read_text(encoding="utf-8").startswith('"""`.venv')]


@pytest.fixture(autouse=True)
def _compiler() -> None:
    try:
        find_compiler()
    except NoCompilerError as error:
        pytest.skip(f"the benchmarks are of the compiled kernels: {error}")


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "rnnbench" / "_plugins"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, f"scripts/{script}", *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_training_benchmark_writes_the_columns_that_were_asked_for(tmp_path: Path) -> None:
    done = _run("bench_training.py", "--quick", "--no-jax", "--csv", str(tmp_path / "training.csv"))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "training.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "cell",
        "batch_size",
        "seq_len",
        "implementation",
        "members",
        "threads",
        "seconds_per_step_member",
        "spread",
        "ratio_to_ours",
    ]
    assert {row["cell"] for row in rows} == {"GRU-46", "tanh-100", "LSTM-36"}
    assert {row["implementation"] for row in rows} == {"rnnbench", "torch", "torch loop"}
    assert all(float(row["seconds_per_step_member"]) > 0 for row in rows)
    ours = [r for r in rows if (r["implementation"], r["members"], r["threads"]) == ("rnnbench", "10", "1")]
    assert [float(row["ratio_to_ours"]) for row in ours] == [1.0] * 9
    assert re.search(r"^\| cell \| batch_size .* share of peak \|$", done.stdout, re.M)
    assert "faster than torch" in done.stdout
    content = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert {"provenance", "bars", "peak"} <= set(content)


def test_the_profile_names_every_phase_and_its_shares_sum_to_one() -> None:
    done = _run("profile_step.py", "--cell", "tanh", "--size", "1", "--turns", "1")
    assert done.returncode == 0, done.stderr
    shares = dict(re.findall(r"^\| ([a-zA-Z ]+) \| [\d.]+ \| ([\d.]+)% \|", done.stdout, re.M))
    assert {"input", "forward", "loss", "backward", "update"} <= shares.keys()
    assert float(shares.pop("all")) == 100.0
    assert sum(map(float, shares.values())) == pytest.approx(100, abs=1)


def test_the_study_benchmark_runs_a_population_by_the_command_line(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "study.csv"
    arguments = ["--task", "jsb_chorales", "--epochs", "1", "--rounds", "2", "--csv", str(path)]
    done = _run("bench_study.py", *arguments)
    assert done.returncode == 0, done.stderr
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["task"], row["cell"], row["members"]) == ("jsb_chorales", "GRU-46", "10")
    assert float(row["wall_s"]) * float(row["member_steps_per_s"]) == pytest.approx(
        float(row["member_steps"]), rel=1e-3
    )


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_every_script_says_its_command_in_the_first_line_and_has_help(path: Path) -> None:
    assert f"scripts/{path.name}" in path.read_text(encoding="utf-8").splitlines()[0]
    assert _run(path.name, "--help").returncode == 0
