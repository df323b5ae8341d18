"""Twins of the official ultrasound downloads: their folders, names, tables and file formats around drawn images.

Every lesion is dark on bright speckle, so that a mask which lies where it should covers dark pixels only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def scene(rng: np.random.Generator, width: int, height: int, lesions: int = 1) -> tuple[np.ndarray, list[np.ndarray]]:
    """(height, width) uint8 with this many dark ellipses beside each other, and the mask of each."""
    image = tissue(rng, width, height)
    y, x = np.mgrid[:height, :width]
    masks = []
    for lesion in range(lesions):
        centre = (lesion + rng.uniform(0.3, 0.7)) / lesions * width, rng.uniform(0.25, 0.7) * height
        radii = 0.15 * width / lesions, rng.uniform(0.12, 0.18) * height
        masks.append(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1)
        image[masks[-1]] = rng.normal(20, 5, masks[-1].sum())
    return image.clip(0, 255).astype(np.uint8), masks


def tissue(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(height, width) bright speckle with structures of its own, so that no two are near-duplicates."""
    from scipy import ndimage

    structures = ndimage.zoom(rng.choice([-60.0, 60.0], (6, 6)), (height / 6, width / 6), order=1)
    return rng.normal(180, 8, (height, width)) + structures


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def film(path: Path, frames: list[np.ndarray], codec: str, rate: int = 25) -> None:
    """A real video file; its container follows from the name."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 4_000_000
        for values in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.stack([values] * 3, -1), "rgb24")))
        container.mux(stream.encode())


def busbra(root: Path) -> None:
    """Five lesions with two views and five with one; the benign are the even ones."""
    rng, folder, rows = np.random.default_rng(1), root / "BUS-BRA/BUSBRA", []
    for case in range(1, 11):
        for view, side in (("l", "left"), ("r", "right")) if case <= 5 else (("s", "single"),):
            image, (mask,) = scene(rng, 60 + case, 50)
            write(folder / f"Images/bus_{case:04}-{view}.png", image)
            write(folder / f"Masks/mask_{case:04}-{view}.png", mask)
            pathology = "malignant" if case % 2 else "benign"
            about = ("cyst", pathology, 4, "GE Logiq 7", 61, 50, side, "[1,2,3,4]", case % 5 + 1)
            rows.append((f"bus_{case:04}-{view}", case, *about))
    columns = ["ID", "Case", "Histology", "Pathology", "BIRADS", "Device", "Width", "Height", "Side", "BBOX", "kFold"]
    table = pd.DataFrame(rows, columns=columns)
    table.drop(columns="kFold").to_csv(folder / "bus_data.csv", index=False)
    table[["ID", "Pathology", "kFold"]].to_csv(folder / "5-fold-cv.csv", index=False)


def breast(root: Path) -> None:
    """Twelve cases: two normal, case 3 with two lesions beside the tumour, case 4 with one."""
    rng, folder, rows = np.random.default_rng(2), root / "BrEaST", []
    files = folder / "BrEaST-Lesions_USG-images_and_masks"
    for case in range(1, 13):
        name, others = f"case{case:03}", {3: 2, 4: 1}.get(case, 0)
        image, masks = scene(rng, 80, 50, lesions=0 if case <= 2 else 1 + others)
        write(files / f"{name}.png", np.stack([image] * 3, -1))
        endings = ["tumor", *(f"other{number + 1}" for number in range(others))][: len(masks)]
        for ending, mask in zip(endings, masks, strict=True):
            write(files / f"{name}_{ending}.png", np.stack([mask * np.uint8(255)] * 3, -1))
        named = [f"{name}_{ending}.png" for ending in endings]
        label = "normal" if case <= 2 else "benign" if case <= 8 else "malignant"
        age = "not available" if case == 5 else 40 + case
        birads = 1 if case <= 2 else "4a"
        rows.append((case, f"{name}.png", *(named[:1] or [None]), "&".join(named[1:]) or None, age, birads, label))
    columns = [
        "CaseID",
        "Image_filename",
        "Mask_tumor_filename",
        "Mask_other_filename",
        "Age",
        "BIRADS",
        "Classification",
    ]
    table = pd.DataFrame(rows, columns=columns).assign(Pixel_size=0.007)
    words = "Tissue_composition Signs Symptoms Shape Margin Echogenicity Posterior_features Halo Calcifications "
    for column in (words + "Skin_thickening Interpretation Verification Diagnosis").split():
        table[column] = "not applicable" if column != "Margin" else "not circumscribed - indistinct&angular"
    table.to_excel(folder / "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx", index=False)


def bus_uclm(root: Path) -> None:
    """Six patients with three images: normal, benign (green), malignant (red)."""
    rng, folder, rows = np.random.default_rng(3), root / "BUS-UCLM/BUS-UCLM", []
    for patient in ("ALWI", "ANFO", "COPE", "ELCO", "FLKA", "HEMO"):
        for number, (label, channel) in enumerate((("Normal", None), ("Benign", 1), ("Malignant", 0))):
            image, masks = scene(rng, 70, 50, lesions=0 if channel is None else 1)
            colours = np.zeros((50, 70, 3), np.uint8)
            for mask in masks:
                colours[mask, channel] = 255
            name = f"{patient}_{number:03}.png"
            write(folder / "images" / name, np.stack([image] * 3, -1))
            write(folder / "masks" / name, colours)
            rows.append((name, "70x50", label, "No", "Yes" if number else "No", "No"))
    columns = ["Image", "Resolution", "Label", "Doppler", "Marks", "Combined"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "INFO.csv", sep=";", index=False)


def udiat(root: Path) -> None:
    """Twelve images, the malignant among them every third."""
    rng, folder = np.random.default_rng(4), root / "UDIAT"
    for number in range(1, 13):
        image, (mask,) = scene(rng, 55, 50 + number)
        write(folder / f"original/{number:06}.png", image)
        write(folder / f"GT/{number:06}.png", mask)
    numbers = np.arange(1, 13)
    types = np.where(numbers % 3, "Benign", "Malignant")
    table = pd.DataFrame({"Image": numbers, "Type": types, "Diagnosis": "CYST"})
    table.to_excel(folder / "DatasetB.xlsx", index=False)


def stu(root: Path) -> None:
    """Twelve images and masks, by number."""
    rng = np.random.default_rng(5)
    for number in range(1, 13):
        image, (mask,) = scene(rng, 64, 64)
        write(root / f"STU-Hospital/Hospital/Test_Image_{number}.png", np.stack([image] * 3, -1))
        write(root / f"STU-Hospital/Hospital/mask_{number}.png", mask * np.uint8(255))


def oasbud(root: Path) -> None:
    """Six lesions with two views each: echoes of 10 MHz, in the lesion 40 dB weaker. The first two are one woman's."""
    from scipy import ndimage
    from scipy.io import savemat

    rng, fields = np.random.default_rng(6), ("id", "rf1", "rf2", "roi1", "roi2", "birads", "class")
    data = np.zeros((1, 6), [(name, object) for name in fields])
    for number in range(6):
        views = []
        for samples in (900, 800):
            image, (region,) = scene(rng, 96, samples)
            speckle = ndimage.gaussian_filter1d(rng.normal(size=(2, *image.shape)), 4, axis=1)
            turning = np.exp(0.5j * np.pi * np.arange(samples))[:, None]  # a quarter of 40 MHz
            echoes = ((speckle[0] + 1j * speckle[1]) * turning).real * np.where(region, 30, 3000)
            views.append((echoes.astype(np.int16), region.astype(np.uint8)))
        (rf1, roi1), (rf2, roi2) = views
        data[0, number] = (f"p{max(number, 1)}", rf1, rf2, roi1, roi2, "4a" if number % 2 else "3", number % 2)
    (root / "OASBUD").mkdir(parents=True)
    savemat(root / "OASBUD/OASBUD.mat", {"data": data}, do_compression=True)


