"""A blob: named arrays and a few plain values in one sealed piece of bytes.

Layout, little-endian: a header of fixed size, the meta as JSON, the arrays as safetensors. The
header says which run, grid and place the blob belongs to and how long its parts are, so that a
listing need not read more; its seal is a BLAKE2b hash over everything else, so that a flipped bit
anywhere is found when the blob is read. No part of it can run code.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

__all__ = ["HEADER_SIZE", "Arrays", "Label", "digest", "pack", "sealed_size", "unpack"]

Arrays = dict[str, NDArray[Any]]
"""Arrays by name: bool, (u)int8 to 64, float16 to 64; of any shape, empty ones included."""

_MAGIC = b"wsiseg\x00\x01"  # the last byte is the version of the layout
_HEADER = struct.Struct("<8s16s16s32sQQ")  # magic, key, grid, name, meta bytes, array bytes
_SEAL = 32
HEADER_SIZE = _HEADER.size + _SEAL
"""Bytes to read of a blob to know what it is and how long."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a blob belongs to; a blob with another label is not the one that was asked for."""

    key: str
    """Key of the run."""
    grid: str
    """Hash of the grid."""
    name: str
    """Region number or name of a stage's result."""

    def prefix(self) -> bytes:
        """The first bytes of every blob of this label."""
        fields = (_hash(self.key, 16), _hash(self.grid, 16), _hash(self.name, 32))
        return _MAGIC + b"".join(fields)


def digest(value: object) -> str:
    """Hash (32 hex digits) of a plain JSON value, whatever the order of its keys."""
    return blake2b(_json(value), digest_size=16).hexdigest()


def pack(label: Label, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> list[bytes]:
    """The blob, in parts to be written one after the other; equal input gives equal bytes.

    Raises TypeError or ValueError where meta is not plain JSON without NaN.
    """
    # safetensors reads memory as it lies: C order, and its own byte order
    plain = {k: np.asarray(v, v.dtype.newbyteorder("<"), order="C") for k, v in arrays.items()}
    text, data = _json(dict(meta)), save_arrays(plain)
    head = label.prefix() + struct.pack("<QQ", len(text), len(data))
    return [head, _seal(head, text, data), text, data]


def sealed_size(label: Label, header: bytes) -> int | None:
    """Size in bytes that a blob with this header must have; None if it is not ``label``'s."""
    if len(header) < HEADER_SIZE or not header.startswith(label.prefix()):
        return None
    *_, text, data = _HEADER.unpack_from(header)
    return HEADER_SIZE + int(text) + int(data)


def unpack(label: Label, blob: bytes) -> tuple[Arrays, dict[str, Any]]:
    """Arrays and meta of a blob; ValueError if it has another label or is damaged anywhere."""
    if sealed_size(label, blob[:HEADER_SIZE]) != len(blob):
        raise ValueError("another label or size")
    *_, text_size, _ = _HEADER.unpack_from(blob)
    head, seal = blob[: _HEADER.size], blob[_HEADER.size : HEADER_SIZE]
    text, data = blob[HEADER_SIZE : HEADER_SIZE + text_size], blob[HEADER_SIZE + text_size :]
    if seal != _seal(head, text, data):
        raise ValueError("the checksum does not match")
    return dict(load_arrays(data)), json.loads(text)


def _json(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _hash(text: str, size: int) -> bytes:
    return blake2b(text.encode(), digest_size=size).digest()


def _seal(*parts: bytes) -> bytes:
    seal = blake2b(digest_size=_SEAL)
    for part in parts:
        seal.update(part)
    return seal.digest()
