import gzip
import io
import shutil
import subprocess
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsiseg.export import gzipped as module
from wsiseg.export.gzipped import gzipped

LINES = b"".join(b'{"cell":%d,"ring":[[%d,%d]]},\n' % (i, i * 7, i % 11) for i in range(40_000))


def stream(blocks) -> bytes:
    file = io.BytesIO()
    with gzipped(file) as write:
        for block in blocks:
            write(block)
    return file.getvalue()


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=70_000), max_size=6))
def test_the_content_is_that_of_the_blocks(blocks):
    assert gzip.decompress(stream(blocks)) == b"".join(blocks)


@pytest.mark.parametrize("size", [1, 1000, 32_768, 65_537, 1 << 20])
def test_it_is_one_member_with_its_checksum_and_size(size):
    """As Java's GZIPInputStream reads it: header, one raw stream that ends, CRC-32, size."""
    data = LINES[: size * 50]
    whole = stream(cut(data, size))
    assert whole[:4] == b"\x1f\x8b\x08\x00"
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    assert inflate.decompress(whole[10:]) == data
    assert inflate.eof
    crc, length = (int.from_bytes(inflate.unused_data[i : i + 4], "little") for i in (0, 4))
    assert (crc, length, len(inflate.unused_data)) == (zlib.crc32(data), len(data), 8)


def test_a_block_makes_use_of_the_one_before():
    noise = np.random.default_rng(0).bytes(30_000)
    assert len(stream([noise, noise])) < 1.1 * len(noise)


def test_blocks_cost_next_to_nothing():
    parts = len(stream(cut(LINES, 1 << 18)))
    whole = zlib.compressobj(module._LEVEL, zlib.DEFLATED, 31)
    assert parts < 1.02 * len(whole.compress(LINES) + whole.flush())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(workers=st.integers(1, 9))
def test_bytes_do_not_depend_on_the_number_of_threads(monkeypatch, workers):
    blocks = cut(LINES, 100_003)
    one = stream(blocks)
    monkeypatch.setattr(module, "cores", lambda: workers)
    assert stream(blocks) == one


@pytest.mark.skipif(shutil.which("gzip") is None, reason="no gzip on this machine")
def test_gzip_itself_accepts_it():
    done = subprocess.run(["gzip", "-dc"], input=stream(cut(LINES, 9999)), capture_output=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", LINES)


def test_nothing_gives_a_member_of_nothing():
    assert gzip.decompress(stream([])) == b""
    assert gzip.decompress(stream([b"", b"a", b"", b"b"])) == b"ab"
