"""Cheap looks at headers before a decoder is trusted with them: loops, and claims of huge sizes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from wsiseg.errors import UnreadableSlideError

__all__ = ["MAX_IFDS", "adobe_transform", "check_claim", "check_ifd_chain", "claimed_shape"]

MAX_IFDS = 1 << 17  # a z-stack of 1000 planes with 100 channels still fits
FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG start of frame, ITU-T T.81 B.1
START_OF_SCAN, APP14 = 0xDA, 0xEE


def check_ifd_chain(path: Path) -> None:
    """Refuse a TIFF whose directories lead in a circle, past the end or nowhere.

    Raises UnreadableSlideError. Reads a few bytes per directory.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        if len(head) < (16 if big else 8):
            raise UnreadableSlideError(f"the TIFF ends within its header, at byte {len(head)}")
        if not big and _is_ndpi(file, order, head, size):
            return  # offsets of 64 bits in a classic TIFF: OpenSlide's to check
        at = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
        _walk(file, order, big, at, size)


def claimed_shape(data: bytes) -> tuple[int, int] | None:
    """(h, w) that a JPEG or JPEG 2000 stream says it decodes to, or None where it is neither."""
    if data[:2] == b"\xff\xd8":
        return _jpeg_shape(data)
    at = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # SOC, SIZ: ISO 15444-1 A.5.1
    if at >= 0 and len(data) >= at + 24:
        x1, y1, x0, y0 = struct.unpack_from(">4I", data, at + 8)
        return y1 - y0, x1 - x0
    return None


def adobe_transform(data: bytes) -> int | None:
    """What the Adobe marker of a JPEG stream says: 0 (RGB, CMYK), 1 (YCbCr), 2 (YCCK); or None."""
    for marker, at in _jpeg_markers(data):
        if marker == APP14 and data[at + 4 : at + 9] == b"Adobe" and len(data) > at + 15:
            return data[at + 15]
    return None


def check_claim(data: bytes, pixels: int) -> None:
    """Refuse a compressed tile that says it holds over four times the ``pixels`` it should."""
    shape = claimed_shape(data)
    if shape is not None and shape[0] * shape[1] > 4 * pixels:
        raise UnreadableSlideError(
            f"a tile of {pixels} px claims to decode to {shape[0]} x {shape[1]} px"
        )


def _is_ndpi(file: BinaryIO, order: str, head: bytes, size: int) -> bool:
    # tag 65420 marks Hamamatsu's NDPI, whose first directory may lie beyond 4 GB
    if len(head) < 12:
        return False
    low, high = struct.unpack_from(order + "II", head, 4)
    if (high << 32) + low >= size:
        return False
    file.seek((high << 32) + low)
    (count,) = struct.unpack(order + "H", file.read(2).ljust(2, b"\0"))
    tags = file.read(12 * min(count, 4096))
    return any(
        struct.unpack_from(order + "H", tags, i)[0] == 65420 for i in range(0, len(tags) - 11, 12)
    )


def _walk(file: BinaryIO, order: str, big: bool, at: int, size: int) -> None:
    count_format, count_size, entry, next_format, next_size = (
        ("Q", 8, 20, "Q", 8) if big else ("H", 2, 12, "I", 4)
    )
    seen: set[int] = set()
    while at:
        if at in seen:
            raise UnreadableSlideError(f"its directories lead in a circle, back to byte {at}")
        if at + count_size > size or len(seen) >= MAX_IFDS:
            raise UnreadableSlideError(
                f"directory {len(seen)} lies at byte {at} of {size} "
                f"(at most {MAX_IFDS} directories are followed); the file is cut short or damaged"
            )
        seen.add(at)
        file.seek(at)
        (count,) = struct.unpack(order + count_format, file.read(count_size))
        file.seek(at + count_size + count * entry)
        data = file.read(next_size)
        if len(data) < next_size:  # some writers end the file without the last, zero, offset
            return
        (at,) = struct.unpack(order + next_format, data)


def _jpeg_shape(data: bytes) -> tuple[int, int] | None:
    for marker, at in _jpeg_markers(data):
        if marker in FRAME_MARKERS and len(data) >= at + 9:
            h, w = struct.unpack_from(">HH", data, at + 5)
            return h, w
    return None


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, its place) of each segment before the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD9 or marker == 0x01:  # fill, or without a length
            at += 1 if marker == 0xFF else 2
            continue
        if marker == START_OF_SCAN:
            return
        yield marker, at
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
