"""OASBUD: raw echoes of breast lesions, two views of each, from which the pictures are made here."""

from __future__ import annotations

import io
import threading
from functools import lru_cache

import numpy as np
import pandas as pd

from mednb.datasets.archive import Archive
from mednb.datasets.card import Card
from mednb.datasets.pixels import Raw

CARD = Card(
    name="oasbud",
    title="OASBUD, open access series of breast ultrasonic data",
    folder="OASBUD",
    modality="ultrasound",
    organ="breast",
    task="benign or malignant; BI-RADS; outline of the lesion",
    classes=("benign", "malignant"),
    counts={"benign": 96, "malignant": 104},
    patients="78 women by the paper, 100 lesions, two views of each; the file's id is taken for the patient: whether "
    "two lesions of one woman share it was not verified",
    n_masks=200,
    masks="one region of interest per view",
    licence="CC BY-NC 4.0 by others' account; the record itself was not read",
    citation="H. Piotrzkowska-Wroblewska, K. Dobruch-Sobczak, M. Byra, A. Nowicki, Open access database of raw "
    "ultrasonic signals acquired from malignant and benign breast lesions, Medical Physics 44 (2017) 6105-6109, "
    "doi:10.1002/mp.12538; data doi:10.5281/zenodo.545928",
    how_to_get="download OASBUD.mat from zenodo.org/records/545928 and put it at <root>/OASBUD/OASBUD.mat",
    defects=(
        "The file holds echoes and no pictures: envelope, 50 dB below its maximum to black, pixels made square from "
        "40 MHz, 1,540 m/s and an aperture of 38 mm; scanners' own processing looks smoother.",
        "class 1 is taken for malignant; right when `mednb data check` finds 52 lesions of it.",
    ),
)

LOOKS_LIKE = "OASBUD.mat"
FIELDS = ("id", "rf1", "rf2", "roi1", "roi2", "birads", "class")
RATE, SOUND, APERTURE = 40e6, 1540.0, 0.038  # samples a second, metres a second, metres
DYNAMIC = 50  # dB from white to black
LOADING = threading.Lock()


def index(archive: Archive) -> pd.DataFrame:
    """Two rows for each lesion of OASBUD.mat; `image_id` ends in 2 * lesion + view. Nothing but the file itself tells.

    Raises ValueError that names the file and the lesion that is not right.
    """
    rows = []
    for number, lesion in enumerate(lesions(archive)):
        for view in (1, 2):
            echoes, region = lesion[f"rf{view}"], lesion[f"roi{view}"]
            if echoes.shape != region.shape or echoes.ndim != 2 or not region.any():
                about = f"rf{view} {echoes.shape} and roi{view} {region.shape}"
                raise ValueError(f"{archive.where(LOOKS_LIKE)}: lesion {number + 1} has {about}, not a view and a mask")
            if lesion["class"] not in (0, 1):
                raise ValueError(
                    f"{archive.where(LOOKS_LIKE)}: lesion {number + 1} has class {lesion['class']}, not 0 or 1"
                )
            rows.append(
                {
                    "image_id": f"{LOOKS_LIKE}#{2 * number + view - 1}",
                    "label": CARD.classes[int(lesion["class"])],
                    "masks": outlines(region),
                    "patient": str(lesion["id"]),
                    "case": str(number + 1),
                    "view": str(view),
                    "birads": str(lesion["birads"]),
                }
            )
    return pd.DataFrame(rows)


def read(archive: Archive, row: tuple) -> Raw:
    """The picture of one view: (H, W) dB below the brightest echo, -50 black and 0 white; pixels are square."""
    from PIL import Image
    from scipy.signal import hilbert

    number, view = divmod(int(row.image_id.rpartition("#")[2]), 2)
    echoes = lesions(archive)[number][f"rf{view + 1}"].astype(np.float32)
    envelope = np.abs(hilbert(echoes, axis=0))
    samples, lines = envelope.shape
    # A sample is c / 2 f deep, since the sound goes there and back; a line is as wide as its share of the aperture.
    height = round(samples * (SOUND / (2 * RATE)) / (APERTURE / lines))
    square = np.asarray(Image.fromarray(envelope).resize((lines, height), Image.Resampling.BOX))
    decibels = 20 * np.log10(np.maximum(square / square.max(), 1e-9))
    return Raw(decibels.clip(-DYNAMIC, 0), (-DYNAMIC, 0), where=archive.where(row.image_id), hounsfield=False)


def outlines(region: np.ndarray) -> list[dict]:
    """The outlines of a region, (samples, lines), as polygons that refer to its own size."""
    from skimage import measure

    size = list(region.shape[::-1])
    contours = measure.find_contours(np.pad(region > 0, 1).astype(float), 0.5)
    # The frame of zeros shifts the numbers by one; the first pixel's centre is at 0.5.
    return [{"polygon": (contour[:, ::-1] - 0.5).tolist(), "of": size} for contour in contours]


def lesions(archive: Archive) -> np.ndarray:
    """The records of OASBUD.mat, unpacked once."""
    with LOADING:
        return loaded(archive)


@lru_cache(maxsize=1)
def loaded(archive: Archive) -> np.ndarray:
    from scipy.io import loadmat

    content, where = archive.read(LOOKS_LIKE), archive.where(LOOKS_LIKE)
    try:
        found = loadmat(io.BytesIO(content), squeeze_me=True)
    except MemoryError:
        raise
    except Exception as error:  # what loadmat raises for bytes that are no .mat is not documented
        raise ValueError(f"{where} cannot be read as a MATLAB file: {error}") from error
    data = np.atleast_1d(found.get("data", np.empty(0)))
    if data.dtype.names is None or set(FIELDS) - set(data.dtype.names) or not len(data):
        raise ValueError(f"{where} should hold the records 'data' with the fields {', '.join(FIELDS)}")
    return data
