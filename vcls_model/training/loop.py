"""The training loop: several steps a call into the compiled graph, checkpoints that let a killed run continue."""

import contextlib
import csv
import dataclasses
import fnmatch
import io
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.input.dataset import decode_features, make_batches, shard_error
from vcls_model.metrics.catalogue import IN_HISTORY, history_column
from vcls_model.metrics.result import compute_result
from vcls_model.models.assembly import HEAD_PREFIX
from vcls_model.records.schema import FRAMES
from vcls_model.records.transformed import TransformedData, TransformedModality
from vcls_model.training import checkpoints
from vcls_model.training.evaluation import evaluate
from vcls_model.training.losses import distillation_loss, mix_labels, sparse_loss
from vcls_model.training.optimizers import ExampleSchedule, FusedAdam, WeightAverage
from vcls_model.training.options import TrainOptions

HISTORY_COLUMNS = (
    "epoch",
    "examples",
    "loss",
    "learning_rate",
    "val_loss",
    *(history_column(metric.key) for metric in IN_HISTORY),
    "train_seconds",
    "examples_per_second",
)

Teacher = Callable[[dict[str, tf.Tensor]], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """Which layers of a model learn, when and how fast.

    Attributes:
        freeze: globs over layer names and paths; those layers do not learn.
        unfreeze_after: epochs after which they learn too; 0 never.
        rate_scales: (glob over variable paths, factor on the learning rate); the first match counts.
        new_head: the classifier is new: globs that match other layers too, like `*`, leave it free.
    """

    freeze: tuple[str, ...] = ()
    unfreeze_after: int = 0
    rate_scales: tuple[tuple[str, float], ...] = ()
    new_head: bool = False


@dataclasses.dataclass
class Progress:
    """Where a run stands; what a checkpoint stores besides the variables."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    stale_epochs: int = 0
    best_epoch: int = -1
    best_map: float = -1.0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def make_strategy(distribution: str, devices: Sequence[str]) -> tf.distribute.Strategy:
    """The distribution strategy for a machine: `auto` uses TF_CONFIG, else all GPUs, else one device.

    Raises:
        UsageError: a device is not there, or the distribution does not use the devices.
    """
    import os

    if devices:
        if distribution not in ("auto", "mirrored"):
            raise UsageError(f"--devices are mirrored over, which --distribution={distribution} is not")
        known = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
        for device in devices:
            if device.strip("/").removeprefix("device:") not in known:
                raise UsageError(f"--devices: there is no {device} (there are: {', '.join(known)})")
    if distribution == "multi_worker" or (distribution == "auto" and os.environ.get("TF_CONFIG")):
        return tf.distribute.MultiWorkerMirroredStrategy()
    if distribution == "mirrored" or devices:
        return tf.distribute.MirroredStrategy(list(devices) or None)
    if distribution == "auto" and len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _tasks(strategy: tf.distribute.Strategy) -> dict[str, int]:
    """Training processes of the cluster by kind: of `chief` there is one or none."""
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict() if resolver else {}
    return {kind: len(cluster.get(kind, [])) for kind in ("chief", "worker")}


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """How many processes train together."""
    return max(1, sum(_tasks(strategy).values()))


def worker_number(strategy: tf.distribute.Strategy) -> int:
    """This process among those that train together, from 0: the one that writes the outputs."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type == "chief":
        return 0
    return _tasks(strategy)["chief"] + int(resolver.task_id or 0)


def _shard_to_blame(batch: dict[str, Any], losses: tf.Tensor, loss: tf.Tensor) -> tf.Tensor:
    """Number of the shard of a video that keeps a batch's loss from being finite, or -1 where it is finite.

    One such video spoils the batch's loss, by mixup another video's, by batch normalisation everyone's: so a video
    whose own features are not finite goes before one whose loss is not. The features are looked at in any case, as a
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


def _matches(glob: str, *names: str) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for name in names)


class Trainer:
    """Fits a model to a transformed dataset.

    Args:
        model: takes what `build_model` documents; built under `strategy`.
        data: the dataset.
        modalities: the features that the model takes.
        options: how to fit.
        output: directory for checkpoints, history and logs.
        strategy: where steps run.
        teachers: functions from decoded features to logits, whose mean probability is distilled.
        fine_tuning: which layers learn.
        config_hash: of everything that decides the result; a checkpoint of another one is refused.
        verbose: print progress bars.
    """

    def __init__(
        self,
        model: keras.Model,
        data: TransformedData,
        modalities: Sequence[TransformedModality],
        options: TrainOptions,
        output: str,
        *,
        strategy: tf.distribute.Strategy | None = None,
        teachers: Sequence[Teacher] = (),
        fine_tuning: FineTuning | None = None,
        config_hash: str = "",
        verbose: bool = True,
    ) -> None:
        self.model = model
        self.data = data
        self.modalities = tuple(modalities)
        self.options = options
        self.output = output
        self.strategy = strategy or tf.distribute.get_strategy()
        self.teachers = list(teachers)
        self.fine_tuning = fine_tuning or FineTuning()
        self.config_hash = config_hash
        self.verbose = verbose
        self.progress = Progress()
        # Epochs whose mean is exported, once `fit` is done; none when it is the best epoch alone.
        self.averaged_epochs: list[int] = []
        self.shards = data.training_shards()
        self.replicas = self.strategy.num_replicas_in_sync
        self.distributed = self.replicas > 1 or self._workers() > 1
        self.batch_size = options.read.batch_size
        if self.batch_size % self.replicas:
            raise UsageError(f"batch_size {self.batch_size} must be a multiple of the {self.replicas} devices")
        self.records = data.records.get("train", 0)
        self.drop_remainder = self.records >= self.batch_size
        if self.distributed and not self.drop_remainder:
            raise JobError(f"{self.records} training videos do not fill one batch of {self.batch_size}")
        self.steps = max(1, self.records // self.batch_size)
        if self._workers() > len(self.shards):
            raise JobError(f"{self._workers()} workers share {len(self.shards)} training shards: each needs one")
        self.has_validation = data.records.get("validate", 0) > 0
        self.frozen = self._frozen_layers()
        self._set_frozen(bool(self.frozen))
        with self.strategy.scope():
            self.optimizer = self._make_optimizer()
            self.average = WeightAverage(self._learning_variables(), options.ema) if options.ema else None
        self.run_steps = self._compile_steps()
        self._predict = tf.function(self._predict_batch, reduce_retracing=True)

    # -- set-up -------------------------------------------------------------------------------------------------------

    def _workers(self) -> int:
        return worker_count(self.strategy)

    def _worker(self) -> int:
        return worker_number(self.strategy)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the outputs."""
        return self._worker() == 0

    def _frozen_layers(self) -> list[keras.Layer]:
        layers = [layer for layer in self.model._flatten_layers(include_self=False, recursive=True)]
        frozen = []
        for glob in self.fine_tuning.freeze:
            matching = [layer for layer in layers if _matches(glob, layer.name, layer.path or layer.name)]
            if not matching:
                names = ", ".join(layer.name for layer in self.model.layers if layer.weights)
                raise UsageError(f"--freeze={glob} matches no layer (layers with weights: {names})")
            body = [layer for layer in matching if not (layer.path or layer.name).startswith(HEAD_PREFIX)]
            frozen += body if self.fine_tuning.new_head and body else matching
        return frozen

    def _set_frozen(self, frozen: bool) -> None:
        for layer in self.frozen:
            layer.trainable = not frozen
        if not self.model.trainable_variables:
            raise UsageError("every layer is frozen: nothing is left to train")

    def _learning_variables(self) -> list[Any]:
        """The variables that learn now or will, once their layers thaw."""
        if self.frozen and self.fine_tuning.unfreeze_after:
            self._set_frozen(False)
        variables = list(self.model.trainable_variables)
        self._set_frozen(bool(self.frozen))
        return variables

    def _make_optimizer(self) -> Any:
        options = self.options
        examples = self.batch_size if self.drop_remainder else self.records  # of a step
        schedule = ExampleSchedule(
            dataclasses.replace(options.schedule, total_examples=self.steps * examples * options.epochs), examples
        )
        variables = self._learning_variables()
        scales = None
        if self.fine_tuning.rate_scales:
            for glob, _ in self.fine_tuning.rate_scales:
                if not any(_matches(glob, variable.path) for variable in variables):
                    raise UsageError(
                        f"learning-rate scale for {glob!r} matches no variable "
                        f"(variables: {', '.join(variable.path for variable in variables)})"
                    )
            scales = [
                next((factor for glob, factor in self.fine_tuning.rate_scales if _matches(glob, variable.path)), 1.0)
                for variable in variables
            ]
        learning_now = {id(variable) for variable in self.model.trainable_variables}
        thaw = self.fine_tuning.unfreeze_after * self.steps
        first_steps = [0 if id(variable) in learning_now else thaw for variable in variables]
        optimizer: Any = FusedAdam(
            schedule,
            clip_norm=options.clip_norm or None,
            rate_scales=scales,
            first_steps=first_steps if any(first_steps) else None,
            weight_decay=options.weight_decay if options.optimizer == "adamw" else None,
        )
        if self.model.dtype_policy.name == "mixed_float16":
            if self.distributed:
                raise UsageError("mixed_float16 needs loss scaling, which works on one device; use mixed_bfloat16")
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(variables)
        return optimizer

    # -- the step -----------------------------------------------------------------------------------------------------

    def _losses(self, batch: dict[str, Any], shares: tf.Tensor | None, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Losses (B,) and logits (B, C) of a batch; videos without labels weigh nothing."""
        features = decode_features(batch["features"], self.modalities)
        labels, weights = batch["labels"], None
        known = tf.reduce_any(labels >= 0, axis=1)
        if shares is not None:
            shares = tf.where(tf.reverse(known, [0]), shares, 1.0)  # nothing is mixed in whose labels are not known
            labels, weights = mix_labels(labels, shares)
            for modality in self.modalities:
                value = features[modality.name]
                part = tf.reshape(shares, [-1] + [1] * (len(value.shape) - 1))
                features[modality.name] = part * value + (1 - part) * tf.reverse(value, [0])
            if "num_frames" in features:
                features["num_frames"] = tf.maximum(features["num_frames"], tf.reverse(features["num_frames"], [0]))
        logits = self.model(features, training=training)
        losses = sparse_loss(logits, labels, self.options.loss, weights)
        if training and self.teachers:
            probabilities = tf.add_n([tf.sigmoid(teacher(features)) for teacher in self.teachers]) / len(self.teachers)
            share = self.options.teacher_weight
            losses = (1 - share) * losses + share * distillation_loss(logits, tf.stop_gradient(probabilities))
        return losses * tf.cast(known, losses.dtype), logits

    def _predict_batch(self, batch: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        losses, logits = self._losses(batch, None, training=False)
        return logits, losses

    def _compile_steps(self) -> Callable[..., Any]:
        model, optimizer, replicas = self.model, self.optimizer, self.replicas
        variables = list(model.trainable_variables)

        def gradients(batch: dict[str, Any], shares: tf.Tensor | None) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
            with tf.GradientTape() as tape:
                losses, _ = self._losses(batch, shares, training=True)
                loss = tf.reduce_sum(losses) / tf.cast(tf.shape(losses)[0] * replicas, tf.float32)
                if model.losses:
                    loss += tf.add_n(model.losses) / replicas
                scaled = optimizer.scale_loss(loss)
            grads = tape.gradient(scaled, [variable.value for variable in variables])
            bad = _shard_to_blame(batch, losses, loss)
            return grads, loss, bad

        def update(batch: dict[str, Any], shares: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
            grads, loss, bad = gradients(batch, shares)
            optimizer.apply(grads, variables)
            return loss, bad

        if self.options.jit and self.distributed:
            gradients = tf.function(gradients, jit_compile=True)  # the sum over devices stays outside XLA
        elif self.options.jit:
            update = tf.function(update, jit_compile=True)

        def step(batch: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
            shares = None
            if self.options.mixup:
                # The gamma sampler has no XLA kernel, so shares are drawn outside the compiled part.
                seed = tf.stack(
                    [tf.constant(self.options.read.seed, tf.int64), tf.cast(optimizer.iterations, tf.int64)]
                )
                draws = tf.random.stateless_gamma([tf.shape(batch["labels"])[0], 2], seed, self.options.mixup)
                shares = draws[:, 0] / tf.maximum(tf.reduce_sum(draws, axis=1), 1e-30)
            return update(batch, shares)

        def run_steps(iterator: Any, count: tf.Tensor) -> tuple[tf.Tensor, ...]:
            total, worst, failed = tf.constant(0.0), tf.constant(-1), tf.constant(-1)
            for number in tf.range(count):
                batch = next(iterator)
                if self.distributed:
                    loss, bad = self.strategy.run(step, args=(batch,))
                    loss = self.strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None)
                    bad, found = self._bad_shard(bad)
                else:
                    loss, bad = step(batch)
                    found = bad >= 0
                first = (failed < 0) & found
                failed, worst = tf.where(first, number, failed), tf.where(first, bad, worst)
                total += loss
                if self.average is not None:
                    self.average.follow(optimizer.iterations)
            # Overflow inside a step need not show in its loss; nothing that is not finite may reach a checkpoint.
            sound = tf.reduce_all(
                [tf.math.is_finite(tf.reduce_sum(tf.cast(variable.value, tf.float32))) for variable in variables]
            )
            return total, worst, failed, sound

        return tf.function(run_steps)

    def _bad_shard(self, bad: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Of a step on all devices: the bad shard of this process or -1, and whether any process has one."""
        mine = tf.reduce_max(tf.stack(self.strategy.experimental_local_results(bad)))
        everywhere = self.strategy.run(lambda one: tf.cast(one >= 0, tf.int32), args=(bad,))
        return mine, self.strategy.reduce(tf.distribute.ReduceOp.SUM, everywhere, axis=None) > 0

    # -- the loop -----------------------------------------------------------------------------------------------------

    def _epoch_batches(self, epoch: int, skip: int) -> Any:
        read, workers = self.options.read, self._workers()
        if workers > 1:
            per_worker = dataclasses.replace(read, batch_size=self.batch_size // workers)
            shards = self.shards[self._worker() :: workers]
            dataset = make_batches(
                shards, self.modalities, per_worker, epoch=epoch, skip_batches=skip, drop_remainder=True, repeat=True
            )
            local = self.replicas // workers
            dataset = dataset.rebatch(per_worker.batch_size // local) if local > 1 else dataset
            return self.strategy.distribute_datasets_from_function(lambda context: dataset)
        dataset = make_batches(
            self.shards, self.modalities, read, epoch=epoch, skip_batches=skip, drop_remainder=self.drop_remainder
        )
        if self.distributed:
            settings = tf.data.Options()
            settings.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
            return self.strategy.experimental_distribute_dataset(dataset.with_options(settings))
        return dataset

    def _train_epoch(self) -> None:
        """Runs what is left of the epoch that `progress` points at."""
        progress, options = self.progress, self.options
        iterator = iter(self._epoch_batches(progress.epoch, progress.step))
        saved = time.monotonic()
        with self._progress_bar() as bar:
            while progress.step < self.steps:
                started = time.monotonic()
                count = min(options.steps_per_call - progress.step % options.steps_per_call, self.steps - progress.step)
                try:
                    total, bad, failed, sound = self.run_steps(iterator, tf.constant(count))
                except (tf.errors.OutOfRangeError, StopIteration):
                    raise JobError(
                        f"the training shards of {self.data.directory} hold fewer videos than the "
                        f"{self.records} that its info.json counts: preprocess again"
                    ) from None
                except tf.errors.OpError as error:
                    raise shard_error(error) or error from None
                total = float(total)
                if int(failed) >= 0:
                    self._stop_at_nan(int(bad), progress.step + int(failed))
                if not bool(sound):
                    self._stop_at_overflow(progress.step + count)
                progress.step += count
                progress.loss_sum += total
                progress.epoch_seconds += time.monotonic() - started
                if bar is not None:
                    bar.update(progress.step, [("loss", progress.loss_sum / progress.step)], finalize=False)
                if time.monotonic() - saved >= options.checkpoint_seconds and progress.step < self.steps:
                    self._save_last()
                    saved = time.monotonic()

    @contextlib.contextmanager
    def _progress_bar(self) -> Iterator[Any]:
        """An epoch's progress bar, or None when none is wanted; ends its line, also before an error."""
        if not self.verbose:
            yield None
            return
        try:
            yield keras.utils.Progbar(self.steps, stateful_metrics=["loss"], unit_name="step")
        finally:
            print(flush=True)

    def _stop_at_nan(self, shard: int, step: int) -> None:
        shards = self.shards[self._worker() :: self._workers()]
        place = f"the video is in {shards[shard]}" if shard >= 0 else "another worker tells the shard"
        raise JobError(
            f"the loss is not finite at step {step} of epoch {self.progress.epoch + 1}; {place}; the last "
            f"good checkpoint is {self._path('last.npz')}. Look for values that are not numbers in that "
            "shard, or start again with a lower --learning_rate or with --clip_norm"
        )

    def _stop_at_overflow(self, step: int) -> None:
        raise JobError(
            f"the weights are no longer finite before step {step} of epoch {self.progress.epoch + 1}, "
            f"though every loss was; the last good checkpoint is {self._path('last.npz')}. Start "
            "again with a lower --learning_rate or with --clip_norm"
        )

    def _path(self, name: str) -> str:
        return storage.join(self.output, "checkpoints", name)

    def _save_last(self) -> None:
        if not self.is_chief:
            return
        groups: dict[str, Sequence[Any]] = {"model": self.model.variables, "optimizer": self.optimizer.variables}
        if self.average is not None:
            groups["average"] = self.average.averages
        facts = {"progress": dataclasses.asdict(self.progress), "config_hash": self.config_hash}
        checkpoints.save(self._path("last.npz"), groups, facts)

    def restore_last(self) -> bool:
        """Continues from the newest checkpoint of the output directory; False when there is none.

        Raises:
            UsageError: the checkpoint is of a run with other options.
        """
        path = self._path("last.npz")
        if not storage.exists(path):
            return False
        groups, facts = checkpoints.load(path)
        if facts["config_hash"] != self.config_hash:
            raise UsageError(
                f"--resume: {path} was written with other options or other data than this command's; "
                "repeat its flags, or start again with --overwrite"
            )
        checkpoints.restore(self.model.variables, groups["model"], path)
        checkpoints.restore(self.optimizer.variables, groups["optimizer"], path)
        if self.average is not None:
            checkpoints.restore(self.average.averages, groups["average"], path)
        self.progress = Progress(**facts["progress"])
        return True

    def _validate(self) -> dict[str, float]:
        """Validation loss and metrics; nothing, from now on, where no video of the split has a label."""
        accumulator, loss = self.evaluate()
        if not accumulator.videos:
            self.has_validation = False
            if self.is_chief:
                print(
                    "warning: no video of the validation split has a label: the last epoch is kept, as without "
                    "validation",
                    file=sys.stderr,
                )
            return {}
        summary = compute_result(accumulator).summary
        return {"val_loss": loss, **{history_column(metric.key): float(summary[metric.key]) for metric in IN_HISTORY}}

    def evaluate(self, class_thresholds: np.ndarray | None = None) -> tuple[Any, float]:
        """Metrics of the validation split with the model's present weights: accumulator and mean loss."""
        read = self.options.read
        return evaluate(
            self._predict,
            self.data,
            self.modalities,
            frames=read.evaluation_frames(),
            max_frames=read.max_frames,
            batch_size=self._evaluation_batch(),
            class_thresholds=class_thresholds,
        )

    def _evaluation_batch(self) -> int:
        if any(modality.kind == FRAMES for modality in self.modalities):
            return max(16, min(128, self.batch_size))
        return 512

    def _end_epoch(self) -> bool:
        """Validates, records, keeps the best weights; returns whether to go on."""
        progress, options = self.progress, self.options
        number = progress.epoch + 1
        examples = self.steps * self.batch_size if self.drop_remainder else self.records
        row: dict[str, Any] = {
            "epoch": number,
            "examples": examples * number,
            "loss": progress.loss_sum / self.steps,
            "learning_rate": float(self.optimizer.learning_rate),
            "train_seconds": round(progress.epoch_seconds, 3),
            "examples_per_second": round(examples / max(progress.epoch_seconds, 1e-9), 1),
        }
        if self.average is not None:
            self.average.swap()
        if self.has_validation:
            row |= self._validate()
        score = row.get("val_map", float(number))
        if score > progress.best_map:
            progress.best_map, progress.best_epoch, progress.stale_epochs = score, number, 0
            if self.is_chief:
                checkpoints.save(self._path("best.npz"), {"model": self.model.variables}, {"epoch": number})
        else:
            progress.stale_epochs += 1
        progress.history.append(row)
        if options.average_checkpoints > 1 and self.is_chief:
            self._keep_epoch(number)
        if self.average is not None:
            self.average.swap()
        progress.epoch, progress.step, progress.loss_sum, progress.epoch_seconds = number, 0, 0.0, 0.0
        self._save_last()
        if self.is_chief:
            self._write_history(row)
        if self.verbose:
            names = [name for name in ("loss", "val_loss", "val_map", "val_gap_at_20") if name in row]
            print(
                f"  {' - '.join(f'{name}: {row[name]:.4f}' for name in names)} - "
                f"{row['examples_per_second']:.0f} examples/s",
                flush=True,
            )
        return not (options.patience and progress.stale_epochs >= options.patience)

    def _keep_epoch(self, number: int) -> None:
        """Keeps the weights of the best few epochs for averaging."""
        best = self._epochs_to_average()
        if number in best:
            checkpoints.save(self._epoch_path(number), {"model": self.model.variables}, {"epoch": number})
        kept = {self._epoch_path(epoch) for epoch in best}
        for name in storage.list_names(self._path(""), ".npz"):
            if name.startswith("epoch-") and self._path(name) not in kept:
                storage.delete(self._path(name))

    def _epochs_to_average(self) -> list[int]:
        """The best few epochs so far, in their order; the last ones where there is no validation."""
        ranked = sorted(self.progress.history, key=lambda row: -row.get("val_map", row["epoch"]))
        return sorted(int(row["epoch"]) for row in ranked[: self.options.average_checkpoints])

    def _epoch_path(self, number: int) -> str:
        return self._path(f"epoch-{number:03d}.npz")

    def _write_history(self, row: dict[str, Any]) -> None:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, HISTORY_COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(self.progress.history)
        storage.write_text(storage.join(self.output, "history.csv"), stream.getvalue())
        log = tf.summary.create_file_writer(storage.join(self.output, "logs"))
        with log.as_default(step=row["epoch"]):
            for name, value in row.items():
                if name != "epoch":
                    tf.summary.scalar(name, value)
        log.close()

    def fit(self) -> list[dict[str, Any]]:
        """Trains to the end (the last epoch, or no more progress), then loads the weights to export (the chief).

        Returns:
            One row an epoch, by `HISTORY_COLUMNS`.

        Raises:
            JobError: the loss is not finite, or the data is not what it says.
        """
        options, progress = self.options, self.progress
        if not storage.exists(self._path("last.npz")):
            self._save_last()
        going = not (options.patience and progress.stale_epochs >= options.patience)
        while going and progress.epoch < options.epochs:
            if self.frozen:
                thawed = bool(self.fine_tuning.unfreeze_after) and progress.epoch >= self.fine_tuning.unfreeze_after
                if thawed == (not self.frozen[0].trainable):
                    self._set_frozen(not thawed)
                    self.run_steps = self._compile_steps()
            if self.verbose:
                print(f"Epoch {progress.epoch + 1}/{options.epochs}", flush=True)
            self._train_epoch()
            going = self._end_epoch()
        if self.is_chief:
            self._load_final()
        return progress.history

    def _load_final(self) -> None:
        """Assigns the best epoch's weights, or the mean of the best few epochs' when that validates better."""
        groups, _ = checkpoints.load(self._path("best.npz"))
        best = groups["model"]
        checkpoints.restore(self.model.variables, best, self._path("best.npz"))
        if self.options.average_checkpoints < 2:
            return
        wanted = self._epochs_to_average()
        epochs = [number for number in wanted if storage.exists(self._epoch_path(number))]
        if len(epochs) < len(wanted):
            print(
                f"warning: of the epochs to average ({', '.join(map(str, wanted))}) only the weights of "
                f"{', '.join(map(str, epochs)) or 'none'} were kept: --average_checkpoints came later",
                file=sys.stderr,
            )
        if len(epochs) < 2:
            return
        loaded = [checkpoints.load(self._epoch_path(number))[0]["model"] for number in epochs]
        mean = [
            np.mean(values, axis=0).astype(values[0].dtype) if values[0].dtype.kind == "f" else values[0]
            for values in zip(*loaded, strict=True)
        ]
        checkpoints.restore(self.model.variables, mean, "the mean of the checkpoints")
        if self.has_validation and self._validate().get("val_map", math.inf) < self.progress.best_map:
            checkpoints.restore(self.model.variables, best, self._path("best.npz"))
            return
        self.averaged_epochs = epochs
