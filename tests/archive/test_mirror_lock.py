"""Who may be at work at one URL at a time, whole batches and shards; without processes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from wsiseg.archive.mirror import Mirror
from wsiseg.errors import ForeignFolderError, LockedError

URL = "s3://archives/night/one"
Shard = tuple[int, int] | None


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("first", "second", "free"),
    [
        (None, None, False),
        (None, (1, 2), False),
        ((1, 2), None, False),
        ((1, 2), (1, 2), False),
        ((1, 2), (2, 2), True),
        ((1, 2), (1, 3), False),
    ],
)
def test_a_whole_batch_keeps_out_all_and_a_shard_all_but_its_kin(
    bucket: Any, tmp_path: Path, first: Shard, second: Shard, free: bool
) -> None:
    with ExitStack() as stack:
        enter(stack, first, tmp_path / "one")
        if free:
            enter(stack, second, tmp_path / "two")
        else:
            with pytest.raises(LockedError, match=URL):
                enter(stack, second, tmp_path / "two")
    assert [name for name in bucket.names() if name.endswith("/lock")] == []


def enter(stack: ExitStack, shard: Shard, work: Path) -> None:
    mirror = Mirror(URL, shard, work)
    mirror.folder.claim()
    stack.enter_context(mirror.held())


@pytest.mark.timeout(60)
def test_a_working_folder_is_of_one_url(bucket: Any, tmp_path: Path) -> None:
    with ExitStack() as stack:
        enter(stack, None, tmp_path)
    with pytest.raises(ForeignFolderError, match="--work"):
        Mirror(f"{URL}/other", None, tmp_path)
    Mirror(URL, None, tmp_path)
