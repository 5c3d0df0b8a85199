"""The folder of a training: what is in it, whose it is, and how far the training has come.

::

    OUT/weights/          the result: model.safetensors, card.md, LICENSE
    OUT/summary.json      scores, calibration, where they come from
    OUT/config.json       every setting, the data with counts, versions of the libraries
    OUT/log.csv           losses and validation scores by step
    OUT/pictures/*.png    predictions at each validation        OUT/tensorboard/
    OUT/.wsiseg/          training.json (whose it is), state and best (safetensors), scores.json,
                          lock
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsiseg.atomic import atomic_write, make_folder, remove_temporaries, writing
from wsiseg.engine.lock import RunLock
from wsiseg.errors import ForeignFolderError, KeyMismatchError, RunFolderError
from wsiseg.settings import flat

__all__ = ["TrainFolder", "write_json"]

_WORK = ".wsiseg"
_FILES = ("summary.json", "config.json", "log.csv")
_FOLDERS = ("weights", "pictures", "tensorboard")
_KEY = "training.json"


class TrainFolder:
    """Paths in the folder of a training, which is locked while this is used."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / _WORK
        self.state = self.work / "state.safetensors"
        """The checkpoint."""
        self.best = self.work / "best.safetensors"
        """Weights of the best validation."""
        self.weights = root / "weights"
        self.pictures = root / "pictures"
        self.log = root / "log.csv"
        self.summary = root / "summary.json"

    @classmethod
    @contextmanager
    def open(cls, path: Path, key: dict[str, Any], *, fresh: bool) -> Iterator[TrainFolder]:
        """Begin the training of ``key`` (JSON values) in a folder, or go on with it.

        ``fresh`` removes an earlier training first. Raises ForeignFolderError, LockedError,
        OutputError, or KeyMismatchError, which names what differs.
        """
        folder = cls(path.resolve())
        with writing(path):
            folder._must_be_ours()
        make_folder(folder.work)
        with RunLock(folder.work):
            with writing(path):
                remove_temporaries(folder.work)
                if fresh:
                    folder._clear()
            folder._claim(key)
            yield folder

    def history(self) -> list[dict[str, Any]]:
        """Validations so far: step, mean, sets."""
        path = self.work / "scores.json"
        found = _read_json(path) if path.exists() else []
        if not isinstance(found, list):
            raise RunFolderError(f"{path} is damaged: start over with --fresh")
        return found

    def add_history(self, entry: dict[str, Any]) -> None:
        """Add a validation."""
        write_json(self.work / "scores.json", [*self.history(), entry])

    def cut_history(self, step: int) -> None:
        """Forget validations after ``step``."""
        found = self.history()
        kept = [entry for entry in found if entry["step"] <= step]
        if len(kept) < len(found):
            write_json(self.work / "scores.json", kept)

    def _must_be_ours(self) -> None:
        if not self.root.exists() or (self.work / _KEY).exists():
            return
        names = {entry.name for entry in os.scandir(self.root)}
        inside = {e.name for e in os.scandir(self.work)} if self.work.is_dir() else set()
        foreign = sorted(names - {_WORK}) + sorted(
            f"{_WORK}/{n}" for n in inside if not n.startswith(("lock", ".wsiseg-"))
        )
        if foreign:
            raise ForeignFolderError(
                f"{self.root} holds files that are of no training ({', '.join(foreign[:3])}): "
                "choose another --out"
            )

    def _clear(self) -> None:
        for name in (*_FILES, *(f"{_WORK}/{n}" for n in (_KEY, "scores.json"))):
            (self.root / name).unlink(missing_ok=True)
        for path in (self.state, self.best):
            path.unlink(missing_ok=True)
        for name in _FOLDERS:
            if (self.root / name).is_dir():
                shutil.rmtree(self.root / name)

    def _claim(self, key: dict[str, Any]) -> None:
        path = self.work / _KEY
        if not path.exists():
            write_json(path, key)
            return
        stored, asked = flat(_read_json(path)), flat(key)
        differ = [
            f"{name} {asked.get(name)!r} (there: {stored.get(name)!r})"
            for name in sorted(stored.keys() | asked.keys())
            if stored.get(name) != asked.get(name)
        ]
        if differ:
            more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
            raise KeyMismatchError(
                f"{self.root} holds another training, of which differ: {', '.join(differ[:4])}"
                f"{more}; take another --out, or start over with --fresh"
            )


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode())
        file.write(b"\n")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} is damaged ({error}): start over with --fresh") from error
