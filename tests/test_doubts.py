"""What must not be concluded: unequal searches, runs that are lost or mixed, records that do not say."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rnnbench.analysis.clock import objection
from rnnbench.analysis.collect import collect
from rnnbench.analysis.compare import TIME, aggregate, compare
from rnnbench.analysis.conclusions import as_frame, refusals, render, verdict
from rnnbench.analysis.filters import only
from rnnbench.analysis.layout import render as render_table
from rnnbench.analysis.pool import pool
from rnnbench.analysis.statistics import bootstrap_note, compare_all, smallest_p
from rnnbench.analysis.tables import tabulate
from rnnbench.analysis.verdict import verdict as beside_the_paper
from rnnbench.commands.compare import main
from rnnbench.compose import compose_population
from rnnbench.errors import UserError
from tests.fake_runs import record_run, write_run
from tests.test_compare import MUSIC, RNG, apart, change, write_cells


def write_search(root: Path, cell: str, seed: int, score: float, ended: int = 10) -> None:
    """The first candidates of the paper's search, the last of them the best on validation."""
    members = compose_population(f"cell={cell}", MUSIC, "train=chung2014", "search=chung2014", f"seed={seed}")
    for i, config in enumerate(members[:ended]):
        record_run(root, config, 9.0 - 0.01 * i, score)


def test_a_search_that_has_ended_for_one_cell_only_is_not_held_against_the_other(tmp_path: Path) -> None:
    for seed in range(6):
        write_search(tmp_path, "gru", seed, 8.0 + 0.01 * seed)
        write_search(tmp_path, "tanh", seed, 9.0 - 0.01 * seed, ended=2)
    result = compare(pool(collect(tmp_path)))
    assert result.contests == []
    assert "best of 10 against best of 2 learning rates (seed 0); end the search first" in result.refused[0]
    assert not tabulate(collect(tmp_path)).cells["best"].any()


