"""Staging: copies that are whole, bounded, shared by processes, and kept while they are read."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsiseg.errors import SettingsError, UnreadableSlideError
from wsiseg.storage import staging as module
from wsiseg.storage.staging import Member, Staging

SIZE = 100_000


def slide(folder: Path, number: int) -> Member:
    """A file whose bytes tell which it is."""
    path = folder / f"{number}.ndpi"
    if not path.exists():
        path.write_bytes(bytes([number]) * SIZE)
    found = path.stat()
    return Member(path, path.name, found.st_size, str(found.st_mtime_ns))


def copies(cache: Path) -> set[int]:
    """Numbers of the slides of which there are copies."""
    return {int(path.stem) for path in cache.glob("*/data/*.ndpi")}


@pytest.fixture
def cache(tmp_path: Path) -> Staging:
    """Room for three slides."""
    return Staging.of(tmp_path / "cache", 3 * SIZE + 5)


def test_the_least_recently_used_copy_goes_first(cache: Staging, tmp_path: Path) -> None:
    for number in (1, 2, 3, 1, 4):
        copy = cache.copy([slide(tmp_path, number)], "where")
        assert copy.path.read_bytes() == bytes([number]) * SIZE
        copy.close()
        time.sleep(0.02)
    assert copies(cache.folder) == {1, 3, 4}


def test_a_copy_in_use_stays_and_a_forgotten_one_may_go(
    cache: Staging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.5)
    held = [cache.copy([slide(tmp_path, number)], "where") for number in (1, 2, 3)]
    with pytest.raises(UnreadableSlideError, match="no room") as caught:
        cache.copy([slide(tmp_path, 4)], "where")
    assert isinstance(caught.value.__cause__, OSError)
    assert copies(cache.folder) == {1, 2, 3}
    del held[1]
    cache.copy([slide(tmp_path, 4)], "where").close()
    assert copies(cache.folder) == {1, 3, 4}


def test_a_slide_larger_than_the_bound_is_refused(cache: Staging, tmp_path: Path) -> None:
    members = [slide(tmp_path, number) for number in (1, 2, 3, 4)]
    with pytest.raises(SettingsError, match=r"400000 bytes.*300005.*staging_bytes"):
        cache.copy(members, "case")
    assert copies(cache.folder) == set()


def test_another_version_is_another_copy(cache: Staging, tmp_path: Path) -> None:
    cache.copy([slide(tmp_path, 1)], "where").close()
    (tmp_path / "1.ndpi").write_bytes(b"new" * 20)
    assert cache.copy([slide(tmp_path, 1)], "where").path.read_bytes() == b"new" * 20


def test_one_flipped_bit_is_found_and_copied_again(
    cache: Staging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = cache.copy([slide(tmp_path, 1)], "where")
    copy.close()
    data = bytearray(copy.path.read_bytes())
    data[SIZE // 2] ^= 1
    copy.path.write_bytes(data)
    monkeypatch.setattr(module, "_checked", set())  # as another process
    assert cache.copy([slide(tmp_path, 1)], "where").path.read_bytes() == b"\1" * SIZE


def test_what_belongs_to_a_slide_lies_as_it_did(cache: Staging, tmp_path: Path) -> None:
    first, second = slide(tmp_path, 1), slide(tmp_path, 2)
    inside = Member(second.path, "1/Data0000.dat", second.size, second.mark)
    path = cache.copy([first, inside], "where").path
    assert path.name == "1.ndpi"
    assert (path.with_suffix("") / "Data0000.dat").read_bytes() == b"\2" * SIZE
    assert path.parents[1].stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["../x", "1/../../../x", "/x", ".."])
def test_no_name_leads_out_of_a_copy(name: str, cache: Staging, tmp_path: Path) -> None:
    first = slide(tmp_path, 1)
    with pytest.raises(UnreadableSlideError, match="leads out"):
        cache.copy([first, Member(first.path, name, first.size, first.mark)], "where")
    assert list(cache.folder.iterdir()) == []


WORK = """
import sys
from pathlib import Path
from wsiseg.storage import staging
from wsiseg.storage.staging import Member, Staging

