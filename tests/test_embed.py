"""Embeddings, their map, neighbours and geometry."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from mednb import embed, encoders


@pytest.fixture(scope="module")
def encoder():
    return encoders.build(seed=0)


def test_an_embedding_does_not_depend_on_the_batch(encoder):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32), dtype=np.uint8)
    whole = embed.extract(encoder, pixels)
    assert whole.shape == (7, 512)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(embed.extract(encoder, pixels, batch_size=2), whole, atol=1e-4)


def test_extracting_leaves_the_encoder_as_it_was(encoder):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    embed.extract(encoder, np.zeros((4, 32, 32), np.uint8))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_frame_gives_its_vectors_back():
    h = np.arange(12, dtype=np.float32).reshape(3, 4)
    frame = embed.frame(pd.DataFrame({"image_id": list("abc"), "height": [1, 2, 3]}), h)
    assert list(frame) == ["image_id", "height", "h000", "h001", "h002", "h003"]
    assert (embed.vectors(frame) == h).all()


def test_the_map_keeps_two_far_groups_apart_and_repeats_itself():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2, 16)) * 5
    h = (centres[np.repeat([0, 1], 30)] + rng.normal(size=(60, 16))).astype(np.float32)
    points = embed.umap(h, seed=1)
    assert points.shape == (60, 2)
    longer = h * np.float32([1, 2, 4] * 20)[:, None]  # the same by cosine
    np.testing.assert_array_equal(points, embed.umap(longer, seed=1))
    assert (points != embed.umap(h, seed=2)).any()
    within = np.linalg.norm(points[:30] - points[:30].mean(0), axis=1).max()
    assert np.linalg.norm(points[:30].mean(0) - points[30:].mean(0)) > within


def test_neighbours_are_the_most_similar_and_never_the_image_itself():
    h = np.eye(4, dtype=np.float32)
    h[3] = [0.9, 0.1, 0, 0]
    index, similarity = embed.neighbours(h, 1)
    assert index[0, 0] == 3
    assert index[3, 0] == 0
    assert similarity[0, 0] == pytest.approx(0.9 / math.hypot(0.9, 0.1))
    index, _ = embed.neighbours(h[:2], 1, among=h)
    assert list(index[:, 0]) == [0, 1]


def test_geometry_of_a_collapsed_space():
    point = np.ones((20, 8))
    found = embed.geometry(point, point)
    assert found == pytest.approx({"alignment": 0, "uniformity": 0, "spread": 0, "effective_rank": 1}, abs=1e-4)


def test_geometry_of_an_evenly_spread_space():
    a = np.random.default_rng(0).normal(size=(800, 16))
    found = embed.geometry(a, -a)
    assert found["alignment"] == pytest.approx(4)
    assert found["spread"] == pytest.approx(1, abs=0.02)
    assert found["effective_rank"] == pytest.approx(16, abs=0.3)
    # E exp(-2 |x - y|^2) = exp(-4) E exp(4 cos), and cos has variance 1/16
    cosines = a[:400] / np.linalg.norm(a[:400], axis=1, keepdims=True)
    cosines = (cosines @ cosines.T)[np.triu_indices(400, 1)]
    assert found["uniformity"] == pytest.approx(math.log(np.exp(4 * cosines - 4).mean()), abs=0.02)


def test_effective_rank_counts_equal_directions():
    h = np.zeros((60, 10))
    h[np.arange(60), np.arange(60) % 3] = 1  # three points: two directions around their mean
    assert embed.geometry(h, h)["effective_rank"] == pytest.approx(2, abs=1e-3)


def test_effective_rank_weighs_directions_by_their_singular_values():
    h = np.zeros((20, 4))
    h[:18, 0], h[18:, 1] = np.tile([1, -1], 9), [1, -1]  # singular values 3 : 1
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert embed.geometry(h, h)["effective_rank"] == pytest.approx(expected, rel=1e-4)
