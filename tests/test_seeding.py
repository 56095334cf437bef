"""The random streams: reproducible, separate, and the same in every release."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import kstest

from rnnbench.seeding import noise_key, normals, stream, torch_seed

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


def philox4x32(counter: list[int], key: list[int]) -> list[int]:
    """One counter of Philox4x32-10 as its paper has it (Salmon et al. 2011, 3.3), a word at a time."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [b >> 32 ^ c[1] ^ k[0], b % 2**32, a >> 32 ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


KNOWN = [  # Random123's kat_vectors
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_witness_of_philox_gives_the_published_words(counter: list[int], key: list[int], words: list[int]) -> None:
    assert philox4x32(counter, key) == words


@pytest.mark.parametrize("index", [0, 3, 5 * 2**32 + 1])
def test_normals_are_box_muller_of_philox_in_the_stated_order(index: int) -> None:
    key = noise_key(8, "noise")
    found = normals(8, "noise", index, 300)
    for number in [0, 1, 15, 16, 63, 64, 127, 128, 129, 200, 299]:
        block, within = divmod(number, 128)
        s, (q, j) = within // 64, divmod(within % 64, 16)
        counter = 32 * block + 16 * s + 8 * (j % 2) + j // 2
        words = philox4x32([counter, index % 2**32, index >> 32, 0], [key % 2**32, key >> 32])
        w0, w1 = words[q // 2 * 2 : q // 2 * 2 + 2]
        u, t = 1 - (w0 >> 9) / 2**23, (w1 >> 9) / 2**23 - 0.5
        turn = math.sin if q % 2 else math.cos
        assert found[number] == pytest.approx(math.sqrt(-2 * math.log(u)) * turn(2 * math.pi * t), abs=1e-12), number


def test_normals_are_normal_and_independent() -> None:
    z = normals(0, "noise", 0, 1 << 20)
    assert kstest(z, "norm").pvalue > 1e-3
    assert kstest(normals(0, "noise", 1, 1 << 16), "norm").pvalue > 1e-3
    bound = 4.5 / math.sqrt(len(z))
    moments = [(z**n).mean() for n in range(1, 5)]
    for found, expected, spread in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert abs(found - expected) < bound * math.sqrt(spread)
    for lag in (1, 2, 15, 16, 32, 64, 128):
        assert abs((z[lag:] * z[:-lag]).mean()) < bound, lag
        assert abs((z[lag:] ** 2 * z[:-lag] ** 2).mean() - 1) < 3 * bound * 3, lag


def test_a_prefix_of_normals_does_not_depend_on_how_many_are_drawn() -> None:
    assert np.array_equal(normals(1, "noise", 2, 1000)[:130], normals(1, "noise", 2, 130))
