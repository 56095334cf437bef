"""Tables of searches whose rates are drawn for each seed: which seeds are pooled, and what is said of them."""

import json
from pathlib import Path

import pytest

from rnnbench.analysis.collect import collect
from rnnbench.analysis.layout import render
from rnnbench.analysis.pool import config_columns
from rnnbench.analysis.tables import tabulate
from rnnbench.compose import compose_population
from tests.fake_runs import record_run, write_run
from tests.test_tables import entry


def write_search(root: Path, *overrides: str, best: float, count: int = 10, first: int = 0) -> list[Path]:
    """Runs of a search on JSB, candidate ``first`` up to ``count``: each worse on validation than the one before."""
    configs = compose_population("task=jsb_chorales", "search=chung2014", *overrides)
    return [record_run(root, c, 8 + i, best if i == 0 else 1.0) for i, c in enumerate(configs) if first <= i < count]


def test_seeds_of_a_search_are_pooled_though_each_has_rates_of_its_own(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_search(tmp_path, f"seed={seed}", best=9.0 + seed)
    write_run(tmp_path, 8.0, 5.0, "cell=lstm", "task=jsb_chorales")
    comparison = tabulate(collect(tmp_path), splits=["test"])
    found = {(r.cell, r.variant): (r.mean, r.n, r.candidates) for r in comparison.cells.itertuples()}
    assert found == {
        ("gru", "train.lr=best of 10 (search chung2014)"): (10.0, 3, 10),
        ("lstm", "train.lr=0.005"): (5.0, 1, 1),
    }
    assert comparison.notes == []
    assert "best of n" in render(comparison, "text")


def test_a_search_that_is_not_complete_is_pointed_out(tmp_path: Path) -> None:
    write_search(tmp_path, "seed=0", best=9.0)
    for path in write_search(tmp_path, "seed=1", best=10.0, count=7)[1:3]:
        result = json.loads((path / "result.json").read_text())
        (path / "result.json").write_text(json.dumps({**result, "status": "diverged"}))
    comparison = tabulate(collect(tmp_path), splits=["test"])
    ((mean, n, candidates),) = comparison.cells[["mean", "n", "candidates"]].to_numpy().tolist()
    assert (mean, n, candidates) == (9.5, 2, 7)
    assert comparison.notes[0] == (
        "gru on jsb_chorales, seed 1: 7 of the 10 candidates of search chung2014 "
        "are here; the others have not ended, or were left out."
    )


def test_a_search_that_has_grown_is_one_search(tmp_path: Path) -> None:
    write_search(tmp_path, "seed=0", best=9.0)
    write_search(tmp_path, "seed=0", "search.candidates=12", best=9.0, first=10, count=12)
    write_search(tmp_path, "seed=1", "search.candidates=12", best=9.0, count=12)
    row = entry(tmp_path, split="test")
    assert (row["n"], row["candidates"]) == (2, 12)


@pytest.mark.parametrize(
    ("override", "labels"),
    [
        ("search.candidates=4", {"train.lr=best of 10 (search chung2014)", "train.lr=best of 4 (search chung2014)"}),
        (
            "search.log_low=-9",
            {
                "train.lr=best of 10 (search chung2014, exp of U(-12, -6))",
                "train.lr=best of 10 (search chung2014, exp of U(-9, -6))",
            },
        ),
    ],
)
def test_other_searches_are_not_pooled(tmp_path: Path, override: str, labels: set[str]) -> None:
    write_search(tmp_path, "seed=0", best=9.0)
    write_search(tmp_path, "seed=1", override, best=9.0)
    cells = tabulate(collect(tmp_path), splits=["test"]).cells
    assert list(cells["n"]) == [1, 1]
    assert set(cells["variant"]) == labels


def test_a_rate_beside_those_of_the_search_is_compared_by_the_rates(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_search(tmp_path, f"seed={seed}", "search.candidates=2", best=9.0)
    write_run(tmp_path, 1.0, 7.0, "cell=gru", "task=jsb_chorales", "train.lr=0.5")
    found = {r.variant: (r.mean, r.n) for r in tabulate(collect(tmp_path), splits=["test"]).cells.itertuples()}
    assert found == {
        "train.lr=best of 3 (1.52844e-05, 0.00019758, 0.5)": (7.0, 1),
        "train.lr=best of 2 (search chung2014)": (9.0, 1),
    }


def test_two_searches_of_one_seed_are_compared_by_their_rates(tmp_path: Path) -> None:
    write_search(tmp_path, "search.candidates=1", best=9.0)
    write_search(tmp_path, "search.candidates=1", "search.log_low=-9", best=8.0)
    write_run(tmp_path, 8.0, 5.0, "cell=lstm", "task=jsb_chorales")
    (row,) = (r for r in tabulate(collect(tmp_path), splits=["test"]).cells.itertuples() if r.cell == "gru")
    assert str(row.variant).startswith("train.lr=best of 2 (0.00019758, ")


def test_the_search_of_a_run_is_in_the_frame_and_parts_no_variants(tmp_path: Path) -> None:
    write_search(tmp_path, "search.candidates=2", best=9.0)
    write_run(tmp_path, 8.0, 5.0, "cell=lstm", "task=jsb_chorales")
    runs = collect(tmp_path)
    assert "search" not in runs
    assert runs["search.name"].tolist()[:2] == ["chung2014"] * 2
    assert sorted(runs["search.index"].tolist()[:2]) == [0, 1]
    assert not [c for c in config_columns(runs) if c.startswith("search")]