def hc18(root: Path) -> None:
    """Nine training images of eight examinations, with thin outlines as the official ones are, and three to test."""
    from scipy import ndimage

    rng, folder = np.random.default_rng(7), root / "HC18"
    names = [f"{number:03}_HC.png" for number in range(8)] + ["003_2HC.png"]
    for name in names:
        image, (mask,) = scene(rng, 80, 54)
        write(folder / "training_set" / name, image)
        outline = mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)))
        write(folder / "training_set" / name.replace(".png", "_Annotation.png"), outline * np.uint8(255))
    for number in range(3):
        write(folder / f"test_set/{number:03}_HC.png", scene(rng, 80, 54)[0])
    table = pd.DataFrame({"filename": names, "pixel size(mm)": 0.1, "head circumference (mm)": 170.0})
    table.to_csv(folder / "training_set_pixel_size_and_HC.csv", index=False)
    tests = [f"{number:03}_HC.png" for number in range(3)]
    table = pd.DataFrame({"filename": tests, "pixel size(mm)": 0.2})
    table.to_csv(folder / "test_set_pixel_size.csv", index=False)


def clip(count: int, seed: int) -> list[np.ndarray]:
    """Frames of one texture, whose mean brightness is 60, 62, 64, ..."""
    texture = tissue(np.random.default_rng(seed), 64, 48)
    texture = (texture - texture.mean()) / 3
    return [(60 + 2 * frame + texture).clip(0, 255).astype(np.uint8) for frame in range(count)]


