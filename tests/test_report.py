"""The page: whole in itself, escaped, deterministic, with the numbers and sentences of the analysis."""

import base64
import hashlib
import html
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnbench.analysis.collect import METRICS, collect
from rnnbench.analysis.compare import aggregate, compare
from rnnbench.analysis.conclusions import contest_frame, sentence
from rnnbench.analysis.inventory import inventory
from rnnbench.analysis.layout import table_frame
from rnnbench.analysis.pool import pool
from rnnbench.analysis.report import profile_frame, report
from rnnbench.analysis.tables import Table, tabulate
from rnnbench.commands.report import main
from tests.browser import look
from tests.fake_runs import write_curve
from tests.test_compare import change

EVIL = (
    "RuntimeError: <script>document.title='owned'</script><img src='http://example.org/x.png' onerror='alert(1)'> & \"'"
)
SEEDS = 8
STEPS = 12
LEVEL = {"gru": 7.0, "lstm": 7.5, "tanh": 7.5}


def curves_of(cell: str, seed: int) -> list[float]:
    rng = np.random.default_rng([seed, ord(cell[0])])
    return list(LEVEL[cell] + 4 * np.exp(-np.arange(STEPS) / 4) + 0.01 * rng.normal(size=STEPS))


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, three cells, eight seeds; and of everything that is not done one."""
    root: Path = tmp_path_factory.mktemp("results") / "runs"
    for task in ("jsb_chorales", "nottingham"):
        for cell in LEVEL:
            for seed in range(SEEDS):
                write_curve(root, curves_of(cell, seed), f"cell={cell}", f"task={task}", f"seed={seed}", population=2)
    other = ("cell=gru", "task=jsb_chorales", "seed=50")
    for status, rate in (("diverged", "0.5"), ("error", "0.25"), ("interrupted", "0.125"), ("pruned", "0.0625")):
        path = write_curve(root, [9.0, 8.9], *other, f"train.lr={rate}", status=status)
        change(path, best_epoch=1, **({"error": EVIL} if status == "error" else {}))
        change(path, **({"trial": "a-search/7"} if status == "pruned" else {}))
    unfinished = write_curve(root, [9.0, 8.9], *other, "train.lr=0.03125")
    result = unfinished / "result.json"
    (unfinished / "config.yaml").write_text(json.dumps(json.loads(result.read_text())["config"]))  # which is YAML too
    result.unlink()
    return root


@dataclass(frozen=True)
class Made:
    path: Path
    text: str


@pytest.fixture(scope="module")
def made(runs_dir: Path) -> Made:
    path = runs_dir.parent / "report.html"
    assert main(["--runs", str(runs_dir), "--output", str(path), "--no-curves", "--title", "<b>A & B</b>"]) == 0
    return Made(path, path.read_text(encoding="utf-8"))


class Parsed(HTMLParser):
    """Elements, their ids, tables as texts, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.cell = tag in ("td", "th") or (getattr(self, "cell", False) and tag in ("code", "div", "a"))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if getattr(self, "cell", False):
            self.tables[-1][-1][-1] += data

    def table(self, *columns: str) -> list[list[str]]:
        """The rows of the one table whose head begins so."""
        (found,) = [table[1:] for table in self.tables if table[0][: len(columns)] == list(columns)]
        return found


@pytest.fixture(scope="module")
def parsed(made: Made) -> Parsed:
    return Parsed(made.text)


# ---------------------------------------------------------------- in itself


def addresses(text: str) -> list[str]:
    """What a page points at."""
    found = Parsed(text)
    pointing = ("src", "href", "action", "poster", "data", "srcset", "xlink:href")
    of_elements = [value or "" for _, attrs in found.elements for key, value in attrs.items() if key in pointing]
    return [*of_elements, *re.findall(r"url\(([^)]*)\)", text), *re.findall(r"@import[^;]*", text)]


def test_the_page_points_at_nothing_outside_of_itself(made: Made) -> None:
    assert {"#", "d"} == {address[0] for address in addresses(made.text)}, "#within, data:"
    assert not re.search(r"https?://(?!example\.org/x\.png)", made.text), "but for that in the text of an error"
    assert addresses('<img src="http://a.b/c.png"><style>@import "x.css"; a{b:url(http://c)}</style>') == [
        "http://a.b/c.png", "http://c", '@import "x.css"',
    ]  # fmt: skip


