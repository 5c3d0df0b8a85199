"""Bootstrap: intervals that hold what they promise, whatever the order, and none from nothing."""

from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import InputFileError
from wsiseg.metrics import Ratio, Resamples, aggregate, mean_of, ratio_of

ratios = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda p: (min(p), max(p))),
    min_size=2,
    max_size=12,
)


def names(n):
    return [f"case {i}" for i in range(n)]


def test_intervals_of_a_mean_cover_it_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    resamples = Resamples.draw(names(40), count=400)
    hits = 0
    for _ in range(400):
        found = resamples.estimate(mean_of(rng.exponential(1.0, 40)))
        hits += found.low <= 1.0 <= found.high
    # percentile intervals of 40 skewed values cover a little less than 95 %
    assert 0.88 <= hits / 400 <= 0.97


def test_intervals_of_a_ratio_cover_it_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    resamples = Resamples.draw(names(60), count=400)
    hits = 0
    for _ in range(300):
        n = rng.integers(1, 200, 60)
        found = resamples.estimate(ratio_of(rng.binomial(n, 0.7), n))
        hits += found.low <= 0.7 <= found.high
    assert 0.88 <= hits / 300 <= 0.98


def test_cases_that_vary_give_wider_intervals_than_their_images_alone():
    rng = np.random.default_rng(2)
    values = np.repeat(rng.normal(0, 1, 20), 10)  # ten equal images of each of twenty patients
    of_patient = [name for name in names(20) for _ in range(10)]
    by_patient = Resamples.draw(of_patient).estimate(mean_of(values))
    by_image = Resamples.draw(names(200)).estimate(mean_of(values))
    width = by_patient.high - by_patient.low
    assert width == pytest.approx(2 * 1.96 * values.std() / np.sqrt(20), rel=0.15)
    assert width > 2.5 * (by_image.high - by_image.low)


@given(ratios, st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(parts, random):
    cases = [f"case {i % 5}" for i in range(len(parts))]
    order = list(range(len(parts)))
    random.shuffle(order)
    found = []
    for index in (range(len(parts)), order):
        numerator, denominator = np.array([parts[i] for i in index]).T
        resamples = Resamples.draw([cases[i] for i in index], count=50)
        found.append(resamples.estimate(ratio_of(numerator, denominator)))
    a, b = ([e.value, e.low, e.high] for e in found)
    assert a == pytest.approx(b, abs=1e-12, nan_ok=True)


@given(ratios)
def test_values_are_those_of_aggregate_and_lie_between_the_extremes(parts):
    kept = [Ratio(float(a), float(b), b == 0) for a, b in parts]
    values = np.array([float(r) for r in kept])
    resamples = Resamples.draw(names(len(parts)), count=50)
    total = aggregate(kept)
    mean = resamples.estimate(mean_of(values))
    pooled = resamples.estimate(ratio_of(*np.array(parts).T))
    expected = [total.mean, total.pooled]
    assert [mean.value, pooled.value] == pytest.approx(expected, nan_ok=True)
    if not np.isnan(values).all():
        low, high = np.nanmin(values) - 1e-12, np.nanmax(values) + 1e-12
        assert low <= mean.low <= mean.high <= high
        assert low <= pooled.low <= pooled.high <= high


def test_one_case_has_a_value_and_no_interval():
    found = Resamples.draw(["a", "a", "a"]).estimate(mean_of(np.array([0.2, 0.4, 0.6])))
    assert found.value == pytest.approx(0.4)
    assert isnan(found.low)
    assert isnan(found.high)


def test_nothing_has_neither():
    for cases, values in (([], []), (["a", "b"], [np.nan, np.nan])):
        found = Resamples.draw(cases).estimate(mean_of(np.array(values)))
        assert all(map(isnan, (found.value, found.low, found.high)))


def test_images_of_a_case_are_drawn_together_and_cases_add_up():
    weights = Resamples.draw(["b", "a", "b", "c"], count=200).weights
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(weights[:, [0, 1, 3]], axis=0)) == 10  # all multisets of three


def test_seed_decides():
    draw = [Resamples.draw(names(9), seed=s).weights for s in (0, 0, 1)]
    assert (draw[0] == draw[1]).all()
    assert (draw[0] != draw[2]).any()


def test_wider_levels_give_wider_intervals():
    resamples = Resamples.draw(names(30))
    values = mean_of(np.random.default_rng(0).random(30))
    half, most = (resamples.estimate(values, level) for level in (0.5, 0.99))
    assert most.low < half.low < half.value < half.high < most.high


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InputFileError, match="at least 1"):
        Resamples.draw(["a"], count=0)
    with pytest.raises(InputFileError, match="between 0 and 1"):
        Resamples.draw(["a"]).estimate(mean_of(np.ones(1)), level=95)
