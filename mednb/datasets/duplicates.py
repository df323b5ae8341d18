"""Near-duplicates: which images show the same lesion, when the download does not say whose they are.

An image is shrunk to 48 x 48 pixels and normalised locally, so that gain, depth gain and small text drop out and the
layout of the tissue stays. Two such thumbnails that correlate are taken for frames of one examination, and everything
that hangs together is one group.

Comparing every image with every other one is a matter of 2,304 numbers for each pair. So a perceptual hash comes first:
the 252 lowest frequencies of the thumbnail's cosine transform, as numbers and not only their signs. Noise has no low
frequencies, so hashes of alike thumbnails correlate at least as much as the thumbnails do, within `MARGIN`; only the
pairs that pass are compared in full. On BUSI, BUS-BRA, mini-MIAS, HC18, POCUS and IQ-OTH/NCCD this finds, at thresholds
of 0.5 and 0.9, every pair that comparing all in full finds.

The threshold belongs to the dataset (`Card.alike`). On these six it was chosen by eye: a false pair costs little, since
the two only stay in the same split; a missed one leaks. Breast ultrasound pairs above 0.45 to 0.5 show the same lesion,
with few exceptions. Where anatomy or the cone of the probe is always in the same place, strangers correlate as well
(fetal heads up to 0.77, lung ultrasound up to 0.90, mammograms up to 0.96), and the threshold is higher; the patients'
numbers then do the rest. Every other dataset has the one of those that it resembles, and its card says that it was not
tried. Where it is too low, everything hangs together in one group, and `mednb data check` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from mednb.machine import usable_cores

Prepared = tuple[np.ndarray, np.ndarray]  # what `prepared` returns

SIDE = 48
SCALE = 6.0  # standard deviation, in thumbnail pixels, of the neighbourhood that an image is normalised by
THRESHOLD = 0.5
MARGIN = 0.05  # how much lower the correlation of two hashes may be than that of their thumbnails
SAME = 0.9  # above it, one image tells a network little that the other one did not: see `curated`
TILE = 4096  # images that are compared with as many at a time
SOME = 64  # pairs whose thumbnails a processor's own memory holds while they are correlated
FEW = 256  # images that a processor's own memory holds while they are prepared


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(H, W) or (3, H, W), uint8 or uint16, of any size -> (48, 48) uint8, area-averaged."""
    from PIL import Image

    image = image if image.ndim == 2 else image.mean(0).astype(image.dtype)
    image = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX))


def thumbnails(pixels: Iterable[np.ndarray]) -> np.ndarray:
    """(N, 48, 48) uint8 of images, each as `thumbnail` takes it."""
    return np.array([thumbnail(image) for image in pixels], np.uint8).reshape(-1, SIDE, SIDE)


def normalised(thumbnails: np.ndarray) -> np.ndarray:
    """(N, 48, 48) uint8 -> (N, 48 * 48) float32 of mean 0 and length 1: the product of two is their correlation."""
    from scipy.ndimage import gaussian_filter1d

    blur = gaussian_filter1d(np.eye(SIDE, dtype=np.float32), SCALE, axis=0)  # as a matrix, which is many times faster
    values = thumbnails.astype(np.float32)
    values -= blur @ values @ blur.T
    # Two grey levels of noise keep a black border from being blown up into texture.
    values /= np.sqrt(blur @ values**2 @ blur.T + 4)
    values = values.reshape(len(values), -1)
    values -= values.mean(1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def hashes(values: np.ndarray) -> np.ndarray:
    """(N, 48 * 48) normalised -> (N, 252) float32 of length 1: the cosine transform below the 22nd antidiagonal."""
    from scipy.fft import dct

    row, column = np.indices((22, 22))
    low = (row + column > 0) & (row + column < 22)
    cosines = dct(np.eye(SIDE, dtype=np.float32), axis=0, norm="ortho")[:22]  # a matrix, too
    found = (cosines @ values.reshape(-1, SIDE, SIDE) @ cosines.T)[:, low]
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)


def prepared(thumbnails: np.ndarray) -> Prepared:
    """Normalised thumbnails (in half precision: 5 kB an image) and their hashes, by all cores.

    `pairs`, `groups` and `curated` take these as well, so that two of them prepare the same images once.
    """
    values = np.empty((len(thumbnails), SIDE * SIDE), np.float16)
    short = np.empty((len(thumbnails), 252), np.float32)

    def prepare(start: int) -> None:
        rows = slice(start, start + FEW)
        exact = normalised(thumbnails[rows])
        values[rows], short[rows] = exact, hashes(exact)

    by_all_cores(prepare, range(0, len(thumbnails), FEW))
    return values, short


def by_all_cores(work: Callable[[int], None], starts: range) -> None:
    """Do what has no more than one start at once: to begin a thread takes longer than a small group of images."""
    if len(starts) < 2:
        list(map(work, starts))
    else:
        with ThreadPoolExecutor(usable_cores()) as threads:
            list(threads.map(work, starts))


def count_of(thumbnails: np.ndarray | Prepared) -> int:
    return len(thumbnails[0] if isinstance(thumbnails, tuple) else thumbnails)