VIDEOS = {  # name: (how many frames, a second by the table, codec)
    "convex/Cov-Atlas+(44).gif": (21, 10, None),
    "convex/Pneu_Avi_Video_001.mp4": (40, 25, "mpeg4"),
    "convex/Reg_lung_vid1.avi": (40, 3, "mpeg4"),
    "convex/Vir_denault_vid1.mov": (20, np.nan, "mpeg4"),
    "linear/Cov_bolzano_Linee B 5.mpeg": (24, 25, "mpeg1video"),
    "linear/label_uncertain/Cov_bolzano_sliding.mpeg": (24, 25, "mpeg1video"),
}


def pocus(root: Path) -> None:
    """The authors' repository: six videos in five formats, one of them of an uncertain label, and two images."""
    folder, rows = root / "covid19_ultrasound/data", []
    for number, (name, (count, rate, codec)) in enumerate(VIDEOS.items()):
        path, frames = folder / "pocus_videos" / name, clip(count, number)
        if codec:
            film(path, frames, codec)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures = [Image.fromarray(frame) for frame in frames]
            pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
        patient = 1 if number < 2 else number
        rows.append((path.stem, patient, "convex", "CC BY-NC 4.0", 40, rate))
    for name, patient in (("convex/Reg_bikus.png", 7), ("linear/Cov_website_donation_1.jpeg", None)):
        write(folder / "pocus_images" / name, clip(1, 90 + len(name))[0])
        rows.append((Path(name).name, patient, "linear", "CC BY 4.0", "n/A", None))
    columns = ["Filename", "Patient ID / Name", "Probe", "License", "Age", "Framerate"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "dataset_metadata.csv", index=False)


def pocus_made(root: Path) -> None:
    """What the authors' script makes of it: frames as pictures in the folders of their classes."""
    folder, rows = root / "covid19_ultrasound/data", []
    classes = (("covid", "Cov"), ("pneumonia", "Pneu"), ("regular", "Reg"), ("viral", "Vir"))
    for seed, (label, begin) in enumerate(classes):
        for video in (1, 2):
            frames = clip(10, 10 * seed + video)
            for frame in (0, 9):
                write(folder / f"image_dataset/{label}/{begin}_v{video}.avi_frame{frame}.jpg", frames[frame])
            rows.append((f"{begin}_v{video}", f"{begin}-{video}", "convex", "CC BY 4.0", 50, 25))
    write(folder / "image_dataset/covid/Cov_image.png", clip(1, 200)[0])
    rows.append(("Cov_image.png", "Cov-1", "linear", "CC BY 4.0", "n/A", None))
    columns = ["Filename", "Patient ID / Name", "Probe", "License", "Age", "Framerate"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "dataset_metadata.csv", index=False)


CFG = "ED: 1\nES: 18\nNbFrame: 18\nSex: F\nAge: 56\nImageQuality: Good\n"


