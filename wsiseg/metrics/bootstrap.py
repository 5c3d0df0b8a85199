"""Bootstrap intervals of a score over images: whole cases are drawn again, never single nuclei.

A score of a set is a function of how often each of its images counts. Its value counts each image
once; a resample counts an image as often as its case was drawn. All resamples are one matrix of
weights, so that an interval costs a matrix product and no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError

__all__ = ["Estimate", "Resamples", "Statistic", "mean_of", "ratio_of"]

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Weights (B, N) of N images -> (B,) values of a score; NaN where it is undefined."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score and the interval around it."""

    value: float
    """Of the images as they are."""
    low: float
    """Lower end of the interval; NaN where there is none."""
    high: float
    """Upper end of the interval; NaN where there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Resamples:
    """B resamples of N images that belong to G cases."""

    weights: Floats
    """(B, N) how often each image counts in each resample."""
    cases: int
    """G."""

    @classmethod
    def draw(cls, cases: Sequence[str], *, count: int = 1000, seed: int = 0) -> Resamples:
        """``count`` resamples: as many cases as there are, drawn with replacement.

        ``cases`` (N,) names the case of each image (its patient or slide); images of one case are
        not independent and stay together (the cluster bootstrap of Davison & Hinkley 1997,
        section 3.8). The draw depends on the set of names and on ``seed``, not on the order.

        Raises InputFileError where ``count`` is below 1.
        """
        if count < 1:
            raise InputFileError(f"a bootstrap takes at least 1 resample, got {count}")
        names, of_image = np.unique(np.asarray(cases, dtype=np.str_), return_inverse=True)
        groups = len(names)
        if groups == 0:
            return cls(np.zeros((count, 0)), 0)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=count)
        return cls(drawn[:, of_image].astype(np.float64), groups)

    def estimate(self, statistic: Statistic, level: float = 0.95) -> Estimate:
        """The value of ``statistic`` and its percentile interval (Efron 1979, 1981).

        Resamples in which the score is undefined do not count. With fewer than two cases, or no
        resample with a value, the interval is NaN. The percentile interval is too narrow where
        cases are few: three have only ten different resamples.
        """
        if not 0 < level < 1:
            raise InputFileError(f"the level of an interval lies between 0 and 1, got {level}")
        value = float(statistic(np.ones((1, self.weights.shape[1])))[0])
        if self.cases < 2:
            return Estimate(value, nan, nan)
        found = statistic(self.weights)
        found = found[~np.isnan(found)]
        if len(found) == 0:
            return Estimate(value, nan, nan)
        low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
        return Estimate(value, float(low), float(high))


def ratio_of(numerator: NDArray[Any], denominator: NDArray[Any]) -> Statistic:
    """The pooled score: numerators (N,) and denominators (N,) of the images added up.

    >>> ratio_of(np.array([1, 1]), np.array([2, 1]))(np.array([[1.0, 1.0], [0.0, 2.0]]))
    array([0.66666667, 1.        ])
    """
    parts = np.stack([numerator, denominator], axis=1).astype(np.float64)  # (N, 2)

    def pooled(weights: Floats) -> Floats:
        return divided(*(weights @ parts).T)

    return pooled


def mean_of(values: NDArray[Any]) -> Statistic:
    """The mean over images of ``values`` (N,); images with NaN are left out."""
    known = ~np.isnan(values)
    return ratio_of(np.where(known, values, 0.0), known)


def divided(numerator: Floats, denominator: Floats) -> Floats:
    """``numerator / denominator``, NaN where the denominator is 0."""
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, nan)
