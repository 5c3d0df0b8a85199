"""Tiles, strips and rows of a TIFF page: found by its tables, read by position, decoded apart.

File reads are positional (os.pread, or ranges of an object) and decoding holds no lock, so
threads do not wait.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from imagecodecs import jpeg_decode
from numpy.typing import NDArray

from wsiseg.errors import UnreadableSlideError
from wsiseg.image.formats._guards import adobe_transform, check_claim
from wsiseg.image.formats._rgb import ColourRule, to_rgb
from wsiseg.storage.remote import Ranges

__all__ = ["Files", "RangeFiles", "RawRows", "Segments"]

JPEG, RGB = {6, 7, 33007, 34892}, 2  # values of the tags Compression and PhotometricInterpretation


class Files:
    """Positional reads from the file, and from those that a multi-file OME-TIFF names."""

    lanes = 1
    """Reads that are worth doing at once."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._lock = Lock()
        self._closed = False
        weakref.finalize(self, _close_all, self._open)

    def read(self, path: str, offset: int, count: int) -> bytes:
        """``count`` bytes at ``offset``; UnreadableSlideError where the file ends before."""
        data = os.pread(self._descriptor(path), count, offset)
        if len(data) != count:
            raise UnreadableSlideError(
                f"the file ends at byte {offset + len(data)}, within a tile of {count} bytes"
            )
        return data

    def close(self) -> None:
        """Close them all; a later read raises UnreadableSlideError."""
        with self._lock:
            self._closed = True
            _close_all(self._open)

    def _descriptor(self, path: str) -> int:
        with self._lock:
            if self._closed:
                raise UnreadableSlideError("the slide has been closed")
            if path not in self._open:
                self._open[path] = os.open(path, os.O_RDONLY)
            return self._open[path]


class RangeFiles(Files):
    """Positional reads of a file at a URL, whatever its skeleton is called."""

    lanes = 16

    def __init__(self, ranges: Ranges) -> None:
        super().__init__()
        self._ranges = ranges

    def read(self, path: str, offset: int, count: int) -> bytes:
        """As ``Files.read``."""
        if self._closed:
            raise UnreadableSlideError("the slide has been closed")
        try:
            data = self._ranges.read_at(offset, count)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UnreadableSlideError(f"{count} bytes at {offset}: {reason}") from error
        if len(data) != count:
            raise UnreadableSlideError(
                f"the file ends at byte {offset + len(data)}, within a tile of {count} bytes"
            )
        return data

    def close(self) -> None:
        """As ``Files.close``."""
        super().close()
        self._ranges.close()


def _close_all(descriptors: dict[str, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


@dataclass(frozen=True, slots=True)
class Segments:
    """Where the tiles of one level lie and how they decode."""

    pages: tuple[Any, ...]  # TiffPage or TiffFrame; one per channel where channels lie apart
    key: Any  # the TiffPage that knows how to decode them
    rule: ColourRule
    tile: tuple[int, int]
    across: int
    each: int  # tiles per sample plane
    files: Files

    def decode(self, i: int, j: int) -> NDArray[np.uint8] | None:
        """The tile (h, w, 3) in row i and column j; None where the file leaves it out."""
        planes = self.key.samplesperpixel if self.key.planarconfig == 2 else 1
        parts = []
        for page in self.pages:
            for s in range(planes):
                samples = self._segment(page, s * self.each + i * self.across + j)
                if samples is None:
                    return None
                parts.append(samples)
        return to_rgb(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1), self.rule)

    def _segment(self, page: Any, index: int) -> NDArray[Any] | None:
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:
            return None
        data = self.files.read(str(page.parent.filehandle.path), offset, count)
        check_claim(data, self.tile[0] * self.tile[1])
        if self._is_ycbcr_in_spite_of_its_tag(data):
            header = self.key.jpegheader
            return np.asarray(jpeg_decode(data, tables=page.jpegtables, header=header))
        tables = {"jpegtables": page.jpegtables, "jpegheader": self.key.jpegheader}
        samples = self.key.decode(data, index, **tables)[0]
        return np.asarray(samples[0])  # without the depth axis

    def _is_ycbcr_in_spite_of_its_tag(self, data: bytes) -> bool:
        """Whether the stream itself tells of YCbCr where the page is said to be RGB.

        What a stream states goes before the tag: libjpeg does so where the tag says YCbCr, and
        tifffile where it says RGB, but for the Adobe marker.
        """
        told = int(self.key.compression) in JPEG and int(self.key.photometric) == RGB
        return told and self.key.planarconfig == 1 and adobe_transform(data) == 1


@dataclass(frozen=True, slots=True)
class RawRows:
    """An untiled, uncompressed level, read by a few rows at a time however it was written."""

    page: Any
    rule: ColourRule
    rows: int  # per piece
    files: Files

    def decode(self, i: int, j: int) -> NDArray[np.uint8]:
        """Piece i (h, w, 3); there is one column of them."""
        page = self.page
        height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
        dtype = np.dtype(page.parent.byteorder + np.dtype(page.dtype).char)
        row_bytes = width * samples * dtype.itemsize
        first, last = i * self.rows, min((i + 1) * self.rows, height)
        data = b"".join(self._runs(first, last, row_bytes))
        values = np.frombuffer(data, dtype).reshape(last - first, width, samples)
        return to_rgb(values.astype(dtype.newbyteorder("=")), self.rule)

    def _runs(self, first: int, last: int, row_bytes: int) -> list[bytes]:
        strip, runs = self.page.rowsperstrip, []
        path = str(self.page.parent.filehandle.path)
        while first < last:
            s, inside = divmod(first, strip)
            count = min(last - first, strip - inside)
            offset = self.page.dataoffsets[s] + inside * row_bytes
            runs.append(self.files.read(path, offset, count * row_bytes))
            first += count
        return runs
