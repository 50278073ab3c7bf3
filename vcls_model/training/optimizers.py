"""Adam in one pass over memory, learning rates that follow the number of examples seen."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from vcls_model.layers.masking import PACKAGE
from vcls_model.training.options import ScheduleOptions


@keras.saving.register_keras_serializable(PACKAGE)
class ExampleSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`ScheduleOptions` as a Keras schedule; `batch_size` turns steps into examples."""

    def __init__(self, options: ScheduleOptions, batch_size: int) -> None:
        self.options = options
        self.batch_size = batch_size

    def __call__(self, step: Any) -> Any:
        """The learning rate of step `step`, counted from 0."""
        options = self.options
        examples = tf.cast(step, tf.float32) * float(self.batch_size)
        after = tf.maximum(examples - options.warmup_examples, 0.0)
        rate = tf.constant(options.learning_rate, tf.float32)
        if options.decay == "cosine":
            span = max(options.total_examples - options.warmup_examples, 1)
            share = 0.5 * (1 + tf.cos(math.pi * tf.minimum(after / span, 1.0)))
            rate *= options.floor + (1 - options.floor) * share
        elif options.decay == "exponential":
            rate *= options.decay_rate ** (after / options.decay_examples)
        if options.warmup_examples:
            # The first step counts its own examples, or it would be lost.
            rate *= tf.minimum((examples + self.batch_size) / options.warmup_examples, 1.0)
        return rate

    def get_config(self) -> dict[str, Any]:
        return {"options": dataclasses.asdict(self.options), "batch_size": self.batch_size}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ExampleSchedule":
        return cls(ScheduleOptions(**config["options"]), config["batch_size"])


class FusedAdam(keras.optimizers.Adam):
    """Keras's Adam, or AdamW, updated by one fused kernel a variable.

    The elementwise steps of Adam cross a variable and its moments eight times. At small batches, where a step has
    little else to do, they take as long as the matrix products; TensorFlow's `ResourceApplyAdam` crosses them once.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: decoupled weight decay (Loshchilov and Hutter 2019); spares biases and other vectors.
        clip_norm: the largest global norm of the gradients; None does not clip.
        rate_scales: a factor on the learning rate for each variable that `build` is handed, in that order; None is 1.
        first_steps: the step, counted from 0, from which each of these variables learns; None is 0. Its moments are
            empty until then, and Adam's correction for that is counted from there.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        rate_scales: Sequence[float] | None = None,
        first_steps: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.decoupled_decay = weight_decay
        self.clip_norm = clip_norm
        self.rate_scales = list(rate_scales) if rate_scales is not None else None
        self.first_steps = list(first_steps) if first_steps is not None else None

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        # Overridden so that gradients are summed over the replicas before they are clipped.
        variables = [getattr(variable, "value", variable) for variable in trainable_variables]
        pairs = self._all_reduce_sum_gradients(list(zip(grads, variables, strict=True)))
        if self.clip_norm:
            clipped, _ = tf.clip_by_global_norm([grad for grad, _ in pairs], self.clip_norm)
            pairs = list(zip(clipped, variables, strict=True))
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._distributed_tf_update_step, self._distribution_strategy, pairs, learning_rate
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable in place."""
        index = self._get_variable_index(variable)
        rate = tf.cast(learning_rate, variable.dtype)
        if self.rate_scales is not None:
            rate *= self.rate_scales[index]
        if self.decoupled_decay and len(variable.shape) > 1:
            variable.assign_sub(variable * (self.decoupled_decay * rate))
        done = self.iterations
        if self.first_steps is not None:
            # Steps that loss scaling skipped are not counted, so that the first may come before its number.
            done = tf.maximum(done - self.first_steps[index], 0)
        step = tf.cast(done + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.convert_to_tensor(tf.cast(gradient, variable.dtype)),
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weight_decay": self.decoupled_decay,
            "clip_norm": self.clip_norm,
            "rate_scales": self.rate_scales,
            "first_steps": self.first_steps,
        }


class WeightAverage:
    """Exponential moving average of variables.

    Attributes:
        decay: share of the old average that a step keeps, at most; see `follow`.
        averages: the averages, in the order of the variables.
    """

    def __init__(self, variables: Sequence[Any], decay: float) -> None:
        self.decay = decay
        self.variables = [variable.value for variable in variables]
        self.averages = [tf.Variable(variable, trainable=False) for variable in self.variables]
        self._exchange = tf.function(self._exchange_values)

    def follow(self, steps: tf.Tensor) -> None:
        """Moves the averages towards the variables, after the last of `steps` steps of training; for use in a graph.

        The share kept is min(decay, (1 + steps) / (10 + steps)): the initial weights, which are chance, fade soon.
        """
        done = tf.cast(steps, tf.float32)
        keep = tf.minimum(self.decay, (1 + done) / (10 + done))
        for average, variable in zip(self.averages, self.variables, strict=True):
            average.assign_add((1 - tf.cast(keep, average.dtype)) * (variable - average))

    def swap(self) -> None:
        """Exchanges the variables with their averages; a second call undoes it."""
        self._exchange()

    def _exchange_values(self) -> None:
        for average, variable in zip(self.averages, self.variables, strict=True):
            kept = tf.identity(variable)
            variable.assign(average)
            average.assign(kept)
