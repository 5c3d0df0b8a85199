"""Which files make a slide, on a disk and at a URL."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from wsiseg.image.parts import members_of
from wsiseg.storage.remote import UrlPath


def dicom(uid: bytes) -> bytes:
    return bytes(128) + b"DICM" + b"\x20\x00\x0e\x00UI" + len(uid).to_bytes(2, "little") + uid


FILES = {
    "m.mrxs": b"x",
    "m/Slidedat.ini": b"1",
    "m/sub/Data0000.dat": b"22",
    "m2.mrxs": b"x",
    "v.vms": b"[Virtual Microscope Specimen]\nImageFile=v.jpg\nMapFile=v_map2.jpg\n",
    "v.jpg": b"333",
    "v_map2.jpg": b"4444",
    "w.jpg": b"55555",
    "1.dcm": dicom(b"1.2"),
    "2.dcm": dicom(b"1.2"),
    "3.dcm": dicom(b"1.3"),
    "a.ndpi": b"II*\0",
}
EXPECTED = {
    "m.mrxs": ["m.mrxs", "m/Slidedat.ini", "m/sub/Data0000.dat"],
    "m2.mrxs": ["m2.mrxs"],
    "v.vms": ["v.vms", "v.jpg", "v_map2.jpg"],
    "2.dcm": ["2.dcm", "1.dcm"],
    "3.dcm": ["3.dcm"],
    "a.ndpi": ["a.ndpi"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_slide_is_all_its_files_wherever_they_lie(name: str, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for file, data in FILES.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(data)
        memory.pipe(f"/parts/{file}", data)
    for path in (tmp_path / name, UrlPath("memory://parts") / name):
        found = members_of(path)
        assert [member.name for member in found] == EXPECTED[name]
        assert [member.size for member in found] == [len(FILES[m.name]) for m in found]
        assert all(member.mark for member in found)
    memory.rm("/parts", recursive=True)
