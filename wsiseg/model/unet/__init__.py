"""A residual U-Net as a LocalModel; the only part of the package's models that needs torch."""

from wsiseg.model.unet.local import MARGIN, UNetModel, default_spec, rule_of, save_unet, weights_of
from wsiseg.model.unet.network import (
    HV_UNIT,
    UNet,
    UNetConfig,
    activated,
    enlarged,
    field,
    fold,
    map_sizes,
    normalised,
    split,
)

__all__ = [
    "HV_UNIT",
    "MARGIN",
    "UNet",
    "UNetConfig",
    "UNetModel",
    "activated",
    "default_spec",
    "enlarged",
    "field",
    "fold",
    "map_sizes",
    "normalised",
    "rule_of",
    "save_unet",
    "split",
    "weights_of",
]
