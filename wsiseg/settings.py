"""Tables of a TOML file into frozen dataclasses, by their own annotations: once, and checked.

A key that no field has, a value of another type, a section that is not one: each is a
SettingsError that names the key, what was expected, what was there, and names that are near.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from wsiseg.errors import InputFileError, SettingsError

__all__ = ["fill", "flat", "plain", "read_toml"]

T = TypeVar("T")

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_WORDS |= {Path: "a path (a text)"}


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; InputFileError where it cannot be read or is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputFileError(f"{path} is no TOML: {error}") from error


def fill(
    kind: type[T],
    table: Any,
    where: str = "",
    *,
    base: T | None = None,
    names: Mapping[str, str] | None = None,
    fixed: Mapping[str, str] | None = None,
) -> T:
    """An instance of the dataclass ``kind`` with the values of ``table``.

    Missing keys take their value from ``base``, else the default of their field. ``where``: dotted
    key of the table, for messages. ``names``: key -> field, where they differ. ``fixed``: dotted
    key -> why it cannot be set there; such keys count as unknown, with the reason.
    """
    _expect(isinstance(table, dict), where or "the file", "a table", table)
    fixed, renamed = fixed or {}, names or {}
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    keys = {
        key
        for key in {*fields, *renamed} - set(renamed.values())
        if (f"{where}.{key}" if where else key) not in fixed
    }
    values = {}
    for key, raw in table.items():
        dotted = f"{where}.{key}" if where else key
        _check_key(dotted, key, keys, fixed)
        name = renamed.get(key, key)
        before = _before(fields[name], base)
        values[name] = _value(hints[name], raw, dotted, before, fixed)
    missing = [n for n, f in fields.items() if base is None and _required(f) and n not in values]
    if missing:
        raise SettingsError(f"{where or 'the file'} lacks {', '.join(missing)}")
    if base is None:
        return kind(**values)
    return dataclasses.replace(base, **values)  # type: ignore[type-var]


def plain(value: Any) -> Any:
    """A dataclass, or what is in one, as JSON values; pairs of a name and a value as a table."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        if value and all(isinstance(v, tuple) and len(v) == 2 for v in value):
            return {str(name): plain(v) for name, v in value}
        return [plain(v) for v in value]
    return value.as_posix() if isinstance(value, Path) else value


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Tables within tables as one, by dotted keys; lists of tables by their number."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {str(i): v for i, v in enumerate(value)}
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else key)
    return found


def _check_key(dotted: str, key: str, known: set[str], fixed: Mapping[str, str]) -> None:
    if dotted in fixed:
        raise SettingsError(f"{dotted} cannot be set: {fixed[dotted]}")
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise SettingsError(f"{dotted} is unknown: {hint}expected one of {', '.join(sorted(known))}")


def _value(hint: Any, raw: Any, key: str, base: Any, fixed: Mapping[str, str]) -> Any:
    if isinstance(hint, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        hint = type(base) if type(base) in kinds else kinds[0]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return fill(hint, raw, key, base=base, fixed=fixed)
    if get_origin(hint) is tuple:
        return _many(get_args(hint)[0], raw, key, fixed)
    return _one(hint, raw, key)


def _many(hint: Any, raw: Any, key: str, fixed: Mapping[str, str]) -> tuple[Any, ...]:
    """A list, of texts also a single one; or a table, for pairs of a name and a value."""
    if get_origin(hint) is tuple:
        _expect(isinstance(raw, dict), key, "a table", raw)
        inner = get_args(hint)[1]
        return tuple((name, _value(inner, v, f"{key}.{name}", None, {})) for name, v in raw.items())
    if hint is str and isinstance(raw, str):
        return (raw,)
    _expect(isinstance(raw, list), key, "a list", raw)
    return tuple(_value(hint, v, f"{key}.{i}", None, fixed) for i, v in enumerate(raw))


def _one(kind: type, raw: Any, key: str) -> Any:
    word = _WORDS[kind]
    if kind is float:
        _expect(isinstance(raw, int | float) and not isinstance(raw, bool), key, word, raw)
        _expect(math.isfinite(raw), key, "a finite number", raw)
        return float(raw)
    if kind is Path:
        _expect(isinstance(raw, str) and raw != "", key, word, raw)
        return Path(raw)
    _expect(isinstance(raw, kind) and isinstance(raw, bool) == (kind is bool), key, word, raw)
    return raw


def _before(field: dataclasses.Field[Any], base: Any) -> Any:
    """What a section has where the file does not say."""
    if base is not None:
        return getattr(base, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _expect(ok: bool, key: str, expected: str, got: object) -> None:
    if not ok:
        raise SettingsError(f"{key} must be {expected}, got {got!r}")
