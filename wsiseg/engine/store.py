"""The run folder: final files in plain sight, and beside them, hidden, what a resume needs.

::

    OUT/cells.parquet, run.json, ...     final files, each whole or absent
    OUT/.wsiseg/manifest.json            which run this is
    OUT/.wsiseg/lock                     who is at work in it (lock.py)
    OUT/.wsiseg/regions/00000042.wsr     result of region 42, a sealed blob (blob.py)
    OUT/.wsiseg/tissue.wsr               result of a stage, likewise

Nothing is written outside OUT, and nothing into a folder that holds files of others. A result
counts when its blob carries this run's key, this run's grid and its own number, and its seal is
intact; any other is as good as absent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wsiseg.atomic import make_folder, remove_temporaries, writing
from wsiseg.engine.blob import Arrays, digest
from wsiseg.engine.lock import LOCK, RunLock
from wsiseg.engine.manifest import MANIFEST, Manifest, differences, plain
from wsiseg.engine.results import REGIONS, SUFFIX, RegionStore, region_name
from wsiseg.errors import ForeignFolderError, KeyMismatchError, OutputError, RunFolderError
from wsiseg.pulse import beat

__all__ = ["BESIDE", "FINAL_FILES", "WORK", "RegionStore", "RunFolder", "must_be_ours"]

WORK = ".wsiseg"
"""Name of the hidden folder."""
FINAL_FILES = (
    "cells.geojson.gz",
    "cells.geojson",
    "cells.parquet",
    "cells.csv",
    "preview.png",
    "run.json",
)
"""The names that a run may write in its folder, and that a fresh start removes."""
BESIDE = ("demo-slide.tif", "demo-truth.png")
"""What ``wsiseg demo`` makes and keeps in the folder of its run."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class RunFolder:
    """The folder of one run, locked until `close` or the end of the ``with`` block."""

    def __init__(self, root: Path, lock: RunLock, manifest: Manifest) -> None:
        self.path = root
        """The folder, without symbolic links."""
        self.grid_changed = False
        """Whether another grid was asked for than the stored one, which is kept."""
        self._lock, self._manifest = lock, manifest
        self.store = RegionStore(root / WORK, manifest.key, digest(manifest.grid), lock.token)
        """What workers need."""

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        key: str,
        parts: Mapping[str, Any],
        grid: Mapping[str, Any],
        fresh: bool = False,
        resume: bool = True,
        waiting: Callable[[str], None] | None = None,
    ) -> RunFolder:
        """Begin a run in ``path``, or go on with the run of the same ``key`` that is there.

        ``parts`` (what the key was made of) and ``grid`` (region size, lattice shape) are plain
        JSON. A resumed run keeps its stored ``grid``. ``fresh`` removes our own earlier files
        first; without ``resume``, an earlier run of the same key is an error too. For ``waiting``
        see RunLock.

        Raises ForeignFolderError, KeyMismatchError (says which parts differ), LockedError,
        OutputError, or RunFolderError (damaged manifest).
        """
        root = _resolved(path)
        with writing(root):
            must_be_ours(root)
        make_folder(root / WORK)
        lock = RunLock(root / WORK, waiting=waiting)
        try:
            asked = Manifest(key, plain(parts), plain(grid))
            stored = None if fresh else _stored(root, asked, resume)
            make_folder(root / WORK / REGIONS)
            with writing(root):
                _clean(root, fresh)
            base = stored or asked
            manifest = replace(base, tokens=(*base.tokens, lock.token))
            manifest.write(root / WORK)
            run = cls(root, lock, manifest)
            run.grid_changed = manifest.grid != asked.grid
            return run
        except BaseException:
            lock.release()
            raise

    @property
    def key(self) -> str:
        """Key of the run."""
        return self._manifest.key

    @property
    def token(self) -> str:
        """Token of this run, drawn when it took the lock."""
        return self._lock.token

    @property
    def grid(self) -> dict[str, Any]:
        """The grid that counts, which on a resume is the stored one."""
        return self._manifest.grid

    @property
    def resumed(self) -> bool:
        """Whether an earlier run of the same key began this."""
        return len(self._manifest.tokens) > 1

    @property
    def recomputed(self) -> int:
        """How many stored results were found damaged, over all runs of this key."""
        return self._manifest.recomputed

    def save(
        self, number: int, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
    ) -> None:
        """Publish the result of region ``number``, see RegionStore.save."""
        self.store.save(number, arrays, meta)

    def load(self, number: int) -> tuple[Arrays, dict[str, Any]]:
        """The result of region ``number``; RunFolderError if it is absent or damaged."""
        return self.store.load(number)

    def done(self) -> set[int]:
        """Regions with a result of the right label and size; cheap, does not check seals.

        Results of another key or grid, which only a late writer can leave, are removed.
        """
        found = set()
        for path in (self.path / WORK / REGIONS).glob("*" + SUFFIX):
            with suppress(OSError):  # what cannot be read is not done, and may be sound
                if path.stem.isdecimal() and self.store.listed(path.stem):
                    found.add(int(path.stem))
                else:
                    path.unlink()
        return found

    def verify(self, number: int) -> bool:
        """Whether the result of a region is intact; a damaged one is removed and counted."""
        return self._verify(region_name(number))

    def verified(self) -> set[int]:
        """Regions that a resume need not compute again: done, and every seal checked."""
        return {number for number in self.done() if self.verify(number)}

    def keep(self, name: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
        """Publish the result of a stage, such as "tissue"."""
        self.store.put(_stage_name(name), arrays, meta)

    def kept(self, name: str) -> tuple[Arrays, dict[str, Any]] | None:
        """The result of a stage; None if it is absent, or was damaged (removed and counted)."""
        return self.store.get(name) if self._verify(_stage_name(name)) else None

    def file(self, name: str) -> Path:
        """Where a final file goes: one of FINAL_FILES, to be written through wsiseg.atomic."""
        if name not in FINAL_FILES:
            raise RunFolderError(f"a run writes {', '.join(FINAL_FILES)}, got {name!r}")
        return self.path / name

    def close(self) -> None:
        """Give the lock back; the folder can be resumed."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _verify(self, name: str) -> bool:
        try:
            self.store.get(name)
            beat()
            return True
        except RunFolderError as error:
            if isinstance(error.__cause__, OSError):  # absent, or not to be read today
                return False
        self.store.path(name).unlink(missing_ok=True)
        self._manifest = replace(self._manifest, recomputed=self._manifest.recomputed + 1)
        self._manifest.write(self.path / WORK)
        return False


def _stage_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise RunFolderError(f"a stage has a name such as 'tissue', got {name!r}")
    return name


def _resolved(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a NUL in it
        raise OutputError(f"{path!r} is not a path ({error}): choose another --out") from error


def must_be_ours(root: Path) -> None:
    """ForeignFolderError unless ``root`` is absent, empty, or a run folder."""
    if not root.exists():
        return
    if not root.is_dir():
        raise ForeignFolderError(f"{root} is a file, not a folder: choose another --out")
    names = sorted(os.listdir(root))
    work = root / WORK
    for folder in (work, work / REGIONS):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise _foreign(root, folder)
    if (work / MANIFEST).exists():
        return
    # a run that was killed before its first manifest has left nothing but the hidden folder
    ours = (WORK, *BESIDE)
    strangers = [n for n in names if n not in ours and not n.startswith(".wsiseg-")]
    strangers += _strangers(work)
    if strangers:
        raise _foreign(root, root / strangers[0])


def _strangers(work: Path) -> list[str]:
    names = sorted(os.listdir(work)) if work.exists() else []
    ours = (LOCK, REGIONS, ".wsiseg-")
    return [f"{WORK}/{name}" for name in names if not name.startswith(ours)]


def _foreign(root: Path, example: Path) -> ForeignFolderError:
    return ForeignFolderError(
        f"{root} holds files that are not of a wsiseg run, such as {example}: choose another "
        "--out, a new or an empty folder; nothing was written"
    )


def _stored(root: Path, asked: Manifest, resume: bool) -> Manifest | None:
    """The manifest of an earlier run that the asked one goes on with."""
    stored = Manifest.read(root / WORK)
    if stored is None:
        return None
    remedy = "start over with --fresh (this removes its results), or choose another --out"
    if stored.key != asked.key:
        changed = differences(stored.parts, asked.parts)
        changed = changed or [f"key: {stored.key} -> {asked.key}"]
        raise KeyMismatchError(f"{root} holds another run ({'; '.join(changed)}): {remedy}")
    if not resume:
        raise RunFolderError(f"{root} already holds this run: resume it, {remedy}")
    return stored


def _clean(root: Path, fresh: bool) -> None:
    """Remove what dead writers left, and on a fresh start all that our runs wrote.

    The old manifest goes last, by being replaced: who is killed in between finds a run folder.
    """
    work = root / WORK
    for folder in (root, work, work / REGIONS):
        remove_temporaries(folder)
    if fresh:
        blobs = [*work.glob("*" + SUFFIX), *(work / REGIONS).iterdir()]
        for path in [*(root / name for name in FINAL_FILES), *blobs]:
            path.unlink(missing_ok=True)
