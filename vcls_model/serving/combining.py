"""The mean of several models, twice: of arrays while scoring, and in the graph of an exported ensemble.

The mean probability p is taken to a logit as log(sum of p) - log(sum of 1 - p), which keeps its precision at both ends.
Logits count as at most 80 in absolute value, beyond which float32 has no probability but 0; NaN stays NaN.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vcls_model.metrics.binning import sigmoid

if TYPE_CHECKING:
    import tensorflow as tf

COMBINATIONS = ("logit", "probability")
LARGEST_LOGIT = 80.0


def mean_of_models(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Logits of the mean probability of several models; the logits of a single model are returned as they are.

    Args:
        logits: float32 (B, C), one array per model.

    Returns:
        float32 (B, C).
    """
    if len(logits) == 1:
        return logits[0]
    positive = np.zeros_like(logits[0])
    negative = np.zeros_like(logits[0])
    for each in logits:
        clipped = np.clip(each, -LARGEST_LOGIT, LARGEST_LOGIT)
        positive += sigmoid(clipped)
        negative += sigmoid(-clipped)
    return np.log(positive) - np.log(negative)


def combined_in_graph(logits: "Sequence[tf.Tensor]", weights: Sequence[float], combine: str) -> "tf.Tensor":
    """The weighted mean of the members of an ensemble, as logits.

    Args:
        logits: float32 (B, C), one tensor per member.
        weights: one per member, adding to 1.
        combine: `probability`, see above; or `logit`, which averages the logits.

    Returns:
        float32 (B, C).
    """
    import tensorflow as tf

    clipped = [tf.clip_by_value(each, -LARGEST_LOGIT, LARGEST_LOGIT) for each in logits]
    if combine == "logit":
        return tf.add_n([weight * each for weight, each in zip(weights, clipped, strict=True)])
    stacked = tf.stack(clipped)
    shares = tf.math.log(tf.constant(weights, tf.float32))[:, tf.newaxis, tf.newaxis]
    return tf.reduce_logsumexp(tf.math.log_sigmoid(stacked) + shares, axis=0) - tf.reduce_logsumexp(
        tf.math.log_sigmoid(-stacked) + shares, axis=0
    )
