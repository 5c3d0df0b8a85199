"""Weights on disk: safetensors with their facts and a hash, a model card and a licence beside.

``<name>/model.safetensors, card.md, LICENSE``. Nothing here unpickles: a file of weights can hold
numbers and text only, and loading one cannot run code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.atomic import atomic_write, make_folder
from wsiseg.errors import ModelError

__all__ = ["FILE_NAME", "Weights", "check_tensors", "fingerprint", "load_weights", "save_weights"]

FILE_NAME = "model.safetensors"
"""Name of the tensors' file in a weights folder."""

_KEY = "wsiseg"  # of the metadata entry that holds the facts, as JSON
_SHA = "sha256"
_MAX_HEADER = 16 << 20  # bytes; that of a network of 10 000 tensors has about 1 MiB
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".npy", ".npz")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors and what they mean."""

    tensors: dict[str, NDArray[Any]]
    """Name -> values."""
    facts: dict[str, Any]
    """What is needed to use them (spec, config, ...), as JSON values."""
    sha256: str
    """Hash of both, see ``fingerprint``."""
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


def save_weights(folder: str | Path, weights: Weights, *, card: str, licence: str) -> Path:
    """Write a weights folder; returns the path of its safetensors file.

    ``card`` (Markdown) and ``licence`` (full text) must not be empty: weights without them
    cannot be passed on. Raises ModelError, or OutputError where it cannot be written.
    """
    from safetensors.numpy import save

    if not (card.strip() and licence.strip()):
        raise ModelError(
            f"weights in {folder} need a model card and the text of a licence, got "
            f"{len(card)} and {len(licence)} characters"
        )
    sha = fingerprint(weights.tensors, weights.facts)
    metadata = {_KEY: _canonical(weights.facts).decode(), _SHA: sha}
    tensors = {name: _little_endian(values) for name, values in weights.tensors.items()}
    folder = Path(folder)
    make_folder(folder)
    parts = {
        "card.md": card.encode(),
        "LICENSE": licence.encode(),
        FILE_NAME: save(tensors, metadata),  # last: a folder with it is complete
    }
    for name, data in parts.items():
        with atomic_write(folder / name) as file:
            file.write(data)
    return folder / FILE_NAME


def load_weights(path: str | Path) -> Weights:
    """Weights of a folder written by ``save_weights``, or of its safetensors file.

    Raises ModelError where the file is missing, a pickle, cut short, damaged or not ours.
    """
    path = Path(path).absolute()
    path = path / FILE_NAME if path.is_dir() else path
    data = _read(path)
    header = _header(data, path)
    tensors = _tensors(data, header, path)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not {_KEY, _SHA} <= metadata.keys():
        raise ModelError(
            f"{path} is a safetensors file without wsiseg's spec and config: it was not written "
            "by wsiseg, which cannot tell what network and spacing its tensors are for"
        )
    facts = _parsed(metadata[_KEY], path)
    found = fingerprint(tensors, facts)
    if found != metadata[_SHA]:
        raise ModelError(
            f"{path} is damaged or was edited: its content has SHA-256 {found[:16]}..., "
            f"expected {str(metadata[_SHA])[:16]}...; fetch it again"
        )
    return Weights(tensors, facts, found, path)


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


def _read(path: Path) -> bytes:
    if path.suffix.lower() in _PICKLES:
        raise ModelError(
            f"{path} is refused: {path.suffix} files can run code when they are loaded. Weights "
            "must be safetensors, which hold numbers only: convert the file where you trust it, "
            "with wsiseg.model.unet.save_unet"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the weights {path}: {error.strerror or error}") from error
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ModelError(
            f"{path} holds a pickle or zip archive under a false name, which could run code: "
            "weights must be safetensors"
        )
    return data


def _header(data: bytes, path: Path) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise ModelError(
            f"{path} is cut short or no safetensors file: it has {len(data)} bytes, and its "
            f"header alone would need {size + 8}"
        )
    if size > _MAX_HEADER:
        raise ModelError(f"{path}: a header of {size} bytes, expected at most {_MAX_HEADER}")
    return _parsed(data[8 : 8 + size], path)


def _parsed(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError, TypeError) as error:
        raise ModelError(f"{path} is damaged: its header is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is damaged: its header is a {type(value).__name__}, not a table")
    return value


def _tensors(data: bytes, header: dict[str, Any], path: Path) -> dict[str, NDArray[Any]]:
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
    return json.dumps(facts, sort_keys=True, allow_nan=False).encode()


def _little_endian(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).reshape(values.shape)
