"""Resizing: how pictures of every shape become squares of one size, and what it costs the lesions in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

HOW = ("stretch", "pad", "crop_to_body")
MARGIN = 1.5  # side of the square around a lesion, in longer sides of the lesion
SMALLEST = 32  # pixels of the file: a smaller square would show nothing but interpolation
TYPICAL = {
    ("ultrasound", "breast"): (0.23, 0.31, 0.37, 0.43, 0.49, 0.54, 0.62, 0.70, 0.81, 1.00),
    ("mammography", "breast"): (0.03, 0.06, 0.08, 0.09, 0.11, 0.13, 0.15, 0.18, 0.23, 0.33),
}
"""Modality and organ -> how large the square around a lesion is, as `share` measures it: deciles of all lesions of
BUS-BRA and of mini-MIAS."""

Box = tuple[int, int, int, int]  # left, upper, right, lower


def resized(
    image: np.ndarray,
    mask: np.ndarray,
    size: int,
    how: str = "stretch",
    around: str | None = None,
    name: str = "",
    shares: Sequence[float] = TYPICAL["ultrasound", "breast"],
) -> tuple[np.ndarray, np.ndarray, dict]:
    """An image and its mask as squares of `size` pixels, and what became of the lesion.

    image: (H, W) or (3, H, W), uint8 or uint16. mask: (H, W) bool.
    how: "stretch" changes the aspect; "pad" keeps it and adds black; "crop_to_body" first cuts the empty background
        off, never the mask, then pads.
    around: "lesion" shows only a square around the lesions, 1.5 times as wide as they are and at least 32 pixels of
        the file, moved inside the picture; where it is larger than the picture, `how` decides about the rest.
    name, shares: an image without a lesion gets a square too, or its scale would give the label away: its side is one
        of `shares` (of the picture's longer side; see `TYPICAL`) and its centre a pixel of the body, both drawn from
        `name`, so that they are the same each time.
    Returns image (size, size) or (3, size, size), mask (size, size) and the facts `width`, `height` (of the file),
    `lesion_area` (share of the whole picture, before) and `lesion_pixels` (after).
    """
    if how not in HOW:
        raise ValueError(f"resize is {how!r}; choose one of {', '.join(HOW)}")
    if around not in (None, "lesion"):
        raise ValueError(f"around is {around!r}; choose 'lesion' or None")
    height, width = mask.shape
    facts = {"width": width, "height": height, "lesion_area": float(np.count_nonzero(mask) / mask.size)}
    box = (0, 0, width, height)
    if around:
        box = lesion_box(mask) if mask.any() else drawn_box(image, name, shares)
    elif how == "crop_to_body":
        box = joined(bounds(body(image)), bounds(mask))
    if box != (0, 0, width, height):
        left, upper, right, lower = box
        image, mask = image[..., upper:lower, left:right], mask[upper:lower, left:right]
    if how != "stretch":
        image, mask = squared(image), squared(mask)
    small, small_mask = smaller(image, size), smaller_mask(mask, size)
    return small, small_mask, facts | {"lesion_pixels": int(np.count_nonzero(small_mask))}


def smaller(image: np.ndarray, size: int) -> np.ndarray:
    """Stretched to (size, size); antialiased, so that fine speckle is averaged and not aliased."""
    if image.ndim == 3:
        return np.stack([smaller(channel, size) for channel in image])
    if image.dtype == np.uint16:  # through real numbers, rounded once at the end
        image = image.astype(np.float32)
        return np.rint(smaller(image, size)).astype(np.uint16)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def smaller_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """(H, W) bool -> (size, size) bool, stretched: True where at least half of the pixel's area is.

    A lesion never vanishes: when no pixel is half covered, the one that is covered most is kept.
    """
    small = np.zeros((size, size), bool)
    ones = Image.fromarray(mask.view(np.uint8))
    box = ones.getbbox()
    if box is None:
        return small
    # Only the pixels that the lesion reaches are worked out; mostly they are few.
    (left, upper, right, lower), (height, width) = box, mask.shape
    x0, y0, x1, y1 = left * size // width, upper * size // height, -(-right * size // width), -(-lower * size // height)
    left, upper = x0 * width // size, y0 * height // size
    area = (x0 * width / size - left, y0 * height / size - upper, x1 * width / size - left, y1 * height / size - upper)
    ones = ones.crop((left, upper, -(-x1 * width // size), -(-y1 * height // size))).convert("F")
    share = np.asarray(ones.resize((x1 - x0, y1 - y0), Image.Resampling.BOX, area))
    part = small[y0:y1, x0:x1]
    np.greater_equal(share, 0.5 - 1e-6, out=part)  # half is enough, however it was rounded
    if not np.count_nonzero(part):  # less than half the time of `any`
        part.flat[share.argmax()] = True
    return small


def squared(image: np.ndarray) -> np.ndarray:
    """With black on both sides of the shorter side, so that it is a square."""
    height, width = image.shape[-2:]
    down, across = max(0, width - height), max(0, height - width)
    sides = [(down // 2, down - down // 2), (across // 2, across - across // 2)]
    return np.pad(image, [(0, 0)] * (image.ndim - 2) + sides) if down or across else image


def bounds(mask: np.ndarray) -> Box | None:
    """The smallest box around what is True; None when nothing is."""
    return Image.fromarray(mask.view(np.uint8)).getbbox()


def joined(a: Box, b: Box | None) -> Box:
    if b is None:
        return a
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def share(mask: np.ndarray) -> float:
    """Side of the square around a lesion, as a share of the picture's longer side."""
    left, upper, right, lower = bounds(mask)
    return max(SMALLEST, MARGIN * max(right - left, lower - upper)) / max(mask.shape)


def lesion_box(mask: np.ndarray) -> Box:
    """The square around all lesions of the picture."""
    left, upper, right, lower = bounds(mask)
    return square((left + right) / 2, (upper + lower) / 2, share(mask) * max(mask.shape), mask.shape)


def drawn_box(image: np.ndarray, name: str, shares: Sequence[float]) -> Box:
    """A square of a lesion's usual size somewhere in the body, drawn from the image's name."""
    digest = hashlib.sha256(name.encode()).digest()
    one, two = (int.from_bytes(digest[i : i + 8], "big") for i in (0, 8))
    inside, shape = np.flatnonzero(body(image)), image.shape[-2:]
    y, x = divmod(int(inside[two % len(inside)]), shape[1])
    return square(x, y, max(SMALLEST, shares[one % len(shares)] * max(shape)), shape)


def square(x: float, y: float, side: float, shape: tuple[int, int]) -> Box:
    """A square around (x, y), moved inside the picture; longer than the picture, it is cut to it."""
    height, width = shape
    side = round(side)
    across, down = min(side, width), min(side, height)
    left = min(max(round(x - across / 2), 0), width - across)
    upper = min(max(round(y - down / 2), 0), height - down)
    return left, upper, left + across, upper + down


def body(image: np.ndarray) -> np.ndarray:
    """(H, W) bool: what is no empty background; all of it when that cannot be told.

    Background is darker than a quarter of Otsu's threshold (1979): the threshold itself parts bright tissue from dark,
    and an ultrasound image would lose its depths. Pieces of less than a fiftieth of the largest one are labels and
    markers beside the body. Looked for on every n-th pixel of a large picture.
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    grey = image if image.ndim == 2 else image.max(0)
    step = -(-max(grey.shape) // 256)
    coarse = ndimage.uniform_filter(grey[::step, ::step].astype(np.float32), 3)
    if coarse.min() == coarse.max():
        return np.ones(grey.shape, bool)
    pieces, _ = ndimage.label(coarse > threshold_otsu(coarse) / 4)
    areas = np.bincount(pieces.ravel())[1:]
    large = np.isin(pieces, 1 + np.flatnonzero(areas >= areas.max() / 50))
    return np.repeat(np.repeat(large, step, 0), step, 1)[: grey.shape[0], : grey.shape[1]]