def heart(folder: Path, patient: str, rng: np.random.Generator, ending: str, masks: bool = True) -> None:
    """The images of one patient, as MetaImage or NIfTI; in the masks 1 the cavity, 2 the wall, 3 the atrium."""
    import SimpleITK
    from scipy import ndimage

    (folder / patient).mkdir(parents=True)
    for view in ("2CH", "4CH"):
        ef = "LVef: 61.5\n" if ending == ".mhd" else "EF: 61.5\nFrameRate: 47.8\n"
        (folder / f"{patient}/Info_{view}.cfg").write_text(CFG + ef)
        for instant in ("ED", "ES"):
            image, (cavity,) = scene(rng, 60, 80)
            labels = ndimage.binary_dilation(cavity, iterations=4) * np.uint8(2)
            labels[cavity], labels[75:] = 1, 3
            for kind, values in (("", image), ("_gt", labels))[: 1 + masks]:
                values = values[None] if ending == ".mhd" else values
                path = folder / f"{patient}/{patient}_{view}_{instant}{kind}{ending}"
                SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(path))


def camus(root: Path) -> None:
    """The download of today: NIfTI, eight patients, five of them to train, one to choose, two to test."""
    rng, folder = np.random.default_rng(8), root / "CAMUS"
    for number in range(1, 9):
        heart(folder / "database_nifti", f"patient{number:04}", rng, ".nii.gz")
    (folder / "database_split").mkdir()
    for name, patients in {"training": range(1, 6), "validation": (6,), "testing": (7, 8)}.items():
        lines = "".join(f"patient{number:04}\n" for number in patients)
        (folder / f"database_split/subgroup_{name}.txt").write_text(lines)


def camus_mhd(root: Path) -> None:
    """The older download: MetaImage, five patients with masks and one to test, who is numbered from 1 again."""
    rng, folder = np.random.default_rng(9), root / "CAMUS"
    for number in range(1, 6):
        heart(folder / "training", f"patient{number:04}", rng, ".mhd")
    heart(folder / "testing", "patient0001", rng, ".mhd", masks=False)


TRACED = {"ES": 14, "ED": 5}  # in the order of VolumeTracings.csv: the smaller ventricle first


def echonet(root: Path) -> None:
    """Ten videos whose ventricle is elsewhere in every frame: nine are traced in frames 14 and 5, one is not."""
    rng, folder, files, chords = np.random.default_rng(10), root / "EchoNet-Dynamic", [], []
    splits = ["TRAIN"] * 6 + ["VAL"] * 2 + ["TEST"] * 2
    for number, split in enumerate(splits):
        name = f"0X10000{number}"
        y, x = np.mgrid[:112, :112]
        background = tissue(rng, 112, 112)
        frames, height = [], 22 + rng.uniform(-3, 3)
        begin, slope = [(25, 3), (85, -3), (30, 1), (80, -1), (55, 2)][number % 5]
        for frame in range(20):
            noise = background + rng.normal(0, 8, (112, 112))
            inside = ((x - begin - slope * frame) / 18) ** 2 + ((y - 56) / height) ** 2 <= 1
            noise[inside] = 15
            frames.append(noise.clip(0, 255).astype(np.uint8))
        film(folder / f"Videos/{name}.avi", frames, "mjpeg", rate=50)
        files.append((name, 60.0 - number, 40.1, 100.2, 112, 112, 50, 20, split))
        for frame in TRACED.values() if number < 9 else ():
            middle = begin + slope * frame
            chords.append((f"{name}.avi", middle, 56 - height, middle, 56 + height, frame))
            for level in np.linspace(-0.98, 0.98, 20):
                half = 18 * np.sqrt(1 - level**2)
                line = (middle - half, 56 + level * height, middle + half, 56 + level * height)
                chords.append((f"{name}.avi", *line, frame))
    chords.append(("0XUNKNOWN.avi", 1, 1, 2, 2, 0))
    columns = ["FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split"]
    pd.DataFrame(files, columns=columns).to_csv(folder / "FileList.csv", index=False)
    columns = ["FileName", "X1", "Y1", "X2", "Y2", "Frame"]
    pd.DataFrame(chords, columns=columns).to_csv(folder / "VolumeTracings.csv", index=False)
