"""What a command stands for: seeds, searches and lists of members, each an ordinary run."""

import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from rnnbench.commands.run import run_and_tell
from rnnbench.compose import Asked, compose_config, compose_population, hydra_run
from rnnbench.config import RunConfig, identity, run_key
from rnnbench.errors import UserError
from rnnbench.members import candidates
from rnnbench.outcome import Outcome, RunsFailedError
from rnnbench.record import Record
from rnnbench.summary import summarise, summarise_population
from tests.conftest import TINY

CHUNG = {"candidates": 10, "log_low": -12, "log_high": -6}


def keys(*overrides: str) -> list[str]:
    return [run_key(config) for config in compose_population(*overrides)]


def test_a_list_of_seeds_is_a_run_for_each() -> None:
    assert keys("seed=[2,0,1]") == [run_key(compose_config(f"seed={seed}")) for seed in (2, 0, 1)]
    assert [config.seed for config in compose_population("seed=[2,0,1]")] == [2, 0, 1]


def test_a_run_alone_is_a_population_of_one() -> None:
    assert compose_population("seed=3") == [compose_config("seed=3")]
    assert keys("seed=[3]") == keys("seed=3")
    with pytest.raises(UserError, match=r"seed=\[0,1\]: stands for 2 runs"):
        compose_config("seed=[0,1]")


def test_the_candidates_of_a_seed_do_not_change() -> None:
    """Pinned: a change here makes other runs of every search."""
    assert candidates(0, CHUNG) == PINNED_RATES
    assert keys("cell=lstm", "task=jsb_chorales", "train=chung2014", "search=chung2014")[:2] == PINNED_KEYS


PINNED_RATES = [
    0.00019758,
    1.52844e-05,
    0.00162003,
    8.62286e-06,
    2.94205e-05,
    0.00170728,
    0.000212206,
    4.25471e-05,
    0.00023467,
    0.000214127,
]
PINNED_KEYS = ["e137157992", "5c160963b7"]


def test_candidates_are_log_uniform_with_the_natural_exponent() -> None:
    rates = candidates(5, {**CHUNG, "candidates": 20_000})
    assert min(rates) >= math.exp(-12)
    assert max(rates) <= math.exp(-6)
    shares, _ = np.histogram(np.log(rates), bins=6, range=(-12, -6))
    assert np.all(np.abs(shares / len(rates) - 1 / 6) < 0.01)


def test_every_candidate_is_the_run_of_its_rate_given_by_hand() -> None:
    common = ("cell=tanh", "task=jsb_chorales", "train=chung2014")
    found = compose_population(*common, "search=chung2014", "seed=4")
    assert len({run_key(config) for config in found}) == 10
    for config in found:
        assert run_key(config) == run_key(compose_config(*common, "seed=4", f"train.lr={config.train.lr}"))
        assert run_key(config) == run_key(compose_config(*common, "seed=4", f"train.lr={config.train.lr:.6g}"))


def test_candidates_depend_on_the_seed_and_on_nothing_else() -> None:
    def rates(*overrides: str) -> list[float]:
        return [config.train.lr for config in compose_population("search=chung2014", *overrides)]

    first = rates()
    assert rates("cell=lstm", "task=nottingham", "train=chung2014", "train.weight_noise=0") == first
    assert not set(rates("seed=1")) & set(first)


def test_a_search_that_grows_keeps_its_first_candidates() -> None:
    assert candidates(0, {**CHUNG, "candidates": 25})[:10] == candidates(0, CHUNG)


def test_seeds_and_search_combine() -> None:
    found = compose_population("search=chung2014", "search.candidates=3", "seed=[0,1]")
    assert [(c.seed, c.train.lr) for c in found] == [
        (seed, lr) for seed in (0, 1) for lr in candidates(seed, {**CHUNG, "candidates": 3})
    ]
    assert [c.search and c.search["index"] for c in found] == [0, 1, 2, 0, 1, 2]


