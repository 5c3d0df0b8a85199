"""Many slides in a row: a worker neither grows nor keeps files open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import wsiseg
from wsiseg.archive.rows import SlideRow


def rows_of_one(slide: Path, count: int) -> list[SlideRow]:
    return [SlideRow(f"s{i:04}", str(slide)) for i in range(count)]


@pytest.mark.parametrize("count", [8, pytest.param(200, marks=pytest.mark.soak)])
@pytest.mark.timeout(1800)
def test_slides_in_a_row_cost_neither_memory_nor_descriptors(
    count: int, small_slides: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, float, int]] = []

    def look(record: Any) -> None:
        if record.state == "done":
            worker = psutil.Process().children()[0]
            seen.append((worker.pid, worker.memory_info().rss / 1e6, worker.num_fds()))

    rows = rows_of_one(small_slides / "case-0.tiff", count)
    own = psutil.Process().num_fds()
    assert wsiseg.batch(rows, tmp_path / "out", model="hematoxylin", workers=1, on_change=look).ok
    pids, rss, fds = (np.array(column) for column in zip(*seen, strict=True))
    assert len(set(pids)) == 1  # one process, so libraries and model were loaded once
    assert fds[2:].max() - fds[2:].min() <= 2
    assert psutil.Process().num_fds() - own <= 2
    if count >= 200:
        later = rss[count // 4 :]
        slope = np.polyfit(np.arange(len(later)), later, 1)[0]
        print(f"RSS {rss[0]:.0f} to {rss[-1]:.0f} MB, slope {100 * slope:.2f} MB per 100 slides")
        assert 100 * slope < 10


def test_the_model_is_loaded_once_for_all_slides() -> None:
    from wsiseg.archive.work import Models

    models = Models()
    settings = [models.settings({"model": "hematoxylin", "mpp": mpp}) for mpp in (0.5, 0.25, 1.0)]
    assert models.loaded == 1
    assert len({id(s["model"]) for s in settings}) == 1
    models.settings({"model": "hematoxylin", "batch": 2})
    assert models.loaded == 2
    assert models.settings({"model": "hematoxylin", "stain": "macenko"})["model"] == "hematoxylin"
