"""Random streams by name.

Every random number of a run is a pure function of *(seed, stream name, index)*: there is no generator whose
state has to be saved, so a resumed run, a run alone and a run inside a population draw the same numbers, and
every cell of one seed sees the same data in the same order.

=========== =========================================== ====================
stream      what it draws                               index
=========== =========================================== ====================
``init``    the cell's initial parameters               0
``readout`` the read-out's initial weights              0
``order``   the order of the training sequences         epoch
``task``    a training batch of a generated task        update
``noise``   the weight noise                            update
``cell``    what a cell of one's own draws in training  update
``search``  the learning rates that a search tries      0
``trial``   what a search with Optuna tries next        trial
``data``    validation and test sets (``data_seed``)    0 train, 1 valid, 2 test
=========== =========================================== ====================
"""

import functools
import hashlib

import numpy as np


@functools.lru_cache(maxsize=256)
def _key(seed: int, name: str) -> int:
    """128 bits that belong to the stream ``name`` of ``seed``."""
    return int.from_bytes(hashlib.sha256(f"rnnbench/{seed}/{name}".encode()).digest()[:16], "little")


def stream(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """The generator of draw ``index`` of the stream ``name``.

    It is Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), keyed by seed and
    name; ``index`` is the counter's highest word, so two indices are 2**192 draws apart.
    """
    return np.random.Generator(np.random.Philox(key=_key(seed, name), counter=[0, 0, 0, index]))


def noise_key(seed: int, name: str) -> int:
    """The 64 bits that `normals` is keyed with."""
    return _key(seed, name) & 0xFFFF_FFFF_FFFF_FFFF


def normals(seed: int, name: str, index: int, size: int) -> np.ndarray:
    """Standard normal numbers (size,), float64: draw ``index`` of the stream ``name``.

    Philox4x32-10 and Box & Muller (1958): each number is a function of its place alone, so that a compiled kernel
    makes them side by side (`kernels/native/noise.h`); this is what it must give. A counter (number, index) gives four
    words of 32 bits, of which the upper 23 are used: with u = 1 - w₀/2²³ and t = w₁/2²³ - 1/2, √(-2 ln u) cos 2πt and
    √(-2 ln u) sin 2πt, and likewise from w₂ and w₃. Number 64·s + 16·q + j of a block of 128 is the q-th (cos, sin,
    cos, sin) of the block's counter 16·s + 8·(j mod 2) + ⌊j/2⌋.
    """
    blocks = -(-size // 128)
    words = _philox(np.arange(32 * blocks, dtype=np.uint64), index, noise_key(seed, name))
    w = (words >> np.uint64(9)).astype(np.float64) / 2.0**23
    radius, angle = np.sqrt(-2.0 * np.log(1.0 - w[[0, 2]])), 2.0 * np.pi * (w[[1, 3]] - 0.5)
    by_counter = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(4, blocks, 2, 2, 8)
    # (q, block, s, j mod 2, j // 2) -> (block, s, q, j // 2, j mod 2)
    numbers: np.ndarray = by_counter.transpose(1, 2, 0, 4, 3).reshape(-1)[:size]
    return numbers


def _philox(counter: np.ndarray, index: int, key: int) -> np.ndarray:
    """Philox4x32-10 of (counter, index low, index high, 0): four words (4, n) of 32 bits, as uint64."""
    low, shift = np.uint64(0xFFFF_FFFF), np.uint64(32)
    c = [counter, *(np.full_like(counter, word) for word in (index & 0xFFFF_FFFF, index >> 32, 0))]
    for round_ in range(10):
        k0 = np.uint64((key + round_ * 0x9E3779B9) & 0xFFFF_FFFF)
        k1 = np.uint64(((key >> 32) + round_ * 0xBB67AE85) & 0xFFFF_FFFF)
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> shift) ^ c[1] ^ k0, b & low, (a >> shift) ^ c[3] ^ k1, a & low]
    return np.stack(c)


def torch_seed(seed: int, name: str, index: int = 0) -> int:
    """A seed for a `torch.Generator`; torch's own generator on the CPU uses the lowest 32 bits of it."""
    return (_key(seed, name) + index) & 0x7FFF_FFFF
