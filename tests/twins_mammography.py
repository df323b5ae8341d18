"""Twins of the official mammography downloads: their folders, names, tables and file formats around drawn images.

Every lesion is bright on dark tissue, so that a mask which lies where it should covers bright pixels only.
"""

from __future__ import annotations

import json
import plistlib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

BOX = (20, 30, 44, 60)  # left, upper, right, lower of every lesion


def scene(rng: np.random.Generator, width: int = 72, height: int = 96, lesion: bool = True) -> np.ndarray:
    """(height, width) uint8: dark tissue, with a bright box in it."""
    image = rng.normal(60, 12, (height, width))
    if lesion:
        left, upper, right, lower = BOX
        image[upper:lower, left:right] = rng.normal(225, 8, (lower - upper, right - left))
    return image.clip(0, 255).astype(np.uint8)


def of_box(height: int = 96, width: int = 72) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return mask


def picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, quality=95)


def dicom(path: Path, values: np.ndarray, modality: str = "MG", **elements) -> None:
    """A real DICOM file of 8 or 16 bits, grey; `elements` by their keywords."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = elements.setdefault("SOPInstanceUID", generate_uid())
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.Modality = meta.MediaStorageSOPClassUID, modality
    file.Rows, file.Columns = values.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 8 * values.itemsize
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, int(values.dtype.kind == "i")
    if values.ndim == 3:
        file.NumberOfFrames = len(values)
    for keyword, value in elements.items():
        setattr(file, keyword, value)
    file.PixelData = values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def mini_mias(root: Path, suffix: str = ".pgm") -> None:
    """Twelve films of six patients; Info.txt counts 1024 pixels from the bottom left corner."""
    rng, folder = np.random.default_rng(1), root / "mini-MIAS/all-mias"
    left, upper, right, lower = (8 * number for number in (40, 40, 60, 60))  # in films of 128 pixels, of 1024 in words
    place = f"{(left + right) // 2} {1024 - (upper + lower) // 2} {(right - left) // 2}"
    lines = [
        *(f"mdb001 G CIRC B {place}", "mdb002 G NORM ", "mdb003 F CALC M *NOTE 3* ", "mdb004 D NORM"),
        *(f"mdb005 F CIRC B {place}", "mdb005 F CIRC B 100 900 16", "mdb006 F CIRC B", f"mdb007 D MISC B {place}"),
        *("mdb007 D MISC M 100 900 16", *(f"mdb{number:03} G NORM" for number in range(8, 13))),
    ]
    for number in range(1, 13):
        image = rng.normal(60, 12, (128, 128))
        if number in (1, 5, 7):
            image[40:60, 40:60] = 230
        picture(folder / f"mdb{number:03}{suffix}", image.clip(0, 255).astype(np.uint8))
    head = "INFORMATION:\n\nThis file lists the films in the MIAS database\n=====\n\n"
    (folder / "Info.txt").write_text(head + "\n".join(lines) + "\n\n=====\n")


def cbis_ddsm(root: Path) -> None:
    """Ten films of eight patients in the folders that the NBIA Data Retriever makes, and the four tables."""
    rng, folder = np.random.default_rng(2), root / "CBIS-DDSM"
    films = [  # kind, part, patient, side, view, pathologies
        ("Mass", "Training", "P_00001", "LEFT", "CC", ["BENIGN", "MALIGNANT"]),
        ("Mass", "Training", "P_00001", "LEFT", "MLO", ["MALIGNANT"]),
        ("Mass", "Training", "P_00002", "RIGHT", "CC", ["BENIGN_WITHOUT_CALLBACK"]),
        ("Mass", "Test", "P_00003", "LEFT", "CC", ["BENIGN"]),
        ("Mass", "Test", "P_00003", "LEFT", "MLO", ["BENIGN"]),
        ("Calc", "Training", "P_00004", "RIGHT", "CC", ["MALIGNANT"]),
        ("Calc", "Test", "P_00005", "RIGHT", "CC", ["BENIGN"]),
        ("Mass", "Training", "P_00006", "LEFT", "CC", ["BENIGN"]),
        ("Mass", "Training", "P_00007", "RIGHT", "MLO", ["MALIGNANT"]),
        ("Calc", "Training", "P_00008", "RIGHT", "MLO", ["MALIGNANT"]),
    ]
    tables = {(kind, part): [] for kind in ("Mass", "Calc") for part in ("Training", "Test")}
    for number, (kind, part, patient, side, view, pathologies) in enumerate(films):
        film = f"{kind}-{part}_{patient}_{side}_{view}"
        grey = scene(rng).astype(np.uint16) * 257
        dicom(
            folder / f"CBIS-DDSM/{film}/07-20-2016-DDSM-NA-{number}/1.000000-full mammogram images-{number}/1-1.dcm",
            grey,
        )
        for abnormality, pathology in enumerate(pathologies, 1):
            below = (
                folder / f"CBIS-DDSM/{film}_{abnormality}/07-21-2016-DDSM-NA-{number}/1.000000-ROI mask images-{number}"
            )
            mask = of_box()
            if number == 4:  # as some are: drawn on another scale
                mask = np.asarray(Image.fromarray(mask).resize((108, 144), Image.Resampling.NEAREST))
            crop = (
                scene(rng, lesion=False).astype(np.uint16) if number == 5 else grey[25:70, 15:50]
            )  # a crop can be as large as the film
            names = ("1-1.dcm", "1-2.dcm") if number % 2 else ("1-2.dcm", "1-1.dcm")  # often swapped
            dicom(below / names[0], mask)
            dicom(below / names[1], np.ascontiguousarray(crop))
            uid = f"1.3.6.1.4.1.9590.100.1.2.{number}"
            row = [patient, number % 4 + 1, side, view, abnormality, "mass", "OVAL", "ILL_DEFINED", 3 + abnormality]
            row += [pathology, 4, f"{film}/{uid}/{uid}/000000.dcm"]
            row += [f"{film}_{abnormality}/{uid}/{uid}/{name}" for name in ("000000.dcm\n", "000001.dcm\n")]
            tables[kind, part].append(row)
    for (kind, part), rows in tables.items():
        density = "breast_density" if kind == "Mass" else "breast density"
        words = ["mass shape", "mass margins"] if kind == "Mass" else ["calc type", "calc distribution"]
        columns = ["patient_id", density, "left or right breast", "image view", "abnormality id", "abnormality type"]
        columns += [*words, "assessment", "pathology", "subtlety", "image file path"]
        columns += ["cropped image file path", "ROI mask file path"]
        name = f"{kind.lower()}_case_description_{'train' if part == 'Training' else 'test'}_set.csv"
        pd.DataFrame(rows, columns=columns).to_csv(folder / name, index=False)


def inbreast(root: Path) -> None:
    """Twelve images of six patients; the outlines of four of them, one a dot."""
    rng, folder, rows = np.random.default_rng(3), root / "INbreast/INbreast Release 1.0", []
    birads = ["1", "2", "4a", "1", "5", "6", "1", "3", "1", "2", "4c", "1"]
    left, upper, right, lower = BOX
    corners = [(left, upper), (right, upper), (right, lower), (left, lower)]
    for number, grade in enumerate(birads):
        image, patient = 20586908 + 26 * number, f"{0x6C613A14B80A8591 + number // 2:x}"
        side, view = "RL"[number % 2], ("CC", "MLO")[number // 2 % 2]
        outlined = grade[0] in "456"
        grey = scene(rng, lesion=outlined).astype(np.uint16) * 16
        elements = {"WindowCenter": 2048, "WindowWidth": 4096}
        dicom(folder / f"AllDICOMs/{image}_{patient}_MG_{side}_{view[:2]}_ANON.dcm", grey, **elements)
        rows.append(("removed", "removed", side, view, 201001, image, "" if number == 3 else number % 4 + 1, grade))
        if outlined or number == 1:
            points = [f"({x:.6f}, {y:.6f})" for x, y in (corners if outlined else [(10, 12)])]
            region = {
                "Name": "Mass" if outlined else "Calcification",
                "NumberOfPoints": len(points),
                "Point_px": points,
            }
            (folder / "AllXML").mkdir(parents=True, exist_ok=True)
            with (folder / f"AllXML/{image}.xml").open("wb") as file:
                plistlib.dump({"Images": [{"ImageIndex": 0, "NumberOfROIs": 1, "ROIs": [region]}]}, file)
    columns = ["Patient ID", "Patient age", "Laterality", "View", "Acquisition date", "File Name", "ACR", "Bi-Rads"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "INbreast.csv", sep=";", index=False)


def cmmd(root: Path) -> None:
    """Fourteen images of five patients; of D1-0002 and D2-0001 only one side was biopsied."""
    from pydicom.dataset import Dataset

    rng, folder = np.random.default_rng(4), root / "CMMD"
    sides = {"D1-0001": "L", "D1-0002": "LR", "D2-0001": "LR", "D2-0002": "R", "D2-0003": "L"}
    for patient, both in sides.items():
        for number, (side, code) in enumerate(
            [(side, code) for side in both for code in ("399162004", "399368009")], 1
        ):
            seen = Dataset()
            seen.CodeValue, seen.CodingSchemeDesignator, seen.CodeMeaning = code, "SCT", "view"
            below = folder / f"manifest-1616439774456/CMMD/{patient}/07-18-2010-NA-NA-79377/1.000000-NA-70244"
            elements = {"ImageLaterality": side, "ViewCodeSequence": [seen], "PatientID": patient}
            dicom(below / f"1-{number}.dcm", scene(rng), **elements)
    rows = [
        ("D1-0001", "L", 44, 2, "calcification", "Benign", None),
        ("D1-0002", "R", 40, 2, "mass", "Malignant", None),
        ("D2-0001", "L", 54, 2, "both", "Malignant", "Luminal A"),
        ("D2-0002", "R", 61, 2, "mass", "Malignant", "HER2-enriched"),
        ("D2-0003", "L", 50, 2, "mass", "Benign", None),
    ]
    columns = ["ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype"]
    pd.DataFrame(rows, columns=columns).to_excel(folder / "CMMD_clinicaldata_revision.xlsx", index=False)


def vindr_mammo(root: Path) -> None:
    """Six examinations of four views; three findings on two images."""
    rng, folder, rows = np.random.default_rng(5), root / "VinDr-Mammo", []
    for study, split in enumerate(["training"] * 5 + ["test"]):
        for number, (side, view) in enumerate([(side, view) for side in "LR" for view in ("CC", "MLO")]):
            ids = f"{study:032x}", f"{study * 4 + number:032x}"
            grade = [1, 2, 5][study % 3] if side == "L" else [1, 3, 4][study % 3]
            image = scene(rng).astype(np.uint16) * 16
            if study == 0:  # some cameras write black as white
                dicom(folder / f"images/{ids[0]}/{ids[1]}.dicom", 4095 - image, PhotometricInterpretation="MONOCHROME1")
            else:
                dicom(folder / f"images/{ids[0]}/{ids[1]}.dicom", image)
            rows.append(
                (ids[0], "s", ids[1], side, view, 96, 72, f"BI-RADS {grade}", f"DENSITY {'ABC'[study % 3]}", split)
            )
    columns = ["study_id", "series_id", "image_id", "laterality", "view_position", "height", "width"]
    table = pd.DataFrame(rows, columns=[*columns, "breast_birads", "breast_density", "split"])
    table.to_csv(folder / "breast-level_annotations.csv", index=False)
    left, upper, right, lower = BOX
    words = [("['Mass']", left, upper, right, lower)] * 2 + [("['Mass', 'Nipple Retraction']", 30, 40, 44, 60)]
    found = table.iloc[[8, 10, 10]].assign(finding_birads="BI-RADS 4")
    found[["finding_categories", "xmin", "ymin", "xmax", "ymax"]] = words
    empty = table.iloc[:4].assign(finding_categories="['No Finding']")
    pd.concat([found, empty]).to_csv(folder / "finding_annotations.csv", index=False)


def cdd_cesm(root: Path) -> None:
    """Twenty pictures of five patients, each view twice; shapes of the VGG Image Annotator of every kind."""
    rng, folder = np.random.default_rng(6), root / "CDD-CESM"
    left, upper, right, lower = BOX
    xs, ys = [left, right, right, left], [upper, upper, lower, lower]
    shapes = {
        "P1_L_DM_CC": [{"name": "polygon", "all_points_x": xs, "all_points_y": ys}],
        "P1_L_CM_CC": [
            {"name": "polyline", "all_points_x": xs, "all_points_y": ys},
            {"name": "point", "cx": 2, "cy": 2},
        ],
        "P1_L_DM_MLO": [{"name": "ellipse", "cx": 32, "cy": 45, "rx": 12, "ry": 15, "theta": 0.0}],
        "P1_L_CM_MLO": [{"name": "circle", "cx": 32, "cy": 45, "r": 10}],
        "P2_R_DM_MLO": [{"name": "polygon", "all_points_x": xs, "all_points_y": ys}],
        "P2_R_DM_CC": [{"name": "rect", "x": left, "y": upper, "width": right - left, "height": lower - upper}],
    }
    rows, regions = [], []
    labels = {"P1": "Malignant", "P2": "Benign", "P3": "Normal", "P4": "Malignant", "P5": "Normal"}
    for patient, label in labels.items():
        side = "L" if patient in ("P1", "P4") else "R"
        for energy, view in (("DM", "CC"), ("DM", "MLO"), ("CM", "CC"), ("CM", "MLO")):
            name = f"{patient}_{side}_{energy}_{view}"
            kind = "Low energy" if energy == "DM" else "Subtracted"
            odd = " " if name == "P2_R_DM_MLO" else ""  # some names have a space before the dot
            picture(folder / f"{kind} images of CDD-CESM/{name}{odd}.jpg", scene(rng, lesion=label != "Normal"))
            rows.append(
                (name + odd, patient[1:], side, "DM" if energy == "DM" else "CESM", 45, "C", "4", "mass", view, label)
            )
            for shape in shapes.get(name, []):
                regions.append((f"{name}{odd}.jpg", 1, "{}", 1, 0, json.dumps(shape), "{}"))
    columns = ["Image_name", "Patient_ID", "Side", "Type", "Age", "Breast density (ACR)", "BIRADS", "Findings", "View"]
    table = pd.DataFrame(rows, columns=[*columns, "Pathology Classification/ Follow up"])
    with pd.ExcelWriter(folder / "Radiology-manual-annotations.xlsx") as book:
        table.iloc[:2].to_excel(book, sheet_name="mass", index=False)
        table.to_excel(book, sheet_name="all", index=False)
    columns = ["#filename", "file_size", "file_attributes", "region_count", "region_id", "region_shape_attributes"]
    regions = pd.DataFrame(regions, columns=[*columns, "region_attributes"])
    regions.to_csv(folder / "Radiology_hand_drawn_segmentations_v2.csv", index=False)
