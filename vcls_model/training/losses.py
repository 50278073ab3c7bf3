"""Losses of many-class, few-label problems, computed from sparse labels.

Every loss here treats the classes as independent. With x the logit of a class, it adds n(x) for a class that the video
lacks and p(x) for one that it carries, so that a video's loss is

    sum over all classes of n(x)  +  sum over its labels of w (p(x) - n(x))

with w the weight of a label (1, or a share under mixup). The second sum needs the logits at the labels alone: no matrix
of videos x classes is made for the targets. The loss of a batch is the mean over its videos of the *sum* over classes.
"""

from collections.abc import Callable

import tensorflow as tf

from vcls_model.training.options import LossOptions

Term = Callable[[tf.Tensor], tf.Tensor]


def _terms(options: LossOptions) -> tuple[Term, Term]:
    """n(x) and p(x): the loss of a class that a video lacks, and of one that it carries."""
    if options.name == "focal":
        gamma, alpha = options.gamma, options.alpha
        # sigmoid(x)^gamma by logarithms: the power's own gradient is 0 / 0 where the sigmoid rounds to 0.
        return (
            lambda x: 2 * (1 - alpha) * tf.exp(gamma * tf.math.log_sigmoid(x)) * tf.nn.softplus(x),
            lambda x: 2 * alpha * tf.exp(gamma * tf.math.log_sigmoid(-x)) * tf.nn.softplus(-x),
        )
    if options.name == "asymmetric":
        gamma_positive, gamma_negative, margin = options.gamma, options.gamma_negative, options.margin

        def negative(x: tf.Tensor) -> tf.Tensor:
            shifted = tf.maximum(tf.sigmoid(x) - margin, 0.0)
            power = tf.maximum(shifted, 1e-12) ** gamma_negative  # has a gradient for exponents below 1, too
            return power * -tf.math.log1p(-tf.minimum(shifted, 1 - 1e-6))

        return negative, lambda x: tf.exp(gamma_positive * tf.math.log_sigmoid(-x)) * tf.nn.softplus(-x)
    return tf.nn.softplus, lambda x: tf.nn.softplus(-x)


def sparse_loss(
    logits: tf.Tensor, labels: tf.Tensor, options: LossOptions, label_weights: tf.Tensor | None = None
) -> tf.Tensor:
    """The loss of each video.

    Args:
        logits: float (B, C).
        labels: int32 (B, L) class indices, padded with -1.
        options: which loss.
        label_weights: float32 (B, L), the weight of each label; 1 when None.

    Returns:
        float32 (B,): the sum over classes.
    """
    logits = tf.cast(logits, tf.float32)
    negative, positive = _terms(options)
    weights = tf.cast(labels >= 0, tf.float32)
    if label_weights is not None:
        weights *= label_weights
    at_labels = tf.gather(logits, tf.maximum(labels, 0), batch_dims=1)  # (B, L)
    everywhere = tf.reduce_sum(negative(logits), axis=1)
    # For bce softplus(-x) - softplus(x) = -x, exactly.
    gain = -at_labels if options.name == "bce" else positive(at_labels) - negative(at_labels)
    loss = everywhere + (1 - options.label_smoothing) * tf.reduce_sum(weights * gain, axis=1)
    if options.label_smoothing:
        mean_gain = (
            -tf.reduce_mean(logits, axis=1)
            if options.name == "bce"
            else tf.reduce_mean(positive(logits) - negative(logits), axis=1)
        )
        loss += options.label_smoothing * tf.reduce_sum(weights, axis=1) * mean_gain
    return loss


def distillation_loss(logits: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each video against a teacher's probabilities (Hinton et al. 2015, at temperature 1).

    Args:
        logits: float (B, C) of the student.
        probabilities: float32 (B, C) of the teacher, in [0, 1].

    Returns:
        float32 (B,): the sum over classes.
    """
    logits = tf.cast(logits, tf.float32)
    return tf.reduce_sum(tf.nn.softplus(logits) - probabilities * logits, axis=1)


def mix_labels(labels: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels of a batch mixed with its own reverse (Zhang et al. 2018, "mixup").

    Args:
        labels: int32 (B, L), padded with -1.
        shares: float32 (B,), the share of the video itself; the rest is its partner's.

    Returns:
        Labels (B, 2 L) and their weights (B, 2 L).
    """
    partners = tf.reverse(labels, [0])
    ones = tf.ones_like(labels, tf.float32)
    weights = tf.concat([ones * shares[:, tf.newaxis], ones * (1 - shares)[:, tf.newaxis]], axis=1)
    return tf.concat([labels, partners], axis=1), weights
