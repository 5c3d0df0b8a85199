"""Stored results: what a worker process needs of a run folder, and no more."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wsiseg.atomic import temporary_name, write_new, writing
from wsiseg.engine.blob import HEADER_SIZE, Arrays, Label, pack, sealed_size, unpack
from wsiseg.engine.lock import current_token
from wsiseg.errors import RunFolderError

__all__ = ["REGIONS", "SUFFIX", "RegionStore", "region_name"]

REGIONS = "regions"
"""Folder of region results."""
SUFFIX = ".wsr"
"""Of every blob."""


@dataclass(frozen=True, slots=True)
class RegionStore:
    """Where workers put and find region results; made by RunFolder, pickles by reference.

    Thread-safe. Saving the same region twice is harmless: equal results are equal bytes.
    """

    work: Path
    """The hidden folder."""
    key: str
    """Key of the run."""
    grid: str
    """Hash of its grid."""
    token: str
    """The run's token: a worker whose run has been succeeded cannot publish."""

    def save(
        self, number: int, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
    ) -> None:
        """Publish the result of region ``number``: whole, or not at all.

        Not synced, which costs as much as decoding: what a power cut tears, its seal shows, and it
        is computed anew. ``arrays`` of any shape (bool, integers, floats), ``meta`` plain JSON
        without NaN. Raises OutputError where the disk does not allow it, RunFolderError where the
        run is fenced off.
        """
        self.put(region_name(number), arrays, meta)

    def load(self, number: int) -> tuple[Arrays, dict[str, Any]]:
        """The result of region ``number``; RunFolderError if it is absent or damaged."""
        return self.get(region_name(number))

    def put(self, name: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
        """Publish the blob ``name``, see `save`."""
        target = self.path(name)
        parts = pack(self.label(name), arrays, meta)
        temporary = target.parent / temporary_name(self.token)
        with writing(target):
            try:
                write_new(temporary, parts, durable=False)
                self._check_token()  # as late as possible
                os.replace(temporary, target)
            except FileNotFoundError:
                self._check_token()  # a successor has swept our file away
                raise
            finally:
                with suppress(OSError):
                    temporary.unlink()

    def get(self, name: str) -> tuple[Arrays, dict[str, Any]]:
        """Arrays and meta of the blob ``name``; RunFolderError if it is absent or damaged."""
        path = self.path(name)
        try:
            return unpack(self.label(name), path.read_bytes())
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"the stored result {path} is absent or damaged ({error}): run the same command "
                "again, and it is computed anew"
            ) from error

    def listed(self, name: str) -> bool:
        """Whether the blob ``name`` has our label and the right size (its seal is not checked).

        Raises OSError where it cannot be read.
        """
        with self.path(name).open("rb") as file:
            header, size = file.read(HEADER_SIZE), os.fstat(file.fileno()).st_size
        return sealed_size(self.label(name), header) == size

    def label(self, name: str) -> Label:
        """The label of a blob."""
        return Label(self.key, self.grid, name)

    def path(self, name: str) -> Path:
        """Where a blob lies."""
        folder = self.work / REGIONS if name.isdecimal() else self.work
        return folder / (name + SUFFIX)

    def _check_token(self) -> None:
        if current_token(self.work) != self.token:
            raise RunFolderError(
                f"fenced: this process belongs to a run that no longer holds {self.work.parent}, "
                "because it ended, another one took over, or the folder was removed; the result "
                "was not written"
            )


def region_name(number: int) -> str:
    """Name of the blob of region ``number``; RunFolderError if it is negative."""
    if number < 0 or number != int(number):
        raise RunFolderError(f"a region has a number >= 0, got {number!r}")
    return f"{int(number):08d}"
