"""Place: where an archive lies, in a folder of this machine or at a URL that one is mirrored to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Protocol

from wsiseg.archive.book import is_intact
from wsiseg.archive.folder import ArchiveFolder
from wsiseg.archive.mirror import Mirror
from wsiseg.archive.pool import Pool
from wsiseg.archive.pull import Listing, copy_of
from wsiseg.archive.records import Record
from wsiseg.archive.request import Request
from wsiseg.errors import SettingsError
from wsiseg.storage.url import absolute, is_url

__all__ = ["Place", "looked_at", "place_of"]

IsIntact = Callable[[Record], bool]


class Place(Protocol):
    """What a batch asks of where its archive lies."""

    folder: ArchiveFolder
    """Where it works."""
    shown: str | Path
    """Where the archive is, for people."""

    def held(self, waiting: Callable[[str], None]) -> AbstractContextManager[None]:
        """Keep others out for the block; LockedError. ``waiting`` as in ``Lease``."""
        ...

    def is_intact(self, record: Record) -> bool:
        """Whether the files of a slide that is done are there, by their sizes."""
        ...

    def pool(self, inner: Pool, own: Iterable[Record]) -> Pool:
        """``inner``, whose slides are done when their files are where they belong."""
        ...

    def told(self, record: Record) -> None:
        """A record has changed."""
        ...

    def finish(
        self, write: Callable[[], None], asked_to_stop: Callable[[], str | None]
    ) -> str | None:
        """Let ``write`` make the tables of all slides; why they are not in place, if so.

        Once ``asked_to_stop`` nobody is waited for.
        """
        ...


class Here:
    """A folder of this machine, or one that is mounted."""

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.folder = ArchiveFolder(out)
        self.shown: str | Path = self.folder.root

    def held(self, waiting: Callable[[str], None]) -> AbstractContextManager[None]:
        """Nothing: the folder has its own locks."""
        return nullcontext()

    def is_intact(self, record: Record) -> bool:
        """See ``Place``."""
        return is_intact(self.folder.root, record)

    def pool(self, inner: Pool, own: Iterable[Record]) -> Pool:
        """``inner``, which writes where the files belong."""
        return inner

    def told(self, record: Record) -> None:
        """Nothing: the journal is in place."""

    def finish(
        self, write: Callable[[], None], asked_to_stop: Callable[[], str | None]
    ) -> str | None:
        """See ``Place``."""
        write()
        return None


def place_of(out: str | os.PathLike[str], request: Request) -> Place:
    """Where the archive ``out`` of a batch lies. Raises as ``Mirror``."""
    where = absolute(out)
    if not is_url(where):
        return Here(where)
    if request.policy.on_cluster and request.policy.work is None:
        raise SettingsError(
            "a dask cluster and an archive at a URL need --work, a folder that all workers share"
        )
    return Mirror(where, request.shard, request.policy.work)


@contextmanager
def looked_at(out: str | os.PathLike[str]) -> Iterator[tuple[ArchiveFolder, IsIntact]]:
    """The archive ``out``, perhaps none yet, to be read only, and what tells slides that are there.

    Of a URL, the state is copied, and removed at the end of the block.
    """
    where = absolute(out)
    if not is_url(where):
        folder = ArchiveFolder(where)
        yield folder, partial(is_intact, folder.root)
        return
    with copy_of(where, may_be_none=True) as (folder, store):
        yield folder, Listing(store).is_intact
