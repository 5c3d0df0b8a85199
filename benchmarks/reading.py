"""Reading tiled TIFF beside OpenSlide: Mpx/s on one and two threads, pixels asserted equal.

A synthetic H&E slide is written with each codec; boxes of 256 and 1024 px that cover it are read
once each, in one order by every reader, on the tiles' grid and beside it. Both readers keep
64 MB of decoded tiles. OpenSlide's RGBA becomes an RGB array, as every network needs it.

python benchmarks/reading.py [--side 10240] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import tifffile
from numpy.typing import NDArray
from record import save

from wsiseg.geometry import Box
from wsiseg.heap import keep_freed_memory
from wsiseg.image.open import open_slide
from wsiseg.synth import he_slide

Read = Callable[[Box], NDArray[np.uint8]]

TILE, CACHE = 256, 64 << 20
CODECS: dict[str, dict[str, Any]] = {
    "jpeg ycbcr": {"compression": "jpeg", "compressionargs": {"level": 80}, "subsampling": (2, 2)},
    "jpeg rgb": {
        "compression": "jpeg",
        "compressionargs": {"level": 80, "outcolorspace": "rgb"},
        "photometric": "rgb",
    },
    "jpeg 2000": {"compression": "jpeg2000", "compressionargs": {"level": 80}},
    "lzw": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "zlib", "predictor": True},
    "zstd": {"compression": "zstd", "predictor": True},
    "webp": {"compression": "webp", "compressionargs": {"level": 80}},
}


def write_slide(path: Path, pixels: NDArray[np.uint8], side: int, options: dict[str, Any]) -> None:
    """A tiled TIFF of ``side`` px that repeats ``pixels``."""

    def tiles() -> Iterator[NDArray[np.uint8]]:
        h, w = pixels.shape[:2]
        for y in range(0, side, TILE):
            for x in range(0, side, TILE):
                yield pixels[y % h : y % h + TILE, x % w : x % w + TILE]

    kind = {"photometric": "ycbcr"} if "subsampling" in options else {"photometric": "rgb"}
    tifffile.imwrite(
        path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(TILE, TILE), **kind | options
    )


def ours(path: Path) -> Read:
    slide = open_slide(path)
    return lambda box: slide.read_level(0, box)


def theirs(path: Path) -> Read:
    slide = openslide.OpenSlide(str(path))
    slide.set_cache(openslide.OpenSlideCache(CACHE))

    def read(box: Box) -> NDArray[np.uint8]:
        (y, x), (h, w) = box.start, box.shape
        rgba = np.asarray(slide.read_region((x, y), 0, (w, h)))
        return np.ascontiguousarray(rgba[..., :3])

    return read


def boxes(side: int, size: int, shift: int) -> list[Box]:
    """Disjoint boxes of ``size`` px, ``shift`` px off the tiles' grid, row by row."""
    starts = range(shift, side - size + 1, size)
    return [Box((y, x), (y + size, x + size)) for y in starts for x in starts]


def rate(make: Callable[[], Read], wanted: Sequence[Box], threads: int) -> dict[str, float]:
    """Mpx/s of the wall clock, and per second of processor time, from a cold cache."""
    read = make()
    read(wanted[0])
    pixels = sum(box.size for box in wanted) / 1e6
    with ThreadPoolExecutor(threads) as pool:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in pool.map(lambda box: read(box)[0, 0, 0], wanted):
            pass
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": pixels / wall, "cpu": pixels / cpu}


def best(
    makes: dict[str, Callable[[], Read]], wanted: Sequence[Box], threads: int, repeats: int
) -> dict[str, dict[str, float]]:
    """The best of ``repeats`` of each reader, taken in turns."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in makes}
    for _ in range(repeats):
        for name, make in makes.items():
            seen[name].append(rate(make, wanted, threads))
    return {
        name: {kind: round(max(r[kind] for r in rates), 1) for kind in ("wall", "cpu")}
        for name, rates in seen.items()
    }


def same(path: Path, wanted: Sequence[Box]) -> int:
    """Number of boxes that were compared; AssertionError where a pixel differs."""
    read, reference = ours(path), theirs(path)
    some = wanted[:: max(1, len(wanted) // 16)]
    for box in some:
        np.testing.assert_array_equal(read(box), reference(box))
    return len(some)


def measure(path: Path, side: int, repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {"bytes": path.stat().st_size}
    makes: dict[str, Callable[[], Read]] = {"wsiseg": lambda: ours(path)}
    try:
        found["boxes_compared"] = same(path, boxes(side, 1024, 100))
        makes["openslide"] = lambda: theirs(path)
    except openslide.OpenSlideError as error:
        found["openslide"] = f"does not read it: {error}"
    for size, shift in ((1024, 0), (1024, 100), (256, 100)):
        wanted = boxes(side, size, shift)
        rates = {str(n): best(makes, wanted, n, repeats) for n in (1, 2)}
        name = f"{size} px{', off the grid' if shift else ''}"
        own = [rates[n]["wsiseg"] for n in ("1", "2")]
        found[name] = {"mpx_s": rates, "scaling": round(own[1]["wall"] / own[0]["wall"], 2)}
        if "openslide" in makes:
            other = rates["1"]["openslide"]
            found[name]["times openslide"] = {k: round(own[0][k] / other[k], 2) for k in own[0]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=10240)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--codecs", nargs="*", default=list(CODECS), choices=list(CODECS))
    options = parser.parse_args()
    keep_freed_memory()  # for both readers, as where a model has been loaded
    pixels = he_slide((2048, 2048), np.random.default_rng(0)).rgb
    result: dict[str, Any] = {"side": options.side, "tile": TILE, "codecs": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.codecs:
            path = Path(folder) / "slide.tif"
            side = options.side if name.startswith("jpeg ") else min(options.side, 4096)
            write_slide(path, pixels, side, CODECS[name])
            result["codecs"][name] = {"side": side} | measure(path, side, options.repeats)
            print(name, json.dumps(result["codecs"][name]), flush=True)
            path.unlink()
    result["openslide"] = openslide.__library_version__
    print(f"written to {save('reading', result).name}")


if __name__ == "__main__":
    main()
