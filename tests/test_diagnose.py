"""`rnnbench diagnose`, from finished runs to its tables, curves and figure."""

import json
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import rnnbench
from rnnbench.analysis.diagnoses import Diagnosed, labels, ratio
from rnnbench.analysis.plots.gradients import draw
from rnnbench.commands.diagnose import main
from rnnbench.compose import compose_config
from rnnbench.diagnosis import Probe
from rnnbench.errors import UserError
from rnnbench.record import Record
from rnnbench.run import run
from tests.conftest import TINY

CELLS = ("tanh", "lstm", "gru")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    for cell in CELLS:
        for seed in (0, 1):
            more = ["diagnose_every=1"] if cell == "gru" else []
            config = compose_config(
                f"cell={cell}", "task=adding", *TINY, f"seed={seed}", *more, f"results_dir={results}"
            )
            assert run(config)["status"] == "done"
    return results / "runs"


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def of_cell(runs: Path, cell: str) -> list[Path]:
    return sorted(path for path in (runs / "adding" / cell).glob("s*") if path.is_dir())


def diagnose(*args: object) -> int:
    return main([str(arg) for arg in args])


def test_all_runs_are_measured_once_and_shown(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnose("--runs", runs, "--output", tmp_path / "plots", "--format", "png,svg,pdf") == 0
    text = capsys.readouterr().out
    for word in ("adding", "tanh", "lstm", "gru", "forget", "reset", "c_tilde", "gradients.png"):
        assert word in text
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        f"gradients.{f}" for f in ("pdf", "png", "svg")
    ]
    written = {path: path.stat().st_mtime_ns for path in runs.rglob("diagnosis.json")}
    assert len(written) == 6
    assert diagnose("--runs", runs, "--output", tmp_path / "plots") == 0
    again = capsys.readouterr()
    assert "6 of 6 runs were measured before" in again.err
    assert again.out.partition("\nfigure")[0] == text.partition("\nfigure")[0]
    assert written == {path: path.stat().st_mtime_ns for path in runs.rglob("diagnosis.json")}
    assert diagnose("--runs", runs, "--output", tmp_path / "plots", "--force") == 0
    assert not [path for path, at in written.items() if path.stat().st_mtime_ns == at]


def test_what_is_written_is_what_was_measured_at_the_best_weights(runs: Path, tmp_path: Path) -> None:
    path = of_cell(runs, "lstm")[0]
    assert diagnose(path, "--output", tmp_path / "plots") == 0
    assert len(list(runs.rglob("diagnosis.json"))) == 1
    content = json.loads((path / "diagnosis.json").read_text())
    model, config = rnnbench.load(path)
    from rnnbench.assemble import prepare

    task = prepare(config).task
    task.prepare(None)
    found = Probe(task)(model)
    assert content["gradient"] == {state: curve.as_dict() for state, curve in found.gradient.items()}
    assert content["spectral_radius"] == found.spectral_radius
    assert content["gates"]["forget"]["mean"] == found.gates["forget"].mean
    events = EventAccumulator(str(path / "diagnosis"))
    events.Reload()
    shown = events.Scalars("gradient_by_lag/c")
    assert [e.step for e in shown] == list(range(12))
    assert [e.value for e in shown] == pytest.approx(content["gradient"]["c"]["log10_mean"], rel=1e-5)
    assert events.Scalars("gradient_ratio_by_lag/h")[0].value == 0.0


