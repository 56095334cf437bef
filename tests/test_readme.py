"""What the README tells a person to type is there, and what it shows is so."""

import importlib
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from rnnbench.cli import COMMANDS
from rnnbench.compose import compose_config, compose_population, options_of
from rnnbench.config import run_key

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.strip()
]
RUNS = [line for line in LINES if line.startswith("rnnbench run")]
OTHERS = [line for line in LINES if line.startswith("rnnbench ") and line not in RUNS]


def test_the_quick_start_has_exactly_two_commands() -> None:
    block = re.search(r"## Quick start.*?```bash\n(.*?)```", README, re.S)
    assert block is not None
    commands = [line.split("#")[0].strip() for line in block[1].splitlines()]
    assert commands == ["make demo", "make test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"demo", "test"} <= set(targets)


def test_the_first_table_is_that_of_the_study() -> None:
    table = pd.read_csv(ROOT / "results" / "table2" / "table.csv")
    scores = table[table["split"] == "test"].set_index(["task", "metric", "cell", "variant"])["mean"]
    rows = re.findall(r"^\| ?(.*?) ?\| (steps|sequences) \|(.*)\|$", README, re.M)
    sets = {
        "JSB Chorales": "jsb_chorales",
        "MuseData": "musedata",
        "Nottingham": "nottingham",
        "Piano-midi": "piano_midi",
    }
    assert len(rows) == 8
    for i, (_, averaging, entries) in enumerate(rows):
        task = sets[rows[i - i % 2][0]]
        metric = {"steps": "nll_step", "sequences": "nll_seq"}[averaging]
        for cell, entry in zip(("gru", "lstm", "tanh"), entries.split("|"), strict=False):
            shown = re.match(r" (\S+) / (\S+) ", entry)
            assert shown is not None
            study = [scores[task, metric, cell, f"train.readout_bias={bias}"] for bias in ("zero", "log_odds")]
            assert list(shown.groups()) == [f"{value:.2f}" for value in study], (task, metric, cell)


@pytest.mark.parametrize("line", RUNS)
def test_every_run_of_the_readme_composes(line: str) -> None:
    words = shlex.split(line)[2:]
    own = "--config-dir" in words
    overrides = [w for w in words if "=" in w and not w.startswith(("--", "hydra"))]  # launchers need not be here
    overrides = [o for o in overrides if "(" not in o]  # a space, of which no value is known yet
    apart = re.compile(r",(?![^\[]*\])")  # [0,1,2] is one value
    axes = [[f"{o.split('=')[0]}={value}" for value in apart.split(o.split("=", 1)[1])] for o in overrides]
    assert "-m" in words or all(len(axis) == 1 for axis in axes), "a sweep needs -m"
    for chosen in itertools.product(*axes):
        kept = [o for o in chosen if not (own and o.startswith("cell=") and o[5:] not in options_of("cell"))]
        assert compose_population(*kept)


def test_every_command_of_the_readme_is_known_and_every_known_one_is_in_it() -> None:
    used = {shlex.split(line)[1] for line in LINES if line.startswith("rnnbench ")}
    assert used <= COMMANDS.keys()
    for name in COMMANDS:
        assert f"rnnbench {name}" in README, f"{name} is not documented"


def test_every_search_that_the_readme_names_is_there() -> None:
    assert set(re.findall(r"search=(\w+)", README)) - {"null"} == set(options_of("search"))


def test_every_protocol_metric_and_option_that_the_readme_names_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    table = re.search(r"\| protocol.*?\n\n", README, re.S)
    assert table is not None
    assert set(re.findall(r"^\| `(\w+)` \|", table[0], re.M)) == set(options_of("train"))
    for name in COMMANDS.keys() - {"run"}:  # whose help is Hydra's
        with pytest.raises(SystemExit):
            importlib.import_module(COMMANDS[name][0]).main(["--help"])
    helps = capsys.readouterr().out
    named = re.findall(r"`(--[\w-]+)", README) + [word for line in OTHERS for word in line.split() if word[:2] == "--"]
    for option in set(named):
        assert re.search(rf"{option}\b(?!-)", helps), option


def test_the_directory_in_the_example_of_load_is_that_of_the_demo() -> None:
    assert f"results/runs/adding/gru/s0-{run_key(compose_config())}" in README


@pytest.mark.needs_torch
def test_the_cell_in_the_readme_trains_as_it_stands(tmp_path: Path) -> None:
    code = re.search(r"`my_cells.py`:\n\n```python\n(.*?)```", README, re.S)
    config = re.search(r"`my_configs/cell/leaky.yaml`:\n\n```yaml\n(.*?)```", README, re.S)
    assert code is not None
    assert config is not None
    (tmp_path / "my_cells.py").write_text(code[1])
    (tmp_path / "my_configs" / "cell").mkdir(parents=True)
    (tmp_path / "my_configs" / "cell" / "leaky.yaml").write_text(config[1])
    small = ["task=adding", "task.length=8", "task.updates_per_epoch=2", "task.valid_size=8", "task.test_size=8"]
    command = ["-m", "rnnbench.cli", "run", "--config-dir", "my_configs", "cell=leaky", "match_params=2000"]
    done = subprocess.run(
        [sys.executable, *command, *small, "train.max_epochs=1"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "leaky on adding" in done.stdout
    assert "1,978 recurrent parameters" in done.stdout


def test_files_that_the_readme_names_are_there() -> None:
    for name in set(re.findall(r"`((?:rnnbench|configs|tests|scripts)/[\w/.]+)`", README)):
        assert (ROOT / name).exists(), name
    for name in ("CHANGELOG.md", "DESIGN.md", "CONTRIBUTING.md", "LICENSE", "constraints.txt"):
        assert (ROOT / name).is_file(), name
