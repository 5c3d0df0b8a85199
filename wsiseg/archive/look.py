"""Look: what an archive says of itself, and who is at work in it; nothing is touched."""

from __future__ import annotations

import json
from typing import Any

from wsiseg.archive.folder import WORK, ArchiveFolder
from wsiseg.archive.lease import lease_holder
from wsiseg.archive.pull import must_exist
from wsiseg.archive.status import read_status
from wsiseg.engine.lock import LOCK
from wsiseg.errors import InputFileError
from wsiseg.storage.store import Store
from wsiseg.storage.url import absolute, is_url

__all__ = ["status_of"]


def status_of(archive: str) -> tuple[dict[str, Any], list[str]]:
    """What ``status.json`` says, and who is at work, such as "process 17 on host".

    ``archive``: a folder or a URL. Raises RunFolderError where there is no archive,
    InputFileError where it cannot be read, OutputError where its store cannot be reached.
    """
    where = absolute(archive)
    if is_url(where):
        return _at(where)
    folder = ArchiveFolder(where)
    folder.must_exist()
    return read_status(folder.root), folder.at_work()


def _at(where: str) -> tuple[dict[str, Any], list[str]]:
    store = Store(where)
    must_exist(store)
    try:
        found = dict(json.loads(store.get("status.json") or b""))
    except (ValueError, TypeError) as error:
        raise InputFileError(f"{where}/status.json: cannot be read: {error}") from error
    names = sorted(name for name in store.listing(f"{WORK}/") if name.endswith(f"/{LOCK}"))
    return found, [who for who in (lease_holder(store, name) for name in names) if who]
