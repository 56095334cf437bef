"""Searches with Optuna: what is searched, what a killed one goes on with, and whom it gives up."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra_plugins.rnnbench_optuna import sweeper as plugin

from rnnbench.analysis.collect import collect
from rnnbench.analysis.tables import tabulate
from rnnbench.compose import compose_config
from rnnbench.config import RunConfig
from rnnbench.errors import UserError
from rnnbench.lock import locked
from rnnbench.record import Record
from rnnbench.run import run_population
from rnnbench.state import state_of
from rnnbench.summary import summarise_population
from rnnbench.trial import LOOK_EVERY, PRUNER, journal, looks, storage_of
from tests.conftest import TINY
from tests.fake_runs import write_run
from tests.test_cli import call
from tests.test_launcher import CELL, OPTIONS, begun, until
from tests.test_population import remains

optuna = pytest.importorskip("optuna", reason="needs Optuna (pip install 'rnnbench[optuna]')")
from hydra_plugins.rnnbench_optuna._core import _mend  # noqa: E402 - after Optuna is known to be there
from hydra_plugins.rnnbench_optuna._space import sampler_of, space_of  # noqa: E402
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

SEARCHER = ["hydra/sweeper=rnnbench_optuna", "hydra/launcher=basic"]
SEARCH = ["run", "-m", *SEARCHER, "task=adding", *TINY, "tensorboard=false"]
SPACE = ["train.lr=tag(log,interval(1e-4,1e-1))", "train.weight_noise=choice(0,0.05)"]


def sizes(trials: int, batch: int, name: str = "it") -> list[str]:
    return [f"hydra.sweeper.trials={trials}", f"hydra.sweeper.batch={batch}", f"hydra.sweeper.name={name}"]


def trials_of(here: Path, name: str = "it") -> list[Any]:
    """The trials of a search, as another process sees them now."""
    storage_of.cache_clear()
    study = optuna.load_study(study_name=name, storage=storage_of(journal(str(here / "results"), name)))
    return list(study.get_trials())


def told(here: Path) -> list[tuple[str, dict[str, Any], float | None]]:
    """State, parameters and value of each trial."""
    return [(trial.state.name, trial.params, trial.value) for trial in trials_of(here)]


def starts(here: Path) -> list[int]:
    """How often each run began anew."""
    return [path.read_text().count(" start: ") for path in here.glob("results/runs/*/*/*/run.log")]


# ---------------------------------------------------------------- the space


def parsed(*overrides: str) -> Any:
    return space_of(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lr=1e-3,null,'a b'", CategoricalDistribution(["0.001", "null", "'a b'"])),
        ("cell=choice(gru,lstm)", CategoricalDistribution(["gru", "lstm"])),
        ("train.lr=interval(0,1)", FloatDistribution(0.0, 1.0)),
        ("train.lr=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("cell.hidden_size=int(interval(3,9))", IntDistribution(3, 9)),
        ("cell.hidden_size=tag(log,int,interval(3,9))", IntDistribution(3, 9, log=True)),
        ("cell.hidden_size=range(2,10,3)", IntDistribution(2, 8, step=3)),
        ("train.lr=range(0.5,2,0.5)", FloatDistribution(0.5, 1.5, step=0.5)),
    ],
)
def test_a_sweep_of_hydra_is_a_distribution(override: str, expected: Any) -> None:
    space = parsed("task=adding", override)
    assert space.fixed == ["task=adding"]
    assert list(space.searched.values()) == [expected]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=0,1"], "gives each trial three runs"),
        (["task=adding,copy_memory"], "cannot be searched"),
        (["kernel=auto,reference"], "cannot be searched"),
        (["train.lr=1,2", "members=[['seed=0']]"], "a search makes them itself"),
        (["train.lr=shuffle(1,2)"], "without being told to shuffle"),
        (["train.lr=tag(log,interval(0,1))"], "above 0 with log"),
        (["train.lr=tag(ln,interval(1,2))"], "tag ln: not known"),
        (["train.lr=1"], "nothing to search"),
    ],
)
def test_what_cannot_be_searched_is_told(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parsed(*overrides)


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_what_is_drawn_can_be_typed_is_what_optuna_knows_and_comes_again(kind: str) -> None:
    space = {"a": FloatDistribution(1e-4, 0.12345678, log=True), "b": FloatDistribution(0.0, 1.0)}

    def drawn() -> list[dict[str, Any]]:
        study = optuna.create_study()
        for index in range(25):
            study.sampler = sampler_of(kind, index)
            trial = study.ask(space)
            if index % 5:  # some are under way
                study.tell(trial, trial.params["a"])
        return [trial.params for trial in study.trials]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = drawn()
    assert all(value == float(f"{value:.6g}") or value == 0.12345678 for params in found for value in params.values())
    assert len({params["a"] for params in found}) == 25, "they differ"
    assert found == drawn()


def test_runs_are_compared_by_their_best_at_multiples_of_some_epochs() -> None:
    evaluations = [(0, 1.0), (3, 5.0), (6, 0.5), (9, 2.0), (20, 0.4), (21, 0.1)]
    assert list(looks(evaluations, 5)) == [(5, 0.5), (20, 0.4)]


# ---------------------------------------------------------------- a search, in real processes


def test_a_search_is_done_once_grows_and_ends_with_a_command_for_its_best_trial(tmp_path: Path) -> None:
    done = call(*SEARCH, *SPACE, *sizes(4, 2), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = re.findall(r"search it: (\d) of 4 trials done", done.stdout)
    assert said == ["0", "2", "4"]
    first = told(tmp_path)
    assert [state for state, _, _ in first] == ["COMPLETE"] * 4
    results = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/*/*/result.json")]
    by_lr = {result["config"]["train"]["lr"]: result for result in results}
    for _, params, value in first:
        assert value == by_lr[params["train.lr"]]["best_valid"]
        assert value != by_lr[params["train.lr"]]["test"]["mse"]
        assert by_lr[params["train.lr"]]["config"]["train"]["weight_noise"] == float(params["train.weight_noise"])
        assert by_lr[params["train.lr"]]["population"]["size"] == 2, "a batch is one population"
    (command,) = [line for line in done.stdout.splitlines() if line.startswith("  rnnbench run ")]
    again = call(*shlex.split(command)[1:], cwd=tmp_path)
    assert "finished before and not repeated" in again.stdout, again.stderr
    best = min(value for _, _, value in first if value is not None)
    assert json.loads((Path(tmp_path, files(done.stdout)) / "result.json").read_text())["best_valid"] == best
    grown = call(*SEARCH, *SPACE, *sizes(5, 2), cwd=tmp_path)
    assert re.findall(r"search it: (\d) of 5 trials done", grown.stdout) == ["4", "5"]
    assert told(tmp_path)[:4] == first
    assert starts(tmp_path) == [1] * 5
    other = call(*SEARCH, SPACE[0], "train.weight_noise=0.05", *sizes(5, 2), cwd=tmp_path)
    assert other.returncode == 1
    assert "has begun as another one: another space of train.weight_noise, train.weight_noise=0.05 only now" in (
        other.stderr
    )


def files(text: str) -> str:
    """The directory that is named last."""
    return str(re.findall(r"^  files     (.*)$", text, re.M)[-1])


def test_a_dry_run_tells_the_space_and_leaves_nothing(tmp_path: Path) -> None:
    done = call(*SEARCH, *SPACE, "hydra.sweeper.pruner=none", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train.lr            0.0001 to 0.1, log" in done.stdout
    assert "train.weight_noise  one of 0, 0.05" in done.stdout
    assert re.search(r"search gru-adding-[0-9a-f]{8}: 0 of 40 trials done", done.stdout)
    assert not (tmp_path / "results" / "searches").exists()
    wrong = call(*SEARCH, *SPACE, "trian.lr=3", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "trian.lr: there is no such key" in wrong.stderr
    assert not (tmp_path / "results" / "searches").exists()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with a cell whose updates take some time."""
    for name in ("killed", "undisturbed"):
        (tmp_path / name / "conf" / "cell").mkdir(parents=True)
        (tmp_path / name / "own.py").write_text(CELL)
        (tmp_path / name / "conf" / "cell" / "own.yaml").write_text("# Own.\n_target_: own.Cell\nhidden_size: 5\n")
    return tmp_path