def test_other_weights_are_measured_again(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = of_cell(runs, "tanh")
    assert diagnose(first, second, "--output", tmp_path / "plots") == 0
    content = (first / "diagnosis.json").read_text()
    (first / "diagnosis.json").write_text(content.replace('"checkpoint": "', '"checkpoint": "0'))
    (second / "diagnosis.json").write_text("{")
    assert diagnose(first, second, "--output", tmp_path / "plots") == 0
    assert (first / "diagnosis.json").read_text() == content
    assert json.loads((second / "diagnosis.json").read_text())["sequences"] == 32
    assert len(list((first / "diagnosis").iterdir())) == 1


def test_tasks_cells_and_seeds_can_be_chosen(runs: Path, tmp_path: Path) -> None:
    assert diagnose("--runs", runs, "--cell", "tanh,gru", "--limit", 1, "--output", tmp_path) == 0
    measured = sorted(path.parent.parent.name + path.parent.name[:3] for path in runs.rglob("diagnosis.json"))
    assert measured == ["grus0-", "tanhs0-"]


def test_what_cannot_be_measured_is_told(runs: Path, tmp_path: Path) -> None:
    path = of_cell(runs, "gru")[0]
    with pytest.raises(UserError, match=r"is not the directory of a run"):
        diagnose(tmp_path)
    with pytest.raises(UserError, match=r"--cell gruu: no such runs in .*There: gru, lstm, tanh\. Did you mean 'gru'"):
        diagnose("--runs", runs, "--cell", "gruu")
    with pytest.raises(UserError, match=r"--format=gif: not known. Allowed: pdf, png, svg"):
        diagnose("--runs", runs, "--format", "gif")
    with pytest.raises(UserError, match=r"--limit=0: must be a whole number of at least 1"):
        diagnose("--runs", runs, "--limit", "0")
    with pytest.raises(UserError, match=r"give the runs by name, or"):
        diagnose(path, "--cell", "gru")
    Record(path).best.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"best.pt: the checkpoint is damaged"):
        diagnose(path)
    Record(path).best.unlink()
    with pytest.raises(UserError, match=r"best.pt: there is no such checkpoint"):
        diagnose(path)
    Record(path).clear_result()
    with pytest.raises(UserError, match=r"is not finished \(running, or was killed\)"):
        diagnose(path)
    assert not list(runs.rglob("diagnosis*"))


def test_a_curve_ends_where_half_of_the_sequences_do_and_zeros_are_gaps() -> None:
    curve = {"sequences": [4, 4, 2, 1], "log10_ratio": [0.0, None, -2.0, -3.0]}
    one = Diagnosed(Path(), "adding", "gru", "gru", {"gradient": {"h": curve}}, [])
    np.testing.assert_array_equal(ratio([one], "h"), [[0.0, np.nan, -2.0]])


def test_settings_of_a_task_have_rows_of_their_own(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(compose_config("cell=gru", "task=adding", *TINY, "task.length=9", f"results_dir={runs.parent}"))
    assert diagnose("--runs", runs, "--where", "cell=gru", "--output", tmp_path) == 0
    gradients = capsys.readouterr().out.split("\n\n")[0]
    assert sorted(line.split()[:4] for line in gradients.splitlines()[-2:]) == [
        ["adding", "(task.length=12)", "gru", "2"],
        ["adding", "(task.length=9)", "gru", "1"],
    ]


def test_variants_of_a_cell_have_labels_of_their_own(runs: Path, tmp_path: Path) -> None:
    config = compose_config("cell=gru", "task=adding", *TINY, "train.lr=0.1", f"results_dir={tmp_path}/more")
    run(config)
    path = Record.of(config).path
    grus = of_cell(runs, "gru")
    tanh = of_cell(runs, "tanh")[0]
    found = labels([*grus, tanh])
    assert found == {**dict.fromkeys(grus, ("adding", "gru")), tanh: ("adding", "tanh")}
    assert labels([path, tanh, *grus])[path] == ("adding", f"gru {path.name}")


def test_the_figure_has_a_row_a_task_a_line_a_state_and_a_bar_a_gate(runs: Path, tmp_path: Path) -> None:
    assert diagnose("--runs", runs, "--output", tmp_path) == 0
    paths = [path for cell in sorted(CELLS) for path in of_cell(runs, cell)]
    figure = draw([Diagnosed.read(path, path.parent.parent.name, path.parent.name) for path in paths])
    gradients, gates, radii = figure.axes
    legend = gradients.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{what} (2 runs)" for what in ("gru, ∂h", "lstm, ∂h", "lstm, ∂c", "tanh, ∂h")
    ]
    names = [label.get_text() for label in gates.get_yticklabels()]
    assert names == [
        *("gru  update", "gru  reset", "gru  |h|"),
        *("lstm  input", "lstm  forget", "lstm  output", "lstm  |h|"),
        "tanh  |h|",
    ]
    assert "updates" in radii.get_xlabel(), "the runs of the GRU were measured while they trained"
    picture = matplotlib.image.imread(tmp_path / "gradients.png")
    assert picture.shape[1] > 1500
    assert picture[..., :3].std() > 0.1
