"""What a file says of a patient never leaves it: planted tokens, sought in all that comes out."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from wsiseg.synth import he_slide

Here = Callable[..., subprocess.CompletedProcess[str]]
TOKENS = ("TOKENPATIENT", "TOKENBARCODE", "TOKENLABEL", "TOKENMACRO", "TOKENTEXT", "TOKENBIRTH")
PATIENT = "|Patient = TOKENPATIENT|Barcode = TOKENBARCODE|PatientBirthDate = TOKENBIRTH"


def aperio(path: Path, said: str) -> None:
    """An SVS-like file: a pyramid, and a label and a macro whose very bytes are tokens."""
    rgb = he_slide((331, 383), np.random.default_rng(3)).rgb
    head = "Aperio Image Library v12\r\n"
    with tifffile.TiffWriter(path) as writer:
        how: dict[str, Any] = {"photometric": "rgb", "metadata": None, "software": False}
        jpeg = {"compression": "jpeg", "tile": (256, 256)}
        writer.write(rgb, description=f"{head}383x331 {said}{PATIENT}", **jpeg, **how)
        for name in ("label", "macro"):
            token = f"TOKEN{name.upper()}".encode().ljust(12, b"_")
            pixels = np.tile(np.frombuffer(token, np.uint8).reshape(1, 4, 3), (64, 16, 1))
            writer.write(pixels, description=f"{head}{name} 64x64{PATIENT}", **how)


def plant(folder: Path) -> None:
    """Slides that are sound, and slides that fail in ways in which messages quote files."""
    aperio(folder / "sound.svs", "AppMag = 20|MPP = 0.5")
    aperio(folder / "no-mpp.svs", "AppMag = 20")
    aperio(folder / "odd-mpp.svs", "MPP = TOKENPATIENT")
    whole = (folder / "sound.svs").read_bytes()
    (folder / "cut.svs").write_bytes(whole[: len(whole) // 3])
    middle = len(whole) // 2
    (folder / "flipped.svs").write_bytes(
        whole[: middle - 400] + b"TOKENPATIENT" * 60 + whole[middle + 320 :]
    )
    (folder / "text.svs").write_bytes(b"TOKENTEXT TOKENPATIENT is no slide")
    ome = f"<OME><Image><Description>{PATIENT}</Description><TOKENTEXT"
    tifffile.imwrite(
        folder / "xml.ome.tif",
        np.full((64, 64, 3), 200, np.uint8),
        description=ome,
        metadata=None,
        photometric="rgb",
    )


def texts(out: Path) -> dict[str, bytes]:
    """Everything below ``out`` as bytes in which a token could be read."""
    found = {}
    for path in out.rglob("*"):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".gz":
            data += gzip.decompress(data)
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            data += repr(
                [
                    table.drop_columns("geometry") if "geometry" in table.column_names else table,
                    table.to_pylist()[:50],
                    table.schema.metadata,
                ]
            ).encode()
        found[str(path)] = data
    return found


@pytest.mark.parametrize("log", ["text", "json"])
def test_tokens_of_patients_are_nowhere(log: str, tmp_path: Path, kit: Any, here: Here) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    plant(source)
    done = kit.batch(source, out, "--workers", 2, "--attempts", 1, "--log", log)
    states = {name: slide["state"] for name, slide in kit.status(out).items()}
    assert states["sound"] == "done", done.stderr
    assert {states[n] for n in ("no-mpp", "cut", "text", "odd-mpp")} == {"failed"}
    everything = texts(out)
    everything["stdout"], everything["stderr"] = done.stdout.encode(), done.stderr.encode()
    for command in (("status", out), ("status", out, "--json"), ("verify", out)):
        shown = here(*command)
        everything[str(command)] = (shown.stdout + shown.stderr).encode()
    dry = kit.batch(source, tmp_path / "dry", "--dry-run")
    everything["dry-run"] = (dry.stdout + dry.stderr).encode()
    leaks = [(where, t) for where, data in everything.items() for t in TOKENS if t.encode() in data]
    assert leaks == []


def test_a_dicom_slide_keeps_its_patient(tmp_path: Path, data: Path, kit: Any) -> None:
    pydicom = pytest.importorskip("pydicom")
    made = pydicom.dcmread(data / "slides" / "small_dicom.dcm")
    for name, kind in (("PatientName", "PN"), ("PatientID", "LO"), ("PatientComments", "LT")):
        made.add_new(name, kind, "TOKENPATIENT")
    made.add_new("PatientBirthDate", "DA", "19010203")
    made.save_as(tmp_path / "a.dcm")
    whole = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(whole[: len(whole) // 2])
    manifest, out = tmp_path / "m.csv", tmp_path / "out"
    manifest.write_text("path,mpp\na.dcm,0.5\nb.dcm,0.5\n")  # it states 5 µm, and would be huge
    done = kit.batch(manifest, out, "--workers", 1, "--attempts", 1, timeout=200)
    assert kit.status(out)["a"]["state"] == "done"
    assert kit.status(out)["b"]["state"] == "failed"
    everything = b"".join(texts(out).values()) + (done.stdout + done.stderr).encode()
    assert b"TOKENPATIENT" not in everything
    assert b"19010203" not in everything