folder, cache, limit, numbers, hang = sys.argv[1:]
if hang == "hang":
    def stream(member):
        yield b"torn"
        print("half", flush=True)
        import time
        time.sleep(600)
    staging._stream = stream
for number in numbers:
    path = Path(folder) / f"{number}.ndpi"
    size, mark = path.stat().st_size, str(path.stat().st_mtime_ns)
    copy = Staging.of(cache, int(limit)).copy([Member(path, path.name, size, mark)], "where")
    for _ in range(20):
        assert copy.path.read_bytes() == bytes([int(number)]) * size
    held = sum(path.stat().st_size for path in Path(cache).glob("*/data/*"))
    assert held <= int(limit), held
    copy.close()
"""


def worker(tmp_path: Path, numbers: str, hang: str = "no") -> subprocess.Popen[str]:
    words = [tmp_path, tmp_path / "cache", 3 * SIZE + 5, numbers, hang]
    call = [sys.executable, "-c", WORK, *map(str, words)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(120)
def test_processes_share_copies_and_the_bound(tmp_path: Path) -> None:
    for number in range(1, 7):
        slide(tmp_path, number)
    workers = [worker(tmp_path, numbers) for numbers in ("123456", "654321", "135246")]
    for process in workers:
        assert process.wait(100) == 0, process.communicate()[1]
        process.communicate()


@pytest.mark.timeout(60)
def test_a_copy_whose_maker_was_killed_is_made_anew(cache: Staging, tmp_path: Path) -> None:
    member = slide(tmp_path, 1)
    killed = worker(tmp_path, "1", "hang")
    assert killed.stdout is not None
    assert killed.stdout.readline() == "half\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    found = cache.copy([member], "where").path.read_bytes()
    assert hashlib.sha256(found).digest() == hashlib.sha256(b"\1" * SIZE).digest()


def test_what_was_half_removed_still_counts_and_goes_first(cache: Staging, tmp_path: Path) -> None:
    for number in (1, 2):
        cache.copy([slide(tmp_path, number)], "where").close()

    def killed(path: Path) -> None:
        if not path.name == "data":
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda path, **_: killed(Path(path)))
        with pytest.raises(KeyboardInterrupt):
            cache.copy([slide(tmp_path, 3), slide(tmp_path, 4)], "where")
    assert copies(cache.folder) == {1, 2}  # one of them without its entry.json
    cache.copy([slide(tmp_path, 3), slide(tmp_path, 4), slide(tmp_path, 5)], "where").close()
    assert copies(cache.folder) == {3, 4, 5}


def test_folders_of_others_in_the_staging_folder_stay(cache: Staging, tmp_path: Path) -> None:
    theirs = cache.folder / "mine"
    theirs.mkdir()
    (theirs / "size").write_text("large")
    for number in (1, 2, 3, 4):
        cache.copy([slide(tmp_path, number)], "where").close()
    assert (theirs / "size").read_text() == "large"


def test_a_copy_that_fails_is_removed_while_nobody_else_looks(
    cache: Staging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = []

    def removed(entry: Path) -> None:
        held = module._try(cache.folder / "lock", exclusive=True)
        free.append(held is not None)
        real(entry)

    real = module._remove
    monkeypatch.setattr(module, "_remove", removed)
    first = slide(tmp_path, 1)
    with pytest.raises(UnreadableSlideError):
        cache.copy([Member(first.path, first.name, first.size + 1, first.mark)], "where")
    assert free == [False]
    assert copies(cache.folder) == set()


def test_a_full_disk_is_an_error_of_the_folder(disk_of, tmp_path: Path) -> None:
    from wsiseg.errors import OutputError

    cache = Staging.of(disk_of(64) / "cache", 10 * SIZE)
    with pytest.raises(OutputError, match="ENOSPC"):
        cache.copy([slide(tmp_path, 1)], "where")
    assert copies(cache.folder) == set()