def test_ids_are_unique_and_all_that_is_pointed_at_within_the_page_is_there(parsed: Parsed, made: Made) -> None:
    ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    pointed = {address[1:] for address in addresses(made.text) if address.startswith("#")}
    assert pointed <= set(ids)
    assert {name for name in pointed if str(name).startswith("figure-learning")}


def test_plots_have_words_for_who_cannot_see_them_and_a_reason_where_there_is_none(parsed: Parsed) -> None:
    shown = [attrs for tag, attrs in parsed.elements if tag == "svg"]
    assert shown
    assert all(attrs["role"] == "img" and len(attrs["aria-label"] or "") > 40 for attrs in shown)
    assert "Not drawn: none of the tasks has a length" in parsed.text
    assert "Nothing is said of time: runs were made in populations, which share a clock." in parsed.text


def test_what_was_diagnosed_is_drawn(tmp_path: Path) -> None:
    path = write_curve(tmp_path, curves_of("gru", 0), "cell=gru", "task=jsb_chorales")
    assert "Not drawn: no run has been measured" in report(collect(tmp_path), tmp_path)
    spread = {"mean": 0.5, "below_0.1": 0.2, "above_0.9": 0.3}
    found = {
        "gradient": {"h": {"log10_ratio": [0.0, -1.0, -2.0], "sequences": [4, 4, 4]}},
        "gates": {"z": spread, "r": spread},
        "abs_h": spread,
        "spectral_radius": {"z": 1.0, "r": 1.1, "h_tilde": 0.9},
        "best_update": 100,
    }
    (path / "diagnosis.json").write_text(json.dumps(found))
    text = report(collect(tmp_path), tmp_path)
    assert 'aria-label="Gradients, gates and spectral radii, of 1 run that rnnbench diagnose has measured."' in text
    assert "Measured runs: 1 of the 1 that count." in text


def test_texts_of_runs_are_text(made: Made, parsed: Parsed) -> None:
    assert html.escape(EVIL, quote=True).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in made.text
    assert EVIL in parsed.text
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert not [tag for tag, _ in parsed.elements if tag in ("img", "b")]
    assert "<title>&lt;b&gt;A &amp; B&lt;/b&gt;</title>" in made.text


def test_the_same_runs_give_the_same_bytes(made: Made, runs_dir: Path) -> None:
    assert report(collect(runs_dir), runs_dir, title="<b>A & B</b>") == made.text


# ---------------------------------------------------------------- what it says


def test_the_numbers_are_those_of_the_tables_and_comparisons(parsed: Parsed, runs_dir: Path) -> None:
    runs = collect(runs_dir)
    table = tabulate(runs, METRICS)
    on_test = Table(table.cells[table.cells["split"] == "test"].reset_index(drop=True), [])
    shown = parsed.table("task", "metric", "gru")
    assert shown == table_frame(on_test, told_again=True).drop(columns="split").to_numpy().tolist()
    assert [row[:2] for row in shown] == [
        [task, metric] for task in ("jsb_chorales", "nottingham") for metric in ("nll_step", "nll_seq")
    ]
    mean = np.mean([min(curves_of("gru", seed)) + 0.2 for seed in range(SEEDS)])
    assert shown[0][2].startswith(f"{mean:.3f} ± ")
    pooled = pool(runs)
    result = compare(pooled)
    assert parsed.table("task", "metric", "a") == contest_frame(result).to_numpy().tolist()
    profile = profile_frame(aggregate(pooled, result))
    assert parsed.table(*profile.columns) == profile.to_numpy().tolist()
    assert [profile.iloc[0, 1], profile.iloc[0, -1]] == ["0.00", "1.00"]
    assert len(parsed.table("task", "cell", "metric", "ours")) == 12


def test_the_sentences_are_those_that_the_comparisons_allow(parsed: Parsed, runs_dir: Path) -> None:
    result = compare(pool(collect(runs_dir)))
    told = [sentence(c, len(result.contests)) for c in result.contests]
    assert {c.found.verdict for c in result.contests} == {"better", "undecided"}
    for text in told:
        assert parsed.text.count(text) == 1
    assert "Of 6 comparisons of two cells on a task, 4 are decided and 2 undecided." in parsed.text
    begun = "53 runs: 48 done, 1 diverged, 1 interrupted, 1 pruned, 1 error, 1 unfinished."
    assert begun in parsed.text
    assert parsed.text.index(begun) < parsed.text.index(told[0])
    assert "With 8 seeds (measured: 5) the 95% interval" in parsed.text
    assert "20,000 (24,000 with the read-out)" in parsed.text


