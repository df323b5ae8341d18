"""Near-duplicates: which images show the same lesion, when the download does not say whose they are.

An image is shrunk to 48 x 48 pixels and normalised locally, so that gain, depth gain and small text drop out and the
layout of the tissue stays. Two such thumbnails that correlate are taken for frames of one examination, and everything
that hangs together is one group.

The threshold was chosen on BUSI, whose pictures were looked at. No image of BUS-BRA, another hospital's set, correlates
above 0.48 with any of BUSI; pairs above 0.5 are the same lesion with few exceptions (other callipers, another crop, the
next frame). A false pair costs little, since the two only stay in the same split; a missed one leaks.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

SIDE = 48
SCALE = 6.0  # standard deviation, in thumbnail pixels, of the neighbourhood that an image is normalised by
THRESHOLD = 0.5


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of any size -> (48, 48) uint8, area-averaged."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX))


def normalised(thumbnails: np.ndarray) -> np.ndarray:
    """(N, 48, 48) uint8 -> (N, 48 * 48) float32 of mean 0 and length 1: the product of two is their correlation."""
    from scipy.ndimage import gaussian_filter

    values = thumbnails.astype(np.float32)
    values -= gaussian_filter(values, (0, SCALE, SCALE))
    # Two grey levels of noise keep a black border from being blown up into texture.
    values /= np.sqrt(gaussian_filter(values**2, (0, SCALE, SCALE)) + 4)
    values = values.reshape(len(values), -1)
    values -= values.mean(1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def pairs(thumbnails: np.ndarray, threshold: float = THRESHOLD, chunk: int = 2048) -> pd.DataFrame:
    """All pairs that correlate above the threshold: columns first < second (row numbers), correlation; highest first.

    Compares every image with every other one, `chunk` rows at a time: N^2 time, N * chunk memory.
    """
    values = normalised(thumbnails)
    found = []
    for start in range(0, len(values), chunk):
        correlations = values[start : start + chunk] @ values[start:].T
        first, second = np.nonzero(np.triu(correlations > threshold, k=1))
        found.append(np.stack([first + start, second + start, correlations[first, second]], axis=1))
    table = pd.DataFrame(np.concatenate(found), columns=["first", "second", "correlation"])
    table = table.astype({"first": int, "second": int})
    return table.sort_values("correlation", ascending=False, ignore_index=True)


def groups(thumbnails: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """(N, 48, 48) uint8 -> (N,) int: for each image, the row number of the first image of its group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(thumbnails)
    alike = pairs(thumbnails, threshold)
    graph = coo_array((np.ones(len(alike)), (alike["first"], alike["second"])), shape=(n, n))
    _, group = connected_components(graph, directed=False)
    _, first = np.unique(group, return_index=True)
    return first[group]
