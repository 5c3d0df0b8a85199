"""Weights on disk: safetensors with their facts and a hash, a model card and a licence beside.

``<name>/model.safetensors, card.md, LICENSE``. Nothing here unpickles: a file of weights can hold
numbers and text only, and loading one cannot run code.

Files may hold float16, at half the size; in memory all of it is float32. The hash is over what is
stored, so weights keep their hash however they are loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.atomic import atomic_write, make_folder
from wsiseg.errors import ModelError

__all__ = [
    "FILE_NAME",
    "LICENCE_NAME",
    "Weights",
    "check_tensors",
    "fingerprint",
    "load_weights",
    "read_facts",
    "rounded",
    "save_weights",
    "weights_bytes",
    "with_facts",
]

FILE_NAME = "model.safetensors"
"""Name of the tensors' file in a weights folder."""

LICENCE_NAME = "LICENSE"
"""Name of the file with the licence's text beside it."""

_KEY = "wsiseg"  # of the metadata entry: JSON of the facts and the hash
_FACTS, _SHA = "facts", "sha256"
_MAX_HEADER = 16 << 20  # bytes; that of a network of 10 000 tensors has about 1 MiB
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".npy", ".npz")
_MAGIC = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # of zip archives and pickles
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors and what they mean."""

    tensors: dict[str, NDArray[Any]]
    """Name -> values."""
    facts: dict[str, Any]
    """What is needed to use them (spec, config, ...), as JSON values; and for people ``about``, a
    sentence, and ``scores``: split -> set -> measure -> value."""
    sha256: str
    """Hash of facts and tensors as they are stored, see ``fingerprint``."""
    path: Path | None = None
    """The file they came from, absolute; None: made in memory."""


def fingerprint(tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of ``tensors``, by name, and over ``facts``."""
    digest = hashlib.sha256(_canonical(facts))
    for name in sorted(tensors):
        values = _little_endian(tensors[name])
        digest.update(f"\0{name}\0{values.dtype.str}\0{values.shape}\0".encode())
        digest.update(values.data if values.size else b"")
    return digest.hexdigest()


def with_facts(weights: Weights, **facts: Any) -> Weights:
    """``weights`` with ``facts`` added or replaced, as ones made in memory."""
    told = json.loads(_canonical({**weights.facts, **facts}))
    return Weights(weights.tensors, told, fingerprint(weights.tensors, told))


def rounded(weights: Weights) -> Weights:
    """``weights`` as ``load_weights`` gives them after ``save_weights(half=True)``, in memory.

    Raises ModelError where a value is beyond float16.
    """
    stored = _halved(weights.tensors, weights.path or "rounding")
    told = json.loads(_canonical(weights.facts))
    tensors = {name: _widened(values) for name, values in stored.items()}
    return Weights(tensors, told, fingerprint(stored, told))


def save_weights(
    folder: str | Path, weights: Weights, *, card: str, licence: str, half: bool = False
) -> Path:
    """Write a weights folder; returns the path of its safetensors file.

    ``card`` (Markdown) and ``licence`` (full text) must not be empty: weights without them
    cannot be passed on. ``half``: store tensors of two or more axes as float16. Vectors (biases,
    statistics of batch normalisation) stay as they are: they are under 1 % of the bytes, and
    variances may leave the range of float16. What is loaded is then rounded, and of another hash.
    Raises ModelError, also where a value is beyond float16, or OutputError where it cannot be
    written.
    """
    if not (card.strip() and licence.strip()):
        raise ModelError(
            f"weights in {folder} need a model card and the text of a licence, got "
            f"{len(card)} and {len(licence)} characters"
        )
    stored = _halved(weights.tensors, folder) if half else weights.tensors
    folder = Path(folder)
    make_folder(folder)
    parts = {
        "card.md": card.encode(),
        LICENCE_NAME: licence.encode(),
        FILE_NAME: weights_bytes(stored, weights.facts),  # last: a folder with it is complete
    }
    for name, data in parts.items():
        with atomic_write(folder / name) as file:
            file.write(data)
    return folder / FILE_NAME


