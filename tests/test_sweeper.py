"""The sweeper: which runs become one job, and that it changes nothing but that."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra_plugins.rnnbench_sweeper.sweeper import PopulationSweeper, populations

from rnnbench.compose import compose_config, compose_population, config_dir, known_keys, together
from rnnbench.config import run_key
from rnnbench.members import TOGETHER
from tests.conftest import TINY
from tests.test_cli import call


def jobs(*overrides: str) -> list[list[str]]:
    """The jobs of a sweep in which nothing is done yet, each by its overrides."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    (product,) = PopulationSweeper.split_arguments(parsed, None)
    return [together(shared, owns) for shared, owns in populations(product)]


def test_seeds_of_one_cell_are_one_job() -> None:
    batch = jobs("cell=tanh,lstm,gru", "task=jsb_chorales", "seed=0,1,2")
    members = "members=[['seed=0'],['seed=1'],['seed=2']]"
    assert batch == [[f"cell={cell}", "task=jsb_chorales", members] for cell in ("tanh", "lstm", "gru")]


def test_only_what_differs_stands_in_the_list_and_a_run_alone_has_none() -> None:
    batch = jobs("seed=3", "train.lr=1e-3,1e-2", "train.max_epochs=5")
    assert batch == [["seed=3", "train.max_epochs=5", "members=[['train.lr=0.001'],['train.lr=0.01']]"]]
    assert jobs("cell=gru,lstm", "seed=0") == [["cell=gru", "seed=0"], ["cell=lstm", "seed=0"]]
    assert jobs() == [[]]


def test_what_changes_shapes_or_batches_is_not_grouped() -> None:
    for sweep in ("train.batch_size=1,2", "cell.hidden_size=3,4", "train=modern,smoke", "train.dtype=float32,float64"):
        batch = jobs(sweep)
        assert [len(job) for job in batch] == [1, 1], sweep


def test_groups_and_members_stand_in_the_order_of_the_sweep() -> None:
    batch = jobs("seed=1,0", "cell=lstm,gru", "train.lr=2,1")
    members = (
        "members=[['seed=1','train.lr=2'],['seed=1','train.lr=1'],['seed=0','train.lr=2'],['seed=0','train.lr=1']]"
    )
    assert batch == [["cell=lstm", members], ["cell=gru", members]]


def test_every_override_that_differs_is_read_back_as_it_was() -> None:
    swept = [
        "seed=[0,1],[2,3]",
        "train.clip_norm=null,0.5",
        "train.patience=null,3",
        "train.stop_when_solved=true,false",
    ]
    batch = jobs("results_dir='it\\'s mine, all [of] it'", *swept)
    (job,) = batch
    found = {run_key(config) for config in compose_population(*job)}
    alone = {
        run_key(
            compose_config(f"seed={s}", f"train.clip_norm={c}", f"train.patience={p}", f"train.stop_when_solved={w}")
        )
        for s in range(4)
        for c in ("null", "0.5")
        for p in ("null", "3")
        for w in ("true", "false")
    }
    assert found == alone
    assert len(found) == 32


def test_quotes_in_a_value_survive() -> None:
    values = ["it's", 'say "so"', "back\\slash", "a,b [c]", "${x}"]
    quoted = ",".join('"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"' for v in values)
    ((shared, owns),) = populations([[f"train.lr={part}"] for part in quoted.split('","')])
    (job,) = together(shared, owns)
    assert job.startswith("members=[[")
    parsed = OverridesParser.create().parse_override(job).value()
    assert parsed == [[f"train.lr={part}"] for part in quoted.split('","')]


def test_the_keys_that_train_together_are_keys_of_a_run_without_its_shape() -> None:
    assert set(TOGETHER) <= set(known_keys())
    assert not [key for key in TOGETHER if key.startswith(("cell", "task"))]


def test_hydra_finds_the_sweeper_and_it_is_the_default() -> None:
    names = {plugin.__name__ for plugin in Plugins.instance().discover(Sweeper)}
    assert "PopulationSweeper" in names
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        sweeper = compose("config", return_hydra_config=True).hydra.sweeper
    assert sweeper._target_ == f"{PopulationSweeper.__module__}.PopulationSweeper"


def scores(root: Path) -> dict[str, object]:
    """The runs below a directory, with what decides nothing about their numbers left out."""
    return {
        str(path.parent.relative_to(root)): [json.loads(path.read_text())[k] for k in ("status", "valid", "test")]
        for path in root.glob("results/runs/*/*/*/result.json")
    }


@pytest.mark.needs_torch
def test_a_sweep_makes_the_runs_that_its_members_make_alone(tmp_path: Path) -> None:
    for name in ("together", "alone"):
        (tmp_path / name).mkdir()
    tiny = ["task=adding", *TINY, "tensorboard=false"]
    sweep = call("run", "-m", "cell=gru,tanh", "seed=0,1", "train.lr=1e-3,2e-3", *tiny, cwd=tmp_path / "together")
    assert sweep.returncode == 0, sweep.stderr
    assert sweep.stdout.count(": 4 runs") == 2, "two populations of four"
    basic = ["hydra/sweeper=basic", "hydra/launcher=basic", "cell=gru,tanh", "seed=0,1", "train.lr=1e-3,2e-3"]
    alone = call("run", "-m", *basic, *tiny, cwd=tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    found = scores(tmp_path / "together")
    assert len(found) == 8
    assert found == scores(tmp_path / "alone")


@pytest.mark.needs_torch
def test_a_search_and_the_same_rate_by_hand_are_one_run(tmp_path: Path) -> None:
    tiny = ["task=adding", *TINY, "tensorboard=false"]
    search = call(
        "run",
        "-m",
        "hydra/launcher=basic",
        "cell=gru",
        "search=chung2014",
        "search.candidates=2",
        "seed=0,1",
        *tiny,
        cwd=tmp_path,
    )
    assert search.returncode == 0, search.stderr
    assert search.stdout.count("best of 2 on validation") == 2
    first = compose_population("search=chung2014")[0].train.lr
    again = call("run", "cell=gru", f"train.lr={first}", *tiny, cwd=tmp_path)
    assert "finished before and not repeated" in again.stdout, again.stderr
    table = call("table", cwd=tmp_path)
    assert "(2)" in table.stdout, "seeds with rates of their own are pooled"


@pytest.mark.needs_torch
def test_failures_of_members_are_listed_and_the_others_run(tmp_path: Path) -> None:
    done = call("run", "-m", "cell=gru", "task=adding", *TINY, "seed=0,-1,2", "train.lr=-1,1e-3", cwd=tmp_path)
    assert done.returncode == 1
    assert "rnnbench: error: 4 of 6 runs failed:" in done.stderr
    assert "\n  seed=-1 train.lr=0.001\n" in done.stderr
    assert {Path(run).name.split("-")[0] for run in scores(tmp_path)} == {"s0", "s2"}


@pytest.mark.parametrize("args", [["seed=[0,-1]"], ["members=[['seed=-1']]"]])
def test_a_population_outside_of_a_sweep_fails_in_words(args: list[str], tmp_path: Path) -> None:
    done = call("run", *args, cwd=tmp_path)
    assert done.returncode == 1
    assert "-1" in done.stderr
    assert "Traceback" not in done.stderr