@pytest.mark.needs_torch
def test_a_candidate_knows_its_search_which_is_not_part_of_its_identity(tmp_path: Path) -> None:
    from rnnbench.assemble import prepare
    from rnnbench.run import run

    config = compose_population("search=chung2014", f"results_dir={tmp_path}", *TINY)[3]
    assert config.search == {"name": "chung2014", "index": 3, "candidates": 10, "log_low": -12, "log_high": -6}
    assert not [key for key in identity(config) if key.startswith("search")]
    result = run(config)
    assert result["search"] == config.search
    assert Record.of(config).config() == prepare(config).config
    by_hand = compose_config(f"train.lr={config.train.lr}", f"results_dir={tmp_path}", *TINY)
    assert by_hand.search is None
    assert run(by_hand)["trained_now"] is False


def test_a_record_older_than_searches_is_read(tmp_path: Path) -> None:
    config = compose_config(f"results_dir={tmp_path}")
    record = Record.of(config)
    record.open(config)
    stored = OmegaConf.to_container(OmegaConf.load(record.path / "config.yaml"))
    assert isinstance(stored, dict)
    del stored["search"]
    OmegaConf.save(OmegaConf.create(stored), record.path / "config.yaml")
    assert record.config() == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.lr=1e-3",), r"search=chung2014 and train\.lr=1e-3: both decide the learning rate"),
        (("search.candidates=0",), r"search\.candidates=0: must be a whole number of at least 1"),
        (("search.log_high=-12",), r"search\.log_high=-12: must be a finite number above -12"),
        (("search.log_low=x",), r"search\.log_low=x: must be a finite number"),
        (("search.key=train.lr_final",), r"search\.key=train\.lr_final: not known\. Allowed: train\.lr"),
        (("search.candidate=3",), r"search\.candidate: there is no such key.*Did you mean 'search\.candidates'"),
        (("+search.rates=3",), r"search=rates: not known\. Allowed: candidates, index, key"),
        (("seed=-1",), r"seed=-1: must be a whole number of at least 0"),
        (("search=chung",), r"search=chung: not known\. Allowed: chung2014\. Did you mean 'chung2014'"),
        (("members=[['train.lr=1']]",), r"search=chung2014 and train\.lr=1: both decide"),
    ],
)
def test_a_bad_search_is_told(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_population("search=chung2014", *overrides)


def test_members_are_the_runs_of_their_overrides() -> None:
    lists = [
        ["seed=0", "train.lr=1e-3"],
        ["seed=1", "train.clip_norm=null"],
        ["results_dir='my results'", "seed=2"],
        [],
    ]
    quoted = ",".join("[" + ",".join('"' + override + '"' for override in own) + "]" for own in lists)
    found = compose_population("cell=lstm", "train.weight_noise=0.1", f"members=[{quoted}]")
    assert found == [compose_config("cell=lstm", "train.weight_noise=0.1", *own) for own in lists]


def test_members_have_seeds_and_searches_of_their_own() -> None:
    found = compose_population("search=chung2014", "search.candidates=2", "members=[['seed=[0,1]'],['seed=5']]")
    assert [(c.seed, c.train.lr) for c in found] == [
        (seed, lr) for seed in (0, 1, 5) for lr in candidates(seed, {**CHUNG, "candidates": 2})
    ]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("3", r"members=3: must be a list of overrides for each run, as in members=\[\['seed=0'\],\['seed=1'\]\]"),
        ("[]", r"members=\[\]: must be a list"),
        ("['seed=0']", r"members=\['seed=0'\]: must be a list"),
        ("[[3]]", r"members=\[\[3\]\]: must be a list"),
        ("[['cell=lstm']]", r"members: cell=lstm: a member cannot choose from a group"),
        ("[['search=chung2014']]", r"members: search=chung2014: a member cannot choose from a group"),
        ("[['hydra/launcher=basic']]", r"a member cannot choose from a group"),
        ("[['seed=0,1']]", r"members: seed=0,1: must be key=value, with a key that is there and one value"),
        ("[['~seed']]", r"members: ~seed: must be key=value"),
        ("[['+frobnicate=1']]", r"members: \+frobnicate=1: must be key=value"),
        ("[['train.lrr=1']]", r"members: train\.lrr: there is no such key.*Did you mean 'train\.lr'"),
        ("[['sead=1']]", r"members: sead: there is no such key.*Did you mean 'seed'"),
        ("[['seed']]", r"members: .*'seed': cannot be read"),
        ("[['members=[]']]", r"members: members: there is no such key"),
        ("[['train.lr=-1']]", r"train\.lr=-1\.0: must be a finite number above 0"),
        ("[['match_params=20000','cell.hidden_size=3']]", r"both decide the hidden size"),
        ("[['seed=1'],['seed=0'],['seed=1']]", r"seed=1 and seed=1: are the same run \(.*Leave one of them out"),
        ("[['seed=[0,1]'],['seed=1']]", r"seed=1 and seed=1: are the same run"),
        ("[['train.lr=1e-3'],['train.lr=0.001']]", r"train\.lr=1e-3 and train\.lr=0\.001: are the same run"),
    ],
)
def test_a_bad_list_of_members_is_told(members: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_population(f"members={members}")


# ------------------------------------------------------------ what becomes of the members that fail


DONE = Outcome("", "done")


def asked_of(*args: str) -> Asked:
    """What `hydra_run` asks of its one job."""
    found: list[Asked] = []

    def job(asked: Asked) -> list[Outcome]:
        found.append(asked)
        return []

    hydra_run(job, args, [])
    (asked,) = found
    return asked


def test_a_job_knows_each_member_by_its_overrides() -> None:
    assert [member.name for member in asked_of("cell=lstm", "seed=[3,4]").members] == [
        "cell=lstm seed=3",
        "cell=lstm seed=4",
    ]
    (_, second) = asked_of("search=chung2014", "search.candidates=2").members
    assert second.name == f"search=chung2014 search.candidates=2 train.lr={candidates(0, CHUNG)[1]}"


def test_what_is_a_members_own_makes_it_again_alone() -> None:
    """Also of a search with seeds of its own: the sweeper leaves out what is done in this way."""
    together = asked_of("search=chung2014", "search.candidates=3", "members=[['seed=[0,1]'],['seed=5']]")
    assert len(together.members) == 9
    for member in together.members:
        own = ",".join(f"'{override}'" for override in member.own)
        (alone,) = asked_of("search=chung2014", "search.candidates=3", f"members=[[{own}]]").members
        assert alone.config == member.config


def test_a_member_that_does_not_compose_leaves_the_others_running() -> None:
    asked = asked_of("cell=lstm", "members=[['seed=0'],['seed=-1'],['train.lrr=1'],['seed=2']]")
    assert [member.config.seed for member in asked.members] == [0, 2]
    assert [name for name, _ in asked.failures] == ["cell=lstm seed=-1", "cell=lstm train.lrr=1"]


@pytest.mark.needs_torch
def test_an_error_before_the_members_train_is_a_failure_of_them_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(configs: object) -> None:
        raise OSError("the disk")

    monkeypatch.setattr("rnnbench.run.run_population", broken)
    outcomes = run_and_tell(asked_of("members=[['seed=0'],['seed=-1'],['seed=2']]"))
    assert [(o.name, o.status, o.error) for o in outcomes] == [
        ("seed=0", "error", "OSError: the disk"),
        ("seed=2", "error", "OSError: the disk"),
        ("seed=-1", "error", "seed=-1: must be a whole number of at least 0."),
    ]
    assert capsys.readouterr().err.count("Traceback") == 1, "a user's error needs none"


def test_an_interruption_ends_the_sweep_and_the_outcomes_are_known() -> None:
    outcomes = [Outcome("seed=0", "error", "x"), Outcome("seed=1", "interrupted")]
    ended: list[Outcome] = []
    with pytest.raises(KeyboardInterrupt):
        hydra_run(lambda asked: outcomes, ["seed=[0,1,2]"], ended)
    assert ended == outcomes


def test_in_a_process_of_a_launcher_failures_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    pids = iter(range(1, 100))
    monkeypatch.setattr(os, "getpid", lambda: next(pids))
    failed = [DONE, Outcome("seed=1", "error", "boom", "run.log"), Outcome("seed=2", "error", "no data")]
    failed.append(Outcome("seed=3", "error", "boom"))
    text = "3 of 4 runs failed:\n  seed=1\n    log: run.log\n  seed=3\n    boom\n  seed=2\n    no data"
    with pytest.raises(RunsFailedError, match=text) as caught:
        hydra_run(lambda asked: failed, ["seed=[0,1]"], [])
    back = pickle.loads(pickle.dumps(caught.value))
    assert back.outcomes == failed
    assert str(back) == text


@pytest.mark.needs_torch
def test_a_population_runs_to_its_end_whatever_a_member_meets(tmp_path: Path) -> None:
    from rnnbench.run import run_population

    overrides = (f"results_dir={tmp_path}", *TINY, "members=[['seed=0'],['cell.hidden_size=0'],['seed=1']]")
    first, failed, last = run_population(compose_population(*overrides))
    assert (first["status"], last["status"]) == ("done", "done")
    assert failed["status"] == "error"
    assert isinstance(failed["exception"], UserError)
    assert "cell.hidden_size=0" in failed["error"]


# ------------------------------------------------------------ what a person reads at the end


def result_of(config: RunConfig, valid: float, status: str = "done") -> dict[str, Any]:
    scores = {"mse": valid, "success": False}
    return {
        "status": status, "cell": "gru", "task": "adding", "seed": config.seed, "path": f"r/s{config.seed}-{valid}",
        "trained_now": True, "metric": "mse", "unit": "u", "train": scores, "valid": scores,
        "test": {"mse": valid + 10, "success": False}, "baselines": {"test": {"always 1": {"mse": 0.1}}},
        "best_epoch": 2, "epochs": 3, "best_valid": valid, "params_recurrent": 9, "seconds": 1.0,
        "updates": 15, "config": {"task": {"margin": 0.9}},
    }  # fmt: skip


def test_a_run_alone_is_summarised_as_ever() -> None:
    configs = compose_population()
    result = result_of(configs[0], 0.5)
    assert summarise_population(configs, [result]) == summarise(result)
    assert summarise_population(configs, [{"status": "error", "error": "x"}]) == ""


def test_members_get_a_line_each_that_tells_them_apart() -> None:
    configs = compose_population("members=[['seed=0'],['seed=1','train.lr=0.25'],['seed=2'],['seed=3']]")
    results = [
        result_of(configs[0], 0.5),
        result_of(configs[1], 0.25, "diverged"),
        {"status": "error", "error": "x"},
        result_of(configs[3], 1.0, "interrupted"),
    ]
    head, *lines, files = summarise_population(configs, results).splitlines()
    assert head == "gru on adding: 4 runs, 1 failed"
    assert [line.split()[:2] for line in lines] == [
        ["seed=0", "train.lr=0.005"],
        ["seed=1", "train.lr=0.25"],
        ["seed=3", "train.lr=0.005"],
    ]
    assert "validation mse 0.500, test 10.500 at epoch 2 of 3  s0-0.5" in lines[0]
    assert "DIVERGED; validation" in lines[1]
    assert "interrupted at epoch 3; the same command goes on" in lines[2]
    assert files == "  files     r"


def test_of_each_search_the_best_on_validation_that_is_done_is_shown_in_full() -> None:
    configs = compose_population("search=chung2014", "search.candidates=3", "seed=[0,1]")
    valid = [0.5, 0.25, 0.125, 0.5, 0.75, 0.875]
    results = [result_of(c, v, "diverged" if v == 0.125 else "done") for c, v in zip(configs, valid, strict=True)]
    text = summarise_population(configs, results)
    chosen = [line for line in text.splitlines() if line.startswith("search")]
    assert chosen == [
        f"search chung2014, seed 0: best of the 2 good ones of 3 on validation, seed=0 train.lr={configs[1].train.lr}",
        f"search chung2014, seed 1: best of 3 on validation, seed=1 train.lr={configs[3].train.lr}",
    ]
    assert summarise(results[1]) in text
    assert summarise(results[3]) in text
    assert text.count(" test ") == 2, "of the other candidates no test score is shown"
    none = summarise_population(configs, [{**r, "status": "diverged"} for r in results])
    assert "search chung2014, seed 0: no candidate is finished and good" in none
