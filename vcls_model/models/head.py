"""From a trunk's output to logits: every layer that depends on the classes, except the neighbours' vote.

The contract that fine-tuning relies on: **a layer depends on the classes exactly when its name starts with
`HEAD_PREFIX`**. Names are stored with the weights in `model.keras`, so that the contract holds for loaded models, too.
`Head` gives such names to all that it makes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor

from vcls_model.layers import L2Normalise, LabelVectorScores, MeanPool, MixtureOfExperts, ScoreGating
from vcls_model.models.branch import Branch, join

HEAD_PREFIX = "classifier"


def depends_on_classes(layer: keras.Layer) -> bool:
    """Whether a layer of a built or loaded model, or a layer inside one, depends on the classes."""
    return (layer.path or layer.name).startswith(HEAD_PREFIX)


class Head:
    """Makes the classifiers of a model.

    Args:
        class_count: number of classes C.
        options: the model's hyperparameters. `stages` makes a chain of classifiers, `mixtures` above 1 mixtures of
            experts, `linear_skip` adds a linear classifier of the features, `gate_scores` gates the scores.
        label_vectors: float32 (C, E), from which `label_text` makes weights; None without it.
        member: starts the names of the layers of one of several members.

    Attributes:
        classifiers: the layers whose biases can start at the classes' log-odds.
    """

    def __init__(
        self,
        class_count: int,
        options: Mapping[str, Any],
        label_vectors: np.ndarray | None = None,
        member: str = "",
    ) -> None:
        self.class_count = class_count
        self.options = options
        self.label_vectors = label_vectors
        self.member = member
        self.classifiers: list[keras.Layer] = []

    def logits(self, features: KerasTensor, skipped: Sequence[Branch], name: str = "") -> KerasTensor:
        """Logits (B, C) float32.

        Args:
            features: what the trunks made, (B, F).
            skipped: branches whose features `linear_skip` joins.
            name: distinguishes the classifiers of one modality from those of another.
        """
        prefix = f"{HEAD_PREFIX}_{name}"
        described = [features]
        if "stages" in self.options:
            parts = [self._chain(features, prefix)]
        else:
            parts = [self._classifier(features, f"{prefix}scores")]
        if self.options["linear_skip"]:
            means = [
                branch.features
                if branch.frame_mask is None
                else MeanPool(name=f"{branch.prefix}skip_mean")(branch.features, branch.frame_mask)
                for branch in skipped
            ]
            skip = self._linear(f"{prefix}skip", use_bias=False)
            described.append(join(means, f"{self.member}skip"))
            parts.append(skip(self._slowed(described[-1], f"{prefix}skip")))
        if self.label_vectors is not None:
            scores = LabelVectorScores(
                self.options["label_text"], self.label_vectors, dtype="float32", name=f"{prefix}text"
            )
            parts.append(scores(join(described, f"{prefix}described")))
        logits = keras.layers.Add(dtype="float32", name=f"{prefix}sum")(parts) if len(parts) > 1 else parts[0]
        if self.options.get("gate_scores"):
            logits = ScoreGating(dtype="float32", name=f"{prefix}gating")(logits)
        return keras.layers.Activation("linear", dtype="float32", name=f"{prefix}logits")(logits)

    def mean(self, logits: Sequence[KerasTensor]) -> KerasTensor:
        """The average of several classifiers' logits."""
        if len(logits) == 1:
            return logits[0]
        return keras.layers.Average(name=f"{HEAD_PREFIX}_{self.member}average", dtype="float32")(list(logits))

    def _classifier(self, features: KerasTensor, name: str) -> KerasTensor:
        """Logits (B, C) of a linear classifier or of a mixture of them.

        In float32, whatever the precision of the rest: in bfloat16 logits around -7 are 0.03 apart, and rankings tie.
        """
        mixtures = self.options.get("mixtures", 1)
        layer: keras.Layer
        if mixtures > 1:
            layer = MixtureOfExperts(self.class_count, mixtures, dtype="float32", name=name)
        else:
            layer = self._linear(name)
            features = self._slowed(features, name)
        self.classifiers.append(layer)
        return layer(features)

    def _linear(self, name: str, **options: Any) -> keras.layers.Dense:
        """A linear classifier; with `classifier_rate` its weights start at zero.

        Random weights are noise in the scores of classes that have too few positives to unlearn it.
        """
        if self.options["classifier_rate"]:
            options["kernel_initializer"] = "zeros"
        return keras.layers.Dense(self.class_count, dtype="float32", name=name, **options)

    def _slowed(self, features: KerasTensor, classifier: str) -> KerasTensor:
        """What a linear classifier reads: features times `classifier_rate`.

        Adam moves a weight by the learning rate, whatever the scale of its gradient, so that the scores move by
        `classifier_rate` times as much.
        """
        rate = self.options["classifier_rate"]
        if not rate:
            return features
        return keras.layers.Rescaling(rate, dtype="float32", name=f"{classifier}_slowed")(features)

    def _chain(self, features: KerasTensor, prefix: str) -> KerasTensor:
        """Deep combine chain: each stage sees the features and a summary of every earlier stage's predictions.

        Wang et al. 2017, "The Monkeytyping Solution to the YouTube-8M Video Understanding Challenge", section 3.1.
        There, the earlier stages have losses of their own; here their mean enters the output with the weight
        `support_weight`, which trains them through the one loss.
        """
        options = self.options
        seen, support = [features], []
        for stage in range(options["stages"] - 1):
            logits = self._classifier(join(seen, f"{prefix}seen_{stage}"), f"{prefix}stage_{stage}")
            support.append(logits)
            predicted = keras.layers.Activation("sigmoid", name=f"{prefix}predicted_{stage}")(logits)
            link = keras.layers.Dense(options["link_units"], activation="relu", name=f"{prefix}link_{stage}")(predicted)
            seen.append(L2Normalise(name=f"{prefix}link_{stage}_l2")(link))
        last = options["stages"] - 1
        final = self._classifier(join(seen, f"{prefix}seen_{last}"), f"{prefix}stage_{last}")
        if not support or not options["support_weight"]:
            return final
        weight = options["support_weight"]
        scaled = [
            keras.layers.Rescaling(weight / len(support), dtype="float32", name=f"{prefix}support_{stage}")(logits)
            for stage, logits in enumerate(support)
        ]
        main = keras.layers.Rescaling(1 - weight, dtype="float32", name=f"{prefix}main")(final)
        return keras.layers.Add(dtype="float32", name=f"{prefix}combined")([main, *scaled])

    def start_at_prior(self, class_prior: np.ndarray) -> None:
        """Sets the biases of all classifiers so that each gives the prior on zero input.

        A chain's later stages also see random links, and start near the prior.

        Args:
            class_prior: float (C,), fraction of the training videos that carry each class.

        Raises:
            ValueError: the prior has another shape.
        """
        # A gate halves each probability before it has learnt anything.
        prior = np.asarray(class_prior, np.float64) * (2 if self.options.get("gate_scores") else 1)
        if prior.shape != (self.class_count,):
            raise ValueError(f"class_prior must have shape ({self.class_count},), got {prior.shape}")
        for layer in self.classifiers:
            if isinstance(layer, MixtureOfExperts):
                # On zero input the gate gives each expert 1 / (M + 1), and the rest to the one that always says no.
                expert = np.clip(prior * (layer.mixtures + 1) / layer.mixtures, 1e-6, 1 - 1e-6)
                layer.expert_bias.assign(np.repeat(np.log(expert / (1 - expert)), layer.mixtures).astype(np.float32))
            else:
                clipped = np.clip(prior, 1e-6, 1 - 1e-6)
                layer.bias.assign(np.log(clipped / (1 - clipped)).astype(np.float32))
