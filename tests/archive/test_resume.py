"""Which slides are done, which are run again, and which stay as they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from wsiseg.archive import resume
from wsiseg.archive.book import Book
from wsiseg.archive.dataset import PART, add_part, part_of
from wsiseg.archive.folder import ArchiveFolder
from wsiseg.archive.records import Record
from wsiseg.archive.request import Request
from wsiseg.archive.resume import records_of
from wsiseg.archive.rows import SlideRow
from wsiseg.archive.stamp import Unreachable
from wsiseg.errors import ForeignFolderError


class Archive:
    """An archive of slides that are no slides, each done with one file."""

    def __init__(self, tmp_path: Path) -> None:
        self.inputs = tmp_path / "share" / "slides"
        self.inputs.mkdir(parents=True)
        self.folder = ArchiveFolder(tmp_path / "out")
        self.folder.claim()
        self.known: dict[str, Record] = {}
        self.rows = []
        for name in ("a", "b"):
            (self.inputs / f"{name}.tif").write_text(name)
            self.rows.append(SlideRow(name, str(self.inputs / f"{name}.tif")))

    def look(self, **how: Any) -> dict[str, Record]:
        """Records as a batch that begins now finds them; they are known from then on."""
        request = Request.of(self.rows, model="hematoxylin", **how)
        found = records_of(request, request.rows, self.known, self.folder)
        self.known = {record.slide_id: record for record in found}
        return self.known

    def finish(self, slide_id: str) -> None:
        """A result of the slide, as a run would leave it."""
        run = self.folder.slide(slide_id)
        run.mkdir(exist_ok=True)
        (run / PART).write_text("cells")
        add_part(self.folder.root, slide_id, run / PART)
        done = self.known[slide_id].to("running").to("done", outputs={PART: [5, "0" * 64]})
        self.known[slide_id] = done


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    made = Archive(tmp_path)
    made.look()
    made.finish("a")
    return made


def empty_mount(archive: Archive) -> None:
    shutil.rmtree(archive.inputs)
    archive.inputs.mkdir()


def one_file_less(archive: Archive) -> None:
    (archive.inputs / "a.tif").unlink()


@pytest.mark.parametrize("lose", [empty_mount, one_file_less])
def test_a_slide_that_is_done_stays_so_while_its_input_is_not_to_be_seen(
    archive: Archive, tmp_path: Path, lose: Any
) -> None:
    kept = shutil.copytree(archive.inputs, tmp_path / "kept")  # with times
    lose(archive)
    found = archive.look()
    assert found["a"].state == "done"
    assert "not to be seen" in found["a"].warnings[-1]
    shutil.copytree(kept, archive.inputs, dirs_exist_ok=True)
    found = archive.look()
    assert (found["a"].state, found["a"].warnings) == ("done", [])
    assert found["b"].state == "pending"  # and what had failed meanwhile is tried


def test_a_share_that_is_not_mounted_fails_what_is_not_done_for_this_time_only(
    archive: Archive,
) -> None:
    empty_mount(archive)
    found = archive.look()
    assert (found["b"].state, found["b"].code) == ("failed", "missing-file")
    assert "not mounted" in (found["b"].message or "")
    (archive.inputs / "b.tif").write_text("b")
    assert archive.look()["b"].state == "pending"


def test_storage_that_fails_does_not_make_a_slide_missing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(paths: Any, **_: Any) -> Any:
        return [Unreachable("ESTALE") for _ in paths]

    with monkeypatch.context() as broken:
        broken.setattr(resume, "stamps_of", fails)
        found = archive.look()
    assert found["a"].state == "done"
    assert (found["b"].state, found["b"].code, found["b"].cause) == ("failed", "input-io", "ESTALE")
    assert archive.look()["b"].state == "pending"


def test_other_settings_run_a_slide_again_whether_or_not_its_input_is_there(
    archive: Archive,
) -> None:
    archive.rows[0] = SlideRow("a", archive.rows[0].path, mpp=0.3)
    one_file_less(archive)
    assert archive.look()["a"].code == "missing-file"


def test_names_of_files_bring_no_control_characters_into_messages(archive: Archive) -> None:
    archive.rows[1] = SlideRow("b", str(archive.inputs / "\x1b[31mgone\n.tif"))
    message = archive.look()["b"].message or ""
    assert "gone" in message
    assert message.isprintable()


def test_a_slide_with_which_every_batch_dies_is_run_alone_then_convicted(
    archive: Archive,
) -> None:
    for death in range(1, 31):
        archive.known["b"] = archive.known["b"].to("running")  # and the batch is no more
        found = archive.look(attempts=3)["b"]
        assert (found.state, found.lost) == (("pending", death) if death < 30 else ("failed", 0))
    assert (found.code, found.cause) == ("quarantine", "batch died")
    assert archive.look()["b"].state == "failed"
    again = archive.look(retry_failed=True)["b"]
    assert (again.state, again.lost) == ("pending", 0)


def test_deaths_do_not_count_while_regions_are_stored_in_between(archive: Archive) -> None:
    regions = archive.folder.slide("b") / ".wsiseg" / "regions"
    regions.mkdir(parents=True)
    for death in range(40):
        (regions / f"{death:08}.wsr").touch()
        archive.known["b"] = archive.known["b"].to("running")
        found = archive.look()["b"]
        assert (found.state, found.lost) == ("pending", 0)


def test_preemptions_are_no_deaths(archive: Archive) -> None:
    for _ in range(40):
        archive.known["b"] = archive.known["b"].to("running").to("preempted")
        found = archive.look()["b"]
        assert (found.state, found.lost) == ("pending", 0)


def test_the_data_set_holds_what_is_done_and_nothing_else(archive: Archive) -> None:
    archive.finish("b")
    (archive.inputs / "b.tif").write_text("another slide")
    (archive.folder.slide("b") / PART).unlink()
    Book(archive.folder, None, archive.look(only=["a"]).values(), None).close()
    assert archive.known["b"].state == "skipped"
    assert part_of(archive.folder.root, "a").exists()
    assert not part_of(archive.folder.root, "b").parent.exists()


def test_a_link_in_the_data_set_leads_nowhere(archive: Archive, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / PART).write_text("of others")
    part_of(archive.folder.root, "b").parent.symlink_to(other)
    with pytest.raises(ForeignFolderError, match="link"):
        Book(archive.folder, None, archive.look().values(), None)
    with pytest.raises(ForeignFolderError, match="link"):
        add_part(archive.folder.root, "b", archive.folder.slide("a") / PART)
    assert os.listdir(other) == [PART]


def test_results_are_looked_at_side_by_side(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system answers many as fast as one."""
    from threading import Barrier

    archive.finish("b")
    both = Barrier(2, timeout=20)
    monkeypatch.setattr(resume, "is_intact", lambda *_: both.wait() >= 0)
    assert {record.state for record in archive.look().values()} == {"done"}
