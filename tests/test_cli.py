"""The command line as a person and a shell meet it, in real processes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rnnbench
from rnnbench.cli import COMMANDS
from tests import zygote
from tests.conftest import PYTHONPATH, TINY, WITH_TORCH

ROOT = Path(__file__).resolve().parent.parent
TINY_ADDING = ["cell=gru", "task=adding", *TINY]


def call(*args: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, and how it ended."""
    if WITH_TORCH and not env:
        return zygote.run(list(args), cwd)
    command = [sys.executable, "-m", "rnnbench.cli", *args]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, **env}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rnnbench.cli import main; main(['--help']); "
        "sys.exit(bool({'torch', 'hydra', 'omegaconf', 'pandas', 'numpy', 'argparse'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_help_answers_in_a_tenth_of_a_second() -> None:
    """The best of several, less what the bare interpreter takes: this machine may be busy."""

    def best(*args: str) -> float:
        times = []
        for _ in range(7):
            start = time.perf_counter()
            subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best("-m", "rnnbench.cli", "--help") < max(0.1, 2.5 * best("-c", "pass"))


def test_the_version_is_that_of_the_package() -> None:
    assert call("--version").stdout == f"rnnbench {rnnbench.__version__}\n"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str) -> None:
    done = call(command, "--help")
    assert done.returncode == 0, done.stderr
    assert command in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["rum"], "rum: there is no such command. Did you mean 'run'?"),
        (["run", "cel=gru"], "cel: there is no such key"),
        (["run", "cell=gruu"], "cell=gruu: not known. Allowed: gru, gru_cudnn, lstm, tanh. Did you mean 'gru'?"),
        (["run", "task=jsb"], "Did you mean 'jsb_chorales'?"),
        (["run", "train=modren"], "Did you mean 'modern'?"),
        (["run", "train.lrr=1"], "Did you mean 'train.lr'?"),
        (["run", "task.lenght=3"], "Did you mean 'task.length'?"),
        (["run", "sead=3"], "Did you mean 'seed'?"),
        (["run", "train.lr=-1"], "train.lr=-1.0: must be a finite number above 0."),
        (["run", "match_params=20000", "cell.hidden_size=9"], "give one of them"),
        pytest.param(
            ["run", "task=jsb_chorales", "data_dir=."],
            "there is no JSB_Chorales.mat in it",
            marks=pytest.mark.needs_torch,
        ),
        (["table", "--runs", "nowhere"], "nowhere: there are no runs in it"),
        (["data", "fetch", "bach"], "name=bach: not known. Allowed: jsb_chorales"),
        (["list", "--config-dir", "nowhere"], "nowhere: there is no such directory"),
    ],
)
def test_a_mistake_is_answered_in_words_and_a_status(args: list[str], message: str, tmp_path: Path) -> None:
    done = call(*args, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr


@pytest.mark.needs_torch
def test_a_run_ends_with_its_score_the_baseline_and_where_the_files_are(tmp_path: Path) -> None:
    done = call("run", *TINY_ADDING, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("results/runs/adding/gru/s0-*")
    result = json.loads((path / "result.json").read_text())
    last = done.stdout.strip().splitlines()
    assert f"gru on adding, seed 0: test mse {result['test']['mse']:.3f}" in last[0]
    assert any("always 1" in line and "0.167" in line for line in last)
    assert any(str(path.relative_to(tmp_path)) in line for line in last)
    assert done.stderr == "", "no bar where there is no terminal"
    for name in ("config.yaml", "metrics.jsonl", "result.json", "last.pt", "best.pt", "run.log"):
        assert (path / name).is_file(), name
    assert len(list(path.glob("events.out.tfevents.*"))) == 1
    assert not [p for p in path.iterdir() if p.is_dir()], "no stray sub-runs"
    expected = {"schema_version", "status", "train", "valid", "test", "best_epoch", "best_update", "params_recurrent",
                "params_total", "seconds", "versions", "commit", "dirty", "device", "threads", "data_checksum",
                "population"}  # fmt: skip
    assert expected <= result.keys()
    assert [r["epoch"] for r in map(json.loads, (path / "metrics.jsonl").read_text().splitlines())] == [0, 1, 2, 3]


@pytest.mark.needs_torch
def test_the_published_value_stands_beside_the_score(data_dir: Path, tmp_path: Path) -> None:
    args = ["task=jsb_chorales", "train=smoke", "train.max_epochs=1", "cell.hidden_size=4", f"data_dir={data_dir}"]
    done = call("run", "cell=gru", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Chung et al. 2014, Table 2" in done.stdout
    assert "8.540" in done.stdout
    assert "11.093" in done.stdout


@pytest.mark.needs_torch
def test_a_sweep_goes_on_after_a_failure_lists_them_all_and_exits_with_1(tmp_path: Path) -> None:
    done = call("run", "-m", *TINY_ADDING, "cell.hidden_size=3,0", "seed=0,-1", cwd=tmp_path)
    assert done.returncode == 1
    assert "rnnbench: error: 3 of 4 runs failed:" in done.stderr
    assert done.stderr.count("cell.hidden_size=0: must be a whole number") == 1, "seed=-1 is wrong before that"
    assert len(list(tmp_path.glob("results/runs/adding/gru/s0-*/result.json"))) == 1
    table = call("table", cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "adding" in table.stdout


OWN_CELL = '''
import torch
from torch import nn

class LeakyCell(nn.Module):
    """h_t = a h_{t-1} + (1 - a) tanh(W [x_t; h_{t-1}])."""

    def __init__(self, input_size, hidden_size, leak=0.9):
        super().__init__()
        self.leak = leak
        self.linear = nn.Linear(input_size + hidden_size, hidden_size)

    def forward(self, x, h=None):
        h = x.new_zeros(len(x), self.linear.out_features) if h is None else h
        return self.leak * h + (1 - self.leak) * torch.tanh(self.linear(torch.cat([x, h], 1)))
'''


@pytest.mark.needs_torch
def test_a_cell_of_ones_own_needs_one_python_file_and_one_config_file(tmp_path: Path) -> None:
    (tmp_path / "my_cells.py").write_text(OWN_CELL)
    (tmp_path / "conf" / "cell").mkdir(parents=True)
    own = tmp_path / "conf" / "cell" / "leaky.yaml"
    own.write_text("# A leaky unit.\n_target_: my_cells.LeakyCell\nhidden_size: 6\nleak: 0.5\n")
    (own.parent / "torch_gru.yaml").write_text("# torch's own.\n_target_: torch.nn.GRUCell\nhidden_size: 6\n")
    (own.parent / "torch_lstm.yaml").write_text("# torch's own.\n_target_: torch.nn.LSTMCell\nhidden_size: 6\n")
    small = [o for o in TINY if not o.startswith("cell.")]
    sweep = [
        "--config-dir",
        "conf",
        "-m",
        "hydra/launcher=basic",
        "cell=leaky,torch_gru,torch_lstm",
        "task=adding",
        *small,
    ]
    done = call("run", *sweep, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    matched = call("run", "--config-dir", "conf", "cell=leaky", "match_params=500", *small, cwd=tmp_path)
    assert matched.returncode == 0, matched.stderr
    runs = {
        (p.parent.parent.name, json.loads(p.read_text())["params_recurrent"]) for p in tmp_path.glob("**/result.json")
    }
    # a leaky unit of H units has (2 + H) H + H = H (H + 3) parameters: 54 at 6, 460 at 20, 504 at 21
    assert runs == {
        ("leaky", 54),
        ("leaky", 504),
        ("torch_gru", 3 * 6 * (2 + 6 + 2)),
        ("torch_lstm", 4 * 6 * (2 + 6 + 2)),
    }
    listed = call("list", "--config-dir", "conf", cwd=tmp_path)
    assert "A leaky unit." in listed.stdout
    (first,) = (
        p.parent for p in tmp_path.glob("**/result.json") if '"hidden_size": 6' in p.read_text() and "leaky" in str(p)
    )
    (tmp_path / "my_cells.py").write_text(OWN_CELL.replace("torch.tanh(", "torch.sin("))
    again = call("run", "--config-dir", "conf", "cell=leaky", "task=adding", *small, cwd=tmp_path)
    assert "not repeated" not in again.stdout, "an edited cell is another cell"
    assert (first / "result.json").exists()


def test_completion_knows_commands_and_overrides(tmp_path: Path) -> None:
    def complete(line: str) -> list[str]:
        done = call("-sc", "query=bash", cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert set(complete("rnnbench ")) == set(COMMANDS)
    assert complete("rnnbench ta") == ["table"]
    assert set(complete("rnnbench run cell=")) == {"cell=gru", "cell=gru_cudnn", "cell=lstm", "cell=tanh"}
    assert complete("rnnbench run task=jsb") == ["task=jsb_chorales"]
    assert "train.lr=" in complete("rnnbench run cell=gru train.l")
    own = tmp_path / "conf" / "cell"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("_target_: torch.nn.GRUCell\n")
    assert complete("rnnbench run --config-dir conf cell=mi") == ["cell=mine"]


def test_completion_works_in_a_real_bash(tmp_path: Path) -> None:
    program = tmp_path / "rnnbench"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m rnnbench.cli "$@"\n')
    program.chmod(0o755)
    script = """
    eval "$(rnnbench -sc install=bash)"
    COMP_LINE='rnnbench run cell=gr'; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(rnnbench run cell=gr); COMP_CWORD=2
    $(complete -p rnnbench | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert set(done.stdout.split()) == {"cell=gru", "cell=gru_cudnn"}, done.stderr


@pytest.mark.needs_torch
def test_a_trained_model_can_be_loaded_and_predicts(tmp_path: Path) -> None:
    done = call("run", "cell=lstm", "task=copy_memory", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("results/runs/copy_memory/lstm/s0-*")
    model, config = rnnbench.load(path)
    assert config.cell["hidden_size"] == 5
    import torch

    from rnnbench.assemble import prepare
    from rnnbench.train import evaluate

    task = prepare(config).task
    task.prepare(None)
    score = evaluate(model, task.loss, task.evaluation_batches("test"))
    recorded = json.loads((path / "result.json").read_text())["test"]["xent"]
    assert score["xent"] == pytest.approx(recorded, rel=1e-6)  # which the kernels may have computed
    x = torch.zeros(32, 10)
    assert model.predict(x).shape == (32, 9)
    torch.testing.assert_close(model.predict(x).sum(dim=1), torch.ones(32))


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("last.pt", b"PK\x03\x04 cut short", "damaged or cut short"),
        ("last.pt", b"", "damaged or cut short"),
        ("config.yaml", b"cell: [", "is damaged"),
        ("result.json", b'{"schema', "is damaged"),
    ],
)
def test_a_damaged_file_is_told_and_nothing_is_lost(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    assert call("run", *TINY_ADDING, cwd=tmp_path).returncode == 0
    (path,) = tmp_path.glob("results/runs/adding/gru/s0-*")
    if name == "last.pt":
        (path / "result.json").unlink()
    (path / name).write_bytes(content)
    before = (path / "metrics.jsonl").read_text()
    done = call("run", *TINY_ADDING, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (path / "metrics.jsonl").read_text() == before


@pytest.mark.needs_torch
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    for seed in ("seed=0", "seed=1"):
        assert call("run", *TINY_ADDING, seed, cwd=tmp_path).returncode == 0
    (first,) = tmp_path.glob("results/runs/adding/gru/s0-*")
    (other,) = tmp_path.glob("results/runs/adding/gru/s1-*")
    (first / "result.json").unlink()
    (first / "last.pt").write_bytes((other / "last.pt").read_bytes())
    done = call("run", *TINY_ADDING, cwd=tmp_path)
    assert done.returncode == 1
    assert "is a checkpoint of another config" in done.stderr


@pytest.mark.needs_torch
def test_a_results_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = call("run", *TINY_ADDING, "results_dir=file", cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be written: Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.needs_torch
def test_an_error_in_ones_own_cell_shows_its_traceback_and_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "bad_cells.py").write_text(
        "import torch\nclass Bad(torch.nn.GRUCell):\n"
        "    def forward(self, x, h=None):\n"
        "        if len(x) == 16: raise RuntimeError('no sixteen')\n"
        "        return super().forward(x, h)\n"
    )
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "bad.yaml").write_text("_target_: bad_cells.Bad\nhidden_size: 4\n")
    small = [o for o in TINY if not o.startswith("cell.")]
    done = call("run", "--config-dir", ".", "cell=bad", "task=adding", *small, cwd=tmp_path)
    assert done.returncode == 1
    assert "bad_cells.py" in done.stderr
    (path,) = tmp_path.glob("results/runs/adding/bad/s0-*")
    result = json.loads((path / "result.json").read_text())
    assert result["status"] == "error"
    assert "no sixteen" in result["error"]
    assert "no sixteen" in (path / "run.log").read_text()


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    ("name", "content"),
    [("metrics.jsonl", b'{"epoch": 0}\ngarbled\n'), ("metrics.jsonl", b"\xff\xfe\n"), ("last.pt", None)],
)
def test_a_damaged_file_of_an_unfinished_run_is_told(name: str, content: bytes | None, tmp_path: Path) -> None:
    assert call("run", *TINY_ADDING, cwd=tmp_path).returncode == 0
    (path,) = tmp_path.glob("results/runs/adding/gru/s0-*")
    (path / "result.json").unlink()
    if content is None:  # the right run, but weights of another size
        import torch

        state = torch.load(path / name, weights_only=True)
        torch.save({**state, "theta": state["theta"][:-1]}, path / name)
    else:
        (path / name).write_bytes(content)
    done = call("run", *TINY_ADDING, cwd=tmp_path)
    assert done.returncode == 1
    assert "damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_into_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = call("run", "-m", *TINY_ADDING, "seed=0,1", "results_dir=file", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Not a directory" in done.stderr


@pytest.mark.needs_torch
def test_one_failure_of_a_sweep_is_listed_at_its_end(tmp_path: Path) -> None:
    done = call("run", "-m", *TINY_ADDING, "cell.hidden_size=3,0,4", cwd=tmp_path)
    assert done.returncode == 1
    listed = ["rnnbench: error: 1 of 3 runs failed:", "  cell.hidden_size=0", "    cell.hidden_size=0: must be a"]
    assert [line[: len(part)] for line, part in zip(done.stderr.splitlines()[-3:], listed, strict=True)] == listed


@pytest.mark.needs_torch
def test_a_broken_cell_of_ones_own_does_not_hide_the_others_from_the_list(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("class Cell(\n")
    (tmp_path / "conf" / "cell").mkdir(parents=True)
    for name, target in (("broken", "broken.Cell"), ("plain", "torch.nn.RNNCell")):
        (tmp_path / "conf" / "cell" / f"{name}.yaml").write_text(
            f"# A {name} one.\n_target_: {target}\nhidden_size: 4\n"
        )
    (tmp_path / "conf" / "cell" / "heir.yaml").write_text("# Of plain.\ndefaults: [plain, _self_]\n")
    done = call("list", "--config-dir", "conf", "--inputs", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ") and line.split()}
    assert "SyntaxError" in lines["broken"]
    assert lines["plain"].split()[1:] == lines["heir"].split()[1:] == ["4", str(4 * (3 + 4 + 2))]
    assert lines["gru"].split()[1] == "46"


@pytest.mark.needs_torch
def test_missing_data_leaves_no_run_behind(tmp_path: Path) -> None:
    done = call("run", "task=jsb_chorales", "data_dir=.", cwd=tmp_path)
    assert done.returncode == 1
    assert not (tmp_path / "results").exists()
