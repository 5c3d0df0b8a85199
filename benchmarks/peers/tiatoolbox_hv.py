"""HoVer-Net post-processing of tiatoolbox, on the full grid of 0.25 µm as its models have it.

NP is the probability of our network; HV is HoVer-Net's encoding of our labels (offset from the
centre of mass over its extreme on each side, per object).
"""

import cv2
import numpy as np
from call import main
from torchvision_ops import declare


def hover_maps(labels: np.ndarray) -> np.ndarray:
    """(H, W, 2): horizontal and vertical, [-1, 1] per object."""
    out = np.zeros((2, *labels.shape), np.float32)
    inside = np.nonzero(labels)
    ids = labels[inside]
    count = np.bincount(ids)
    for k, at in enumerate((inside[1], inside[0])):
        centre = np.bincount(ids, at) / np.maximum(count, 1)
        offset = np.rint(at - centre[ids])
        low = np.zeros(len(count))
        high = np.zeros(len(count))
        np.minimum.at(low, ids, offset)
        np.maximum.at(high, ids, offset)
        scale = np.where(offset < 0, -low[ids], high[ids])
        out[k][inside] = offset / np.maximum(scale, 1)
    return np.moveaxis(out, 0, -1)


def prepare(window):
    declare()
    cv2.setNumThreads(1)
    from tiatoolbox.models.architecture.hovernet import HoVerNet

    np_map = window["prob"].astype(np.float32)[..., None]
    hv_map = np.ascontiguousarray(hover_maps(window["labels"]))
    return {"_proc_np_hv": lambda: int(HoVerNet._proc_np_hv(np_map, hv_map).max())}


main("tiatoolbox", 0.25, prepare)
