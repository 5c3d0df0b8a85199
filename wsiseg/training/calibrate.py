"""Temperature: what class scores are divided by, so that a probability of 0.8 is right 8 in 10.

Guo et al. 2017, ICML, section 4.2: one number, fitted by the likelihood of classes on images that
were not trained on. Here the unit is a nucleus, whose probabilities are the means over its pixels,
as users get them; the scores are divided before that mean is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from wsiseg.metrics import count_overlaps, match_overlaps, match_points
from wsiseg.training.scoring import Judged

__all__ = ["Calibration", "Typed", "calibrate", "ece", "nll", "probabilities", "typed_nuclei"]

_BINS = 15  # ibid., section 2
_RANGE = (0.25, 8.0)  # of the temperature
_LEAST = 50  # nuclei: with fewer, the temperature stays 1
_TINY = 2.0**-24  # smallest float16 above 0
_RADIUS = 3.0  # µm between a centre and the centroid of its nucleus
_PIXELS = 400  # of a nucleus that are looked at


@dataclass(frozen=True, slots=True, eq=False)
class Typed:
    """Nuclei of known class that a model has found."""

    logs: NDArray[np.float32]
    """(P, K): log probability of each class at their pixels, at temperature 1."""
    starts: NDArray[np.intp]
    """(N,): where the pixels of each nucleus begin."""
    truth: NDArray[np.intp]
    """(N,): index of the class."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How class probabilities agree with how often they are right, before and after."""

    temperature: float
    nuclei: int
    accuracy: float
    """Share of nuclei whose likeliest class is right, with the temperature."""
    nll: tuple[float, float]
    """Mean negative log likelihood of the true class, nats: at temperature 1 and as fitted."""
    ece: tuple[float, float]
    """Expected calibration error, 15 bins, likewise."""


def calibrate(typed: Typed) -> Calibration | None:
    """Fit the temperature; None where there are fewer than 50 nuclei, or all are of one class."""
    if len(typed.truth) < _LEAST or len(np.unique(typed.truth)) < 2:
        return None
    low, high = np.log(_RANGE)
    fit = minimize_scalar(
        lambda log: nll(probabilities(typed, float(np.exp(log))), typed.truth),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-3},
    )
    temperature = round(float(np.exp(fit.x)), 3)
    before, after = probabilities(typed, 1.0), probabilities(typed, temperature)
    return Calibration(
        temperature=temperature,
        nuclei=len(typed.truth),
        accuracy=float((after.argmax(axis=1) == typed.truth).mean()),
        nll=(nll(before, typed.truth), nll(after, typed.truth)),
        ece=(ece(before, typed.truth), ece(after, typed.truth)),
    )


def probabilities(typed: Typed, temperature: float) -> NDArray[np.float64]:
    """(N, K): class probabilities of each nucleus, as the mean over its pixels."""
    scores = np.exp(typed.logs / np.float32(temperature))
    scores /= scores.sum(axis=1, keepdims=True)
    counts = np.diff([*typed.starts, len(scores)])
    sums = np.add.reduceat(scores.astype(np.float64), typed.starts, axis=0)
    return np.asarray(sums / counts[:, None])


def nll(p: NDArray[Any], truth: NDArray[np.intp]) -> float:
    """Mean negative log likelihood, nats, of classes ``truth`` (N,) under ``p`` (N, K)."""
    return float(-np.log(np.maximum(p[np.arange(len(truth)), truth], _TINY)).mean())


def ece(p: NDArray[Any], truth: NDArray[np.intp], bins: int = _BINS) -> float:
    """Expected calibration error (Naeini et al. 2015, AAAI) of the likeliest class.

    The mean of |share that is right - mean probability| over equal bins of the probability,
    weighted by their nuclei. ``p`` (N, K), ``truth`` (N,).
    """
    top, right = p.max(axis=1), p.argmax(axis=1) == truth
    place = np.minimum((top * bins).astype(np.intp), bins - 1)
    gap = np.bincount(place, weights=right - top, minlength=bins)
    return float(np.abs(gap).sum() / len(truth))


def typed_nuclei(judged: Judged) -> Typed:
    """Found nuclei that stand for one of known class: IoU > 0.5, or 3 µm from a centre."""
    maps, item = judged.maps, judged.item
    if item.mpp is None:  # at an unknown size classes are not what users get
        return _nothing(len(maps.classes))
    pred, kinds = _pairs(judged, item.mpp)
    pred, truth = pred[kinds > 0], kinds[kinds > 0].astype(np.intp) - 1
    if not len(pred):
        return _nothing(len(maps.classes))
    pixels = _pixels_of(judged.lattice)
    places = [_some(pixels[i]) for i in pred]
    scores = maps.classes.reshape(len(maps.classes), -1)
    logs = [np.log(np.maximum(scores[:, at].T.astype(np.float32), _TINY)) for at in places]
    starts = np.cumsum([0, *(len(at) for at in places[:-1])])
    return Typed(np.concatenate(logs), starts.astype(np.intp), truth)


def joined(parts: Sequence[Typed]) -> Typed:
    """The nuclei of several images."""
    offsets = np.cumsum([0, *(len(part.logs) for part in parts[:-1])])
    return Typed(
        np.concatenate([part.logs for part in parts]),
        np.concatenate([p.starts + o for p, o in zip(parts, offsets, strict=True)]).astype(np.intp),
        np.concatenate([part.truth for part in parts]),
    )


def _pairs(judged: Judged, mpp: float) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Places (from 0) of found objects that are paired, and the kinds of their partners."""
    item, found = judged.item, judged.found
    if item.centres is not None:
        match = match_points(item.centres.points, found.centroids, _RADIUS / mpp)
        return match.pred, item.centres.kinds[match.truth]
    assert item.labels is not None
    overlaps = count_overlaps(item.labels, found.labels)
    match = match_overlaps(overlaps)
    ids = np.asarray(overlaps.truth_id)[match.truth].astype(np.intp)
    table = np.zeros(max(int(item.labels.max()) + 1, len(item.kinds)), dtype=np.uint8)
    table[: len(item.kinds)] = item.kinds
    return np.asarray(overlaps.pred_id)[match.pred].astype(np.intp) - 1, table[ids]


def _pixels_of(labels: NDArray[np.int32]) -> list[NDArray[np.intp]]:
    """Flat places of the pixels of objects 1, 2, ..."""
    flat = labels.ravel()
    order = np.argsort(flat, kind="stable")
    edges = np.searchsorted(flat[order], np.arange(1, int(flat.max(initial=0)) + 2))
    return [order[a:b] for a, b in pairwise(edges)]


def _some(places: NDArray[np.intp]) -> NDArray[np.intp]:
    """Evenly chosen pixels of a large nucleus."""
    return places[:: -(-len(places) // _PIXELS)]


def _nothing(classes: int) -> Typed:
    none = np.zeros(0, dtype=np.intp)
    return Typed(np.zeros((0, classes), dtype=np.float32), none, none)
