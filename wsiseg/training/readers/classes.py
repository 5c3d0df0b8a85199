"""Names of classes, as files have them, into the numbers that training uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError, SettingsError

__all__ = ["ClassMap", "class_key"]


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Which number a class name has; case and blanks around a name do not count.

    Raises SettingsError where a name of the user's renames leads to no class.
    """

    classes: tuple[str, ...]
    """Names, in the order of a model's heads; (): every name has the number 0."""
    renames: Mapping[str, str] = field(default_factory=dict)
    """Name in the file -> name in ``classes``, or "": nuclei of this name have no known class."""
    usual: Mapping[str, str] = field(default_factory=dict)
    """The same for the names of a layout; after ``renames`` and the classes themselves."""

    def __post_init__(self) -> None:
        _check_names(self.classes)
        for source, target in self.renames.items():
            if self.classes and target and class_key(target) not in map(class_key, self.classes):
                raise SettingsError(
                    f"renames: {source!r} becomes {target!r}, which is no class: expected one of "
                    f"{', '.join(self.classes)}, or nothing (class not known)"
                )

    def with_usual(self, usual: Mapping[str, str]) -> ClassMap:
        """The same, with the names that a layout has by custom."""
        return replace(self, usual=usual)

    def numbers(self, names: Sequence[str | None], where: object) -> NDArray[np.uint8]:
        """(N,): 1 + index in the classes of each name; 0 for None, "" and what is renamed to "".

        Raises InputFileError, naming ``where`` and all names that are not known.
        """
        found = {name: self._number(name) for name in set(names)}
        unknown = sorted(str(name) for name, number in found.items() if number is None)
        if unknown:
            raise InputFileError(
                f"{where}: unknown classes: {_quoted(unknown)}; known are "
                f"{', '.join(self.classes)}. Map the others with renames, "
                f"such as {{{unknown[0]!r}: {self.classes[-1]!r}}}, or {{{unknown[0]!r}: ''}} for "
                "nuclei whose class is not known"
            )
        return np.array([found[name] for name in names], dtype=np.uint8)

    def knows(self, name: str) -> bool:
        """Whether a name has a number."""
        return self._number(name) is not None

    def _number(self, name: str | None) -> int | None:
        if not self.classes:
            return 0
        key = class_key(name or "")
        order = {class_key(c): i for i, c in enumerate(self.classes, 1)}
        renames = {class_key(source): class_key(target) for source, target in self.renames.items()}
        if key in renames:
            return order[renames[key]] if renames[key] else 0
        if not key or key in order:
            return order.get(key, 0)
        return order.get(self.usual.get(key, key))


def class_key(name: str) -> str:
    """What names of one class have in common: neither case nor blanks around a name count."""
    return name.strip().casefold()


def _check_names(classes: Iterable[str]) -> None:
    keys = [class_key(name) for name in classes]
    if not all(keys) or len(set(keys)) < len(keys) or len(keys) > 254:
        raise SettingsError(
            f"classes must be 254 different names at most, none of them empty, got {list(classes)}"
        )


def _quoted(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
