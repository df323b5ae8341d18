"""Your own images: any folder of pictures, DICOM files, volumes and videos, and a table of what you know of them."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import pandas as pd

from mednb.datasets import dicom, pixels, privacy
from mednb.datasets.archive import Archive
from mednb.datasets.card import UNLABELLED, Card

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")
FILMS = (".tif", ".tiff", ".gif", ".webp", ".nii", ".nii.gz", ".mha", ".mhd")  # of one frame or many
FILMS += (".avi", ".mp4", ".m4v", ".mov", ".mpg", ".mpeg", ".mkv")
OTHERS = (".csv", ".xlsx", ".xls", ".tsv", ".txt", ".md", ".json", ".xml", ".pdf", ".raw", ".zraw", ".zip", ".gz")
SPLITS = ("train", "val", "test", "")
AS_TEXT = {"dtype": str, "keep_default_na": False}  # how a table is read: "None" and "NA" may be labels
AS_TEXT |= {"index_col": False}  # or a comma too many at the ends of lines would shift all columns
# Columns, in small letters and nothing else, that tell whose an image is.
PERSON, KNOWN_BY = "(pat|patient|subject|person|participant)s?", "(id|uid|name|number|nr|no|code|key|identifier)s?"
WHO = re.compile(f"{PERSON}{KNOWN_BY}|{KNOWN_BY}(of|the)*{PERSON}|subject|person|participant|mrn|pid")
TAKEN = ("image_id", "masks", "official", "official_fold", "file", "frame", "video", "position")  # columns of an index
TAKEN += ("source", "group", "fold", "near_duplicate", "width", "height", "burned_in")  # and of what it becomes
TAKEN += ("lesions", "lesion_area", "lesion_pixels", "highest", "weight", "dataset")
MEANT = ("image", "patient", "label", "mask", "split", "modality", "organ")  # columns that mean something here


class Folder:
    """The images below the root and, when there is one, the table that describes them.

    table: a CSV file, in the folder or elsewhere. Without it every image counts, the label is the name of the first
        folder below the root ("unlabelled" for none), and "a_mask.png" beside "a.png" is its mask. With it its rows
        count, and nothing else does. Its columns:
            image: the file, below the root. Needed.
            label: nothing means "unlabelled". Without this column as without a table.
            patient: whose it is; kept as a hash. Without this column DICOM files are asked, and where nobody knows,
                groups of near-duplicates, and the frames of one file, stand in for patients.
            mask: one file or several with ";" between, below the root.
            split: train, val or test, or nothing.
        All others are kept as they are; modality and organ say what the images show. Words such as NA are words.

    A file that holds 2 to 15 at the most numbers the structures that it shows, and all of them are mask; of others,
    what is brighter than half of the maximum.

    An image whose name, or whose mask's name, tells the patient is called "hidden-" and a hash wherever it is shown.
    """

    CARD = Card(
        name="folder",
        title="yours: a folder of images, with or without a table",
        folder="",  # the root is the dataset
        modality="unknown",
        organ="unknown",
        task="yours",
        classes=(),
        counts={},
        patients="as your table or your DICOM files have them, kept as hashes; else groups of near-duplicates",
        masks="yours",
        licence="yours",
        citation="yours",
        how_to_get="root is the folder itself; table is a CSV file with a column image, and patient, label, mask and "
        "split where you know them",
        alike=0.9,
        defects=(
            "Images that correlate above 0.9 stay together. Other images of one patient do so only where you say whose "
            "they are.",
        ),
    )
    LOOKS_LIKE = ""

    def __init__(self, table: str | Path | None = None):
        self.table = table

    def with_table(self, table: str | Path) -> Folder:
        """The same images with a table."""
        return Folder(table)

    def card_of(self, table: pd.DataFrame) -> Card:
        """The card of what was found."""
        known = table["patient"].str.fullmatch(r"p-[0-9a-f]{10}")
        if known.all():
            who = "of your table or your DICOM files, as hashes"
        elif known.any():
            who = f"of whom {(~known).sum():,} images name nobody: each such file counts as a patient of its own"
        else:
            who = (
                "groups of near-duplicates, and the frames of one file: nobody names the patients, so one can be on "
                "both sides of a split; a table with a column patient would help"
            )
        said = {name: " and ".join(map(str, sorted(set(table[name])))) for name in ("modality", "organ")}
        return replace(self.CARD.counted(table), patients=f"{table['patient'].nunique():,} {who}", **said)

    def index(self, archive: Archive) -> pd.DataFrame:
        """Every image, frame by frame: image_id, label, masks and, where known, patient and official; then the rest.

        Raises FileNotFoundError for a file that the table names and is not there, a mask without image or a folder
        without images, and ValueError for a table without what it needs.
        """
        rows = self.found(archive) if self.table is None else self.listed(archive)
        if not rows:
            raise FileNotFoundError(f"{archive.where()} holds no images; {self.CARD.how_to_get}.")
        table = pd.DataFrame([frame for row in rows for frame in self.frames(archive, row)])
        if table["patient"].isna().all():
            return table.drop(columns="patient")
        # Whoever is not named counts as a patient of their own, file by file.
        file = table["video"].fillna(table["image_id"]) if "video" in table else table["image_id"]
        return table.assign(patient=table["patient"].fillna(file))

    def read(self, archive: Archive, row: tuple) -> pixels.Raw:
        """One image, also where its name is hidden."""
        frame = getattr(row, "frame", -1)
        with self.veiled(archive, row):
            raw = pixels.read(archive, file_of(archive, row), int(frame) if frame >= 0 else None)
        return replace(raw, where=archive.where(row.image_id))

    @contextmanager
    def veiled(self, archive: Archive, row: tuple) -> Iterator[None]:
        """What is raised inside about a hidden image, or its masks, is said without the names of the files."""
        try:
            yield
        except (OSError, ValueError) as error:
            if not is_hidden(row.image_id):
                raise
            said, file, masks = str(error), file_of(archive, row), files_of(row.masks)
            for name, shown in {file: row.image_id, **{mask: hidden(mask) for mask in masks}}.items():
                said = said.replace(name, shown)
            # Libraries may say a part of a name, or how a file beside is called.
            parts = {part for name in (file, *masks) for part in (*PurePosixPath(name).parts, stem(name))}
            if any(part in said.replace(archive.before, "") for part in parts if len(part) > 2):
                said = f"{archive.where(row.image_id)}, or its mask, cannot be read"
            kinds = (FileNotFoundError, OSError, ValueError)
            raise next(kind for kind in kinds if isinstance(error, kind))(said) from None

    def shown(self, index: pd.DataFrame) -> Callable[[str], str]:
        """What each file is called where names are kept: where any are hidden, all but those that are shown anyway."""
        hide = index["image_id"].map(is_hidden)
        if not hide.any():
            return str
        file = index["video"].fillna(index["image_id"]) if "video" in index else index["image_id"]
        told = {str(self.table), *file[~hide], *(mask for masks in index["masks"][~hide] for mask in files_of(masks))}
        told -= {mask for masks in index["masks"][hide] for mask in files_of(masks)}
        return lambda name: name if name in told else hidden(name)

    @property
    def version(self) -> str:
        """What changes when another table is taken, or when it or the salt is changed."""
        salt = os.environ.get("MEDNB_SALT")
        said = privacy.hashed("the salt", salt) if salt else ""
        if self.table is None:
            return said
        path = Path(self.table).expanduser()
        return f"{self.table} {hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ''} {said}"

    def found(self, archive: Archive) -> list[dict]:
        """A row for every image, with the masks that lie beside it."""
        files = [
            name
            for name in archive.names
            if suffix(name) in PICTURES + FILMS or (suffix(name) not in OTHERS and is_dicom(archive, name))
        ]
        rows = {name: {"image": name, "masks": []} for name in files if "_mask" not in stem(name)}
        of = {(PurePosixPath(name).parent, stem(name)): name for name in rows}
        for mask in sorted(set(files) - set(rows)):
            place = PurePosixPath(mask).parent, stem(mask).partition("_mask")[0]
            if place not in of:
                raise FileNotFoundError(f"{archive.where(mask)} is a mask without its image {place[1]!r}.")
            rows[of[place]]["masks"].append(mask)
        return list(rows.values())

    def listed(self, archive: Archive) -> list[dict]:
        """The rows of the table."""
        where, table = self.read_table(archive)
        meant(table, where)
        table = table.fillna("").apply(lambda column: column.str.strip())
        if "split" in table and not table["split"].isin(SPLITS).all():
            odd = table["split"][~table["split"].isin(SPLITS)].iloc[0]
            raise ValueError(f"{where} has the split {odd!r}; choose train, val or test, or leave it empty.")
        if "patient" in table and (table["patient"] == "").any():
            row = table["image"][table["patient"] == ""].iloc[0]
            raise ValueError(f"{where} does not say whose {row} is; fill the column patient, or leave it out.")
        taken = sorted(set(table) & set(TAKEN))
        if taken:
            raise ValueError(f"{where} has a column {taken[0]}, a name that mednb gives something else; rename it.")
        rows, missing = [], {}
        for row in table.to_dict("records"):
            masks = [name.strip() for name in row.pop("mask", "").split(";") if name.strip()]
            missing |= dict.fromkeys(name for name in (row["image"], *masks) if name not in archive)
            official = {"official": row.pop("split")} if "split" in row else {}
            rows.append(row | {"masks": masks} | official)
        archive.faulty(
            [FileNotFoundError(f"{where} names {name}, which is not in {archive.where()}") for name in missing]
        )
        return rows

    def read_table(self, archive: Archive) -> tuple[str, pd.DataFrame]:
        """The table's path, and what is in it as text. It may lie in the folder or anywhere else."""
        name = str(self.table)
        if name in archive:
            return archive.where(name), archive.csv(name, (), "image", **AS_TEXT)
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"table is {name}, which is neither a file nor one in {archive.where()}.")
        with archive.as_table(str(path.absolute()), "a table"):
            table = pd.read_csv(path, **AS_TEXT)
        return str(path), archive.checked(str(path.absolute()), table, (), "image")

    def frames(self, archive: Archive, row: dict) -> list[dict]:
        """One row of the index for a picture, and one for each frame of a film or volume."""
        file, masks, patient = row.pop("image"), row.pop("masks"), row.pop("patient", None)
        names, n = set(), 1
        try:
            if is_dicom(archive, file):
                names = None  # until it is known who it is, any name may tell
                with pixels.named(archive.where(file)):
                    said = privacy.identity(archive.read(file))
                    patient = patient or said["PatientID"].strip() or None
                    n = int(dicom.header(archive, file, "NumberOfFrames")["NumberOfFrames"] or 1)
                names = privacy.names_of(said)
            elif suffix(file) not in PICTURES:  # a table may name any file
                n = pixels.frames(archive, file)
        except (OSError, ValueError):
            n = 1  # a broken file is one image, which says so when it is read

        def tells(path: str) -> bool:
            return names is None or privacy.tells(path, names if patient is None else {*names, patient})

        first, inside, rest = file.partition("/")
        told = tells(file)
        unknown = not inside or (told and (tells(first) or not tells(rest)))
        shown = hidden(file) if told or any(map(tells, masks)) else file
        known = row | {
            "label": row["label"] or UNLABELLED if "label" in row else (UNLABELLED if unknown else first),
            "patient": None if patient is None else privacy.hashed(patient),
        }
        if n == 1:
            return [{"image_id": shown, **known, "masks": masks}]
        for mask in masks:
            if frames_of(archive, mask) not in (n, None):
                at = [archive.where(hidden(name) if is_hidden(shown) else name) for name in (mask, file)]
                raise ValueError(f"{at[0]} is a mask of {frames_of(archive, mask)} frames, but {at[1]} has {n}.")
        return [
            {"image_id": f"{shown}#{i}", **known, "masks": [{"file": mask, "frame": i} for mask in masks]}
            | {"frame": i, "position": i / (n - 1), "video": shown}
            for i in range(n)
        ]


