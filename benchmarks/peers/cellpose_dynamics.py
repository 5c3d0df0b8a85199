"""Dynamics of cellpose 3: flows to masks, at 0.5 µm, where nuclei have the 17 px of its model."""

import numpy as np
import torch
from call import main
from cellpose import dynamics

DEVICE = torch.device("cpu")
torch.set_num_threads(1)


def prepare(window):
    labels = np.ascontiguousarray(window["labels"][::2, ::2])
    flows = dynamics.labels_to_flows([labels], device=DEVICE)[0]  # labels, cell or not, dy, dx
    toward = flows[2:4] * 5.0  # as its network is trained to give them
    inside = np.where(labels > 0, 6.0, -6.0).astype(np.float32)

    def masks():
        found = dynamics.compute_masks(toward, inside, niter=200, device=DEVICE)
        return int((found[0] if isinstance(found, tuple) else found).max())

    return {"compute_masks": masks}


main("cellpose", 0.5, prepare)