def compared(a: Prepared, b: Prepared, threshold: float, above: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of a, rows of b and correlations of the pairs above the threshold; `above`: of each pair of a set once."""
    candidates = a[1] @ b[1].T > threshold - MARGIN
    first, second = np.divmod(np.flatnonzero(candidates), candidates.shape[1])
    if above:
        once = first < second
        first, second = first[once], second[once]
    if len(first) > candidates.size // 32:  # so many that the whole product is faster than picking
        found = (a[0].astype(np.float32) @ b[0].astype(np.float32).T)[first, second]
    else:
        found = np.empty(len(first), np.float32)
        # Each image in single precision once, however many pairs it is in.
        (one, at), (other, by) = (np.unique(rows, return_inverse=True) for rows in (first, second))
        one, other = a[0][one].astype(np.float32), b[0][other].astype(np.float32)

        def correlate(start: int) -> None:
            some = slice(start, start + SOME)
            found[some] = np.einsum("ij,ij->i", one[at[some]], other[by[some]])

        by_all_cores(correlate, range(0, len(first), SOME))
    keep = found > threshold
    return first[keep], second[keep], found[keep]


def search(
    thumbnails: np.ndarray | Prepared, threshold: float, within: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """first < second (row numbers) and correlation of the pairs above the threshold, as they are found."""
    from tqdm import tqdm

    values, short = thumbnails if isinstance(thumbnails, tuple) else prepared(thumbnails)
    n = count_of(thumbnails)
    bar = {"desc": f"comparing {n:,} images", "delay": 2, "disable": None}
    if within is not None:
        within = pd.Series(within)
        several = np.flatnonzero(within.duplicated(keep=False))
        for at in tqdm(pd.Series(several).groupby(within.to_numpy()[several]).indices.values(), **bar):
            rows = several[at]
            own = values[rows], short[rows]
            first, second, found = compared(own, own, threshold, above=True)
            yield rows[first], rows[second], found
        return
    starts = [(i, j) for i in range(0, n, TILE) for j in range(i, n, TILE)]
    for i, j in tqdm(starts, **bar):
        a, b = (slice(i, i + TILE), slice(j, j + TILE))
        first, second, found = compared((values[a], short[a]), (values[b], short[b]), threshold, above=i == j)
        yield first + i, second + j, found


def pairs(
    thumbnails: np.ndarray | Prepared, threshold: float = THRESHOLD, within: np.ndarray | None = None
) -> pd.DataFrame:
    """All pairs that correlate above the threshold: columns first < second (row numbers), correlation; highest first.

    within: (N,) any values; only images with the same one are compared (the slices of one volume, say).
    """
    return table_of(search(thumbnails, threshold, within))


def between(a: np.ndarray, b: np.ndarray, threshold: float = THRESHOLD) -> pd.DataFrame:
    """The pairs of one set of thumbnails with another one: columns first (row of a), second (row of b), correlation."""
    one, other = prepared(a), prepared(b)
    found = []
    for i in range(0, len(a), TILE):
        for j in range(0, len(b), TILE):
            rows, columns = slice(i, i + TILE), slice(j, j + TILE)
            tile = [(each[0][where], each[1][where]) for each, where in ((one, rows), (other, columns))]
            first, second, correlation = compared(*tile, threshold, above=False)
            found.append((first + i, second + j, correlation))
    return table_of(found)


def table_of(found: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> pd.DataFrame:
    nothing = np.empty(0, int), np.empty(0, int), np.empty(0, np.float32)
    columns = map(np.concatenate, zip(nothing, *found, strict=True))
    table = pd.DataFrame(dict(zip(("first", "second", "correlation"), columns, strict=True)))
    return table.sort_values(["correlation", "first", "second"], ascending=[False, True, True], ignore_index=True)


def groups(thumbnails: np.ndarray | Prepared, threshold: float = THRESHOLD) -> np.ndarray:
    """(N, 48, 48) uint8 -> (N,) int: for each image, the row number of the first image of its group.

    A group is everything that hangs together by pairs above the threshold.
    """
    first = rows = np.arange(count_of(thumbnails))
    waiting, count = [], 0
    for a, b, _ in search(thumbnails, threshold):
        waiting.append((a, b))
        count += len(a)
        if count > 1_000_000:  # slices of a CT give hundreds of pairs each: memory holds some of them only
            first, waiting, count = merged(first, rows, waiting), [], 0
    return merged(first, rows, waiting)


def merged(first: np.ndarray, rows: np.ndarray, found: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    a, b = (np.concatenate(ends) for ends in zip((rows, first), *found, strict=True))
    return linked(len(rows), a, b)


def linked(n: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) int: for each of n things, the first of those that it hangs together with when a[i] and b[i] are tied."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, group = connected_components(coo_array((np.ones(len(a), bool), (a, b)), shape=(n, n)), directed=False)
    _, first = np.unique(group, return_index=True)
    return first[group]


def curated(thumbnails: np.ndarray | Prepared, within: np.ndarray | None = None, threshold: float = SAME) -> np.ndarray:
    """(N,) bool, which images are worth pretraining on: no two of them correlate above the threshold.

    In the order of the rows, an image is kept unless it is alike to one that was kept before; so every image that is
    dropped has a stand-in, however long the chain. within: as in `pairs`; groups of near-duplicates at a lower
    threshold lose nothing.

    Wolf et al., Less is More: Selective Reduction of CT Data for Self-Supervised Pre-Training (arXiv 2410.14524, 2024).
    They drop a slice when at most 6 of 64 bits of its difference hash differ from one that is kept.
    """
    alike = pairs(thumbnails, threshold, within)
    keep = np.ones(count_of(thumbnails), bool)
    alike = alike.sort_values("first")
    for first, second in zip(alike["first"].tolist(), alike["second"].tolist(), strict=True):
        if keep[first]:
            keep[second] = False
    return keep