def test_few_seeds_conclude_nothing_and_say_so(tmp_path: Path) -> None:
    for cell in LEVEL:
        write_curve(tmp_path, curves_of(cell, 0), f"cell={cell}", "task=jsb_chorales")
    text = Parsed(report(collect(tmp_path), tmp_path)).text
    assert "Undecided: all 3 comparisons of two cells on a task. No cell can be called better than another." in text
    assert "at least 7 seeds are needed for 3 comparisons at once" in text
    assert "Where there is one seed, there is no spread" in text
    assert "is better than" not in text


def test_every_run_has_its_row_with_what_is_its_own(parsed: Parsed, runs_dir: Path) -> None:
    runs = collect(runs_dir)
    rows = parsed.table("run", "task", "cell", "seed", "differs in", "config", "status")
    assert [row[0] for row in rows] == [Path(path).relative_to(runs_dir).as_posix() for path in runs["path"]]
    assert [row[6] for row in rows] == list(runs["status"])
    assert {row[4] for row in rows if row[3] == "50"} == {
        f"train.lr={rate:g}" for rate in (0.5, 0.25, 0.125, 0.0625, 0.03125)
    }


def test_what_is_told_once_and_what_each_run_has_of_its_own_are_together_its_config(runs_dir: Path) -> None:
    stock = inventory(collect(runs_dir), runs_dir)
    common = dict(stock.common)
    for row in stock.rows[stock.rows["status"] == "done"].to_dict("records"):
        whole = json.loads(stock.configs[int(row["config"]) - 1])
        told = [common.get(name, {}) for name in (f"cell {row['cell']}", f"task {row['task']}", "protocol modern")]
        found = {**common["all runs"], **{k: v for part in told for k, v in part.items()}}
        found |= dict(part.split("=") for part in row["differs in"].split(", ") if part)
        assert found["cell.hidden_size"] == str(whole["cell"]["hidden_size"])
        assert float(found["train.lr"]) == whole["train"]["lr"]
        assert found["task.data"] == whole["task"]["data"]
        assert found["train.optimizer.name"] == whole["train"]["optimizer"]["name"]
    assert common["all runs"]["commit"] == "abc"
    assert common["all runs"]["dirty"] == "false"
    assert common["all runs"]["versions.torch"] == "2.13.0"
    assert common["task nottingham"]["data checksum"] == "data"


def test_what_failed_is_listed_with_its_reason_and_path(parsed: Parsed, runs_dir: Path) -> None:
    rows = {row[3]: row for row in parsed.table("run", "what", "differs in", "status", "reason")}
    assert set(rows) == {"diverged", "error", "interrupted", "pruned", "unfinished"}
    assert rows["error"][4] == EVIL
    assert rows["diverged"][4].startswith(
        "the loss was no longer finite at epoch 1; its best before: validation nll_step"
    )
    assert rows["interrupted"][4] == "stopped at epoch 1; the same command goes on from there"
    assert rows["pruned"][4] == "given up at epoch 1 by the search of trial a-search/7"
    assert rows["unfinished"][4].startswith("ended without a word, killed or with its machine, at epoch 1")
    assert all((runs_dir / row[0]).is_dir() for row in rows.values())


def test_a_sweep_that_has_finished_nothing_has_a_page_too(tmp_path: Path) -> None:
    path = write_curve(tmp_path / "runs", [9.0, 8.0], "cell=gru", "task=jsb_chorales")
    (path / "result.json").unlink()
    output, averages = tmp_path / "r.html", tmp_path / "curves"
    assert main(["--runs", str(tmp_path / "runs"), "--output", str(output), "--curves", str(averages)]) == 0
    text = Parsed(output.read_text()).text
    assert "Nothing yet: no run is finished yet." in text
    assert "at epoch 1; the same command goes on from there" in text
    assert not averages.exists()


# ---------------------------------------------------------------- in a browser

