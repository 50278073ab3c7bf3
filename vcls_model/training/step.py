"""The training step: loss of a batch, gradients, update; compiled so that several steps run per call."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from vcls_model.input.dataset import decode_features
from vcls_model.layers import MeanOfMembers, UnitInput, unit_inputs
from vcls_model.records.schema import TEXT
from vcls_model.records.transformed import TransformedModality, presence_name
from vcls_model.training.averaging import WeightAverage
from vcls_model.training.losses import distillation_loss, mix_labels, sparse_loss
from vcls_model.training.options import TrainOptions

# Added to the seed for dropped modalities; seeds of runs are smaller.
_DROPOUT_STREAM = 1 << 32

Batch = dict[str, Any]  # of `make_batches`
Teacher = Callable[[dict[str, tf.Tensor]], tf.Tensor]


class BatchLoss:
    """The loss of each video of a batch.

    Args:
        model: takes what `build_model` documents.
        modalities: the features that the model takes.
        options: which loss, and how it is mixed with the teachers'.
        teachers: functions from decoded features to logits, whose mean probability is distilled.
        senses: names of the modalities that a video has, or lacks, together, for a model that takes their presence;
            none: modalities are never dropped.
    """

    def __init__(
        self,
        model: keras.Model,
        modalities: Sequence[TransformedModality],
        options: TrainOptions,
        teachers: Sequence[Teacher],
        senses: Sequence[Sequence[str]] = (),
    ) -> None:
        self.model = model
        self.modalities = modalities
        self.options = options
        self.teachers = teachers
        self.senses = senses if len(senses) > 1 and options.modality_dropout else ()
        self._texts = {modality.name for modality in modalities if modality.kind == TEXT}
        # By input: what a mixture must be made of rather than of the input itself.
        joint = [layer for layer in model.layers if isinstance(layer, MeanOfMembers)]
        self._members = len(joint[0].input) if joint else 1
        self._unit_inputs = {layer.input.name: layer for layer in model.layers if isinstance(layer, UnitInput)}

    def __call__(
        self, batch: Batch, shares: tf.Tensor | None, draws: tf.Tensor | None = None, *, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Losses (B,) and logits (B, C); videos without labels have a loss of 0.

        Args:
            batch: B videos.
            shares: float32 (B,), for mixup the share of each video in its mixture; None mixes nothing.
            draws: float32 (B, S), uniform in [0, 1), for `modality_dropout`; None drops nothing.
            training: whether dropout, batch statistics and teachers apply.
        """
        features = decode_features(batch["features"], self.modalities)
        labels, weights = batch["labels"], None
        known = tf.reduce_any(labels >= 0, axis=1)
        if shares is not None:
            shares = tf.where(tf.reverse(known, [0]), shares, 1.0)  # a partner without labels would teach "no label"
            labels, weights = mix_labels(labels, shares)
            inputs = self._mixed(self._normalised(features), shares)
            features = self._mixed(features, shares)  # a teacher normalises by itself
            with unit_inputs():
                logits = self.model(self._without_some(inputs, draws), training=training)
        else:
            logits = self.model(self._without_some(features, draws), training=training)
        members = self._members if training else 1
        if members > 1:  # the members' logits stand one below the other
            labels = tf.tile(labels, [members, 1])
            weights = None if weights is None else tf.tile(weights, [members, 1])
        losses = sparse_loss(logits, labels, self.options.loss, weights)
        if training and self.teachers:
            probabilities = tf.add_n([tf.sigmoid(teacher(features)) for teacher in self.teachers]) / len(self.teachers)
            share = self.options.teacher_weight
            probabilities = tf.tile(tf.stop_gradient(probabilities), [members, 1])
            losses = (1 - share) * losses + share * distillation_loss(logits, probabilities)
        if members > 1:
            losses = tf.reduce_mean(tf.reshape(losses, [members, -1]), axis=0)
        return losses * tf.cast(known, losses.dtype), logits

    def _normalised(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What the model makes of the features first, as `unit_inputs` takes it; padded frames are zero."""
        normalised = dict(features)
        for name, layer in self._unit_inputs.items():
            value = layer(features[name])
            if len(value.shape) == 3:
                mask = tf.sequence_mask(features["num_frames"], tf.shape(value)[1])
                value = tf.where(mask[:, :, tf.newaxis], value, 0.0)
            presence = presence_name(name)
            if presence in features:  # mixtures are of what videos have
                has = tf.reshape(features[presence], [-1] + [1] * (len(value.shape) - 1))
                value = tf.where(has > 0, value, 0.0)
            normalised[name] = value
        return normalised

    def _without_some(self, features: dict[str, tf.Tensor], draws: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """The features of each video without some modalities, at random, but never without all."""
        if draws is None:
            return features
        present = tf.stack([self._presence(features, names[0]) for names in self.senses], axis=1)  # (B, S)
        kept = tf.where(draws < self.options.modality_dropout, 0.0, present)
        kept = tf.where(tf.reduce_any(kept > 0, axis=1, keepdims=True), kept, present)
        changed = dict(features)
        for number, names in enumerate(self.senses):
            if names[0] in self._texts:
                changed[names[0]] = features[names[0]] * kept[:, number, tf.newaxis, tf.newaxis]
            else:
                changed.update({presence_name(name): kept[:, number] for name in names})
        return changed

    def _presence(self, features: dict[str, tf.Tensor], name: str) -> tf.Tensor:
        """Float32 (B,), 1 or 0: whether a video has a modality; a text, whether it has a word."""
        if name not in self._texts:
            return features[presence_name(name)]
        return tf.cast(tf.reduce_any(features[name][:, :, 1] > 0, axis=1), tf.float32)

    def _mixed(self, features: dict[str, tf.Tensor], shares: tf.Tensor) -> dict[str, tf.Tensor]:
        """Each video mixed with the one at the same place from the end of the batch."""
        mixed = dict(features)
        for modality in self.modalities:
            value = features[modality.name]
            part = tf.reshape(shares, [-1] + [1] * (len(value.shape) - 1))
            if modality.kind == TEXT:  # the words of both, with the weights of each
                weight = tf.one_hot(1, value.shape[-1])  # a bucket, its weight, and of a line its frame
                both = (part * weight + (1 - weight), (1 - part) * weight + (1 - weight))
                mixed[modality.name] = tf.concat([both[0] * value, both[1] * tf.reverse(value, [0])], axis=1)
                continue
            mixed[modality.name] = part * value + (1 - part) * tf.reverse(value, [0])
            presence = presence_name(modality.name)
            if presence in features:
                partner = tf.where(shares < 1, tf.reverse(features[presence], [0]), 0.0)
                mixed[presence] = tf.maximum(features[presence], partner)
        if "num_frames" in features:
            mixed["num_frames"] = tf.maximum(features["num_frames"], tf.reverse(features["num_frames"], [0]))
        return mixed


class TrainingStep:
    """Trains the variables that are trainable when it is made; freezing or thawing layers needs a new one.

    Args:
        loss: the loss of a batch.
        optimizer: built for all variables that learn now or later.
        average: follows the variables after each step; or None.
        strategy: where steps run.
    """

    def __init__(
        self,
        loss: BatchLoss,
        optimizer: keras.optimizers.Optimizer,
        average: WeightAverage | None,
        strategy: tf.distribute.Strategy,
    ) -> None:
        self._loss = loss
        self._optimizer = optimizer
        self._average = average
        self._strategy = strategy
        self._replicas = strategy.num_replicas_in_sync
        self._variables = list(loss.model.trainable_variables)
        distributed, jit = self._replicas > 1, loss.options.jit
        # The sum of the gradients over devices cannot be compiled by XLA: there, the gradients alone are.
        self._gradients = _compiled(self._make_gradients, jit and distributed)
        self._update = _compiled(self._make_update, jit and not distributed)
        self._one_step = self._on_all_devices if distributed else self._on_this_device
        self.run = tf.function(self._run)

    def _run(self, iterator: Iterator[Batch], count: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Trains on the next `count` batches without returning to Python.

        Returns:
            The sum of the losses; of the first step with a loss that is not finite the shard of this process to blame
            and the number, -1 where there is none; whether all variables are finite.
        """
        total, shard, failed = tf.constant(0.0), tf.constant(-1), tf.constant(-1)
        for number in tf.range(count):
            loss, bad, is_bad = self._one_step(next(iterator))
            first = (failed < 0) & is_bad
            failed, shard = tf.where(first, number, failed), tf.where(first, bad, shard)
            total += loss
            if self._average is not None:
                self._average.follow(self._optimizer.iterations)
        # An overflow inside a step need not show in its loss; no value that is not finite may reach a checkpoint.
        sound = tf.reduce_all(
            [tf.math.is_finite(tf.reduce_sum(tf.cast(variable.value, tf.float32))) for variable in self._variables]
        )
        return total, shard, failed, sound

    def _on_this_device(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Loss of a step, shard to blame or -1, and whether there is one in any process."""
        loss, bad = self._step(batch)
        return loss, bad, bad >= 0

    def _on_all_devices(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Like `_on_this_device`, for a batch that is split over the devices."""
        losses, bad = self._strategy.run(self._step, args=(batch,))
        loss = self._strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)
        own = tf.reduce_max(tf.stack(self._strategy.experimental_local_results(bad)))
        everywhere = self._strategy.run(lambda one: tf.cast(one >= 0, tf.int32), args=(bad,))
        return loss, own, self._strategy.reduce(tf.distribute.ReduceOp.SUM, everywhere, axis=None) > 0

    def _step(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        options, shares, dropped = self._loss.options, None, None
        videos = tf.shape(batch["labels"])[0]
        if options.mixup:
            # The gamma sampler has no XLA kernel: shares are drawn outside the compiled part.
            draws = tf.random.stateless_gamma([videos, 2], self._seed(0), options.mixup)
            shares = draws[:, 0] / tf.maximum(tf.reduce_sum(draws, axis=1), 1e-30)
        if self._loss.senses:
            dropped = tf.random.stateless_uniform([videos, len(self._loss.senses)], self._seed(_DROPOUT_STREAM))
        return self._update(batch, shares, dropped)

    def _seed(self, stream: int) -> tf.Tensor:
        """Of the random numbers of this step, by purpose."""
        seed = tf.constant(self._loss.options.read.seed + stream, tf.int64)
        return tf.stack([seed, tf.cast(self._optimizer.iterations, tf.int64)])

    def _make_update(
        self, batch: Batch, shares: tf.Tensor | None, dropped: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        gradients, loss, bad = self._gradients(batch, shares, dropped)
        self._optimizer.apply(gradients, self._variables)
        return loss, bad

    def _make_gradients(
        self, batch: Batch, shares: tf.Tensor | None, dropped: tf.Tensor | None
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        model = self._loss.model
        with tf.GradientTape() as tape:
            losses, _ = self._loss(batch, shares, dropped, training=True)
            loss = tf.reduce_sum(losses) / tf.cast(tf.shape(losses)[0] * self._replicas, tf.float32)
            if model.losses:
                loss += tf.add_n(model.losses) / self._replicas
            scaled = self._optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in self._variables])
        return gradients, loss, shard_to_blame(batch, losses, loss)


def _compiled(function: Callable[..., Any], jit: bool) -> Callable[..., Any]:
    return tf.function(function, jit_compile=True) if jit else function


def shard_to_blame(batch: Batch, losses: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
    """Index of the shard that holds the first video with a non-finite loss, or -1 where the loss is finite.

    One such video spoils the batch's loss, by mixup another video's, by batch normalisation everyone's: so a video
    whose own features are not finite goes before one whose loss is not. The features are checked in any case, as a
    ReLU turns NaN into 0 and only the gradients would carry it on.
    """
    shards = batch["shard"]
    sound = tf.ones_like(shards, tf.bool)
    for value in batch["features"].values():
        if value.dtype.is_floating:
            sound &= tf.reduce_all(tf.math.is_finite(value), axis=list(range(1, len(value.shape))))
    by_features, by_losses, by_batch = (
        tf.reduce_max(tf.where(finite, -1, shards))
        for finite in (sound, tf.math.is_finite(losses), tf.math.is_finite(loss))
    )
    return tf.where(by_features >= 0, by_features, tf.where(by_losses >= 0, by_losses, by_batch))
