"""On real sets nothing severe is found; what is injected into them is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from wsiseg.training.check import Finding, check_dataset, check_text
from wsiseg.training.contact_sheet import contact_sheet
from wsiseg.training.dataset import read_dataset
from wsiseg.training.labelled import Centres, Labelled
from wsiseg.training.readers.reading import Note

pytestmark = pytest.mark.data


CHOSEN = {"gbm40": 3, "lgg": 2, "dsb_colour": 3, "kumar": 2, "consep": 1}


@pytest.fixture(scope="module")
def sound(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Labelled]:
    """Images of every set, the large ones cut to 600 px; with links, so that few are read."""
    root = tmp_path_factory.mktemp("chosen")
    lines = (data / "nuclei/manifest.csv").read_text().splitlines()
    rows = [row for name, n in CHOSEN.items() for row in of_lines(lines, name, n)]
    (root / "manifest.csv").write_text("\n".join([lines[0], *rows]))
    for name in CHOSEN:
        (root / name).symlink_to(data / "nuclei" / name)
    (root / "points").mkdir()
    for name in ("img1", "img14"):
        for suffix in (".jpg", ".csv"):
            (root / "points" / (name + suffix)).symlink_to(
                data / "points/crchisto" / (name + suffix)
            )
    items = read_dataset(root) + read_dataset(root / "points", mpp=0.55)
    return [cut(item) for item in items]


def of_lines(lines: list[str], name: str, n: int) -> list[str]:
    return [line for line in lines if line.startswith(name)][:n]


def cut(item: Labelled) -> Labelled:
    if item.labels is None or item.labels.shape[0] <= 600:
        return item
    return replace(item, image=item.image[:600, :600], labels=item.labels[:600, :600])


def of_set(items: list[Labelled], name: str) -> list[Labelled]:
    return [item for item in items if item.set == name]


def kinds(findings: list[Finding], name: str, severity: str = "severe") -> set[str]:
    return {f.kind for f in findings if f.name == name and f.severity == severity}


def moved(item: Labelled, by: tuple[int, int]) -> Labelled:
    if item.labels is not None:
        labels = np.roll(item.labels, by, (0, 1))
        for axis, step in enumerate(by):  # what came round the edge
            rim = slice(0, step) if step > 0 else slice(step, None if step else 0)
            labels[(slice(None),) * axis + (rim,)] = 0
        return replace(item, labels=labels)
    assert item.centres is not None
    return replace(item, centres=Centres(item.centres.points + np.array(by), item.centres.kinds))


def test_nothing_severe_is_found_in_real_sets(sound: list[Labelled]) -> None:
    findings = check_dataset(sound)
    assert not [f for f in findings if f.severity == "severe"]
    assert "nothing severe found" in check_text(findings, sound)


@pytest.mark.parametrize("by", [(6, 0), (-3, 4), (8, -7)])
def test_shifted_labels_are_found_with_the_way_back(
    sound: list[Labelled], by: tuple[int, int]
) -> None:
    some = [of_set(sound, name)[0] for name in ("gbm40", "lgg", "dsb_colour", "kumar", "points")]
    findings = check_dataset([moved(item, by) for item in some])
    for item in some:
        (finding,) = [f for f in findings if f.name == item.name and f.severity == "severe"]
        assert finding.kind == "shifted"
        back = [int(word) for word in finding.detail.split() if word.lstrip("+-").isdigit()][:2]
        assert np.hypot(back[0] + by[0], back[1] + by[1]) < 3


def test_a_shift_shows_where_only_a_part_is_known(sound: list[Labelled]) -> None:
    item = of_set(sound, "gbm40")[0]
    known = np.zeros(item.image.shape[:2], dtype=bool)
    known[60:400, 100:450] = True
    sparse = replace(item, known=known, labels=np.where(known, item.labels, 0).astype(np.int32))
    assert not kinds(check_dataset([sparse]), item.name)
    shifted = replace(sparse, labels=np.roll(sparse.labels, 6, 0))  # type: ignore[arg-type]
    assert kinds(check_dataset([shifted]), item.name) == {"shifted"}


def test_swapped_labels_are_found_on_both_images(sound: list[Labelled]) -> None:
    for name in ("gbm40", "lgg", "dsb_colour", "kumar", "points"):
        a, b = of_set(sound, name)[:2]
        one = replace(a, labels=b.labels, centres=b.centres)
        other = replace(b, labels=a.labels, centres=a.centres)
        findings = check_dataset([one, other])
        assert [kinds(findings, i.name) for i in (a, b)] == [{"swapped"}, {"swapped"}]


def test_labels_that_cover_the_background_are_inverted(sound: list[Labelled]) -> None:
    item = of_set(sound, "gbm40")[0]
    inverse = replace(item, labels=(item.labels == 0).astype(np.int32))  # type: ignore[union-attr]
    assert "inverted" in kinds(check_dataset([inverse]), item.name)


def test_an_empty_label_is_severe_on_nuclei_only(sound: list[Labelled]) -> None:
    first, second = of_set(sound, "gbm40")[:2]
    nothing = np.zeros_like(first.labels)
    glass = np.random.default_rng(0).integers(235, 250, first.image.shape, dtype=np.uint8)
    blank = replace(first, name="blank", image=glass, labels=nothing)
    findings = check_dataset([replace(first, labels=nothing), second, blank])
    assert kinds(findings, first.name) == {"empty"}
    assert kinds(findings, "blank") == set()
    assert kinds(findings, "blank", "info") == {"empty"}


def all_one(labels: np.ndarray) -> np.ndarray:
    return np.ones_like(labels)


def shared_ids(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, (labels + 1) // 2, 0)


def crumbs(labels: np.ndarray) -> np.ndarray:
    out = labels.copy()
    spots = np.argwhere(labels == 0)[::997][:40]
    out[spots[:, 0], spots[:, 1]] = labels.max() + 1 + np.arange(len(spots))
    return out


@pytest.mark.parametrize(
    ("spoil", "kind", "severity"),
    [
        (all_one, "covers all", "severe"),
        (shared_ids, "parts apart", "severe"),
        (crumbs, "tiny labels", "warning"),
    ],
)
def test_odd_labels_are_found(
    sound: list[Labelled],
    spoil: Callable[[np.ndarray], np.ndarray],
    kind: str,
    severity: str,
) -> None:
    item = of_set(sound, "lgg")[0]
    assert kind not in kinds(check_dataset([item]), item.name, severity)
    assert item.labels is not None
    spoilt = replace(item, labels=spoil(item.labels).astype(np.int32))
    assert kind in kinds(check_dataset([spoilt]), item.name, severity)


def test_copies_are_severe_across_the_split_only(sound: list[Labelled]) -> None:
    first, second = of_set(sound, "kumar")[:2]
    stored = Image.fromarray(first.image).filter(ImageFilter.GaussianBlur(0.7))
    near = np.clip(np.asarray(stored).astype(int) + 4, 0, 255).astype(np.uint8)
    for pixels, words in ((first.image, "the same pixels"), (near, "nearly the same")):
        for split, severity in (("val", "severe"), ("train", "warning")):
            copy = replace(first, name="copy", image=pixels, split=split, case="another")
            findings = check_dataset([replace(first, split="train"), second, copy])
            (finding,) = [f for f in findings if f.kind == "copy"]
            assert (finding.name, finding.severity) == (first.name, severity)
            assert finding.detail.startswith(words)
            assert "copy" in finding.detail


def test_a_case_on_both_sides_is_severe(sound: list[Labelled]) -> None:
    first, second = (replace(i, case="P7", set="s") for i in of_set(sound, "gbm40")[:2])
    assert not [f for f in check_dataset([first, second]) if f.severity == "severe"]
    findings = check_dataset([first, replace(second, split="val")])
    assert kinds(findings, "s: case P7") == {"case in both splits"}


def test_pixel_sizes_and_classes_are_counted(sound: list[Labelled]) -> None:
    findings = check_dataset(sound)
    assert kinds(findings, "dsb_colour", "warning") == {"no pixel size"}
    (table,) = [f.detail for f in findings if (f.name, f.kind) == ("consep", "classes")]
    (item,) = of_set(sound, "consep")
    ids = np.unique(item.labels)[1:]  # type: ignore[arg-type]
    counts = np.bincount(item.kinds[ids], minlength=5)
    assert table.startswith(f"epithelial {counts[1]}, inflammatory {counts[2]}, ")
    one = replace(of_set(sound, "gbm40")[0], kinds=np.full(500, 2, np.uint8))
    assert kinds(check_dataset([one]), "gbm40", "warning") == {"one class only"}


def test_a_rare_class_is_pointed_out(sound: list[Labelled]) -> None:
    item = of_set(sound, "gbm40")[0]
    rare = np.full(500, 1, np.uint8)
    rare[1] = 3
    assert kinds(check_dataset([replace(item, kinds=rare)]), "gbm40", "warning") == {"rare class"}


def test_notes_of_the_reader_become_findings(sound: list[Labelled]) -> None:
    notes = [
        Note("a", "overlap", 6, 100, "many"),
        Note("b", "duplicate", 1, 100, "few"),
        Note("c", "left out", 9, 10, "of another kind"),
    ]
    findings = check_dataset(sound[:2], notes)
    assert kinds(findings, "a") == {"overlap"}
    assert kinds(findings, "b", "warning") == {"duplicate"}
    assert kinds(findings, "c", "warning") == {"left out"}


def test_a_folder_is_checked_with_the_notes_of_its_reader(
    sound: list[Labelled], tmp_path: Path
) -> None:
    item = of_set(sound, "dsb_colour")[0]
    mask = np.zeros((1, 256, 320, 6), np.float32)
    mask[0, ..., 0] = item.labels
    mask[0, ..., 1] = item.labels  # every nucleus twice
    np.save(tmp_path / "images.npy", item.image[None])
    np.save(tmp_path / "masks.npy", mask)
    findings = check_dataset(tmp_path)
    severe = {f.kind for f in findings if f.severity == "severe"}
    assert severe == {"overlap", "duplicate"}
    assert [f.severity for f in findings] == sorted(
        (f.severity for f in findings), key=("severe", "warning", "info").index
    )


def test_a_contact_sheet_frames_what_is_wrong_in_red_and_puts_it_first(
    sound: list[Labelled], tmp_path: Path
) -> None:
    items = sound[:6] + sound[-2:]
    findings = [
        Finding(items[5].name, "shifted", "", "severe"),
        Finding(items[2].name, "tiny labels", "", "warning"),
    ]
    path = tmp_path / "sheet.png"
    contact_sheet(items, path, findings)
    sheet = np.asarray(Image.open(path))
    side = sheet.shape[1] // 6
    assert sheet.shape[0] // 2 > side  # two rows of tiles with captions
    corners = [tuple(sheet[2, 2 + i * side].tolist()) for i in range(3)]
    assert corners == [(220, 0, 0), (240, 160, 0), (255, 255, 255)]
    assert (sheet == (0, 230, 90)).all(axis=2).sum() > 1000  # outlines


def test_a_contact_sheet_shows_centres_small_images_and_what_is_not_known(
    sound: list[Labelled], tmp_path: Path
) -> None:
    item = of_set(sound, "gbm40")[0]
    assert item.labels is not None
    small = replace(item, image=item.image[:31, :41], labels=item.labels[:31, :41])
    dim = replace(item, known=np.zeros(item.image.shape[:2], bool))
    path = tmp_path / "sheet.png"
    contact_sheet([of_set(sound, "points")[0], small, dim], path)
    sheet = np.asarray(Image.open(path)).astype(float)
    side = sheet.shape[1] // 3
    assert (sheet[:, :side] == (0, 230, 90)).all(axis=2).sum() > 20
    whole, dimmed = tmp_path / "a.png", sheet[10:220, 2 * side + 10 : 2 * side + 220]
    contact_sheet([item], whole)
    bright = np.asarray(Image.open(whole)).astype(float)[10:220, 10:220]
    assert dimmed.mean() < 0.7 * bright.mean()


def test_the_text_counts_and_lists(sound: list[Labelled]) -> None:
    items = sound[:6]
    many = [Finding(f"image {i}", "shifted", "by much", "severe") for i in range(40)]
    text = check_text(many, items)
    assert text.startswith("6 images\n  gbm40: 3 train, 0 val, ")
    assert "severe: 40 x shifted" in text
    assert "image 0: shifted: by much" in text
    assert "and 10 more" in text
    assert "nothing severe" not in text