PROBE = """{
const heads = [...document.querySelectorAll("#tables table")][0].tHead.rows[0].cells;
const visible = (table) => [...table.tBodies[0].rows].filter((row) => !row.hidden);
const texts = (table, column) => visible(table).map((row) => row.cells[column].textContent);
const found = { title: document.title, scripts: document.scripts.length, images: document.images.length };
const scores = heads[2].closest("table");
const click = () => heads[2].querySelector("button").click();
click();
found.ascending = texts(scores, 2); found.sorted = [...heads].map(h => h.getAttribute("aria-sort"));
click();
found.descending = texts(scores, 2); found.turned = heads[2].getAttribute("aria-sort");
const runs = document.getElementById("all-runs");
const column = [...runs.tHead.rows[0].cells].findIndex(h => h.textContent === "validation");
runs.tHead.rows[0].cells[column].querySelector("button").click();
found.validation = texts(runs, column);
const box = document.getElementById("filter");
const type = (text) => { box.value = text; box.dispatchEvent(new Event("input")); };
type("LSTM  nottingham"); found.filtered = texts(runs, 0); found.told = document.getElementById("shown").textContent;
type("");
const mixed = document.createElement("table");
mixed.innerHTML = "<thead><tr><th>x</th></tr></thead><tbody></tbody>";
for (const text of ["8.482 ± 0.03 (10)", "20,502", "", "-0.1 [-1, 2]", "1e-3", "\\u22123"]) {
  mixed.tBodies[0].insertRow().insertCell().textContent = text;
}
sort(mixed, 0, false); found.mixed = texts(mixed, 0);
sort(mixed, 0, true); found.upside = texts(mixed, 0);
location.hash = "config-1";
reveal();
found.open = document.getElementById("config-1").closest("details").open;
const out = document.createElement("pre");
out.id = "probe"; out.textContent = JSON.stringify(found);
document.body.append(out);
}"""


def probed(page: str) -> str:
    """``page`` with a script more, which its policy is told of."""
    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    allowed = page.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    assert allowed != page
    return allowed.replace("</body>", f"<script>{PROBE}</script></body>")


def test_in_a_browser_the_page_sorts_and_filters_says_nothing_and_asks_nobody(made: Made, tmp_path: Path) -> None:
    copy = tmp_path / "probed.html"
    copy.write_text(probed(made.text), encoding="utf-8")
    seen = look(copy, tmp_path)
    assert seen.console == []
    assert seen.asked == []
    told = re.search(r'<pre id="probe">(.*?)</pre>', seen.dom, re.S)
    assert told is not None
    found: dict[str, Any] = json.loads(html.unescape(told[1]))
    assert (found["title"], found["scripts"], found["images"]) == ("<b>A & B</b>", 2, 0)
    scores = [float(text.split()[0]) for text in found["ascending"]]
    assert scores == sorted(scores)
    assert len(set(scores)) > 1
    assert found["descending"] == found["ascending"][::-1] or sorted(scores, reverse=True) == [
        float(text.split()[0]) for text in found["descending"]
    ]
    assert found["sorted"] == [None, None, "ascending", None, None, None]
    assert found["turned"] == "descending"
    known = [float(text) for text in found["validation"] if text]
    assert known == sorted(known)
    assert found["validation"][-1] == "", "what is empty comes last"
    assert len(found["filtered"]) == SEEDS
    assert all(path.startswith("nottingham/lstm/") for path in found["filtered"])
    assert found["told"] == f"{SEEDS} of {len(known) + 1} runs"
    assert found["mixed"] == ["−3", "-0.1 [-1, 2]", "1e-3", "8.482 ± 0.03 (10)", "20,502", ""]
    assert found["upside"] == ["20,502", "8.482 ± 0.03 (10)", "1e-3", "-0.1 [-1, 2]", "−3", ""]
    assert found["open"] is True


def test_a_page_that_complains_or_asks_is_seen_to(tmp_path: Path) -> None:
    """So that the silence of the other test means something; the policy of the page forbids both ways of asking."""
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://example.org/a.png"><script>console.error("oh"); console.warn("ah")</script>')
    seen = look(page, tmp_path)
    assert seen.asked == ["http://example.org/a.png"]
    assert ["oh" in seen.console[0], "ah" in seen.console[1]] == [True, True]
