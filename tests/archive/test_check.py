"""Verifying: what is wrong with each file, and how far it is."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from wsiseg.archive.check import verify


def test_each_file_is_judged_and_told_of(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    expected = {"absent": "0" * 64, "folder": "0" * 64}
    for name in ("sound", "damaged"):
        (tmp_path / name).write_text(name)
        expected[name] = sha256(name.encode()).hexdigest()
    (tmp_path / "damaged").write_text("other")
    told: list[tuple[int, int]] = []
    found = verify(tmp_path, expected, on_file=lambda *how_far: told.append(how_far))
    assert (found.missing, found.damaged, found.unreadable) == (
        *(("absent",), ("damaged",)),
        ("folder",),
    )
    assert not found.sound
    assert told == [(n, 4) for n in range(1, 5)]
