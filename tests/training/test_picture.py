"""The picture of predictions: what is shown, and in which colours."""

from pathlib import Path

import cv2
import numpy as np

from wsiseg.model.base import Maps
from wsiseg.training.labelled import Centres, Labelled
from wsiseg.training.picture import chosen, draw, tile_of
from wsiseg.training.scoring import Judged
from wsiseg.training.validate import Found

NO_MAPS = Maps(*(np.zeros((0, 4, 4), np.float16) for _ in range(3)))
GREEN, MAGENTA, WHITE = (0, 220, 60), (255, 0, 200), (255, 255, 255)


def judged(truth: np.ndarray | None, pred: np.ndarray, **more: object) -> Judged:
    image = np.full((*pred.shape, 3), 100, np.uint8)
    item = Labelled("f/x.png", image, truth, set="s", **more)  # type: ignore[arg-type]
    found = Found(pred, np.zeros((0, 2)), np.zeros((0, 0), np.float32))
    return Judged(item, found, NO_MAPS, pred, {"pq": 0.5} if truth is not None else {"f1": 0.5})


def colours(tile: np.ndarray, height: int) -> set[tuple[int, ...]]:
    return set(map(tuple, tile[:height].reshape(-1, 3).tolist()))


def test_truth_found_and_both_have_their_colours() -> None:
    truth, pred = np.zeros((2, 61, 43), np.int32)
    truth[5:15, 5:15] = 1
    assert colours(tile_of(judged(truth, pred)), 122) == {GREEN, (100, 100, 100), WHITE}
    pred[5:15, 5:15] = 7
    tile = tile_of(judged(truth, pred))
    assert tuple(tile[10, 10]) == WHITE
    assert not {GREEN, MAGENTA} & colours(tile, 122)
    pred = np.roll(pred, 20, axis=1)
    tile = tile_of(judged(truth, pred))
    assert tuple(tile[10, 10]) == GREEN
    assert tuple(tile[10, 50]) == MAGENTA


def test_touching_objects_are_told_apart() -> None:
    pred = np.zeros((40, 40), np.int32)
    pred[:20], pred[20:] = 1, 2
    tile = tile_of(judged(np.zeros_like(pred), pred))
    assert tuple(tile[39, 20]) == tuple(tile[40, 20]) == MAGENTA


def test_centres_are_crosses_and_unknown_area_is_dim() -> None:
    pred = np.zeros((41, 41), np.int32)
    centres = Centres(np.array([[20.0, 20.0]]), np.zeros(1, np.uint8))
    known = np.ones((41, 41), bool)
    known[:, :5] = False
    tile = tile_of(judged(None, pred, centres=centres, known=known))
    assert tuple(tile[41, 41]) == GREEN
    assert tuple(tile[3, 3]) == (50, 50, 50)


def test_all_tiles_of_a_picture_fit_whatever_the_images(tmp_path: Path) -> None:
    shapes = [(500, 300), (31, 47), (224, 224), (10, 900), (60, 60)]
    tiles = [tile_of(judged(np.zeros(s, np.int32), np.zeros(s, np.int32))) for s in shapes]
    draw(tmp_path / "new" / "p.png", tiles, "step 7")
    picture = cv2.imread(str(tmp_path / "new" / "p.png"))
    h, w = tiles[0].shape[:2]
    assert picture.shape == (24 + 2 * h, 4 * w, 3)
    draw(tmp_path / "none.png", [], "step 7")
    assert not (tmp_path / "none.png").exists()


def test_every_set_is_shown_before_one_is_shown_more_often() -> None:
    def items(*names: str) -> list[Labelled]:
        image = np.zeros((4, 4, 3), np.uint8)
        return [Labelled("x", image, np.zeros((4, 4), np.int32), set=n) for n in names]

    many = items(*"aaaaaaaabbc")
    shown = chosen(many, 5)
    assert len(shown) == 5
    assert sorted(many[i].set for i in shown) == ["a", "a", "b", "b", "c"]
    assert chosen(many, 99) == set(range(11))
    assert chosen(many, 0) == chosen([], 3) == set()