def meant(table: pd.DataFrame, where: str) -> None:
    """ValueError for a column that is nearly one of `MEANT`, or comes twice: whose an image is must not get lost, and
    stands in the column patient alone, which becomes a hash."""
    for column in map(str, table.columns):
        if WHO.fullmatch(re.sub("[^a-z]", "", column.lower())):
            otherwise = "call it patient, or what it is if it is something else."
            once = "leave it out: whose an image is stands in patient, which is kept as a hash."
            raise ValueError(f"{where} has a column {column!r}; {once if 'patient' in table else otherwise}")
    for column in map(str, table.columns):
        once = re.sub(r"\.\d+$", "", column)  # what pandas calls the second one
        near = difflib.get_close_matches(once.strip().lower(), MEANT, 1, cutoff=0.8)
        if not near or column == near[0]:
            continue
        if near[0] not in table:
            raise ValueError(
                f"{where} has a column {column!r}; call it {near[0]}, or what it is if it is something else."
            )
        if once.strip().lower() == near[0]:
            raise ValueError(f"{where} has two columns {near[0]}; leave one of them out.")


def suffix(name: str) -> str:
    """The name's suffix in small letters: ".png" or ".nii.gz"."""
    return re.search(r"(\.nii\.gz|\.[^./]*)?$", name.lower())[0]


