"""Manifest: what a run folder holds, so that it is resumed by the same run and by no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wsiseg.atomic import atomic_write
from wsiseg.errors import DamagedFolderError, RunFolderError

__all__ = ["MANIFEST", "Manifest", "differences", "plain"]

MANIFEST = "manifest.json"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """The run of a folder. Written whole, and only by the holder of the lock."""

    key: str
    """Hash of everything that the result depends on."""
    parts: dict[str, Any]
    """What the key was made of, in plain JSON."""
    grid: dict[str, Any]
    """Region size and lattice shape: what the region numbers mean."""
    tokens: tuple[str, ...] = ()
    """Every run that worked here, the last one holds the lock."""
    recomputed: int = 0
    """Results that were found damaged and thrown away."""
    created_by: str = field(default_factory=lambda: f"wsiseg {_version()}")
    """The version that began the run."""

    def write(self, folder: Path) -> None:
        """Write it to ``folder``; OutputError where that is not possible."""
        text = json.dumps({"schema": _SCHEMA, **asdict(self)}, indent=1, sort_keys=True)
        with atomic_write(folder / MANIFEST) as file:
            file.write(text.encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest of ``folder``, None if there is none; DamagedFolderError, RunFolderError."""
        path = folder / MANIFEST
        try:
            fields = json.loads(path.read_bytes())
            schema = fields.pop("schema")
            if schema == _SCHEMA:
                return cls(**fields)._checked()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DamagedFolderError(
                f"{path} is damaged ({error!r}), so nobody can say which run it belongs to: start "
                "over with --fresh, or choose another --out"
            ) from error
        raise DamagedFolderError(
            f"{path} has schema {schema}, this version of wsiseg knows {_SCHEMA}: use the version "
            f"that wrote it ({fields.get('created_by')}), or start over with --fresh"
        )

    def _checked(self) -> Manifest:
        types = (str, dict, dict, list, int, str)
        found = (self.key, self.parts, self.grid, self.tokens, self.recomputed, self.created_by)
        if any(type(value) is not kind for value, kind in zip(found, types, strict=True)):
            raise TypeError("a field has another type")
        return replace(self, tokens=tuple(self.tokens))


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` as they come back from JSON: tuples are lists, keys are strings."""
    return dict(json.loads(json.dumps(dict(values), allow_nan=False)))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines ``a.b: old -> new`` for every value that is not the same in both.

    Settings come first, hashes after them and shortened: a setting says more than its hash.
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    names = [n for n in sorted({**before, **after}) if before.get(n) != after.get(n)]
    pairs = [(n, before.get(n, "absent"), after.get(n, "absent")) for n in names]
    pairs.sort(key=lambda pair: any(map(_HASH.fullmatch, pair[1:])))
    return [f"{n}: {_short(a)} -> {_short(b)}" for n, a, b in pairs]


_HASH = re.compile(r'"[0-9a-f]{40,}"')


def _short(text: str) -> str:
    return f"{text[:9]}..." if _HASH.fullmatch(text) else text


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(value, sort_keys=True)


def _version() -> str:
    try:
        return version("wsiseg")
    except PackageNotFoundError:
        return "from source"
