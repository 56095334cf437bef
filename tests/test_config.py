"""Types, identity and errors of configs; every shipped one composes, and every experiment takes two steps."""

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import rnnbench.config as module
from rnnbench.compose import compose_config, compose_population, config_dir, describe, known_keys, options_of
from rnnbench.config import from_dict, identity, run_key
from rnnbench.errors import UserError
from rnnbench.record import Record
from tests.conftest import TINY

if TYPE_CHECKING:
    from rnnbench.assemble import Prepared

CELLS, TASKS, PROTOCOLS = (list(options_of(group)) for group in ("cell", "task", "train"))
EXPERIMENTS = list(options_of("experiment"))


def prepared(*overrides: str) -> "Prepared":
    config = compose_config(*overrides)
    from rnnbench.assemble import prepare

    return prepare(config)


@pytest.mark.needs_torch
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cell_and_protocol_compose_and_prepare(cell: str, protocol: str) -> None:
    for task in TASKS:
        config = prepared(f"cell={cell}", f"task={task}", f"train={protocol}").config
        assert (config.cell["name"], config.task["name"]) == (cell, task)


@pytest.mark.parametrize("group", ["cell", "task", "train", "search"])
def test_every_config_says_what_it_is_and_explains_its_keys(group: str) -> None:
    for name, path in options_of(group).items():
        assert len(describe(path)) > 20, name
        for line in path.read_text().splitlines()[1:]:
            obvious = line.startswith(
                ("_target_:", "data:", "optimizer:", "defaults:", "  - ", "valid_size:", "test_size:", "log_high:")
            )
            assert "#" in line or obvious or name in ("librnn", "modern", "smoke"), f"{name}: {line}"


