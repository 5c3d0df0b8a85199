"""What is vouched for stays so only as long as the outlines are the same."""

import pickle
from dataclasses import replace

import numpy as np
import shapely

from wsiseg.cells.batch import CellBatch, concatenate, no_cells, uuids_from


def squares(n: int = 4) -> CellBatch:
    geometry = shapely.box(np.arange(n), 0, np.arange(n) + 0.5, 1)
    return CellBatch(uuids_from(geometry), geometry, np.zeros(n, np.int32), ("a",))


def test_nothing_is_vouched_for_until_someone_does() -> None:
    cells = squares()
    assert not cells.sound
    assert cells.vouched_for().sound
    assert not cells.sound
    assert not cells.vouched_for().vouched_for(False).sound


def test_the_word_holds_for_some_of_the_same_cells() -> None:
    sound = squares().vouched_for()
    assert sound.take(slice(1, 3)).sound
    assert sound.take(np.array([2, 0])).sound
    assert not squares().take(slice(2)).sound
    assert concatenate([sound, sound]).sound
    assert not concatenate([sound, squares()]).sound
    assert pickle.loads(pickle.dumps(sound)).sound
    assert not no_cells().sound


def test_the_word_does_not_pass_to_other_outlines() -> None:
    sound = squares().vouched_for()
    bow_ties = np.full(4, shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)]), dtype=object)
    assert not replace(sound, geometry=bow_ties).sound