def test_a_search_that_is_killed_goes_on_to_the_trials_of_an_undisturbed_one(here: Path) -> None:
    search = [*SEARCHER, *SPACE, *sizes(4, 2)]
    process = begun(here / "killed", *search, SLOW="0.1")
    until(lambda: len(list((here / "killed").glob("results/runs/*/*/*/last.pt"))) > 3)
    process.kill()
    process.communicate()
    before = told(here / "killed")
    assert [state for state, _, _ in before] == ["COMPLETE"] * 2 + ["RUNNING"] * 2
    command = ["run", "-m", "--config-dir", "conf", "cell=own", "task=adding", *TINY, *OPTIONS, *search]
    finished = call(*command, cwd=here / "killed")
    assert finished.returncode == 0, finished.stderr
    assert "2 of 4 trials done, 2 to be taken up again" in finished.stdout
    assert call(*command, cwd=here / "undisturbed").returncode == 0
    assert told(here / "killed") == told(here / "undisturbed")
    assert told(here / "killed")[:2] == before[:2]
    assert starts(here / "killed") == [1] * 4, "none began anew"


def test_what_fails_is_listed_and_tried_again_and_what_diverges_is_never_best(tmp_path: Path) -> None:
    space = ["cell.hidden_size=0,4", "train.lr=1e-3,1e38", "train.weight_noise=interval(0,0.1)"]
    done = call(*SEARCH, *space, *sizes(10, 10), cwd=tmp_path)
    assert done.returncode == 1
    assert "runs failed:" in done.stderr
    assert "cell.hidden_size=0: must be a" in done.stderr
    trials = trials_of(tmp_path)
    for trial in trials:
        size, lr = trial.params["cell.hidden_size"], trial.params["train.lr"]
        expected = "FAIL" if size == "0" else "COMPLETE"
        assert trial.state.name == expected
        assert (trial.value == float("inf")) == ((size, lr) == ("4", "1e+38")), "a diverged run is the worst of all"
    (command,) = [line for line in done.stdout.splitlines() if line.startswith("  rnnbench run ")]
    assert "cell.hidden_size=4 train.lr=0.001 " in command
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    assert failed
    again = call(*SEARCH, *space, *sizes(11 - len(failed), 1), cwd=tmp_path)
    assert trials_of(tmp_path)[10].params == failed[0].params, "what failed comes first"
    assert again.returncode == 1