def sweep(experiment: str) -> list[tuple[str, ...]]:
    """The overrides of each run of an experiment, of one seed."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("config", overrides=[f"experiment={experiment}"], return_hydra_config=True)
    params = cfg.hydra.sweeper.params or {}
    axes = [[f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()]
    axes = [axis[:1] if axis[0].startswith("seed=") else axis for axis in axes]  # a seed composes as another does
    return list(itertools.product(*axes))


@pytest.mark.needs_torch
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_takes_two_steps(experiment: str, data_dir: Path, tmp_path: Path) -> None:
    from rnnbench.assemble import prepare
    from rnnbench.run import run

    runs = sweep(experiment)
    tasks = {}
    for overrides in runs:
        config = compose_population(f"experiment={experiment}", *overrides)[0]
        prepare(config)
        tasks[config.task["name"]] = overrides
    for task, overrides in tasks.items():
        short = ["train.max_epochs=1", "train.batch_size=256", f"results_dir={tmp_path}", f"data_dir={data_dir}"]
        small = ["task.valid_size=20", "task.test_size=20", "task.updates_per_epoch=2", "task.length=10"]
        if task in ("musedata", "nottingham", "piano_midi"):
            continue  # the same code as for jsb_chorales, and long sequences
        extra = small if task in ("adding", "copy_memory") else []
        first, *_ = compose_population(f"experiment={experiment}", *overrides, *short, *extra, "progress=false")
        result = run(first)
        assert result["status"] == "done"


def test_the_identity_is_what_decides_the_result_and_nothing_else() -> None:
    base = run_key(compose_config())
    same = [
        "device=mps",
        "threads=2",
        "data_dir=/x",
        "results_dir=/y",
        "force=true",
        "progress=true",
        "tensorboard=false",
    ]
    for override in [*same, "checkpoint_every_s=3", "match_count=all"]:
        assert run_key(compose_config(override)) == base, override
    other = [
        "seed=1",
        "train.lr=0.1",
        "task.length=100",
        "cell.hidden_size=45",
        "cell=gru_cudnn",
        "train.dtype=float64",
    ]
    keys = {run_key(compose_config(override)) for override in other}
    assert len(keys | {base}) == len(other) + 1


def test_one_and_one_point_zero_are_one_value() -> None:
    assert run_key(compose_config("cell=lstm", "cell.forget_bias=1")) == run_key(
        compose_config("cell=lstm", "cell.forget_bias=1.0")
    )


def test_a_key_added_later_is_left_out_at_its_neutral_value(monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_key(compose_config("cell=lstm"))
    config = compose_config("cell=lstm")
    config.cell["layers"] = 1
    assert run_key(config) != before
    monkeypatch.setitem(module.NEUTRAL, "cell.layers", 1)
    assert run_key(config) == before
    config.cell["layers"] = 2
    assert run_key(config) != before


def test_the_keys_of_recorded_runs_do_not_change() -> None:
    """Pinned: a change here moves every run to another directory. See `NEUTRAL` before changing these."""
    found = {
        name: run_key(compose_config(*overrides))
        for name, overrides in {
            "gru adding": (),
            "lstm jsb chung2014": ("cell=lstm", "task=jsb_chorales", "train=chung2014", "seed=3"),
        }.items()
    }
    assert found == PINNED


PINNED = {"gru adding": "7dbe0dcda9", "lstm jsb chung2014": "d9f2a1a9d0"}


@pytest.mark.needs_torch
def test_the_hidden_size_is_solved_for_and_enters_the_identity() -> None:
    config = prepared("cell=lstm", "task=jsb_chorales", "match_params=18108").config
    assert config.cell["hidden_size"] == 36
    assert run_key(config) == run_key(compose_config("cell=lstm", "task=jsb_chorales"))
    everything = prepared("cell=lstm", "task=jsb_chorales", "match_params=21364", "match_count=all").config
    assert everything.cell["hidden_size"] == 36


def test_match_params_and_hidden_size_together_are_an_error() -> None:
    with pytest.raises(UserError, match=r"match_params=20000 and cell\.hidden_size=10: both decide"):
        compose_config("match_params=20000", "cell.hidden_size=10")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=-1", r"train\.lr=-1\.0: must be a finite number above 0"),
        ("train.lr=nan", r"train\.lr=nan: must be a finite number above 0"),
        ("train.lr=abc", r"train\.lr: Value 'abc'.*could not be converted to Float"),
        ("train.batch_size=0", r"train\.batch_size=0: must be a whole number of at least 1"),
        ("train.patience=0", r"train\.patience=0"),
        ("train.weight_noise=-0.1", r"train\.weight_noise=-0\.1"),
        ("train.clip_norm=0", r"train\.clip_norm=0\.0"),
        ("train.reduction=average", r"train\.reduction=average: not known\. Allowed: mean, sum"),
        ("train.dtype=float16", r"train\.dtype=float16.*Did you mean 'float64'"),
        ("seed=-1", "seed=-1: must be a whole number of at least 0"),
        ("seed=1.5", "seed: Value '1.5'"),
        ("seed=[]", r"seed=\[\]: must be one or more whole numbers"),
        ("seed=[0,1.5]", r"seed=\[0,1\.5\]: must be one or more whole numbers of at least 0, as in seed=\[0,1,2\]"),
        ("seed=[0,-1]", r"seed=\[0,-1\]: must be"),
        ("seed=[true]", r"seed=\[True\]: must be"),
        ("seed=[3,4,3]", r"seed=3 and seed=3: are the same run \(\w+\) in one population"),
        ("threads=0", "threads=0"),
        ("+frobnicate=1", "frobnicate: there is no such key"),
        ("+train.learning_rate=1", r"train\.learning_rate: there is no such key"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_config(override)


@pytest.mark.needs_torch
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cell.hidden_size=0", r"cell\.hidden_size=0: must be a whole number of at least 1"),
        ("+cell.peephole=true", r"cell\.peephole: GRUCell has no such option"),
        ("+task.lengths=3", r"task\.lengths: Adding has no such option.*Did you mean 'length'"),
        ("device=gpu", "device=gpu: not known. Allowed: cpu, cuda"),
        ("cell._target_=rnnbench.cells.GRU", r"'GRU' is not a torch.*There: .*GRUCell.*Did you mean 'GRUCell'"),
        ("cell._target_=os.system", r"'system' is not a torch"),
        ("cell._target_=no_such_module.Cell", "cannot import 'no_such_module'"),
        ("cell.hidden_size=null", r"cell\.hidden_size: not set"),
    ],
)
def test_what_cannot_be_prepared_is_told(override: str, message: str, tmp_path: Path) -> None:
    from rnnbench.run import run

    with pytest.raises(UserError, match=message):
        run(compose_config(override, f"results_dir={tmp_path}", *TINY[:4]))
    assert not list(tmp_path.iterdir()), "nothing is written for a run that cannot begin"


@pytest.mark.needs_torch
def test_a_device_that_is_not_there_is_told() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(UserError, match=r"device=cuda: is not to be had here .* Use device=cpu"):
        prepared("device=cuda")


def test_the_resolved_config_of_a_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    config = compose_config("cell=lstm", "train=librnn", f"results_dir={tmp_path}")
    record = Record.of(config)
    record.open(config)
    assert record.config() == config
    assert from_dict(config.as_dict()) == config
    assert identity(record.config()) == identity(config)


@pytest.mark.parametrize("variable", ["SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"])
def test_the_cores_are_those_of_this_process_and_no_more_than_it_was_given(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert compose_config().cores() == 4
    for given, cores in (("2", 2), ("64", 4), ("", 4)):
        monkeypatch.setenv(variable, given)
        assert compose_config().cores() == cores
        assert compose_config("threads=3").cores() == 3


def test_a_directory_of_another_config_is_refused(tmp_path: Path) -> None:
    config = compose_config(f"results_dir={tmp_path}")
    record = Record.of(config)
    record.open(config)
    stored = OmegaConf.load(record.path / "config.yaml")
    stored.train.lr = 0.125
    OmegaConf.save(stored, record.path / "config.yaml")
    with pytest.raises(UserError, match=r"holds a run of another config \(train\.lr=0\.125 instead of"):
        record.open(config)


def test_the_known_keys_are_those_one_can_override() -> None:
    keys = known_keys()
    for name in ("seed", "cell.hidden_size", "train.lr", "train.batch_size", "train.max_epochs", "train.patience",
                 "task.length", "device", "data_dir"):  # fmt: skip
        assert name in keys


def test_a_record_older_than_a_key_is_read_with_its_neutral_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dtype and tensorboard stand for keys of a protocol and of the surroundings that were added later."""
    monkeypatch.setitem(module.NEUTRAL, "train.dtype", "float32")
    config = compose_config("cell=lstm", f"results_dir={tmp_path}")
    record = Record.of(config)
    record.open(config)
    stored = OmegaConf.to_container(OmegaConf.load(record.path / "config.yaml"))
    assert isinstance(stored, dict)
    del stored["train"]["dtype"], stored["tensorboard"]
    OmegaConf.save(OmegaConf.create(stored), record.path / "config.yaml")
    assert record.config() == config
    record.open(config)


