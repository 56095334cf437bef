"""What is pooled, what is selected, what is told apart, and how it is printed."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rnnbench.config as config_module
from rnnbench.analysis.collect import UNFINISHED, collect
from rnnbench.analysis.layout import FORMATS, render
from rnnbench.analysis.tables import tabulate
from rnnbench.compose import compose_config
from rnnbench.errors import UserError
from tests.fake_runs import write_run


def entry(root: Path, **wanted: Any) -> dict[str, Any]:
    """The one row of the comparison that has the wanted values."""
    cells = tabulate(collect(root)).cells
    for column, value in wanted.items():
        cells = cells[cells[column] == value]
    assert len(cells) == 1, cells
    return {str(k): v for k, v in cells.iloc[0].to_dict().items()}


def test_runs_equal_in_everything_but_the_seed_are_pooled(tmp_path: Path) -> None:
    values = [8.5, 8.6, 8.9]
    for seed, value in enumerate(values):
        write_run(tmp_path, 8.0, value, "cell=gru", "task=jsb_chorales", f"seed={seed}")
    row = entry(tmp_path, split="test")
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["sd"] == pytest.approx(np.std(values, ddof=1))
    assert (row["n"], row["variant"], row["candidates"]) == (3, "", 1)
    assert (row["published"], row["baseline"]) == (8.54, 11.0)
    assert entry(tmp_path, split="train")["published"] == 6.94


@pytest.mark.parametrize(
    ("override", "label"),
    [
        ("train.batch_size=8", "train.batch_size"),
        ("train.clip_norm=null", "train.clip_norm"),
        ("train.optimizer.beta1=0.8", "train.optimizer.beta1"),
        ("task.pool=1", "task.pool"),
    ],
)
def test_runs_of_another_task_or_protocol_get_rows_that_name_the_key(tmp_path: Path, override: str, label: str) -> None:
    for seed in (0, 1):
        write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales", f"seed={seed}")
    write_run(tmp_path, 8.0, 9.5, "cell=gru", "task=jsb_chorales", override)
    cells = tabulate(collect(tmp_path), splits=["test"]).cells
    assert sorted(cells["n"]) == [1, 2]
    assert all(variant.startswith(f"{label}=") and "," not in variant for variant in cells["variant"])
    assert cells.set_index("n")["mean"].to_dict() == {1: 9.5, 2: 8.5}


def test_variants_of_a_cell_get_rows_of_their_own_and_the_main_one_stays_beside_the_others(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, 8.0, 8.5, "cell=lstm", "task=jsb_chorales", f"seed={seed}")
        write_run(tmp_path, 8.0, 8.4, "cell=gru", "task=jsb_chorales", f"seed={seed}")
    write_run(tmp_path, 8.0, 8.8, "cell=lstm", "task=jsb_chorales", "cell.peepholes=false")
    comparison = tabulate(collect(tmp_path), splits=["test"])
    found = {(r.cell, r.variant): r.n for r in comparison.cells.itertuples()}
    assert found == {("gru", ""): 2, ("lstm", ""): 2, ("lstm", "cell.peepholes=false"): 1}
    assert any(
        "jsb_chorales, lstm: where no key of the cell is named, cell.peepholes=true." in n for n in comparison.notes
    )


def test_runs_on_other_data_are_not_pooled(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales", "seed=0")
    write_run(tmp_path, 8.0, 8.7, "cell=gru", "task=jsb_chorales", "seed=1", checksum="other")
    cells = tabulate(collect(tmp_path), splits=["test"]).cells
    assert list(cells["n"]) == [1, 1]
    assert set(cells["variant"]) == {"data_checksum=data", "data_checksum=other"}


def test_of_a_search_the_candidate_best_on_validation_counts_for_each_seed(tmp_path: Path) -> None:
    """The test scores are made to mislead: the best on validation is the worst on test."""
    tried = {(0, 1e-3): (8.0, 9.9), (0, 2e-3): (8.3, 8.1), (1, 1e-3): (8.4, 8.2), (1, 2e-3): (8.1, 9.7)}
    for (seed, lr), (valid, test) in tried.items():
        write_run(tmp_path, valid, test, "cell=gru", "task=jsb_chorales", f"seed={seed}", f"train.lr={lr}")
    row = entry(tmp_path, split="test")
    assert row["mean"] == pytest.approx((9.9 + 9.7) / 2)
    assert (row["n"], row["candidates"], row["variant"]) == (2, 2, "")


def test_a_search_is_told_apart_from_a_single_rate_and_diverged_candidates_count_but_never_win(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales", "seed=0", "train.lr=1e-3")
    write_run(tmp_path, 7.0, 7.0, "cell=gru", "task=jsb_chorales", "seed=0", "train.lr=1.0", status="diverged")
    write_run(tmp_path, 8.0, 8.6, "cell=gru", "task=jsb_chorales", "seed=1", "train.lr=1e-3")
    comparison = tabulate(collect(tmp_path), splits=["test"])
    found = {r.variant: (r.mean, r.n, r.candidates) for r in comparison.cells.itertuples()}
    assert found == {"train.lr=best of 2 (0.001, 1)": (8.5, 1, 2), "train.lr=0.001": (8.6, 1, 1)}
    assert comparison.notes[-1] == "Diverged, and in no mean: gru on jsb_chorales, seed 0 (train.lr=1)."


def test_what_is_not_finished_is_left_out_and_said(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales")
    for seed, status in ((1, "error"), (2, "interrupted"), (3, "interrupted")):
        write_run(tmp_path, 8.0, 1.0, "cell=gru", "task=jsb_chorales", f"seed={seed}", status=status)
    running = write_run(tmp_path, 8.0, 1.0, "cell=gru", "task=jsb_chorales", "seed=4")
    (running / "result.json").unlink()
    damaged = write_run(tmp_path, 8.0, 1.0, "cell=gru", "task=jsb_chorales", "seed=5")
    (damaged / "result.json").write_text('{"schema_ver')
    (tmp_path / "jsb_chorales" / "gru" / ".s0-0000000000.new").mkdir()
    runs = collect(tmp_path)
    assert sorted(runs["status"]) == ["done", "error", "error", "interrupted", "interrupted", UNFINISHED]
    comparison = tabulate(runs, splits=["test"])
    assert list(comparison.cells["n"]) == [1]
    (note,) = comparison.notes
    assert all(part in note for part in ("2 interrupted", "2 error", "1 unfinished"))


def test_a_metric_can_be_asked_for_and_tasks_without_it_show_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales")
    write_run(tmp_path, 0.01, 0.02, "cell=gru", "task=adding")
    cells = tabulate(collect(tmp_path), ["nll_step", "nll_seq"], ["test"]).cells
    assert sorted(zip(cells["task"], cells["metric"], cells["mean"], strict=True)) == [
        ("adding", "mse", 0.02),
        ("jsb_chorales", "nll_seq", 9.5),
        ("jsb_chorales", "nll_step", 8.5),
    ]


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_holds_every_number_and_names_the_metric(tmp_path: Path, fmt: str) -> None:
    for seed in (0, 1):
        write_run(tmp_path, 8.0, 8.25 + seed, "cell=gru", "task=jsb_chorales", f"seed={seed}")
        write_run(tmp_path, 0.1, 0.25, "cell=lstm", "task=adding", f"seed={seed}")
    text = render(tabulate(collect(tmp_path), splits=["test"]), fmt)
    for part in ("8.75", "0.25", "8.54", "jsb" if fmt != "latex" else r"jsb\_chorales", "mse"):
        assert part in text, part
    assert ("nll_step" if fmt != "latex" else r"nll\_step") in text
    if fmt == "csv":
        lines = text.splitlines()
        assert lines[0].startswith("task,variant,cell,metric,split,mean,sd,n,candidates,baseline,published")
        assert len(lines) == 3
    else:
        assert "standard deviation" in text


def test_latex_compiles_to_balanced_rows_with_nothing_left_to_escape(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.25, "cell=gru", "task=jsb_chorales")
    text = render(tabulate(collect(tmp_path)), "latex")
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len({row.count("&") for row in rows}) == 1
    assert not [i for i, c in enumerate(text) if c == "_" and text[i - 1] != "\\"]


def test_nothing_to_show_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no runs in it"):
        collect(tmp_path)
    write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales", status="interrupted")
    with pytest.raises(UserError, match=r"no run is finished yet\. Left out: 1 interrupted"):
        tabulate(collect(tmp_path))
    with pytest.raises(UserError, match=r"nll_stp.*Did you mean 'nll_step'"):
        tabulate(collect(tmp_path), ["nll_stp"])


def test_a_thousand_runs_are_collected_and_compared_in_five_seconds(tmp_path: Path) -> None:
    template = write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales")
    result = json.loads((template / "result.json").read_text())
    for seed in range(1, 1000):
        path = template.parent / f"s{seed}-0123456789"
        path.mkdir()
        (path / "config.yaml").write_text("# a run\n")
        (path / "result.json").write_text(json.dumps({**result, "seed": seed}))
    start = time.process_time()
    comparison = tabulate(collect(tmp_path), splits=["test"])
    assert time.process_time() - start < 5
    assert list(comparison.cells["n"]) == [1000]


def test_the_collector_and_the_tables_do_not_import_torch() -> None:
    code = "import rnnbench.analysis.tables, rnnbench.analysis.collect, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_frame_is_tidy(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales", "seed=7")
    runs = collect(tmp_path)
    assert isinstance(runs, pd.DataFrame)
    row = runs.iloc[0]
    assert (row["seed"], row["commit"], row["versions.torch"], row["data_checksum"]) == (7, "abc", "2.13.0", "data")
    assert (row["train.lr"], row["cell.hidden_size"], row["task.pool"]) == (compose_config().train.lr, 46, 8)


def test_variants_are_told_apart_however_alike_they_look_in_print(tmp_path: Path) -> None:
    for digits in ("0.0750000001", "0.0750000002"):
        write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales", f"train.weight_noise={digits}")
    cells = tabulate(collect(tmp_path), splits=["test"]).cells
    assert list(cells["n"]) == [1, 1]
    assert set(cells["variant"]) == {"train.weight_noise=0.0750000001", "train.weight_noise=0.0750000002"}


def test_searches_over_other_rates_are_not_pooled(tmp_path: Path) -> None:
    for seed, rates in ((0, (1e-3, 1e-2)), (1, (1e-3, 1e-2)), (2, (5e-3, 5e-2))):
        for lr in rates:
            write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales", f"seed={seed}", f"train.lr={lr}")
    cells = tabulate(collect(tmp_path), splits=["test"]).cells
    assert sorted(zip(cells["variant"], cells["n"], strict=True)) == [
        ("train.lr=best of 2 (0.001, 0.01)", 2),
        ("train.lr=best of 2 (0.005, 0.05)", 1),
    ]


def test_protocols_are_told_by_name_and_other_keys_beside_it(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales")
    write_run(tmp_path, 8.0, 8.6, "cell=gru", "task=jsb_chorales", "train=chung2014")
    write_run(tmp_path, 8.0, 8.7, "cell=gru", "task=jsb_chorales", "train=chung2014", "train.weight_noise=0")
    cells = tabulate(collect(tmp_path), splits=["test"]).cells
    assert set(cells["variant"]) == {
        "train=modern, train.weight_noise=0",
        "train=chung2014, train.weight_noise=0.075",
        "train=chung2014, train.weight_noise=0",
    }


def test_the_name_of_a_protocol_parts_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales", "seed=0")
    renamed = write_run(tmp_path, 8.0, 8.7, "cell=gru", "task=jsb_chorales", "seed=1")
    result = json.loads((renamed / "result.json").read_text())
    result["config"]["train"]["name"] = "mine"
    (renamed / "result.json").write_text(json.dumps(result))
    cells = tabulate(collect(tmp_path), splits=["test"]).cells
    assert (list(cells["n"]), list(cells["variant"])) == ([2], [""])


def test_pooled_runs_of_other_code_are_pointed_out(tmp_path: Path) -> None:
    for seed, commit in ((0, "abc"), (1, "def")):
        path = write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales", f"seed={seed}")
        result = json.loads((path / "result.json").read_text())
        (path / "result.json").write_text(json.dumps({**result, "commit": commit}))
    assert tabulate(collect(tmp_path)).notes == ["gru on jsb_chorales: the pooled runs differ in commits."]


def test_a_key_added_later_does_not_part_old_runs_from_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(config_module.NEUTRAL, "train.lr_final", 1.0)
    write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales", "seed=0")
    old = write_run(tmp_path, 8.0, 8.7, "cell=gru", "task=jsb_chorales", "seed=1")
    result = json.loads((old / "result.json").read_text())
    del result["config"]["train"]["lr_final"]
    (old / "result.json").write_text(json.dumps(result))
    assert list(tabulate(collect(tmp_path), splits=["test"]).cells["n"]) == [2]


@pytest.mark.parametrize("content", ["[]", "{}", '{"schema_version": 1}', "99", "\\x00", '{"schema_version": "x"}'])
def test_one_bad_record_does_not_hide_the_others(tmp_path: Path, content: str) -> None:
    write_run(tmp_path, 8.0, 8.5, "cell=gru", "task=jsb_chorales")
    bad = write_run(tmp_path, 8.0, 1.0, "cell=gru", "task=jsb_chorales", "seed=1")
    if "99" in content:
        content = json.dumps({**json.loads((bad / "result.json").read_text()), "schema_version": 99})
    (bad / "result.json").write_text(content)
    (bad.parent / "sfoo-x").mkdir()
    (bad.parent / "sfoo-x" / "config.yaml").write_text("")
    runs = collect(tmp_path)
    assert sorted(runs["status"]) == ["done", "error"]
    comparison = tabulate(runs, splits=["test"])
    assert list(comparison.cells["mean"]) == [8.5]
    assert comparison.notes == ["Left out: 1 error."]
