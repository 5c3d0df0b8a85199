"""Lets a torchvision built for CUDA be imported beside a torch built for CPUs."""

import torch

_KEPT = []


def declare() -> None:
    """Say what torchvision's operators look like, where its own library cannot be loaded."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
