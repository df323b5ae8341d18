"""The masks in the size of their files are those of the files, or the stored ones."""

import numpy as np
import pytest
import twins_own as twins
from PIL import Image

from mednb.datasets import load
from mednb.datasets.outlines import outlines


def test_drawn_images_have_the_masks_that_are_stored():
    images = load("phantoms", size=32, limit=40)
    assert all(np.array_equal(a, b) for a, b in zip(outlines(images), images.masks, strict=True))


@pytest.fixture(scope="module")
def busi(data_root):
    return load("busi", data_root, size=32, limit=40)


@pytest.mark.data
def test_the_outline_is_the_mask_of_the_file(busi, data_root):
    found = outlines(busi, data_root)
    for row, mask in zip(busi.table.itertuples(), found, strict=True):
        files = sorted((data_root / "BUSI/Dataset_BUSI_with_GT" / row.label).glob("*_mask*.png"))
        own = [f for f in files if f.name.startswith(row.image_id.rpartition("/")[2].removesuffix(".png") + "_mask")]
        union = np.any([np.asarray(Image.open(file).convert("L")) > 127 for file in own], axis=0)
        assert mask.shape == (row.height, row.width) or not mask.any()
        assert not mask.any() or np.array_equal(mask, union)
    assert sum(mask.shape != (32, 32) for mask in found) >= 20


@pytest.mark.data
@pytest.mark.parametrize("reading", [{"resize": "pad"}, {"around": "lesion"}])
def test_what_was_not_stretched_whole_keeps_the_stored_mask(data_root, reading):
    images = load("busi", data_root, size=32, limit=40, **reading)
    images = images.take(np.flatnonzero(images.table["width"] / images.table["height"] > 1.3))
    images = images.take(np.flatnonzero(images.table["lesion_area"].between(0.001, 0.1)))
    assert len(images)
    assert all(mask.shape == (32, 32) for mask in outlines(images, data_root))


@pytest.mark.data
def test_a_mix_has_the_outlines_of_its_members(busi, data_root):
    mix = load("busi+busbra", data_root, size=32, limit=60)
    found = outlines(mix, data_root)
    full = [mask.shape == (row.height, row.width) for row, mask in zip(mix.table.itertuples(), found, strict=True)]
    assert mix.table["dataset"][full].nunique() == 2


def test_your_own_images_keep_the_masks_that_their_table_gave_them(tmp_path):
    twins.table(tmp_path).to_csv(tmp_path / "my.csv", index=False)
    images = load("folder", tmp_path, size=32, table="my.csv")
    assert images.masks.any() and all(map(np.array_equal, outlines(images, tmp_path), images.masks))
