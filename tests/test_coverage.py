"""How often the intervals hold the truth: what the output says of it is what a simulation finds."""

import csv
import importlib.util
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from rnnbench.analysis.statistics import (
    BOOTSTRAP_COVERAGE,
    COVERAGE,
    GOOD_COVERAGE,
    bootstrap_note,
    coverage_note,
)

pytestmark = pytest.mark.more

ROOT = Path(__file__).resolve().parent.parent


def simulation() -> Any:
    """`scripts/coverage.py`, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("coverage_by_simulation", ROOT / "scripts" / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SIMULATION = simulation()
with (ROOT / "results" / "statistics" / "coverage.csv").open(encoding="utf-8", newline="") as _file:
    MEASURED = {(row["measure"], row["shape"], int(row["n"])): row for row in csv.DictReader(_file)}


def chance(share: float, repetitions: int) -> float:
    """Four standard errors of a share."""
    return 4 * math.sqrt(share * (1 - share) / repetitions)


@pytest.mark.parametrize("shape", COVERAGE)
def test_the_t_interval_covers_as_the_constants_say(shape: str) -> None:
    for n, share in COVERAGE[shape].items():
        found = SIMULATION.t_coverage(SIMULATION.SHAPES[shape], n, 10_000)
        assert found == pytest.approx(share, abs=chance(share, 10_000)), n


@pytest.mark.parametrize("n", BOOTSTRAP_COVERAGE)
def test_the_bootstrap_covers_as_the_constants_say(n: int) -> None:
    found = SIMULATION.bootstrap_coverage(SIMULATION.SHAPES["normal"], n, 1_500, resamples=400)
    assert found == pytest.approx(BOOTSTRAP_COVERAGE[n], abs=chance(BOOTSTRAP_COVERAGE[n], 1_500))


def test_the_constants_are_the_recorded_numbers() -> None:
    for shape, shares in COVERAGE.items():
        for n, share in shares.items():
            assert float(MEASURED["t interval", shape, n]["value"]) == pytest.approx(share, abs=0.0006), (shape, n)
    for n, share in BOOTSTRAP_COVERAGE.items():
        assert float(MEASURED["bootstrap of IQM, 4 tasks", "normal", n]["value"]) == pytest.approx(share, abs=0.0006)


def test_the_tables_of_the_readme_are_the_recorded_numbers() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"### How far the intervals can be trusted\n(.*?)\n##", text, re.S)
    assert section is not None
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section[1].splitlines() if "|" in line]
    seeds, checked = [int(cell.removeprefix("n = ")) for cell in lines[0][2:]], 0
    for measure, shape, *values in lines[2:]:
        for n, value in zip(seeds, values, strict=True):
            if value:
                assert value == f"{100 * float(MEASURED[measure, shape, n]['value']):.1f}", (measure, shape, n)
                checked += 1
    assert checked >= 30


def test_alarms_are_no_more_often_false_than_promised_and_effects_found_as_often() -> None:
    for (measure, shape, n), row in MEASURED.items():
        value, slack = float(row["value"]), chance(0.05, int(row["repetitions"]))
        if measure.startswith("false alarms"):
            assert value <= 0.05 + slack, (shape, n)
        elif measure.startswith("power at seeds_needed"):
            assert value >= 0.8 - slack, (shape, n)
    assert SIMULATION.false_alarms(SIMULATION.FAMILIES["skewed"], 10, 300) <= 0.05 + chance(0.05, 300)
    assert SIMULATION.power(1.0, SIMULATION.seeds_for(1.0, 1), 1, 500) >= 0.8 - chance(0.8, 500)


def test_the_note_says_where_the_interval_falls_short_of_its_name() -> None:
    assert coverage_note(5) == (
        "With 5 seeds the 95% interval of a difference holds the truth 95% of the time if differences are normal, 88% "
        "if they are skewed, and 66% if one of the two methods fails in a fifth of its runs."
    )
    assert coverage_note(7).startswith("With 7 seeds (measured: 5) the 95% interval")
    assert "92% if they are skewed" in coverage_note(20)
    assert [coverage_note(n) for n in (0, 1, 50, 1000)] == [""] * 4
    assert bootstrap_note(5) == "With 5 seeds of each task the 95% bootstrap interval holds the truth 90% of the time."
    assert bootstrap_note(4).startswith("With 4 seeds (measured: 5)")
    assert [bootstrap_note(n) for n in (10, 20, 40)] == [""] * 3
    assert all(bool(coverage_note(n)) == (COVERAGE["skewed"][n] < GOOD_COVERAGE) for n in COVERAGE["skewed"])
