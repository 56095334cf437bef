"""The compiled library as Python sees it: its structures, and its functions with arguments converted once.

The structures are those of `native/network.h`, `native/optimizer.h` and `native/kernels.cpp`, field by field.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from rnnbench.kernels.build import NoCompilerError, library

INTERFACE = 1
"""Must be that of the library: a change of a structure or a function counts it up on both sides."""

PHASES = (
    "pack",
    "input",
    "forward",
    "readout",
    "loss",
    "readout gradient",
    "backward",
    "U gradient",
    "W gradient",
    "noise",
    "update",
)


class _Structure(ctypes.Structure):
    """Keeps the arrays that its pointers point to alive."""

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - numbers and arrays
        self.arrays = {name: v for name, v in values.items() if isinstance(v, np.ndarray)}
        for name, array in self.arrays.items():
            assert array.flags.c_contiguous, name
        super().__init__(**{n: v.ctypes.data if isinstance(v, np.ndarray) else v for n, v in values.items()})


class Shape(_Structure):
    """The network."""

    _fields_: ClassVar = [(n, ctypes.c_int32) for n in ("cell", "loss", "inputs", "hidden", "outputs", "peepholes")]


class Layout(ctypes.Structure):
    """Where the kernels keep the parameters."""

    _names: ClassVar = ("total", "W", "U", "b", "peephole", "V", "c", "J", "Hp", "Op", "gate", "gates")
    _fields_: ClassVar = [*((n, ctypes.c_int64) for n in _names), ("u_order", ctypes.c_int64 * 4)]


class Data(_Structure):
    """Sequences, as rolls or as packed rows."""

    _fields_: ClassVar = [
        ("first", ctypes.c_void_p),
        ("notes", ctypes.c_void_p),
        ("bits", ctypes.c_void_p),
        ("bit_bytes", ctypes.c_int64),
        ("start", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("target_row", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("classes", ctypes.c_void_p),
        ("length", ctypes.c_void_p),
    ]


class Protocol(_Structure):
    """The optimiser, clipping and noise."""

    _fields_: ClassVar = [
        ("optimizer", ctypes.c_int32),
        ("mean", ctypes.c_int32),
        ("clip", ctypes.c_double),
        ("noise", ctypes.c_double),
        ("constants", ctypes.c_double * 4),
        ("key", ctypes.c_uint64),
    ]


class Flat(ctypes.Structure):
    """The parameters of a member and the accumulators of its optimiser, as flat vectors."""

    _fields_: ClassVar = [
        ("size", ctypes.c_int64),
        ("place", ctypes.c_void_p),
        ("theta", ctypes.c_void_p),
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
    ]


class Library:
    """The functions of one compiled library."""

    def __init__(self, path: str, dtype: str = "float32") -> None:
        """Load the one at ``path``, compiled for numbers of ``dtype``.

        Raises:
            NoCompilerError: if it cannot be loaded.
        """
        try:
            self._c = ctypes.CDLL(path)
            found = self._c.rnnbench_interface()
        except (OSError, AttributeError) as error:
            raise NoCompilerError(f"{path} cannot be loaded ({error}); delete it to have it made again") from error
        if found != INTERFACE:
            raise NoCompilerError(f"{path} has interface {found} instead of {INTERFACE}; delete it")
        self._c.rnnbench_train.restype = ctypes.c_int
        self.dtype = dtype
        self.vector_bits = 8 * int(self._c.rnnbench_vector_bytes())

    def layout(self, shape: Shape) -> Layout:
        """Where the parameters of a network lie."""
        layout = Layout()
        self._c.rnnbench_layout(ctypes.byref(shape), ctypes.byref(layout))
        return layout

    def train(
        self,
        shape: Shape,
        protocol: Protocol,
        data: Data,
        flat: Flat,
        lr: float,
        first: int,
        order: Sequence[np.ndarray],
        scored_rows: np.ndarray,
        threads: int,
    ) -> tuple[int, np.ndarray, np.ndarray]:
        """Updates of one member, one for each array of sequences in ``order``.

        Returns:
            How many were made, and for each the loss per scored row and the norm of the gradient before clipping.
            Fewer than asked were made where one of these is not finite, which are then given too.
        """
        count = len(order)
        batches, sequences = _joined(order)
        losses, norms = np.empty(count), np.empty(count)
        scored = np.ascontiguousarray(scored_rows, dtype=np.int64)
        done = self._c.rnnbench_train(
            ctypes.byref(shape),
            ctypes.byref(protocol),
            ctypes.byref(data),
            ctypes.byref(flat),
            ctypes.c_double(lr),
            ctypes.c_int64(first),
            ctypes.c_int(count),
            _pointer(batches),
            _pointer(sequences),
            _pointer(scored),
            _pointer(losses),
            _pointer(norms),
            ctypes.c_int(threads),
        )
        _check_memory(done)
        return int(done), losses, norms

    def evaluate(self, shape: Shape, data: Data, flat: Flat, order: Sequence[np.ndarray], sequences: int) -> np.ndarray:
        """The loss of each of ``sequences`` sequences, summed over its rows, without any change."""
        batches, chosen = _joined(order)
        losses = np.zeros(sequences)
        status = self._c.rnnbench_evaluate(
            ctypes.byref(shape),
            ctypes.byref(data),
            ctypes.byref(flat),
            ctypes.c_int(len(order)),
            _pointer(batches),
            _pointer(chosen),
            _pointer(losses),
        )
        _check_memory(status)
        return losses

    def gradient(
        self, shape: Shape, data: Data, flat: Flat, batch: np.ndarray, weight: float, sequences: int, threads: int
    ) -> np.ndarray:
        """Puts the gradient of a batch's loss times ``weight`` into ``flat.a``; returns the losses of its sequences."""
        chosen = np.ascontiguousarray(batch, dtype=np.int32)
        losses = np.zeros(sequences)
        status = self._c.rnnbench_gradient(
            ctypes.byref(shape),
            ctypes.byref(data),
            ctypes.byref(flat),
            ctypes.c_int(len(chosen)),
            _pointer(chosen),
            ctypes.c_double(weight),
            _pointer(losses),
            ctypes.c_int(threads),
        )
        _check_memory(status)
        return losses

    def normals(self, key: int, index: int, out: np.ndarray) -> None:
        """Fill ``out``, whose size is a multiple of 128, with the normals of a stream."""
        assert out.size % 128 == 0
        blocks = ctypes.c_int(out.size // 128)
        self._c.rnnbench_normals(ctypes.c_uint64(key), ctypes.c_uint64(index), blocks, _pointer(out))

    def function(self, which: int, x: np.ndarray) -> np.ndarray:
        """Return exp (x ≤ 0), the logistic sigmoid, tanh or log(1 + x) (0 ≤ x ≤ 1) of ``x``, for the tests."""
        y = np.zeros_like(x)
        self._c.rnnbench_function(ctypes.c_int(which), ctypes.c_int(x.size), _pointer(x), _pointer(y))
        return y

    def phases(self) -> dict[str, float]:
        """Seconds spent in each phase since the last call; of use with the flag -DPROFILE, and one thread."""
        seconds = np.zeros(len(PHASES))
        self._c.rnnbench_phases(_pointer(seconds))
        return dict(zip(PHASES, seconds.tolist(), strict=True))


def _joined(order: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum([0, *map(len, order)], dtype=np.int64)
    return ends, np.ascontiguousarray(np.concatenate(order), dtype=np.int32)


def _check_memory(status: int) -> None:
    if status < 0:
        raise MemoryError("there is not enough memory for the activations of a batch: make it or its sequences smaller")


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@functools.cache
def open_library(dtype: str, *extra: str) -> Library:
    """The library for a dtype, compiled if need be.

    Raises:
        NoCompilerError: if there is no way to have it.
    """
    return Library(str(library(dtype, extra)), dtype)
