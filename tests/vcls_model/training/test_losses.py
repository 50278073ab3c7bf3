import keras
import numpy as np
import pytest
import tensorflow as tf

from vcls_model.commands import UsageError
from vcls_model.training.losses import distillation_loss, mix_labels, sparse_loss
from vcls_model.training.options import LossOptions

LOGITS = np.random.default_rng(0).normal(scale=3, size=(3, 7)).astype(np.float32)
LABELS = np.array([[0, 5, -1], [2, -1, -1], [-1, -1, -1]], np.int32)
TARGETS = np.zeros((3, 7))
TARGETS[[0, 0, 1], [0, 5, 2]] = 1


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def test_bce_equals_keras_on_dense_labels():
    expected = 7 * keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)(TARGETS, LOGITS)
    np.testing.assert_allclose(sparse_loss(LOGITS, LABELS, LossOptions()), expected, rtol=1e-5)


def test_bce_gradient_is_probability_minus_target():
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(sparse_loss(logits, LABELS, LossOptions()))
    np.testing.assert_allclose(tape.gradient(loss, logits), sigmoid(LOGITS) - TARGETS, atol=1e-6)


def test_focal_equals_keras_on_dense_labels():
    options = LossOptions("focal", gamma=1.5, alpha=0.3)
    focal = keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=True, alpha=0.3, gamma=1.5, from_logits=True, reduction=None
    )
    np.testing.assert_allclose(sparse_loss(LOGITS, LABELS, options), 2 * 7 * focal(TARGETS, LOGITS), rtol=1e-4)


def test_asymmetric_equals_its_formula():
    p = sigmoid(LOGITS)
    shifted = np.maximum(p - 0.1, 0)
    positive = -((1 - p) ** 1) * np.log(p)
    negative = -(shifted**3) * np.log(1 - shifted)
    expected = (TARGETS * positive + (1 - TARGETS) * negative).sum(1)
    options = LossOptions("asymmetric", gamma=1, gamma_negative=3, margin=0.1)
    np.testing.assert_allclose(sparse_loss(LOGITS, LABELS, options), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric"])
def test_label_smoothing_spreads_the_mass_of_the_labels(name):
    smooth = 0.9 * TARGETS + 0.1 * TARGETS.sum(1, keepdims=True) / 7
    one = tf.tile(np.arange(7, dtype=np.int32)[np.newaxis], [3, 1])
    none = np.full((3, 1), -1, np.int32)
    options = LossOptions(name)
    # Per class: all other things equal, the loss is linear in the target.
    empty = sparse_loss(LOGITS, none, options)
    expected = empty + tf.stack(
        [
            sum(smooth[row, c] * (sparse_loss(LOGITS, one[:, c : c + 1], options) - empty)[row] for c in range(7))
            for row in range(3)
        ]
    )
    np.testing.assert_allclose(sparse_loss(LOGITS, LABELS, LossOptions(name, label_smoothing=0.1)), expected, rtol=1e-4)


def test_mixed_labels_weigh_as_the_mixed_targets():
    shares = np.array([0.7, 0.2, 1.0], np.float32)
    labels, weights = mix_labels(tf.constant(LABELS), tf.constant(shares))
    mixed = shares[:, None] * TARGETS + (1 - shares)[:, None] * TARGETS[::-1]
    expected = 7 * keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)(mixed, LOGITS)
    np.testing.assert_allclose(sparse_loss(LOGITS, labels, LossOptions(), weights), expected, rtol=1e-5)


def test_distillation_is_cross_entropy_with_probabilities():
    probabilities = sigmoid(np.random.default_rng(1).normal(size=(3, 7))).astype(np.float32)
    expected = 7 * keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)(probabilities, LOGITS)
    np.testing.assert_allclose(distillation_loss(LOGITS, probabilities), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric"])
def test_extreme_logits_give_finite_losses_and_gradients(name):
    for gamma in (0.0, 0.5, 2.0):
        logits = tf.Variable([[-200.0, 200.0, 0.0, -60.0, 60.0, -120.0]])
        with tf.GradientTape() as tape:
            loss = sparse_loss(logits, tf.constant([[0, 4]]), LossOptions(name, gamma=gamma, gamma_negative=gamma))
        assert np.isfinite(loss).all() and np.isfinite(tape.gradient(loss, logits)).all()


def test_low_precision_logits_are_raised_to_float32():
    assert sparse_loss(tf.cast(LOGITS, tf.bfloat16), LABELS, LossOptions()).dtype == tf.float32


@pytest.mark.parametrize("options", [{"name": "bse"}, {"label_smoothing": 1.0}, {"gamma": -1}, {"alpha": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError):
        LossOptions(**options)
