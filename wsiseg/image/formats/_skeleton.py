"""The directories of a TIFF that lies elsewhere, as a local file for libraries that read them.

The file has the size of the original, and of its bytes those that directories and values of tags
lie in, by whole blocks; the others are holes. What a library makes of directories alone is then
what it would make of the original, at the cost of a few hundred kB.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from wsiseg.errors import UnsupportedFormatError
from wsiseg.image.formats._guards import MAX_IFDS

__all__ = ["write_skeleton"]

ReadAt = Callable[[int, int], bytes]

_BLOCK = 1 << 16
_SHARE = 4  # a file of which more than a quarter is directories had better be copied,
_SMALL = 8 << 20  # bytes, unless that is little
_POINTERS = {330, 34665, 34853, 40965}  # SubIFDs, EXIF, GPS, interoperability
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}  # BigTIFF
_NDPI = 65420  # a tag of Hamamatsu: offsets of 64 bits in a classic TIFF


def write_skeleton(read_at: ReadAt, size: int, path: Path) -> None:
    """Write the skeleton of the TIFF of ``size`` bytes that ``read_at(offset, count)`` reads.

    Raises UnsupportedFormatError where directories are not told by the standard (NDPI), are
    damaged, or so scattered that the file had better be copied; and what ``read_at`` raises.
    """
    with path.open("x+b") as file:
        file.truncate(size)
        blocks = _Blocks(read_at, size, file.fileno())
        head = blocks.bytes(0, 16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        first = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
        if not big:
            blocks.refuse_ndpi(struct.unpack_from(order + "Q", head, 4)[0], order)
        todo, seen = [first], set()
        while todo:
            at = todo.pop()
            if not at or at in seen:
                continue
            seen.add(at)
            if len(seen) > MAX_IFDS:
                raise UnsupportedFormatError("its TIFF directories have no end")
            todo += _Directory(blocks, order, big).links(at)


class _Directory:
    """Reads a directory, and has the values of its tags read."""

    def __init__(self, blocks: _Blocks, order: str, big: bool) -> None:
        self._blocks, self._order = blocks, order
        self._count, self._entry, self._next = ("Q", 20, "Q") if big else ("H", 12, "I")
        self._inline = 8 if big else 4

    def links(self, at: int) -> list[int]:
        """Where other directories lie that this one names."""
        (count,) = self._read(self._count, at)
        start = at + struct.calcsize(self._count)
        if count > 1 << 16:
            raise UnsupportedFormatError(f"a TIFF directory claims {count} tags")
        table = self._blocks.bytes(start, count * self._entry)
        found = [link for i in range(count) for link in self._value(table, i * self._entry)]
        end = start + count * self._entry
        if end + struct.calcsize(self._next) <= self._blocks.size:
            found += self._read(self._next, end)
        return found

    def _value(self, table: bytes, i: int) -> list[int]:
        tag, kind = struct.unpack_from(self._order + "HH", table, i)
        wide = self._next
        (count,) = struct.unpack_from(self._order + wide, table, i + 4)
        length = _SIZES.get(kind, 0) * count
        at = i + 4 + struct.calcsize(wide)
        if length <= self._inline:
            data = table[at : at + length]
        else:
            (offset,) = struct.unpack_from(self._order + wide, table, at)
            data = self._blocks.bytes(offset, length)
        if tag not in _POINTERS or _SIZES.get(kind) not in (4, 8):
            return []
        each = "I" if _SIZES[kind] == 4 else "Q"
        return list(struct.unpack_from(f"{self._order}{len(data) // _SIZES[kind]}{each}", data))

    def _read(self, form: str, at: int) -> tuple[int, ...]:
        return struct.unpack(self._order + form, self._blocks.bytes(at, struct.calcsize(form)))


class _Blocks:
    """Blocks of the original, each fetched once into the file."""

    def __init__(self, read_at: ReadAt, size: int, descriptor: int) -> None:
        self.size = size
        self._read_at, self._descriptor = read_at, descriptor
        self._here: set[int] = set()

    def bytes(self, at: int, count: int) -> bytes:
        """``count`` bytes at ``at``; UnsupportedFormatError where the file ends before."""
        if at + count > self.size:
            raise UnsupportedFormatError("its TIFF directories lead past its end")
        missing = [
            k for k in range(at // _BLOCK, -(-(at + count) // _BLOCK)) if k not in self._here
        ]
        while missing:
            run = 1
            while run < len(missing) and missing[run] == missing[0] + run:
                run += 1
            self._fetch(missing[0], run)
            del missing[:run]
        return os.pread(self._descriptor, count, at)

    def refuse_ndpi(self, at: int, order: str) -> None:
        """UnsupportedFormatError where a directory of NDPI begins at ``at``."""
        if not 0 < at <= self.size - 2:
            return
        (count,) = struct.unpack(order + "H", self.bytes(at, 2))
        tags = self.bytes(at + 2, min(12 * count, self.size - at - 2))
        if any(
            struct.unpack_from(order + "H", tags, i)[0] == _NDPI
            for i in range(0, len(tags) - 11, 12)
        ):
            raise UnsupportedFormatError("NDPI")

    def _fetch(self, first: int, blocks: int) -> None:
        fetched = (len(self._here) + blocks) * _BLOCK
        if fetched > max(_SMALL, self.size // _SHARE):
            raise UnsupportedFormatError("its TIFF directories are scattered all over the file")
        at = first * _BLOCK
        count = min(blocks * _BLOCK, self.size - at)
        data = memoryview(self._read_at(at, count))
        if len(data) != count:
            raise UnsupportedFormatError("it is shorter than was told")
        while data:  # what lacks would read as zeros: a disk that gets full takes a part
            written = os.pwrite(self._descriptor, data, at)
            data, at = data[written:], at + written
        self._here.update(range(first, first + blocks))