def by_its_class(*case: object) -> Any:
    """A case in which the class of the cell or task refuses the value, and not the config."""
    return pytest.param(*case, marks=pytest.mark.needs_torch)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        by_its_class(("cell=lstm", "cell.peepholes=no"), r"cell\.peepholes=no: must be true or false"),
        by_its_class(("cell=lstm", "cell.forget_bias=abc"), r"cell\.forget_bias=abc: must be a finite number"),
        by_its_class(("cell.update_bias=null",), r"cell\.update_bias=None: must be a finite number"),
        by_its_class(("task.margin=abc",), r"task\.margin=abc: must be a finite number"),
        (("train.lr=inf",), r"train\.lr=inf: must be a finite number above 0"),
        (("cell=null",), r"cell=null: a group \(cell, .*takes the name of one"),
        (("+cell.name=x",), r"cell\.name: is a name that rnnbench uses itself"),
        (("hydra/launcher=foo",), r"hydra/launcher"),
        (("cell=gru", "cell.forget_bias=1"), r"cell\.forget_bias: there is no such key\. Known: cell\.chrono, [^.]*"),
        (("results_dir=/tmp/é~",), r"/tmp/é~: cannot be read. Quote blanks"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_in_words(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepared(*overrides)


def test_hints_know_the_users_own_configs(tmp_path: Path) -> None:
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "leaky.yaml").write_text("_target_: torch.nn.GRUCell\nhidden_size: 4\nleak: 0.5\n")
    with pytest.raises(UserError, match=r"cell=leeky: not known.*Did you mean 'leaky'"):
        compose_config("cell=leeky", extra=tmp_path)
    with pytest.raises(UserError, match=r"cell\.leek: there is no such key.*Did you mean 'cell\.leak'"):
        compose_config("cell=leaky", "cell.leek=1", extra=tmp_path)
