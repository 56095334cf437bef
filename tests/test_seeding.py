"""The random streams: reproducible, separate, and the same in every release."""

import itertools

import numpy as np
import pytest

from rnnbench.seeding import stream, torch_seed

NAMES = ("init", "readout", "order", "task", "noise", "data", "search")


def draws(seed: int, name: str, index: int) -> bytes:
    """The first draws of a stream."""
    return stream(seed, name, index).random(8).tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_name_and_index_give_the_same_numbers(name: str) -> None:
    assert draws(3, name, 7) == draws(3, name, 7)
    assert draws(3, name, 0) == stream(3, name).random(8).tobytes()


def test_another_seed_name_or_index_gives_other_numbers() -> None:
    keys = list(itertools.product((0, 1, 11, 2**40), (*NAMES, "1init"), (0, 1, 2, 500, 2**63)))
    assert len({draws(*key) for key in keys}) == len(keys)


def test_neighbouring_indices_share_no_number() -> None:
    raw = [stream(0, "noise", index).bit_generator.random_raw(1000) for index in range(5)]
    assert len(np.unique(raw)) == 5 * 1000


def test_a_stream_does_not_depend_on_what_was_drawn_before() -> None:
    keys = list(itertools.product((0, 1), NAMES, (0, 5)))
    forwards = {key: draws(*key) for key in keys}
    order, noise = stream(0, "order"), stream(0, "noise")
    together = [(order.random(), noise.random()) for _ in range(4)]
    assert {key: draws(*key) for key in reversed(keys)} == forwards
    alone = zip(stream(0, "order").random(4), stream(0, "noise").random(4), strict=True)
    assert together == list(alone)


def test_no_release_changes_the_numbers() -> None:
    raw = [7503197905543814370, 14588683354801317831, 8456538624547550445]
    assert stream(0, "init").bit_generator.random_raw(3).tolist() == raw
    assert stream(17, "order", 3).permutation(8).tolist() == [6, 4, 7, 0, 5, 1, 3, 2]
    assert stream(17, "noise", 3).standard_normal(2) == pytest.approx([0.23405197572224376, -0.6750196043055507])
    assert [torch_seed(0, "init"), torch_seed(17, "readout")] == [596963701, 1100503048]


def test_torch_seeds_are_distinct_and_fit_in_31_bits() -> None:
    seeds = {torch_seed(seed, name) for seed in range(200) for name in NAMES}
    assert len(seeds) == 200 * len(NAMES)
    assert min(seeds) >= 0
    assert 2**30 < max(seeds) < 2**31
