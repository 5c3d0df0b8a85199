"""The journal: what was written is known, whatever happened to the last line."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsiseg.archive.journal import JOURNAL, Journal, newest, read_journal
from wsiseg.archive.records import STATES, Record
from wsiseg.errors import RunFolderError

RECORDS = st.builds(
    Record,
    st.text("ab12é", min_size=1, max_size=3),
    st.sampled_from(sorted(STATES)),
    message=st.none() | st.text(max_size=20),
    cells=st.none() | st.integers(0, 10**9),
    classes=st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=2),
    outputs=st.just({"cells.parquet": [17, "ab"]}) | st.just({}),
    warnings=st.lists(st.text(max_size=9), max_size=2),
    change=st.integers(0, 9),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(first=st.lists(RECORDS, max_size=4), later=st.lists(RECORDS, max_size=4))
def test_the_last_record_of_each_slide_is_read_back(
    first: list[Record], later: list[Record], tmp_path: Path
) -> None:
    journal = Journal(tmp_path, first)
    for record in later:
        journal.add(record)
    journal.close()
    kept = {r.slide_id: r for r in [*first, *later]}
    found = read_journal(tmp_path)
    assert {k: without_empty(r) for k, r in found.items()} == {
        k: without_empty(r) for k, r in kept.items()
    }


def without_empty(record: Record) -> dict[str, object]:
    """An empty text and no text are one."""
    return {k: v for k, v in record.plain().items() if v not in (None, "", [], {})}


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_line_that_was_cut_short_costs_nothing_but_itself(cut: int, tmp_path: Path) -> None:
    journal = Journal(tmp_path, [Record("a", "done", cells=3)])
    journal.add(Record("b", "running"))
    journal.close()
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:-cut])
    found = read_journal(tmp_path)
    assert found["a"].cells == 3
    assert "b" not in found or cut == 1
    after = Journal(tmp_path, found.values())  # the next batch mends it
    after.add(Record("c", "pending"))
    after.close()
    assert {"a", "c"} <= {*read_journal(tmp_path)}


@pytest.mark.parametrize("line", [b"[]", b"{}", b'{"slide_id": 3, "state": "done"}', b"\xff", b"{"])
def test_lines_of_nobody_are_passed_over(line: bytes, tmp_path: Path) -> None:
    Journal(tmp_path, [Record("a", "done")]).close()
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(line + b"\n")
    assert [*read_journal(tmp_path)] == ["a"]


def test_a_journal_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(RunFolderError, match="EISDIR"):
        read_journal(tmp_path)


def test_a_journal_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal(tmp_path, [Record("a", "done")]).close()
    answers = [OSError(errno.ESTALE, "stale"), (tmp_path / JOURNAL).read_bytes()]

    def read(_: Path) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(Path, "read_bytes", read)
    assert [*read_journal(tmp_path)] == ["a"]


def test_of_several_journals_the_newest_record_counts() -> None:
    old, new = Record("a", "running", change=3), Record("a", "done", change=4)
    assert newest([{"a": old}, {"a": new}]) == newest([{"a": new}, {"a": old}]) == {"a": new}


def test_each_step_is_newer_than_the_one_before() -> None:
    steps = [Record("a", "pending")]
    for state in ("running", "failed", "pending", "running", "done"):
        steps.append(steps[-1].to(state))
    assert [step.change for step in steps] == [0, 1, 2, 3, 4, 5]


def test_a_new_state_forgets_the_code_of_the_last() -> None:
    failed = Record("a", "pending").to("failed", code="timeout", message="m", cause="c")
    assert failed.to("running").plain()["code"] is None
    assert failed.to("running").message is None
