"""The default model, as it is shipped, on real images."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from wsiseg.engine.executor import Serial, Threads
from wsiseg.engine.segment import find_objects
from wsiseg.geometry import Space
from wsiseg.image.source import ArraySource
from wsiseg.metrics import count_overlaps, match_overlaps, pq
from wsiseg.model.unet import UNetModel
from wsiseg.model.zoo import default_model, load_model
from wsiseg.training.dataset import read_dataset
from wsiseg.training.labelled import CLASSES, Labelled
from wsiseg.training.validate import Found, predict, score

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("shipped_weights")]


@pytest.fixture(scope="module")
def images(data: Path) -> dict[str, Labelled]:
    """One validation image of each set at 0.25 µm, cut to a field of 512 px."""
    items = read_dataset(data / "nuclei", split="val", sets=("gbm40", "lgg", "kumar", "consep"))
    return {item.set: _field(item) for item in reversed(items)}


def _field(item: Labelled) -> Labelled:
    assert item.labels is not None
    image = np.ascontiguousarray(item.image[:512, :512])
    return replace(item, image=image, labels=np.ascontiguousarray(item.labels[:512, :512]))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A model on a CPU decides on threads for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model() -> UNetModel:
    return _model()


@cache
def _model() -> UNetModel:
    found = load_model("nuclei-he")
    assert isinstance(found, UNetModel)
    return found


@pytest.fixture(scope="module")
def found(images: dict[str, Labelled]) -> Callable[[str], Found]:
    """What the model finds in the image of a set; computed once."""
    return cache(lambda name: predict(_model(), images[name])[0])


def test_it_is_the_default_and_has_the_classes_promised() -> None:
    assert default_model() == "nuclei-he"
    assert load_model().spec.classes == CLASSES


# far below what it reaches, and above what hematoxylin does: a wrong decode or channel order shows
@pytest.mark.parametrize(("name", "least"), [("gbm40", 0.72), ("lgg", 0.62), ("kumar", 0.5)])
def test_it_finds_the_nuclei_of_a_set(
    name: str, least: float, images: dict[str, Labelled], found: Callable[[str], Found]
) -> None:
    assert score(found(name), images[name])["pq"] > least


def test_a_real_field_has_the_same_objects_under_any_tiling(
    images: dict[str, Labelled], model: UNetModel
) -> None:
    image = images["kumar"].image
    space = Space.regular(image.shape[:2], model.spec.spacing)
    source = ArraySource(image, space, fill=255)
    whole = find_objects(source, model, region=2048)
    assert len(whole) > 50
    for region, executor in ((200, Threads(2)), (333, Serial())):
        parts = find_objects(source, model, region=region, executor=executor)
        assert np.array_equal(parts.runs, whole.runs)
        assert np.array_equal(parts.offsets, whole.offsets)
        assert np.array_equal(parts.sums, whole.sums)


def test_the_same_field_at_20x_is_not_far_behind(
    images: dict[str, Labelled], model: UNetModel, found: Callable[[str], Found]
) -> None:
    for item in (images["gbm40"], images["lgg"]):
        at_40x = score(found(item.set), item)["pq"]
        small = cv2.resize(item.image, (256, 256), interpolation=cv2.INTER_AREA)
        coarse = replace(item, image=small, labels=item.labels[::2, ::2], mpp=0.5)
        grown = predict(model, coarse)[0].labels.repeat(2, axis=0).repeat(2, axis=1)
        match = match_overlaps(count_overlaps(item.labels, grown))
        assert float(pq(match)) > at_40x - 0.08


def test_classes_are_probabilities_and_mostly_right(
    images: dict[str, Labelled], found: Callable[[str], Found]
) -> None:
    item, nuclei = images["consep"], found("consep")
    assert np.allclose(nuclei.classes.sum(axis=1), 1, atol=2e-3)
    overlaps = count_overlaps(item.labels, nuclei.labels)
    match = match_overlaps(overlaps)
    truth = item.kinds[np.asarray(overlaps.truth_id)[match.truth]]
    guess = nuclei.classes.argmax(axis=1)[np.asarray(overlaps.pred_id)[match.pred] - 1] + 1
    assert (truth == guess)[truth > 0].mean() > 0.6
