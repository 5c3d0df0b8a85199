"""Numbers as text: the shortest decimals that give back the same number."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from wsiseg.export.texts import Texts, chosen, split

__all__ = ["decimals"]


def decimals(column: NDArray[np.floating[Any]]) -> Texts:
    """Of each of the float32 or float64 numbers (N,), as JSON writes them; nothing for NaN.

    Whole numbers have no point. None is infinite.
    """
    if not len(column):
        return chosen([b""], np.zeros(0, np.int64))
    text = orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)
    whole = text[1:-1].replace(b".0,", b",").removesuffix(b".0")
    return split(whole, b",").where(~np.isnan(column))
