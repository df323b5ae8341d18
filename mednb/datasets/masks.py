"""Masks: what a dataset gives for its lesions, files or shapes, as one picture of True and False."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from mednb.datasets import pixels

if TYPE_CHECKING:
    from mednb.datasets.archive import Archive

NUMBERED = 16  # no grey value below is meant as white
SHAPES = {"circle": 3, "box": 4, "ellipse": 5, "polygon": None}  # how many numbers each has


def of(archive: Archive, row: tuple, shape: tuple[int, int]) -> np.ndarray:
    """The union of a row's masks: (H, W) bool; all False when it has none.

    archive: where the mask files lie.
    row: a row of an index, with `image_id` and `masks`, a list of
        "x.png": a file of the image's size; lesion is what is brighter than half of its maximum, whichever colour, or,
            where that is 2 to 15, whatever is not 0: such files number the structures that they show;
        {"file": "x.png", "values": [1, 2], "frame": 3, "fill": True}: the pixels with these values are lesion, and what
            they enclose, for files that hold an outline; all but "file" may be missing; with "stretch": True a file of
            another size is fitted to the image;
        {"circle": [x, y, radius]}, {"box": [x0, y0, x1, y1]}, {"ellipse": [x, y, rx, ry, degrees]} (clockwise) or
            {"polygon": [[x, y], ...]}: in pixels from the top left corner of the picture, x to the right and y
            downwards, so that the first pixel's centre is at (0.5, 0.5). With "of": [width, height] they refer to a
            picture of this size instead of the image's.
    shape: the image's (height, width).
    Raises ValueError that names the file: a mask of another size, a shape outside of the image or without numbers.
    """
    parts = []
    for mask in row.masks:
        mask = {"file": mask} if isinstance(mask, str) else mask
        inside = in_file(archive, mask, shape) if "file" in mask else drawn(mask, shape, archive.where(row.image_id))
        parts.append(inside)
    return reduce(np.logical_or, parts) if parts else np.zeros(shape, bool)


def in_file(archive: Archive, mask: dict, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool from a mask file."""
    values = mask.get("values")
    part = pixels.read(archive, mask["file"], mask.get("frame"), colours=values is None).values
    if part.ndim == 3:
        part = part.max(axis=2)
    if mask.get("stretch"):
        rows, columns = (np.arange(n) * length // n for n, length in zip(shape, part.shape, strict=True))
        part = part[np.ix_(rows, columns)]
    if part.shape != shape:
        (height, width), (h, w) = part.shape, shape
        raise ValueError(f"{archive.where(mask['file'])} is {width} x {height} pixels, but its image is {w} x {h}")
    if values is not None:
        lesion = np.isin(part, values)
    else:
        # Whether lesion is written as 255, as 1, or its parts as 1, 2 and 3, in all frames alike. Half of an integer is
        # cut off: comparing integers is much faster.
        framed, whole = mask.get("frame") is not None, part.dtype.kind in "ui"
        highest = pixels.highest(archive, mask["file"]) if framed else part.max()
        lesion = part > (0 if whole and highest < NUMBERED else highest // 2 if whole else highest / 2)
    return ndimage.binary_fill_holes(lesion) if mask.get("fill") else lesion


def drawn(mask: dict, shape: tuple[int, int], where: str) -> np.ndarray:
    """(H, W) bool from a shape; `where` is the image's name, for sentences."""
    kind = next((kind for kind in SHAPES if kind in mask), None)
    if kind is None:
        raise ValueError(f"{where} has a mask {mask}, which is no file and none of {', '.join(SHAPES)}")
    height, width = shape
    try:
        numbers = np.asarray(mask[kind], float)
        of = np.asarray(mask.get("of", (width, height)), float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} has a mask {mask}, whose numbers cannot be read") from error
    wanted = (len(numbers), 2) if kind == "polygon" and len(numbers) else (SHAPES[kind],)
    if numbers.shape != wanted or not np.isfinite(numbers).all():
        count = "points [x, y]" if kind == "polygon" else f"{SHAPES[kind]} numbers"
        raise ValueError(f"{where} has a mask {mask}; a {kind} is {count}, all of them finite")
    if of.shape != (2,) or not (of > 0).all():
        raise ValueError(f"{where} has a mask {mask}; 'of' is the width and the height of a picture")
    inside = DRAWN[kind](numbers, np.array([width, height]) / of, shape)
    if not inside.any():
        raise ValueError(f"{where} has a mask {mask}, which lies outside of its {width} x {height} pixels")
    return inside


def box(numbers: np.ndarray, scale: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    inside = np.zeros(shape, bool)
    sides = []
    for low, high in np.sort(numbers.reshape(2, 2) * scale, axis=0).T:
        first, end = max(0, round(low)), max(0, round(high))
        # A box thinner than a pixel still has the pixel that it is in.
        sides.append(slice(first, end) if first < end or high < 0 else slice(int(low), int(low) + 1))
    inside[sides[1], sides[0]] = True
    return inside


def ellipse(numbers: np.ndarray, scale: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """As a polygon of 720 corners, so that unequal scales do with it what they should."""
    x, y, rx, ry, degrees = numbers
    angle, turn = np.linspace(0, 2 * np.pi, 720, endpoint=False), np.radians(degrees)
    along, across = rx * np.cos(angle), ry * np.sin(angle)
    points = [x + along * np.cos(turn) - across * np.sin(turn), y + along * np.sin(turn) + across * np.cos(turn)]
    return polygon(np.stack(points, 1), scale, shape)


def circle(numbers: np.ndarray, scale: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    x, y, radius = numbers
    return ellipse(np.array([x, y, radius, radius, 0]), scale, shape)


def polygon(points: np.ndarray, scale: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre is inside; of a polygon that holds none (a dot, a line), the pixels that it touches."""
    from skimage import draw

    columns, rows = (points * scale).T
    inside = np.zeros(shape, bool)
    inside[draw.polygon(rows - 0.5, columns - 0.5, shape)] = True
    if not inside.any():
        thin = Image.new("L", shape[::-1])
        corners = np.floor(np.stack([columns, rows], 1)).clip(-1, thin.size)
        corners = [tuple(corner) for corner in corners.tolist()]
        ImageDraw.Draw(thin).line([*corners, corners[0]], fill=1)
        inside = np.asarray(thin) > 0
    return inside


DRAWN = {"circle": circle, "box": box, "ellipse": ellipse, "polygon": polygon}
