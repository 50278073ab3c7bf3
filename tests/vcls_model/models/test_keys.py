"""What a model compares videos by is the same in its graph and in the memory, which numpy fills."""

import numpy as np

from vcls_model.layers import LabelProjection, MemoryKey
from vcls_model.models.label_directions import KEY_POWER, LabelDirections
from vcls_model.models.neighbour_memory import join_keys, shares_of
from vcls_model.records.schema import FRAMES, VECTOR, Modality


def test_a_remembered_key_is_the_key_of_the_layer() -> None:
    rng = np.random.default_rng(0)
    modalities = [Modality("rgb", 16, FRAMES, "uint8"), Modality("title", 4, VECTOR, "float32")]
    vectors = [rng.normal(size=(5, modality.width)).astype(np.float32) for modality in modalities]
    vectors[1][2] = 0  # a video without a title
    shares = shares_of(modalities)
    np.testing.assert_allclose(MemoryKey(shares)(vectors), join_keys(vectors, shares), rtol=1e-5, atol=1e-6)


def test_a_remembered_projected_key_is_the_key_of_the_layer() -> None:
    rng = np.random.default_rng(1)
    turned = np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    directions = LabelDirections(
        rng.normal(size=6).astype(np.float32), turned, np.linspace(1, 0.1, 6, dtype=np.float32)
    )
    joined = rng.normal(size=(5, 6)).astype(np.float32)
    layer = LabelProjection(
        power=KEY_POWER, unit=True, mean=directions.mean, directions=turned, strengths=directions.strengths
    )
    np.testing.assert_allclose(layer(joined), directions.keys(joined), rtol=1e-4, atol=1e-6)
