import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from wsiseg.errors import ModelError
from wsiseg.geometry.links import FOREGROUND, components, inner_links
from wsiseg.model.flood import Immersion, flood

RULE = Immersion(levels=(200, 160, 120, 90, 60), steps=(2, 1, 2, 0, 3), min_seed=4, radius=3)
TIGHT = Immersion(levels=(180, 100), steps=(1, 2), min_seed=3, radius=2)
FINE = Immersion(tuple(range(230, 0, -15)), (1, 0) * 8, min_seed=9, radius=4)
WIDE = Immersion((140, 30), (1, 4), min_seed=70, radius=9)  # more steps than a word has bytes


def smooth_field(seed, shape, sigma=1.5):
    """A landscape with hills of a few px, and a mask with holes, specks and touching parts."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    hills = ndi.gaussian_filter(noise, sigma)
    hills = (hills - hills.min()) / (np.ptp(hills) or 1)
    return (hills * 255).astype(np.uint8), hills > np.random.default_rng(seed + 1).uniform(0.1, 0.5)


def inside(shape, reach):
    return tuple(slice(reach, n - reach) for n in shape)


@st.composite
def crops(draw, ndim, size, largest):
    start = [draw(st.integers(0, size - largest)) for _ in range(ndim)]
    extent = [draw(st.integers(2 * RULE.reach + 1, largest)) for _ in range(ndim)]
    return tuple(slice(a, a + n) for a, n in zip(start, extent, strict=True))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), crop=crops(2, 160, 97))
def test_links_depend_on_nothing_beyond_the_reach_in_2d(seed, crop):
    landscape, mask = smooth_field(seed, (160, 160))
    whole = flood(landscape, mask, RULE)[crop]
    part = flood(landscape[crop], mask[crop], RULE)
    core = inside(part.shape, RULE.reach)
    np.testing.assert_array_equal(part[core], whole[core])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), crop=crops(3, 70, 59))
def test_links_depend_on_nothing_beyond_the_reach_in_3d(seed, crop):
    landscape, mask = smooth_field(seed, (70, 70, 70))
    whole = flood(landscape, mask, RULE)[crop]
    part = flood(landscape[crop], mask[crop], RULE)
    core = inside(part.shape, RULE.reach)
    np.testing.assert_array_equal(part[core], whole[core])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), where=st.tuples(st.integers(0, 100), st.integers(0, 96)))
def test_a_changed_pixel_changes_no_link_beyond_the_reach(seed, where):
    landscape, mask = smooth_field(seed, (101, 97))
    before = flood(landscape, mask, TIGHT)
    landscape[where], mask[where] = 255 - landscape[where], ~mask[where]
    changed = np.argwhere(flood(landscape, mask, TIGHT) != before)
    far = np.abs(changed - where).max(axis=1) if len(changed) else np.zeros(1)
    assert far.max() <= TIGHT.reach


def test_links_do_depend_on_pixels_several_steps_away():
    # otherwise the tests above would pass with any reach
    furthest = 0
    for seed in range(400):
        random = np.random.default_rng(seed)
        landscape = random.integers(0, 256, (41, 41), dtype=np.uint8)
        mask = random.random((41, 41)) < 0.8
        before = flood(landscape, mask, TIGHT)
        landscape[20, 20], mask[20, 20] = 255 - landscape[20, 20], ~mask[20, 20]
        changed = np.argwhere(flood(landscape, mask, TIGHT) != before)
        furthest = max(furthest, int(np.abs(changed - 20).max(initial=0)))
    assert TIGHT.reach == 3 + 2 * 2 + 1
    assert 4 <= furthest <= TIGHT.reach


def walk(start, allowed, steps, beside):
    """Pixels of ``allowed`` within ``steps`` of ``start``."""
    found = {start}
    for _ in range(steps):
        found |= {q for p in found for _, _, q in beside(p) if q in allowed}
    return found


def reference(landscape, mask, rule):
    """The rule as it reads, over sets of pixels: slow and independent of the queue."""
    ndim, steps = mask.ndim, [(i, d) for i in range(mask.ndim) for d in (-1, 1)]
    owned, pairs = set(), set()

    def beside(p):
        for axis, d in steps:
            yield axis, d, (*p[:axis], p[axis] + d, *p[axis + 1 :])

    for threshold, growth in zip(rule.levels, rule.steps, strict=True):
        above = {tuple(p) for p in np.argwhere(mask & (landscape >= threshold))}
        for _ in range(growth):
            joined = []
            for p in above - owned:
                tops = [(landscape[q], -axis, -d, q) for axis, d, q in beside(p) if q in owned]
                if tops:
                    joined.append((p, max(tops)[3]))
            owned |= {p for p, _ in joined}
            pairs |= {frozenset(pair) for pair in joined}
        rest = above - owned
        seeds = {p for p in rest if len(walk(p, rest, rule.radius, beside)) >= rule.min_seed}
        owned |= seeds
        pairs |= {frozenset((p, q)) for p in seeds for _, _, q in beside(p) if q in seeds}
    links = np.zeros(mask.shape, dtype=np.uint8)
    for p in owned:
        links[p] |= FOREGROUND
        for axis in range(ndim):
            q = (*p[:axis], p[axis] + 1, *p[axis + 1 :])
            if frozenset((p, q)) in pairs:
                links[p] |= np.uint8(1 << axis)
    return links


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(1, 1), (1, 17), (23, 19), (5, 7, 6), (1, 9, 8), (31,)]),
    rule=st.sampled_from(
        [RULE, TIGHT, FINE, WIDE, Immersion((0,), (0,), 1, 0), Immersion((255, 0), (0, 9), 6, 4)]
    ),
)
def test_flood_does_what_its_rule_says(seed, shape, rule):
    landscape, mask = smooth_field(seed, shape, sigma=1.0)
    np.testing.assert_array_equal(flood(landscape, mask, rule), reference(landscape, mask, rule))


def test_thin_and_bent_parts_count_only_what_can_be_walked_to():
    mask = np.zeros((40, 40), dtype=bool)
    mask[::4], mask[1::4, 0], mask[2::8, -1] = True, True, True  # a comb, and teeth that meet
    mask[20:31, 20:31] ^= np.random.default_rng(0).random((11, 11)) < 0.5
    landscape = np.full(mask.shape, 200, dtype=np.uint8)
    for min_seed in range(2, 24, 3):
        rule = Immersion((150,), (0,), min_seed, 6)
        np.testing.assert_array_equal(
            flood(landscape, mask, rule), reference(landscape, mask, rule)
        )


@pytest.mark.parametrize("levels", [1, 3])
def test_plateaus_and_equal_neighbours_have_one_answer(levels):
    landscape = np.repeat(np.repeat(np.arange(levels, dtype=np.uint8)[::-1], 5)[None] * 80, 9, 0)
    mask = np.ones_like(landscape, dtype=bool)
    rule = Immersion((150, 70, 0), (1, 1, 1), 2, 1)
    np.testing.assert_array_equal(flood(landscape, mask, rule), reference(landscape, mask, rule))


def two_hills(distance, radius=9.0, ndim=2):
    size = [24] * (ndim - 1) + [24 + distance]
    grid = np.indices(size).astype(float)
    height = np.zeros(size)
    for centre in (12, 12 + distance):
        at = np.array([12.0] * (ndim - 1) + [centre]).reshape(-1, *[1] * ndim)
        height = np.maximum(height, 1 - np.sqrt(((grid - at) ** 2).sum(axis=0)) / radius)
    return (np.clip(height, 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("ndim", [2, 3])
def test_two_touching_hills_are_two_objects_cut_at_the_saddle(ndim):
    landscape = two_hills(12, ndim=ndim)
    rule = Immersion((220, 180, 140, 100, 60, 20, 1), (4,) * 7, 4, 3)
    labels = components(flood(landscape, landscape > 0, rule))
    assert labels.max() == 2
    np.testing.assert_array_equal(labels > 0, landscape > 0)
    columns = np.arange(labels.shape[-1])
    assert (columns[np.any(labels == 1, axis=tuple(range(ndim - 1)))] <= 18).all()
    assert (columns[np.any(labels == 2, axis=tuple(range(ndim - 1)))] >= 18).all()


def test_a_single_hill_stays_one_object_of_all_its_pixels():
    landscape = two_hills(0)
    labels = components(flood(landscape, landscape > 0, Immersion((200, 120, 1), (5, 5, 8), 4, 3)))
    np.testing.assert_array_equal(labels, landscape > 0)


def test_specks_below_min_seed_become_background():
    mask = np.zeros((20, 20), dtype=bool)
    mask[2:4, 2:4] = True  # 4 px
    mask[10:13, 10] = True  # 3 px
    landscape = np.full((20, 20), 100, dtype=np.uint8)
    links = flood(landscape, mask, Immersion((50,), (0,), 4, 3))
    assert np.count_nonzero(links) == 4
    assert links[2, 2] == FOREGROUND | 3


def test_nothing_is_linked_outside_the_mask_or_beyond_the_lattice():
    landscape, mask = smooth_field(3, (97, 101))
    links = flood(landscape, mask, RULE)
    assert not links[~mask].any()
    np.testing.assert_array_equal(links, inner_links(links))
    for axis in (0, 1):
        here = np.argwhere(links & (1 << axis))
        here[:, axis] += 1
        assert (links[tuple(here.T)] >= FOREGROUND).all()


def test_objects_larger_than_anything_keep_together():
    mask = np.ones((211, 307), dtype=bool)
    landscape = np.full(mask.shape, 255, dtype=np.uint8)
    assert components(flood(landscape, mask, RULE)).max() == 1


def test_arrays_of_any_layout_give_the_same():
    landscape, mask = smooth_field(5, (61, 83))
    expected = flood(landscape, mask, RULE)
    actual = flood(np.asfortranarray(landscape), np.asfortranarray(mask), RULE)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(
        flood(landscape[::2], mask[::2], RULE), flood(landscape[::2].copy(), mask[::2].copy(), RULE)
    )


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0, 2)])
def test_an_empty_lattice_has_no_links(shape):
    links = flood(np.zeros(shape, np.uint8), np.zeros(shape, bool), RULE)
    assert links.shape == shape


@pytest.mark.parametrize(
    "constants",
    [
        ((), (), 1, 1),
        ((100, 100), (1, 1), 1, 1),
        ((100, 200), (1, 1), 1, 1),
        ((256,), (1,), 1, 1),
        ((100, -1), (1, 1), 1, 1),
        ((100,), (1, 1), 1, 1),
        ((100,), (-1,), 1, 1),
        ((100,), (1,), 0, 1),
        ((100,), (1,), 1, -1),
    ],
)
def test_constants_that_make_no_sense_are_refused(constants):
    with pytest.raises(ModelError, match=r"levels|steps|radius"):
        Immersion(*constants)


def test_a_landscape_of_another_type_or_shape_is_refused():
    with pytest.raises(ModelError, match="float32"):
        flood(np.zeros((4, 4), np.float32), np.ones((4, 4), bool), RULE)
    with pytest.raises(ModelError, match="same shape"):
        flood(np.zeros((4, 4), np.uint8), np.ones((4, 5), bool), RULE)
