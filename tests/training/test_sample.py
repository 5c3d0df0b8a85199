"""Batches are functions of seed and number; sets, classes and scales are drawn as told."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from wsiseg.errors import InputFileError
from wsiseg.synth import scene
from wsiseg.training import sample as module
from wsiseg.training.colour import Colour
from wsiseg.training.labelled import Centres, Labelled
from wsiseg.training.loop import Machine, _batches
from wsiseg.training.sample import Crops, Sampling

PLAIN = Colour(0, 0, 0, 0, 0, 1, 0, 0, 0)
SMALL = Sampling(side=32, batch=2, colour=Colour(coarse=0.5, blur=0.5, noise=0.5, jpeg=0.5))


def _image(seed, shape):
    return np.random.default_rng(seed).integers(0, 200, (*shape, 3), dtype=np.uint8)


def _drawn(seed=0, shape=(90, 83), **parts):
    rng = np.random.default_rng(seed)
    labels = scene(shape, 20, rng, extent=(6, 20))
    kinds = rng.integers(0, 4, labels.max() + 1).astype(np.uint8)
    parts = {"labels": labels, "kinds": kinds, "mpp": 0.25, **parts}
    return Labelled(f"drawn {seed}", _image(seed, shape), **parts)


def _clicked(seed=0, count=15, shape=(90, 83), **parts):
    rng = np.random.default_rng(seed)
    centres = Centres(rng.uniform(0, 80, (count, 2)), rng.integers(0, 4, count).astype(np.uint8))
    return Labelled(f"clicked {seed}", _image(seed, shape), centres=centres, mpp=0.5, **parts)


def _crops(items, how=SMALL, *, stem=1, classes=3, seed=0):
    return Crops(items, how, stem=stem, classes=classes, seed=seed)


def _same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


ITEMS = [_drawn(0, set="a"), _clicked(1, set="b"), _drawn(2, set="c", mpp=None)]


@settings(max_examples=15, deadline=None)
@given(step=st.integers(0, 10**6), others=st.lists(st.integers(0, 99), max_size=3))
def test_a_batch_is_a_function_of_seed_and_number(step, others):
    crops, again = _crops(ITEMS), pickle.loads(pickle.dumps(_crops(ITEMS)))
    for other in others:
        crops[other]
    assert _same(crops[step], again[step])
    assert not np.array_equal(crops[step]["image"], crops[step + 1]["image"])
    assert not np.array_equal(crops[step]["image"], _crops(ITEMS, seed=1)[step]["image"])


def test_batches_are_the_same_in_other_processes():
    crops = _crops(ITEMS)
    found = list(_batches(crops, 3, 9, Machine(workers=2)))
    assert len(found) == 6
    for step, batch in enumerate(found, 3):
        assert _same({k: v.numpy() for k, v in batch.items()}, crops[step])


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_batches_have_the_shapes_of_the_contract(stem):
    batch = _crops(ITEMS, stem=stem)[0]
    grid = 32 // stem
    shapes = {"hv": (2, 2, grid, grid), "tp": (2, 3, grid, grid)}
    assert batch.pop("image").shape == (2, 32, 32, 3)
    assert batch.keys() == {"np", "np_weight", "dt", "dt_weight", "hv", "hv_weight", "tp"}
    for name, values in batch.items():
        assert values.shape == shapes.get(name, (2, grid, grid))
        assert values.dtype == np.float32


def test_a_batch_holds_different_crops():
    images = _crops(ITEMS[:1], replace(SMALL, batch=4))[0]["image"]
    assert len({image.tobytes() for image in images}) == 4


def _drawn_sets(items, how, monkeypatch, count=1500):
    """How often each set was cut from."""
    seen = []
    original = module.targets_of

    def noted(crop, *args, **options):
        seen.append(crop.item.set)
        return original(crop, *args, **options)

    monkeypatch.setattr(module, "targets_of", noted)
    crops = _crops(items, replace(how, side=8, batch=count, colour=PLAIN, bend=0))
    crops[0]
    return {name: seen.count(name) for name in {item.set for item in items}}


def test_sets_have_their_shares_whatever_the_number_of_their_images(monkeypatch):
    items = [_drawn(k, set=s) for k, s in enumerate("aaaaabc")]
    shares = (("a", 1.0), ("b", 2.0), ("c", 0.5))
    found = _drawn_sets(items, replace(SMALL, sets=shares), monkeypatch)
    expected = [1500 * share / 3.5 for _, share in shares]
    assert stats.chisquare([found[name] for name, _ in shares], expected).pvalue > 1e-3


def test_without_shares_every_image_counts_alike(monkeypatch):
    items = [_drawn(k, set=s) for k, s in enumerate("aaab")]
    found = _drawn_sets(items, SMALL, monkeypatch)
    assert stats.chisquare([found["a"], found["b"]], [1125, 375]).pvalue > 1e-3


def test_sets_without_a_share_are_left_out(monkeypatch):
    items = [_drawn(k, set=s) for k, s in enumerate("ab")]
    found = _drawn_sets(items, replace(SMALL, sets=(("b", 1.0),)), monkeypatch, 200)
    assert found == {"a": 0, "b": 200}


def test_a_share_for_a_set_that_is_not_there_is_refused_by_name():
    with pytest.raises(InputFileError, match=r"of set kumar, lgg; there are a, b, c"):
        _crops(ITEMS, replace(SMALL, sets=(("lgg", 1.0), ("kumar", 1.0), ("a", 1.0))))


@pytest.mark.parametrize("shares", [(("a", 0.0),), (("a", -1.0), ("b", 2.0))])
def test_shares_that_are_no_shares_are_refused(shares):
    with pytest.raises(InputFileError, match="shares"):
        _crops(ITEMS, replace(SMALL, sets=shares))


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(InputFileError, match="no image"):
        _crops([])


def _lattice(kinds):
    """Nuclei 40 px apart, of these kinds, none of them in a crop of 16 px with another."""
    labels = np.zeros((240, 240), dtype=np.int32)
    for k in range(36):
        y, x = 40 * (k // 6) + 20, 40 * (k % 6) + 20
        labels[y - 6 : y + 7, x - 6 : x + 7] = k + 1
    table = np.concatenate([[0], kinds]).astype(np.uint8)
    return Labelled("l", _image(0, labels.shape), labels=labels, kinds=table, mpp=0.25)


def test_rare_classes_are_drawn_more_often_than_they_occur():
    item = _lattice([1] * 33 + [2] * 3)
    how = Sampling(side=16, batch=800, on_nucleus=1, bend=0, colour=PLAIN)
    tp = _crops([item], how)[0]["tp"]
    first, second, third = np.count_nonzero(tp.any(axis=(2, 3)), axis=0)
    assert third == 0
    # by the inverse root of the counts: sqrt(3) / (sqrt(3) + sqrt(33)) = 0.23 and not 3/36 = 0.08
    assert second / (first + second) == pytest.approx(0.232, abs=0.05)


@pytest.mark.parametrize("kinds", [[0] * 36, [0] * 18 + [4] * 18])
def test_nuclei_without_a_class_are_drawn_too(kinds):
    how = Sampling(side=16, batch=300, on_nucleus=1, bend=0, colour=PLAIN)
    found = _crops([_lattice(kinds)], how, classes=4)[0]
    assert found["np"].any(axis=(1, 2)).mean() > 0.95
    typed = found["tp"].any(axis=(1, 2, 3)).mean()
    assert typed == pytest.approx(0.5 if any(kinds) else 0, abs=0.1)


def test_crops_lie_on_nuclei_as_often_as_told():
    item = _lattice([1] * 36)
    how = Sampling(side=8, batch=400, bend=0, colour=PLAIN)
    on, anywhere = (
        _crops([item], replace(how, on_nucleus=share))[0]["np"].any(axis=(1, 2)).mean()
        for share in (1, 0)
    )
    assert on == 1
    assert 0.1 < anywhere < 0.6


@pytest.mark.parametrize(
    "item",
    [
        _drawn(0, labels=np.zeros((90, 83), np.int32)),
        _clicked(0, count=0),
        _drawn(0, shape=(9, 7), labels=np.ones((9, 7), np.int32)),
        _drawn(0, shape=(1, 1), labels=np.ones((1, 1), np.int32)),
        _clicked(0, shape=(9, 7)),
        _drawn(0, known=np.zeros((90, 83), bool)),
        _drawn(0, mpp=40.0),
    ],
    ids=["no nucleus", "no centre", "smaller than a crop", "1 px", "small, centres", "not known",
         "coarse"],
)  # fmt: skip
@pytest.mark.parametrize("glass", [0.0, 1.0])
def test_images_of_any_kind_give_crops(item, glass):
    crops = _crops([item], replace(SMALL, glass=glass))
    for step in range(4):
        assert all(np.isfinite(values).all() for values in crops[step].values())


def test_networks_without_classes_train_on_images_that_have_some():
    batch = _crops(ITEMS[:2], classes=0)[0]
    assert batch["tp"].shape == (2, 0, 32, 32)


def _scales(item, how, monkeypatch, count=300):
    found = []
    original = module.random_warp

    def noted(rng, centre, side, scale, bend):
        found.append(scale)
        return original(rng, centre, side, scale, bend)

    monkeypatch.setattr(module, "random_warp", noted)
    _crops([item], replace(how, side=8, batch=count, colour=PLAIN))[0]
    return np.array(found)


@pytest.mark.parametrize(
    ("mpp", "middle", "spread"), [(0.25, 1, 1.3), (0.5, 0.5, 1.3), (None, 1, 2.5)]
)
def test_scales_are_those_of_the_pixel_size_and_wide_where_it_is_unknown(
    mpp, middle, spread, monkeypatch
):
    how = replace(SMALL, scale=0.3, scale_unknown=1.5)
    found = _scales(_drawn(0, mpp=mpp), how, monkeypatch) / middle
    assert found.min() >= 1 / spread - 1e-9
    assert found.max() <= spread + 1e-9
    assert found.min() < 1 / spread * 1.1
    assert found.max() > spread / 1.1
    assert np.median(found) == pytest.approx(1, rel=0.1)


def test_white_lies_beyond_the_edge_as_often_as_told_and_is_known_background():
    labels = np.ones((20, 20), dtype=np.int32)
    item = Labelled("s", np.zeros((20, 20, 3), np.uint8), labels=labels, mpp=0.25)
    how = Sampling(side=64, batch=200, scale=0, bend=0, colour=PLAIN)
    for share in (0.0, 0.3, 1.0):
        batch = _crops([item], replace(how, glass=share))[0]
        white = (batch["image"] == 255).all(axis=-1)
        assert white.any(axis=(1, 2)).mean() == pytest.approx(share, abs=0.1)
        assert not batch["np"][white].any()
        assert (batch["np_weight"][white] == 1).all()
        black = (batch["image"] == 0).all(axis=-1)
        assert (batch["np"][black] == 1).all()


def test_image_and_targets_are_cut_at_the_same_place():
    labels = scene((131, 127), 40, np.random.default_rng(3), extent=(9, 30), kinds=["ellipsoid"])
    image = np.where(labels > 0, 30, 220).astype(np.uint8)[..., None].repeat(3, axis=-1)
    item = Labelled("i", image, labels=labels, mpp=0.25)
    batch = _crops([item], Sampling(side=64, batch=20, glass=0, colour=PLAIN))[0]
    dark = (220 - batch["image"][..., 0].astype(float)) / 190
    assert np.abs(dark - batch["np"]).mean() < 0.04
    assert np.corrcoef(dark.ravel(), batch["np"].ravel())[0, 1] > 0.95


def test_centres_are_not_bent(monkeypatch):
    bends = []
    original = module.random_warp

    def noted(rng, centre, side, scale, bend):
        bends.append(bend)
        return original(rng, centre, side, scale, bend)

    monkeypatch.setattr(module, "random_warp", noted)
    _crops([_clicked()], SMALL)[0]  # points have no way through a field
    assert bends == [0, 0]
    _crops([_drawn()], SMALL)[0]
    assert bends[2:] == [SMALL.bend] * 2
