"""Status files: the contract, and that nothing in them is markup of others."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from wsiseg.archive.records import CODES, STATES, Record
from wsiseg.archive.status import StatusFiles, read_status, totals_of
from wsiseg.archive.status_text import change_text, markdown, status_lines
from wsiseg.errors import InputFileError

RECORDS = [
    Record("a", "done", cells=100, tissue_mm2=0.5, seconds=3.0, outputs={"x": [10, "ab"]}),
    Record("b", "failed", code="timeout", message="no progress", attempts=3),
    Record("c", "running", started="now"),
    Record("d", "skipped", code="not-selected"),
]


def written(tmp_path: Path, records: list[Record]) -> dict[str, object]:
    StatusFiles(tmp_path).write(records, {"at_work": [], "progress": {"c": (1, 4)}})
    return read_status(tmp_path)


def test_json_holds_a_list_of_slides_with_state_and_code(tmp_path: Path) -> None:
    found = written(tmp_path, RECORDS[::-1])
    slides = found["slides"]
    assert isinstance(slides, list)
    assert [s["slide_id"] for s in slides] == ["a", "b", "c", "d"]
    assert all(s["state"] in STATES for s in slides)
    assert all(s["code"] is None or s["code"] in CODES for s in slides)
    assert {"attempts", "host", "seconds", "peak_memory_bytes", "tiles", "cells"} <= {*slides[0]}
    assert {"cause", "message", "input_sha256", "output_sha256"} <= {*slides[0]}
    json.loads((tmp_path / "status.json").read_text(), parse_constant=pytest.fail)


def test_parquet_has_the_same_rows(tmp_path: Path) -> None:
    found = written(tmp_path, RECORDS)
    rows = pq.read_table(tmp_path / "status.parquet").to_pylist()
    assert isinstance(found["slides"], list)
    for row, slide in zip(rows, found["slides"], strict=True):
        assert row == {name: slide[name] for name in row}


def test_totals_count_every_slide_once() -> None:
    totals = totals_of(RECORDS)
    assert sum(totals[state] for state in STATES) == totals["slides"] == 4
    assert totals["codes"] == {"timeout": 1, "not-selected": 1}
    assert (totals["cells"], totals["tissue_mm2"], totals["output_bytes"]) == (100, 0.5, 10)


def test_what_would_be_markup_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> | [x](javascript:y) ![i](http://z) `c` \x1b[31m\n# head"
    record = Record("a", "failed", code="unreadable", message=evil, path="/x/<img src=y>.svs")
    written(tmp_path, [record])
    text = (tmp_path / "status.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| a "))
    assert "<" not in text.replace("\n", "")
    assert row.count("|") == 11
    assert "](" not in row
    assert "\x1b" not in text
    assert text.count("\n# ") == 0


def test_names_of_other_encodings_are_no_obstacle(tmp_path: Path) -> None:
    written(tmp_path, [Record("a", "done", path="/x/caf\udce9.svs", message="caf\udce9")])


def test_long_tables_are_cut_with_what_matters_first() -> None:
    records = [Record(f"s{i:05}", "done") for i in range(2000)] + [RECORDS[1]]
    text = markdown({"updated": "now", "totals": totals_of(records)}, records)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1].startswith("| b | failed")
    assert "more: see status.parquet" in text
    assert len(rows) < 600


def test_the_terminal_is_told_who_is_at_work_and_how_far(tmp_path: Path) -> None:
    found = written(tmp_path, RECORDS)
    text = "\n".join(status_lines(found, ["process 7 on host"]))
    assert "process 7 on host" in text
    assert "c since now, region 1 of 4" in text
    assert "timeout: no progress" in text
    idle = "\n".join(status_lines(found, []))
    assert "no batch is at work here: 1 slides are left" in idle


def test_every_state_has_a_line() -> None:
    for state in STATES:
        assert state in change_text(Record("a", state))


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]"])
def test_a_status_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "status.json").write_bytes(content)
    with pytest.raises(InputFileError, match=r"status\.json"):
        read_status(tmp_path)