def weights_bytes(tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> bytes:
    """The safetensors file of ``tensors`` and ``facts``, as ``load_weights`` reads it.

    Equal content gives equal bytes. Raises ModelError where ``facts`` are no JSON values.
    """
    from safetensors.numpy import save

    told = {_FACTS: dict(facts), _SHA: fingerprint(tensors, facts)}
    metadata = {_KEY: _canonical(told).decode()}  # one entry: safetensors shuffles several
    ordered = {name: _little_endian(values) for name, values in tensors.items()}
    data: bytes = save(ordered, metadata)
    return data


def load_weights(path: str | Path) -> Weights:
    """Weights of a folder written by ``save_weights``, or of its safetensors file.

    Tensors stored as float16 come as float32, of the same values. Raises ModelError where the
    file is missing, a pickle, cut short, damaged or not ours.
    """
    path = _file_of(path)
    data = _read(path)
    size = _header_size(data, len(data), path)
    header = _parsed(data[8 : 8 + size], path)
    tensors = _tensors(data, path)
    facts, stated = _told(header, path)
    found = fingerprint(tensors, facts)
    if found != stated:
        raise ModelError(
            f"{path} is damaged or was edited: its content has SHA-256 {found[:16]}..., "
            f"expected {stated[:16]}...; fetch it again"
        )
    return Weights({n: _widened(values) for n, values in tensors.items()}, facts, found, path)


def read_facts(path: str | Path) -> dict[str, Any]:
    """The facts of weights as ``load_weights`` gives them, from the file's header alone.

    Tensors are not read, so damage is noticed in the header only. Raises ModelError as it does.
    """
    path = _file_of(path)
    start = _read(path, 9)
    size = _header_size(start, path.stat().st_size, path)
    return _told(_parsed(_read(path, 8 + size)[8:], path), path)[0]


def check_tensors(
    tensors: Mapping[str, NDArray[Any]],
    expected: Mapping[str, tuple[tuple[int, ...], str]],
    where: str,
) -> None:
    """Raise ModelError unless ``tensors`` have exactly the expected names, shapes and dtypes."""
    for problem, names in (
        ("lacks", sorted(expected.keys() - tensors.keys())),
        ("has unknown", sorted(tensors.keys() - expected.keys())),
    ):
        if names:
            raise ModelError(
                f"{where} {problem} {len(names)} tensors for its config, first "
                f"{', '.join(names[:3])}: config and tensors are of different networks"
            )
    for name, (shape, dtype) in expected.items():
        got = tensors[name]
        if got.shape != shape or got.dtype != np.dtype(dtype):
            raise ModelError(
                f"{where}: tensor {name} must be {dtype} {shape}, got {got.dtype} {got.shape}"
            )
        if not np.isfinite(got).all():
            raise ModelError(f"{where}: tensor {name} holds values that are not finite")


def _file_of(path: str | Path) -> Path:
    path = Path(path).absolute()
    return path / FILE_NAME if path.is_dir() else path


def _read(path: Path, size: int = -1) -> bytes:
    """The first ``size`` bytes of a file that is no pickle; -1: all."""
    if path.suffix.lower() in _PICKLES:
        raise ModelError(
            f"{path} is refused: {path.suffix} files can run code when they are loaded. Weights "
            "must be safetensors, which hold numbers only: convert the file where you trust it, "
            "with wsiseg.model.unet.save_unet"
        )
    try:
        with path.open("rb") as file:
            data = file.read(size)
    except OSError as error:
        raise ModelError(f"cannot read the weights {path}: {error.strerror or error}") from error
    if data[:2] in _MAGIC and data[8:9] != b"{":  # a header may have just as many bytes
        raise ModelError(
            f"{path} holds a pickle or zip archive under a false name, which could run code: "
            "weights must be safetensors"
        )
    return data


def _header_size(start: bytes, total: int, path: Path) -> int:
    """Bytes of the header of a file of ``total`` bytes, as its first 8 say."""
    size = int.from_bytes(start[:8], "little")
    if total < 8 or size > total - 8:
        raise ModelError(
            f"{path} is cut short or no safetensors file: it has {total} bytes, and its "
            f"header alone would need {size + 8}"
        )
    if size > _MAX_HEADER:
        raise ModelError(f"{path}: a header of {size} bytes, expected at most {_MAX_HEADER}")
    return size


def _told(header: dict[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    """The facts of a header and the hash that it states."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or _KEY not in metadata:
        raise ModelError(
            f"{path} is a safetensors file without wsiseg's spec and config: it was not written "
            "by wsiseg, which cannot tell what network and spacing its tensors are for"
        )
    told = _parsed(metadata[_KEY], path)
    if _SHA in metadata:  # files of the first stage: facts and hash are an entry each
        return told, str(metadata[_SHA])
    facts = told.get(_FACTS)
    if not isinstance(facts, dict) or _SHA not in told:
        raise ModelError(f"{path} is damaged: its header lacks the facts or their hash")
    return facts, str(told[_SHA])


def _parsed(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError, TypeError) as error:
        raise ModelError(f"{path} is damaged: its header is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is damaged: its header is a {type(value).__name__}, not a table")
    return value


def _finite(text: str) -> float:
    """A number of JSON, which Python's parser takes beyond the range of floats, and as NaN."""
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _tensors(data: bytes, path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(data)  # type: ignore[no-untyped-call]  # a compiled module
    except SafetensorError as error:
        raise ModelError(f"{path} is cut short or damaged: {error}") from error
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise ModelError(
                f"{path}: tensor {name} is {entry['dtype']}, expected one of {', '.join(_DTYPES)}"
            )
        values = np.frombuffer(entry["data"], dtype=_DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def _canonical(facts: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(facts, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ModelError(f"the facts of weights must be JSON values: {error}") from error


def _little_endian(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).reshape(values.shape)


def _halved(tensors: Mapping[str, NDArray[Any]], where: str | Path) -> dict[str, NDArray[Any]]:
    stored = dict(tensors)
    for name, values in tensors.items():
        if values.ndim < 2 or values.dtype.kind != "f":
            continue
        with np.errstate(over="ignore"):  # looked for below; what is too small becomes 0
            stored[name] = values.astype(np.float16)
        if np.isinf(stored[name]).any():
            raise ModelError(
                f"weights for {where}: tensor {name} has values of up to {np.abs(values).max():g}, "
                f"beyond float16 (65504); save it with half=False"
            )
    return stored


def _widened(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32) if values.dtype == np.float16 else values
