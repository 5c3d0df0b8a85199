"""Error cases: the worst first, with what to say of them."""

import numpy as np

from wsiseg.run.error_cases import KEPT, discs, farthest_missed


def test_missed_centres_are_shown_by_their_distance_from_predictions():
    rng = np.random.default_rng(0)
    centres = rng.uniform(10, 90, (40, 2))
    away = rng.permutation(40) + 3.25
    away[5] = np.inf
    rows = np.arange(0, 40, 2) + 1  # the odd ones are missed
    found = farthest_missed(rows, discs(centres, 3.0), away)
    assert len(found) == KEPT
    expected = sorted(rows.tolist(), key=lambda row: -away[row])[:KEPT]
    assert [error.truth for error in found] == [(row + 1,) for row in expected]
    assert all(error.pred == () and error.kind == "missed" for error in found)
    assert found[0].note == "no prediction"
    assert found[1].note == f"nearest prediction {away[expected[1]]:.1f} µm away"
    y, x = centres[expected[0]]
    np.testing.assert_allclose(found[0].box, (y - 3, x - 3, y + 3, x + 3))