def test_a_trial_of_several_seeds_is_worth_their_mean_and_is_not_given_up(tmp_path: Path) -> None:
    done = call(*SEARCH, SPACE[0], "seed=[0,1]", *sizes(2, 2), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "none is given up early" in done.stdout
    results = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/*/*/result.json")]
    assert len(results) == 4
    for _, params, value in told(tmp_path):
        own = [r["best_valid"] for r in results if r["config"]["train"]["lr"] == params["train.lr"]]
        assert value == pytest.approx(sum(own) / 2, abs=0)


def test_two_processes_do_not_conduct_one_search(tmp_path: Path) -> None:
    with locked(tmp_path / "results" / "searches" / ".it.lock", "it"):
        done = call(*SEARCH, *SPACE, *sizes(1, 1), cwd=tmp_path)
    assert done.returncode == 1
    assert f"another process conducts it at the moment (pid {os.getpid()} on " in done.stderr


def test_a_journal_that_was_cut_short_is_mended(tmp_path: Path) -> None:
    assert call(*SEARCH, *SPACE, *sizes(1, 1), cwd=tmp_path).returncode == 0
    path = journal(str(tmp_path / "results"), "it")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":8,"tri')
    done = call(*SEARCH, *SPACE, *sizes(2, 1), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(told(tmp_path)) == 2
    _mend(path)
    assert path.read_bytes().startswith(whole)


def test_without_optuna_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    sweeper = object.__new__(plugin.SearchSweeper)
    with pytest.raises(UserError, match=re.escape("pip install 'rnnbench[optuna]'")):
        sweeper.sweep([])


# ---------------------------------------------------------------- giving up


def member(results: Path, lr: float, trial: int | None = None) -> RunConfig:
    of = [] if trial is None else [f"trial=it/{trial}"]
    return compose_config(
        "task=adding", *TINY, "tensorboard=false", f"results_dir={results}", f"train.lr={lr}", "train.max_epochs=5", *of
    )


def study_at(results: Path, pruner: str, seen: float = 0.1) -> Any:
    """A search with six trials that were as good as ``seen`` at each look, and two under way: 6 and 7."""
    path = journal(str(results), "it")
    path.parent.mkdir(parents=True)
    study = optuna.create_study(study_name="it", storage=storage_of(path))
    study.set_user_attr(PRUNER, pruner)
    study.set_user_attr(LOOK_EVERY, 2)
    for number in range(8):
        trial = study.ask()
        if number < 6:
            trial.report(seen, 2)
            trial.report(seen, 4)
            study.tell(trial, 0.1)
    return study


@pytest.mark.parametrize("pruner", ["median", "none"])
def test_a_hopeless_member_is_given_up_and_its_neighbour_has_the_bits_that_it_has_alone(
    pruner: str, tmp_path: Path
) -> None:
    study_at(tmp_path / "search", pruner)
    hopeless, neighbour = member(tmp_path / "search", 1e-9, trial=6), member(tmp_path / "search", 2e-3)
    ends = run_population([hopeless, neighbour])
    expected = "pruned" if pruner == "median" else "done"
    assert [end["status"] for end in ends] == [expected, "done"]
    run_population([member(tmp_path / "alone", 2e-3)])
    assert remains(Record.of(neighbour).path) == remains(Record.of(member(tmp_path / "alone", 2e-3)).path)
    if pruner == "none":
        return
    assert ends[0]["epochs"] == 2, "at the first look"
    assert "test" not in ends[0]
    assert state_of(Record.of(hopeless)).status == "pruned"
    assert "given up at epoch 2" in summarise_population([hopeless, neighbour], ends)
    (again,) = run_population([hopeless])
    assert (again["status"], again["trained_now"]) == ("pruned", False), "not by the same search"
    (plain,) = run_population([member(tmp_path / "search", 1e-9)])
    assert (plain["status"], plain["epochs"], plain["trained_now"]) == ("done", 5, True)
    run_population([member(tmp_path / "alone", 1e-9)])
    found, undisturbed = (remains(Record.of(member(tmp_path / d, 1e-9)).path) for d in ("search", "alone"))
    assert found == undisturbed


def test_a_member_that_is_not_hopeless_has_the_bits_that_it_has_alone(tmp_path: Path) -> None:
    study = study_at(tmp_path / "search", "median", 9.0)
    (end,) = run_population([member(tmp_path / "search", 2e-3, trial=7)])
    run_population([member(tmp_path / "alone", 2e-3)])
    assert end["status"] == "done"
    found, alone = (remains(Record.of(member(tmp_path / d, 2e-3)).path) for d in ("search", "alone"))
    found["result"].pop("trial")
    alone["result"].pop("trial")
    assert found == alone
    assert sorted(study.get_trials()[7].intermediate_values) == [2, 4]


def test_halving_gives_up_what_is_not_among_the_best_of_its_rung(tmp_path: Path) -> None:
    study = study_at(tmp_path, "halving", 9.0)
    study._storage.set_trial_system_attr(study.get_trials()[7]._trial_id, "completed_rung_0", 0.01)
    (end,) = run_population([member(tmp_path, 1e-9, trial=6)])
    assert (end["status"], end["epochs"]) == ("pruned", 2)


def test_without_the_search_a_trial_trains_to_its_end_and_says_why(tmp_path: Path) -> None:
    config = member(tmp_path, 1e-9, trial=6)
    (end,) = run_population([config])
    assert end["status"] == "done"
    assert "there is no such search" in Record.of(config).log.read_text()


def test_what_was_given_up_is_named_under_the_table_counts_as_tried_and_is_in_no_mean(tmp_path: Path) -> None:
    write_run(tmp_path, 9.0, 8.0, "task=jsb_chorales", "train.lr=1e-2")
    write_run(tmp_path, 1.0, 1.0, "task=jsb_chorales", "train.lr=1e-1", status="pruned")
    comparison = tabulate(collect(tmp_path), splits=["test"])
    ((mean, n, candidates),) = comparison.cells[["mean", "n", "candidates"]].to_numpy().tolist()
    assert (mean, n, candidates) == (8.0, 1, 2)
    assert comparison.notes == [
        "Given up by a search (pruned), and in no mean: gru on jsb_chorales, seed 0 (train.lr=0.1)."
    ]


def test_a_search_gives_up_what_is_hopeless_and_goes_on_and_status_says_so(tmp_path: Path) -> None:
    """The journal is changed to say that the first six were good: then all that follow are hopeless."""
    search = [*SEARCH, SPACE[0], "hydra.sweeper.look_every=1"]
    first = call(*search, *sizes(6, 6), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert {state for state, _, _ in told(tmp_path)} == {"COMPLETE"}
    path = journal(str(tmp_path / "results"), "it")
    path.write_text(re.sub(r'"intermediate_value":[\d.]+', '"intermediate_value":0.001', path.read_text()))
    done = call(*search, *sizes(8, 2), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [state for state, _, _ in told(tmp_path)] == ["COMPLETE"] * 6 + ["PRUNED"] * 2
    assert "8 of 8 trials done, 2 of them given up early" in done.stdout
    assert "2 pruned" in call("status", cwd=tmp_path).stdout
    again = call(*search, *sizes(8, 2), cwd=tmp_path)
    assert again.returncode == 0
    assert starts(tmp_path) == [1] * 8
