"""Folders of one's own: pictures in folders, DICOM files that name people, volumes, a table; and STL-10's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from twins_mammography import BOX, dicom, of_box, picture


def scene(rng: np.random.Generator, lesion: bool = False) -> np.ndarray:
    """(96, 72) uint8: tissue that looks different each time, with a bright box in it or not."""
    tissue = gaussian_filter(rng.normal(size=(96, 72)), 3)
    image = 100 + 60 * tissue / np.abs(tissue).max()
    if lesion:
        image[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 250
    return image.astype(np.uint8)


def stl10(root: Path) -> None:
    """20 training, 10 test and 8 unlabelled images; the first pixel of each is its number, its left half is red."""
    folder = root / "STL-10/stl10_binary"
    folder.mkdir(parents=True)
    for part, n in (("train", 20), ("test", 10), ("unlabeled", 8)):
        images = np.random.default_rng(n).integers(0, 90, (n, 96, 96, 3), dtype=np.uint8)  # row, column, colour
        images[:, :, :48, 0] = 255
        images[:, 0, 0] = np.arange(n)[:, None]
        images.transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")  # written column by column
        if part != "unlabeled":
            (np.arange(n, dtype=np.uint8) % 10 + 1).tofile(folder / f"{part}_y.bin")


def imagefolder(root: Path, *parts: str) -> None:
    """Six pictures each of dogs and cats, below `parts` or below the root."""
    rng = np.random.default_rng(21)
    for part in parts or ("",):
        for label in ("dog", "cat"):
            for number in range(6):
                name = f"{label}/deep/{number}.PNG" if number == 5 else f"{label}/{number}.jpg"
                picture(root / part / name, rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))


def plain(root: Path) -> None:
    """Six images of each class and one beside the folders, in four formats; two with masks beside them."""
    rng = np.random.default_rng(22)
    for label in ("benign", "malignant"):
        for number, suffix in enumerate((".png", ".jpg", ".tif", ".bmp", ".png", ".png")):
            picture(root / f"{label}/{number}{suffix}", scene(rng))
    picture(root / "benign/0_mask.png", of_box())
    picture(root / "malignant/1_mask_1.png", of_box())
    picture(root / "malignant/1_mask_2.png", np.roll(of_box(), 10, 0))
    picture(root / "loose.png", scene(rng))
    (root / "notes.txt").write_text("not an image")


def hospital(root: Path, people: list[str] | None = None) -> None:
    """Seven people's DICOM files; the folders of the first two name them, one file has five frames and no suffix.

    people: the names of others, whom no folder names.
    """
    rng = np.random.default_rng(23)
    named = {} if people else {0: "Erika Mustermann", 1: "doe_jane"}
    for number, name in enumerate(people or ["MUSTERMANN^ERIKA", "DOE^JANE", *(f"SECRET^{each}" for each in "ABCDE")]):
        elements = {"PatientName": name, "PatientID": f"H-{1000 + number}", "PatientBirthDate": "19700101"}
        elements["SpecificCharacterSet"] = "ISO_IR 192"
        folder = named.get(number, "benign" if number % 2 else "malignant")
        dicom(root / folder / f"IM{number}", scene(rng), "US", **elements)
        if number == 2:
            dicom(root / folder / "film", np.stack([scene(rng) for _ in range(5)]), "US", **elements)


def volume(root: Path) -> None:
    """Six NIfTI volumes of four slices of 16 bits with their masks; the upper two have a lesion."""
    import SimpleITK

    rng = np.random.default_rng(24)
    for number in range(6):
        values = np.stack([scene(rng, lesion=place > 1).astype(np.int16) * 10 for place in range(4)])
        mask = np.stack([of_box() * (place > 1) for place in range(4)])
        root.mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(root / f"v{number}.nii.gz"))
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask), str(root / f"v{number}_mask.nii.gz"))


def table(root: Path) -> pd.DataFrame:
    """A table of twelve images of six patients, some with masks, and a column of one's own; the test writes it."""
    rng, rows = np.random.default_rng(25), []
    for number in range(12):
        picture(root / f"img/{number}.png", scene(rng))
        masks = ["masks/a.png; masks/b.png", "masks/a.png", None][number % 3]
        rows.append((f"img/{number}.png", f"Patient {number // 2}", "AB"[number // 2 % 2], masks, 40 + number))
    picture(root / "masks/a.png", of_box())
    picture(root / "masks/b.png", np.roll(of_box(), 10, 0))
    return pd.DataFrame(rows, columns=["image", "patient", "label", "mask", "age"])
