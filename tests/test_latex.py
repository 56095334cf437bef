"""What is written as LaTeX compiles, with booktabs and graphicx and nothing else."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rnnbench.analysis.collect import collect
from rnnbench.analysis.compare import aggregate, compare
from rnnbench.analysis.conclusions import render as render_comparisons
from rnnbench.analysis.layout import listed, render, written
from rnnbench.analysis.pool import pool
from rnnbench.analysis.tables import tabulate
from tests.fake_runs import write_run

pytestmark = pytest.mark.more

ODD = r"50 % of a_b & c # {x} ~ ^ \ $ ± − ≤ ≥ < > σ × · é …"


@pytest.fixture
def latex() -> str:
    """pdflatex; a test that needs it is skipped where it is not, unless it is required."""
    found = shutil.which("pdflatex")
    if found is None and os.environ.get("RNNBENCH_REQUIRE_LATEX"):
        pytest.fail("RNNBENCH_REQUIRE_LATEX is set, but there is no pdflatex")
    if found is None:
        pytest.skip("needs pdflatex, with booktabs (Debian: texlive-latex-recommended)")
    return found


def compile_latex(latex: str, folder: Path, body: str) -> str:
    """The log of a document with this body.

    Raises:
        AssertionError: if it does not compile.
    """
    packages = r"\usepackage{booktabs,graphicx}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}" + "\n" + body + "\n" + r"\end{document}"
    (folder / "it.tex").write_text(document, encoding="utf-8")
    command = [latex, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "it.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def test_tables_comparisons_and_remarks_compile_and_fit_the_page(tmp_path: Path, latex: str) -> None:
    rng = np.random.default_rng(0)
    for task in ("jsb_chorales", "nottingham"):
        for cell in ("gru", "lstm", "tanh"):
            for seed in range(4):
                overrides = (f"cell={cell}", f"task={task}", f"seed={seed}", "train=chung2014")
                write_run(tmp_path / "runs", 8.0, 8.5 + rng.normal(), *overrides)
    runs = collect(tmp_path / "runs")
    pooled = pool(runs)
    found = compare(pooled)
    body = "\n\n".join(
        [
            render(tabulate(runs, ["nll_step", "nll_seq"]), "latex"),
            render_comparisons(found, aggregate(pooled, found), "latex"),
            written(pooled.runs[["task"]].head(1).rename(columns={"task": ODD}), [ODD], "latex"),
            listed([ODD], "latex"),
        ]
    )
    log = compile_latex(latex, tmp_path, body)
    assert "Overfull" not in log
    assert "(3 pages" in log or "(2 pages" in log or "(4 pages" in log


def test_a_document_that_is_wrong_does_not_pass(tmp_path: Path, latex: str) -> None:
    with pytest.raises(AssertionError, match=r"Missing \$ inserted"):
        compile_latex(latex, tmp_path, "a_b")
