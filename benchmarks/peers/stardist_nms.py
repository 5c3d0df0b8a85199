"""Non-maximum suppression of stardist and its polygons painted, at 0.5 µm on every other px."""

import numpy as np
from call import main
from stardist.geometry import dist_to_coord, polygons_to_label, star_dist
from stardist.nms import non_maximum_suppression
from stardist.utils import edt_prob

RAYS, GRID = 32, (2, 2)


def prepare(window):
    labels = np.ascontiguousarray(window["labels"][::2, ::2]).astype(np.uint16)
    prob = np.ascontiguousarray(edt_prob(labels)[::2, ::2])
    dist = np.ascontiguousarray(star_dist(labels, RAYS)[::2, ::2])

    def suppress():
        return non_maximum_suppression(dist, prob, grid=GRID, prob_thresh=0.5, nms_thresh=0.4)

    def instances():
        points, scores, rays = suppress()
        coordinates = dist_to_coord(rays, points)
        del coordinates
        return int(polygons_to_label(rays, points, labels.shape, prob=scores).max())

    return {"nms": lambda: len(suppress()[0]), "nms and painting": instances}


main("stardist", 0.5, prepare)