def test_candidates_on_other_data_are_no_candidates(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", MUSIC, "train.lr=0.001", checksum="A")
    write_run(tmp_path, 7.0, 7.5, "cell=gru", MUSIC, "train.lr=0.002", checksum="B")
    cells = tabulate(collect(tmp_path), splits=["test"]).cells
    assert sorted(cells["mean"]) == [7.5, 8.5]
    assert list(cells["candidates"]) == [1, 1]


def test_the_seed_with_the_fewest_candidates_decides_whether_it_is_the_papers_search(tmp_path: Path) -> None:
    write_search(tmp_path, "gru", 0, 8.5)
    for seed in (1, 2):
        write_search(tmp_path, "gru", seed, 8.5 + 0.01 * seed, ended=1)
    runs = next(iter(pool(collect(tmp_path)).groups()))
    assert len(runs) == 3
    assert "chose of 10 learning rates and not of 1" in str(beside_the_paper(runs, "test", "nll_step"))


def test_a_cell_of_which_half_the_seeds_diverged_has_no_star(tmp_path: Path) -> None:
    write_cells(tmp_path, apart(16), MUSIC)
    assert tabulate(collect(tmp_path)).cells["best"].any()
    for path in sorted((tmp_path / "jsb_chorales" / "gru").iterdir())[:8]:
        change(path, status="diverged")
    assert not tabulate(collect(tmp_path)).cells["best"].any()


def test_a_score_that_is_not_finite_is_neither_dropped_nor_a_traceback(tmp_path: Path) -> None:
    write_cells(tmp_path, {"gru": np.array([8.5, 9.5, 8.7]), "tanh": np.array([9.0, 9.1, 9.2])}, MUSIC)
    path = sorted((tmp_path / "jsb_chorales" / "gru").iterdir())[0]
    result = json.loads((path / "result.json").read_text())
    change(path, test={**result["test"], "nll_step": None})
    runs = collect(tmp_path)
    cells = tabulate(runs, splits=["test"]).cells.set_index("cell")
    assert math.isnan(float(str(cells.loc["gru", "mean"])))
    assert cells.loc["tanh", "mean"] == pytest.approx(9.1)
    assert "nan (3)" in render_table(tabulate(runs, splits=["test"]), "text")
    assert "no finite score for seed" in compare(pool(runs)).refused[0]
    members = next(m for m in pool(runs).groups() if m["cell"].iloc[0] == "gru")
    assert "cannot be compared" in str(beside_the_paper(members, "test", "nll_step"))
    change(path, test={k: v for k, v in result["test"].items() if k != "nll_seq"})
    shown = tabulate(collect(tmp_path), ["nll_seq"], ["test"]).cells
    assert set(shown["metric"]) == {"nll_seq"}


def test_the_smallest_p_is_what_holm_leaves_beside_the_other_comparisons() -> None:
    """Three clear comparisons of 12 seeds leave the fourth, of 6, uncorrected."""
    clear = [(RNG.normal(0, 0.01, 12), RNG.normal(1, 0.01, 12)) for _ in range(3)]
    few = (np.arange(6.0), np.arange(6.0) + 1)
    found = compare_all([*clear, few])[-1]
    assert found.p == pytest.approx(2 / 2**6) == pytest.approx(found.smallest_p)
    assert found.verdict == "better"
    alone = compare_all([few] * 4)[-1]
    assert alone.verdict == "undecided"
    assert alone.smallest_p == pytest.approx(4 * 2 / 2**6)
    assert smallest_p(1_000) == 1 / 20_000


def test_how_many_seeds_are_missing_is_enough_and_no_less(tmp_path: Path) -> None:
    write_cells(tmp_path, apart(6), MUSIC)
    result = compare(pool(collect(tmp_path)))
    assert verdict(result.contests[0], 3) == "undecided: too few seeds, at least 7 needed"
    assert 3 * smallest_p(6) > 0.05 >= 3 * smallest_p(7)


def test_one_name_is_one_variant_in_an_aggregate(tmp_path: Path) -> None:
    """The variant with the most seeds goes without a name, and that is another one on each task."""
    for task, sizes in (("jsb_chorales", (46, 100)), ("nottingham", (100, 46))):
        for units, seeds in zip(sizes, (6, 5), strict=True):
            for seed in range(seeds):
                write_run(
                    tmp_path, 8, units / 10, "cell=gru", f"cell.hidden_size={units}", f"task={task}", f"seed={seed}"
                )
        write_cells(tmp_path, {"tanh": np.full(6, 7.0), "lstm": np.full(6, 7.5)}, f"task={task}")
    pooled = pool(collect(tmp_path))
    result = compare(pooled)
    assert {a.method for a in aggregate(pooled, result)} == {"tanh", "lstm"}


def test_other_protocols_on_other_tasks_have_no_aggregate_and_that_is_said(tmp_path: Path) -> None:
    for task, epochs in (("jsb_chorales", 3), ("nottingham", 700)):
        write_cells(tmp_path, apart(4), f"task={task}", f"train.max_epochs={epochs}")
    pooled = pool(collect(tmp_path))
    assert aggregate(pooled, compare(pooled)) == []
    for task in ("jsb_chorales", "nottingham", "musedata"):
        setting = ["train.max_epochs=9"] if task == "musedata" else []
        write_cells(tmp_path / "two", apart(4), f"task={task}", *setting)
    write_run(tmp_path / "two", 8, 8, "cell=gru", "task=musedata", "seed=9")
    pooled = pool(collect(tmp_path / "two"))
    result = compare(pooled)
    assert "Over tasks nothing is said of musedata" in render(result, aggregate(pooled, result), "text")


def test_times_whose_records_do_not_say_how_they_were_taken_are_refused(tmp_path: Path) -> None:
    for cell in ("gru", "tanh"):
        path = write_run(tmp_path, 8.0, 8.5, f"cell={cell}", MUSIC)
        result = json.loads((path / "result.json").read_text())
        (path / "result.json").write_text(
            json.dumps({k: v for k, v in result.items() if k not in ("threads", "kernel")})
        )
    assert objection(collect(tmp_path)) == "the records of some do not say threads and kernel."
    change(path, threads=1, kernel="compiled", commits=["old", "abc"])
    assert compare(pool(collect(tmp_path)), [TIME]).contests == []


def test_a_resumed_run_of_two_commits_is_pooled_with_a_note_and_not_timed(tmp_path: Path) -> None:
    paths = [write_run(tmp_path, 8.0, 8.5, "cell=gru", MUSIC, f"seed={seed}") for seed in (0, 1)]
    change(paths[0], commits=["old", "abc"])
    assert "gru on jsb_chorales: the pooled runs differ in commits." in pool(collect(tmp_path)).notes
    assert "another commits" in objection(collect(tmp_path))


def test_records_that_lack_what_later_ones_have_are_compared_as_far_as_they_go(tmp_path: Path) -> None:
    keep = (
        "schema_version",
        "status",
        "task",
        "cell",
        "seed",
        "config",
        "metric",
        "train",
        "valid",
        "test",
        "baselines",
    )
    for cell in ("gru", "tanh"):
        for overrides in ([], ["train=chung2014"]):
            path = write_run(tmp_path, 8.0, 8.5, f"cell={cell}", MUSIC, *overrides)
            result = {k: v for k, v in json.loads((path / "result.json").read_text()).items() if k in keep}
            del result["config"]["train"]["name"]
            (path / "result.json").write_text(json.dumps(result))
    runs = collect(tmp_path)
    assert len(tabulate(runs, splits=["test"]).cells) == 4
    assert all("do not say how many parameters" in line for line in compare(pool(runs)).refused)
    assert len(compare(pool(runs), any_size=True).contests) == 2
    assert compare(pool(runs), [TIME], any_size=True).contests == []


def test_the_same_reason_is_told_once(tmp_path: Path) -> None:
    write_cells(tmp_path, apart(2), MUSIC)
    for path in tmp_path.glob("*/*/*"):
        change(path, population={"size": 3})
    (line,) = refusals(compare(pool(collect(tmp_path)), [TIME]))
    assert line.count("share a clock") == 1
    assert line.count("jsb_chorales") == 3


def test_csv_has_its_columns_though_all_was_refused_and_the_reasons_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", MUSIC)
    change(write_run(tmp_path, 8.0, 8.5, "cell=tanh", MUSIC), params_recurrent=1, params_total=1)
    assert main(["--runs", str(tmp_path), "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("task,setting,metric,split,a,b,seeds")
    assert out.count("\n") == 1
    assert "no equal budget" in err
    assert list(as_frame(compare(pool(collect(tmp_path))))) == out.strip().split(",")


def test_the_split_is_told_also_beside_times(tmp_path: Path) -> None:
    write_cells(tmp_path, {"gru": RNG.normal(8, 1, 3), "tanh": RNG.normal(8, 1, 3)}, MUSIC)
    assert "Scores on valid" in render(compare(pool(collect(tmp_path)), [TIME, "nll_step"], "valid"), [], "text")


def test_words_are_counted_once_and_none_is_an_error(tmp_path: Path) -> None:
    from rnnbench.commands.table import main as table

    write_cells(tmp_path, {"gru": RNG.normal(8, 1, 3), "tanh": RNG.normal(8, 1, 3)}, MUSIC)
    runs = ["--runs", str(tmp_path)]
    assert table([*runs, "--split", "test,test", "--metric", "nll_step,nll_step"]) == 0
    with pytest.raises(UserError, match="--split: name at least one"):
        table([*runs, "--split", ","])


def test_rows_by_a_key_that_some_lack_keep_their_baseline(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", MUSIC)
    write_run(tmp_path, 0.1, 0.1, "cell=gru", "task=adding")
    table = tabulate(collect(tmp_path), splits=["test"], rows=["task.length"])
    assert "nan" not in render_table(table, "text")


def test_conditions_are_read_as_they_are_shown(tmp_path: Path) -> None:
    change(write_run(tmp_path, 8.0, 8.5, "cell=lstm", MUSIC), dirty=False)
    path = write_run(tmp_path, 8.0, 8.5, "cell=gru", MUSIC)
    result = json.loads((path / "result.json").read_text())
    result["config"]["cell"]["layers"] = [1, 2]
    change(path, config=result["config"], versions={"hydra-core": "1.3"})
    runs = collect(tmp_path)
    for condition, cell in (
        ("cell.layers=[1, 2]", "gru"),
        ("versions.hydra-core=1.3", "gru"),
        ("cell.peepholes=True", "lstm"),
        ("cell.peepholes==true", "lstm"),
        ("cell.layers=None", "lstm"),
    ):
        assert list(only(runs, [condition])["cell"]) == [cell], condition


def test_the_bootstraps_note_claims_nothing_of_fewer_seeds_than_were_measured() -> None:
    assert "holds the truth less than 90%" in bootstrap_note(2)
    assert "holds the truth 90%" in bootstrap_note(5)


def test_a_bar_does_not_break_a_markdown_table(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", MUSIC)
    runs = collect(tmp_path).assign(cell="a|b")
    assert r"a\|b" in render_table(tabulate(runs, rows=["cell"], columns="split"), "markdown")
