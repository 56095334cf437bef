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


def torch_seed(seed: int, name: str, index: int = 0) -> int:
    """A seed for a `torch.Generator`; torch's own generator on the CPU uses the lowest 32 bits of it."""
    return (_key(seed, name) + index) & 0x7FFF_FFFF
