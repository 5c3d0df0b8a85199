"""Reads of an fsspec file system for libraries that await, with errors that are safe to show."""

from __future__ import annotations

import asyncio
from typing import Any

from fsspec.asyn import AsyncFileSystem

from wsiseg.storage.remote import UrlPath, asking

__all__ = ["Guarded", "awaitable"]


def awaitable(path: UrlPath) -> tuple[Guarded, str]:
    """As ``path.opened()``, for libraries that await."""
    files, inside = path.opened()
    return Guarded(files, path.url), inside


class Guarded(AsyncFileSystem):  # type: ignore[misc]
    """Reads of ``files`` below ``url``, each in a thread."""

    cachable = False

    def __init__(self, files: Any, url: str) -> None:
        super().__init__(asynchronous=True)
        self._files, self._url = files, url

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        return bytes(await self._asked("cat_file", path, start=start, end=end))

    async def _info(self, path: str, **_: Any) -> Any:
        return await self._asked("info", path)

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        return await self._asked("ls", path, detail=detail)

    async def _asked(self, call: str, path: str, **options: Any) -> Any:
        def ask() -> Any:
            with asking(self._url):
                return getattr(self._files, call)(path, **options)

        return await asyncio.to_thread(ask)
