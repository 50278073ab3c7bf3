"""Vectors of classes from what is said of them, and the classifier that learns through them."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.vcls_model.models.test_models import BATCH, CLASSES, batch_of, build
from vcls_model.layers import LabelVectorScores
from vcls_model.models.label_text import find_label_vectors
from vcls_model.records.vocabulary import ClassInfo, read_vocabulary, unnamed_classes, write_labels_csv

CLASSES_OF_ANIMALS_AND_CARS = [
    ClassInfo(0, "Persian cat", ("Pets",), description="A cat with long hair, kept as a pet."),
    ClassInfo(1, "Sports car", ("Autos",), description="A fast car with a powerful engine."),
    ClassInfo(2, "Siamese cat", ("Pets",), description="A cat from Thailand; a pet with short hair."),
    ClassInfo(3, "Electric car", ("Autos",), description="A car whose engine runs on electricity."),
    ClassInfo(4, "class 4"),
]


@pytest.mark.parametrize("described", [True, False])
def test_classes_of_which_like_is_said_are_near(described: bool) -> None:
    classes = [
        ClassInfo(info.index, info.name, info.verticals, description=info.description if described else "")
        for info in CLASSES_OF_ANIMALS_AND_CARS
    ]
    vectors = find_label_vectors(classes, 3)
    assert vectors is not None and vectors.shape[0] == 5 and vectors.dtype == np.float32
    alike = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(alike)[:4], 1, atol=1e-5)
    assert alike[0, 2] > 0.5 and alike[1, 3] > 0.5 and alike[0, 1] < 0 and alike[2, 3] < 0
    np.testing.assert_array_equal(vectors[4], 0)  # nothing is said of it
    np.testing.assert_allclose(find_label_vectors(classes, 3), vectors, atol=1e-3)


def test_names_that_say_nothing_give_no_vectors() -> None:
    assert find_label_vectors(unnamed_classes(9)) is None
    assert find_label_vectors([ClassInfo(0, "Cat"), ClassInfo(1, "Dog")]) is None
    assert find_label_vectors([ClassInfo(0, "xx"), ClassInfo(1, "yyy"), ClassInfo(2, "zz")]) is None


def test_a_vocabulary_keeps_its_descriptions() -> None:
    text = write_labels_csv(CLASSES_OF_ANIMALS_AND_CARS)
    assert read_vocabulary(text, "labels.csv") == CLASSES_OF_ANIMALS_AND_CARS
    assert "description" not in write_labels_csv(unnamed_classes(2))
    wiki = read_vocabulary("Index,Name,WikiDescription\n0,Cat,=A pet\n", "vocabulary.csv")
    assert wiki[0].description == "=A pet"
    assert "'=A pet" in write_labels_csv(wiki)  # harmless in a spreadsheet


def test_scores_follow_the_vectors(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(CLASSES, 3)).astype(np.float32)
    model = build("wide", label_text=0.5, label_vectors=vectors, classifier_rate=0.2, linear_skip=True)
    batch = batch_of("wide")
    text = next(layer for layer in model.layers if isinstance(layer, LabelVectorScores))
    # Everything starts at zero, so that all videos have the same scores.
    np.testing.assert_array_equal(model(batch).numpy(), np.zeros((BATCH, CLASSES)))
    kernel = np.random.default_rng(1).normal(size=text.kernel.shape).astype(np.float32)
    text.kernel.assign(kernel)
    read = keras.Model(model.inputs, text.input)(batch).numpy()
    np.testing.assert_allclose(model(batch), 0.5 * read @ kernel @ vectors.T, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(batch), model(batch), atol=1e-5)
    assert all(weight.path.split("/")[-1] != "vectors" for weight in model.trainable_weights)
    with pytest.raises(ValueError, match="label_text needs label_vectors"):
        build("wide", label_text=0.5)


def test_a_slowed_classifier_reads_smaller_features() -> None:
    model = build("logistic", classifier_rate=0.25)
    kernel = np.random.default_rng(1).normal(size=(24, CLASSES)).astype(np.float32)
    model.get_layer("classifier_scores").kernel.assign(kernel)
    batch = batch_of("logistic")
    joined = np.concatenate([batch["rgb"], batch["audio"]], axis=1)
    np.testing.assert_allclose(model(batch), 0.25 * joined @ kernel, rtol=1e-4, atol=1e-5)


def test_the_layer_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="either the vectors or their shape"):
        LabelVectorScores()
