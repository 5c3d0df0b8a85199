"""Byte strings by the thousand, as places in one buffer: put together without an object for each.

What a writer does to every cell, it does to columns of strings: pick, weave, group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.jit import kernel

__all__ = ["Texts", "chosen", "of_width", "split", "woven"]


@dataclass(frozen=True, slots=True)
class Texts:
    """N byte strings."""

    data: NDArray[np.uint8]
    """(B,) the buffer that all of them lie in."""
    starts: NDArray[np.int64]
    """(N,) first byte of each."""
    stops: NDArray[np.int64]
    """(N,) first byte beyond each."""

    def __len__(self) -> int:
        return len(self.starts)

    def grouped(self, offsets: NDArray[np.int64]) -> Texts:
        """Strings ``offsets[i]:offsets[i + 1]`` (at least one) as one; for what `woven` returns."""
        return Texts(self.data, self.starts[offsets[:-1]], self.stops[offsets[1:] - 1])

    def where(self, wanted: NDArray[np.bool_]) -> Texts:
        """The same strings, empty where not ``wanted`` (N,)."""
        return Texts(self.data, self.starts, np.where(wanted, self.stops, self.starts))

    def joined(self) -> memoryview:
        """All of them, one after the other; for what `woven` returns."""
        return self.data.data

    def tolist(self) -> list[bytes]:
        """Each as an object; for tests and small counts."""
        data, places = self.data.tobytes(), zip(self.starts, self.stops, strict=True)
        return [data[a:b] for a, b in places]


def chosen(options: Sequence[bytes], index: NDArray[np.integer]) -> Texts:
    """``options[index[i]]`` for each i; index -1 is the last option."""
    ends = np.cumsum([0, *map(len, options)])
    data = np.frombuffer(b"".join(options), dtype=np.uint8)
    return Texts(data, ends[:-1][index], ends[1:][index])


def of_width(rows: NDArray[np.generic]) -> Texts:
    """The bytes of each row of ``rows`` (N, ...), as they lie in memory."""
    width = rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
    starts = np.arange(len(rows), dtype=np.int64) * width
    return Texts(np.ascontiguousarray(rows).ravel().view(np.uint8), starts, starts + width)


def split(text: bytes, separator: bytes) -> Texts:
    """``text.split(separator)`` for a single byte that separates."""
    data = np.frombuffer(text, dtype=np.uint8)
    cuts = np.flatnonzero(data == ord(separator))
    return Texts(data, np.concatenate(([0], cuts + 1)), np.concatenate((cuts, [len(data)])))


def woven(columns: Sequence[Texts]) -> Texts:
    """Row i is string i of every column, one after the other; the rows follow without a gap."""
    lengths = np.stack([column.stops - column.starts for column in columns], axis=1)
    ends = np.cumsum(lengths.ravel(), dtype=np.int64).reshape(lengths.shape)
    at = ends - lengths
    data = np.empty(int(ends[-1, -1]) if len(ends) else 0, dtype=np.uint8)
    for k, column in enumerate(columns):
        _copy(column.data, column.starts, column.stops, np.ascontiguousarray(at[:, k]), data)
    return Texts(data, at[:, 0], ends[:, -1])


@kernel
def _copy(
    source: NDArray[np.uint8],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    at: NDArray[np.int64],
    target: NDArray[np.uint8],
) -> None:
    for i in range(starts.size):
        shift = at[i] - starts[i]
        for k in range(starts[i], stops[i]):
            target[k + shift] = source[k]