def stem(name: str) -> str:
    """The file's name without its suffix."""
    last = PurePosixPath(name).name
    return last[: len(last) - len(suffix(last))]


def is_dicom(archive: Archive, name: str) -> bool:
    """Whether a file is DICOM, by its suffix or by what it holds: such files may have any suffix, or none."""
    if PurePosixPath(name).name == "DICOMDIR":
        return False
    if suffix(name) in (".dcm", ".dicom", ".ima"):
        return True
    try:
        with archive.open(name) as file:
            return pixels.is_dicom(file.read(132))
    except (OSError, ValueError):
        # A dangling link, say: it may be, so its name is not shown, and reading it says what is wrong.
        return suffix(name) not in PICTURES + FILMS + OTHERS


def frames_of(archive: Archive, name: str) -> int | None:
    """How many frames a file holds; None for a broken one, which says so when it is read."""
    try:
        return pixels.frames(archive, name)
    except (OSError, ValueError):
        return None


def hidden(name: str) -> str:
    """What is shown instead of a name that would tell who the patient is."""
    return f"hidden-{privacy.hashed(name)[2:]}"


def is_hidden(shown: str) -> bool:
    return shown.startswith("hidden-")


def file_of(archive: Archive, row: tuple) -> str:
    """The file of a row of the index, whatever is shown instead of its name."""
    frame = getattr(row, "frame", -1)  # a "#" may also belong to the name
    shown = row.image_id.removesuffix(f"#{int(frame)}") if frame >= 0 else row.image_id
    return behind(archive).get(shown, shown) if is_hidden(shown) else shown


def files_of(masks: list[str | dict]) -> list[str]:
    """The files of a row's masks."""
    return [mask if isinstance(mask, str) else mask["file"] for mask in masks]


@lru_cache(maxsize=4)
def behind(archive: Archive) -> dict[str, str]:
    """What is shown instead of each file's name -> the name. Stays in memory."""
    return {hidden(name): name for name in archive.names}
