"""The training loop: epochs of compiled steps, checkpoints that let an interrupted run continue to the same weights."""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vcls_model.commands import JobError, UsageError
from vcls_model.input.dataset import shard_error
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.catalogue import IN_HISTORY, SELECTION_METRIC, history_column
from vcls_model.metrics.result import compute_result
from vcls_model.models.presence import takes_presence
from vcls_model.records.transformed import TransformedData, TransformedModality, senses_of
from vcls_model.training.averaging import WeightAverage, mean_of_epochs
from vcls_model.training.calibration import UNCALIBRATED, Calibration
from vcls_model.training.checkpoints import Checkpoints
from vcls_model.training.devices import epoch_batches, worker_count, worker_number, worker_shards
from vcls_model.training.evaluation import evaluate
from vcls_model.training.fine_tuning import FineTuning, set_frozen
from vcls_model.training.history import EpochRow, write_history
from vcls_model.training.optimizers import make_optimizer
from vcls_model.training.options import TrainOptions
from vcls_model.training.step import Batch, BatchLoss, Teacher, TrainingStep

# The progress of an epoch is shown after so many seconds; where no terminal rewrites the line, less often.
_TERMINAL_SECONDS, _LINE_SECONDS = 0.2, 30.0
_SELECTED = history_column(SELECTION_METRIC)


def _score(row: EpochRow) -> float:
    """What epochs are ranked by: the validation mAP, or without validation the number of the epoch."""
    return float(row[_SELECTED] if _SELECTED in row else row["epoch"])


@dataclasses.dataclass
class RunProgress:
    """Where a run stands; what a checkpoint stores in addition to the variables."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    stale_epochs: int = 0
    best_epoch: int = -1
    best_map: float = -1.0
    history: list[EpochRow] = dataclasses.field(default_factory=list)


class _ProgressLines:
    """The progress of an epoch, on standard error: on a terminal one line that is rewritten, else one now and then."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._terminal = sys.stderr.isatty()
        self._shown = -math.inf if self._terminal else time.monotonic()
        self._width = 0

    def update(self, step: int, loss: float) -> None:
        """Shows the step reached and the mean loss, if the last line is old enough."""
        if time.monotonic() - self._shown < (_TERMINAL_SECONDS if self._terminal else _LINE_SECONDS):
            return
        self._shown = time.monotonic()
        line = f"  step {step}/{self._steps} - loss: {loss:.4f}"
        if self._terminal:
            print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leaves the line of a terminal."""
        if self._width:
            print(file=sys.stderr, flush=True)


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
        config_hash: of everything that decides the result; a checkpoint with another one is refused.
        settings: what it is a hash of.
        verbose: show progress.

    Attributes:
        progress: where the run stands.
        averaged_epochs: once `fit` is done, the epochs whose mean is exported; none when it is the best epoch alone.
        has_validation: whether the dataset has a validation split with labels.
        is_chief: whether this process writes the outputs.
        steps: steps per epoch.
        presence: whether the model takes the presence of its modalities.

    Raises:
        UsageError: the options do not fit the devices, the model or each other.
        JobError: there are too few videos or shards for the devices.
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
        settings: Mapping[str, Any] | None = None,
        verbose: bool = True,
    ) -> None:
        self.model = model
        self.data = data
        self.modalities = tuple(modalities)
        self.options = options
        self.output = output
        self.strategy = strategy or tf.distribute.get_strategy()
        self.fine_tuning = fine_tuning or FineTuning()
        self.verbose = verbose
        self.progress = RunProgress()
        self.averaged_epochs: list[int] = []
        self.has_validation = data.records.get("validate", 0) > 0
        self.is_chief = worker_number(self.strategy) == 0
        self.replicas = self.strategy.num_replicas_in_sync
        self.shards = data.training_shards()
        self.records = data.records.get("train", 0)
        batch_size = options.read.batch_size
        self.drop_remainder = self.records >= batch_size
        self.steps = max(1, self.records // batch_size)
        # A dataset smaller than a batch is trained on as one short batch.
        self.examples_per_step = batch_size if self.drop_remainder else self.records
        self._check_devices()
        self.presence = takes_presence(model, self.modalities)
        senses = senses_of(self.modalities, data.schema) if self.presence else ()
        self.loss = BatchLoss(model, self.modalities, options, list(teachers), senses)
        self._predict = tf.function(self._predict_batch, reduce_retracing=True)
        self.frozen = self.fine_tuning.frozen_layers(model)
        learning = self._learning_variables()
        with self.strategy.scope():
            self.optimizer = make_optimizer(
                model,
                learning,
                options,
                self.fine_tuning,
                steps=self.steps,
                examples_per_step=self.examples_per_step,
            )
            self.average = WeightAverage(learning, options.ema) if options.ema else None
        groups: dict[str, Sequence[Any]] = {"model": model.variables, "optimizer": self.optimizer.variables}
        if self.average is not None:
            groups["average"] = self.average.averages
        self.checkpoints = Checkpoints(output, config_hash, data, groups, self.presence, settings)
        self._compile()

    def _check_devices(self) -> None:
        batch_size, workers = self.options.read.batch_size, worker_count(self.strategy)
        if batch_size % self.replicas:
            raise UsageError(f"batch_size {batch_size} must be a multiple of the {self.replicas} devices")
        if self.replicas > 1 and not self.drop_remainder:
            raise JobError(f"{self.records} training videos do not fill one batch of {batch_size}")
        if workers > len(self.shards):
            raise JobError(f"{workers} workers share {len(self.shards)} training shards: each needs at least one")
        if self.replicas > 1 and self.model.dtype_policy.name == "mixed_float16":
            raise UsageError("mixed_float16 needs loss scaling, which works on one device; use mixed_bfloat16")

    def _learning_variables(self) -> list[keras.Variable]:
        """The variables that learn now or will, once their layers thaw; afterwards the frozen layers are frozen."""
        set_frozen(self.model, self.frozen, not self.fine_tuning.unfreeze_after)
        variables = list(self.model.trainable_variables)
        set_frozen(self.model, self.frozen, True)
        return variables

    def _compile(self) -> None:
        """Makes the step for the variables that are trainable now."""
        self.run_steps = TrainingStep(self.loss, self.optimizer, self.average, self.strategy).run

    def _predict_batch(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        losses, logits = self.loss(batch, None, training=False)
        return logits, losses

    # -- the loop -----------------------------------------------------------------------------------------------------

    def restore_last(self) -> bool:
        """Continues from the newest checkpoint of the output directory; False when there is none.

        Raises:
            UsageError: the checkpoint is of a run with other options.
        """
        if not self.checkpoints.has_last():
            return False
        self.progress = RunProgress(**self.checkpoints.restore_last())
        return True

    def fit(self) -> list[EpochRow]:
        """Trains to the end (the last epoch, or no more progress), then loads the weights to export (the chief).

        Returns:
            One row per epoch, by `HISTORY_COLUMNS`.

        Raises:
            JobError: the loss is not finite, or the data does not hold what its `info.json` says.
        """
        progress = self.progress
        if not self.checkpoints.has_last():
            self._save_last()
        while progress.epoch < self.options.epochs and not self._out_of_patience():
            self._thaw()
            if self.verbose:
                print(f"Epoch {progress.epoch + 1}/{self.options.epochs}", file=sys.stderr, flush=True)
            self._train_epoch()
            self._end_epoch()
        if self.is_chief:
            self._load_final()
        return progress.history

    def _out_of_patience(self) -> bool:
        return bool(self.options.patience) and self.progress.stale_epochs >= self.options.patience

    def _thaw(self) -> None:
        """Lets frozen layers learn from the epoch after `unfreeze_after` on."""
        after = self.fine_tuning.unfreeze_after
        if self.frozen and after and self.progress.epoch >= after and not self.frozen[0].trainable:
            set_frozen(self.model, self.frozen, False)
            self._compile()

    def _train_epoch(self) -> None:
        """Runs what is left of the epoch that `progress` points at."""
        progress, options = self.progress, self.options
        batches = epoch_batches(
            self.shards,
            self.modalities,
            options.read,
            self.strategy,
            epoch=progress.epoch,
            skip=progress.step,
            drop_remainder=self.drop_remainder,
            presence=self.presence,
        )
        iterator = iter(batches)
        saved = time.monotonic()
        with self._progress_lines() as lines:
            while progress.step < self.steps:
                started = time.monotonic()
                # Calls end at multiples of `steps_per_call`, also in a run that continues.
                count = min(options.steps_per_call - progress.step % options.steps_per_call, self.steps - progress.step)
                progress.loss_sum += self._run_steps(iterator, count)
                progress.step += count
                progress.epoch_seconds += time.monotonic() - started
                if lines is not None:
                    lines.update(progress.step, progress.loss_sum / progress.step)
                if time.monotonic() - saved >= options.checkpoint_seconds and progress.step < self.steps:
                    self._save_last()
                    saved = time.monotonic()
        # Several workers start again at the end of their own shards.
        if worker_count(self.strategy) == 1 and next(iterator, None) is not None:
            raise JobError(
                f"the training shards of {self.data.directory} hold more videos than the {self.records} that its "
                "info.json counts: preprocess again with --overwrite"
            )

    def _run_steps(self, iterator: Iterator[Any], count: int) -> float:
        """The sum of the losses of `count` steps.

        Raises:
            JobError: a loss or a weight is not finite, or the batches end or cannot be read.
        """
        try:
            total, bad, failed, sound = self.run_steps(iterator, tf.constant(count))
        except (tf.errors.OutOfRangeError, StopIteration):
            raise JobError(
                f"the training shards of {self.data.directory} hold fewer videos than the "
                f"{self.records} that its info.json counts: preprocess again"
            ) from None
        except tf.errors.OpError as error:
            raise shard_error(error) or error from None
        loss = float(total)
        step, epoch, last = self.progress.step, self.progress.epoch + 1, self.checkpoints.last
        if int(failed) >= 0:
            shards = worker_shards(self.shards, self.strategy)
            place = (
                f"the video is in {shards[int(bad)].path}"
                if int(bad) >= 0
                else "another worker's output names the shard"
            )
            raise JobError(
                f"the loss is not finite at step {step + int(failed)} of epoch {epoch}; {place}; the last good "
                f"checkpoint is {last}. Look for values that are not finite in that shard, or start again with a "
                "lower --learning_rate or with --clip_norm"
            )
        if not bool(sound):
            raise JobError(
                f"the weights are no longer finite before step {step + count} of epoch {epoch}, though every loss "
                f"was; the last good checkpoint is {last}. Start again with a lower --learning_rate or with --clip_norm"
            )
        return loss

    @contextlib.contextmanager
    def _progress_lines(self) -> Iterator[_ProgressLines | None]:
        """An epoch's progress, or None when it is not to be printed; ends its line, also before an error."""
        if not self.verbose:
            yield None
            return
        lines = _ProgressLines(self.steps)
        try:
            yield lines
        finally:
            lines.end()

    # -- after an epoch -----------------------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        """Validates, keeps the best weights, writes checkpoint and history."""
        progress = self.progress
        number = progress.epoch + 1
        examples = self.steps * self.examples_per_step
        row: EpochRow = {
            "epoch": number,
            "examples": examples * number,
            "loss": progress.loss_sum / self.steps,
            "learning_rate": float(self.optimizer.learning_rate),
            "train_seconds": round(progress.epoch_seconds, 3),
            "examples_per_second": round(examples / max(progress.epoch_seconds, 1e-9), 1),
        }
        with self._averaged_weights():
            if self.has_validation:
                row |= self._validate()
            progress.history.append(row)
            if _score(row) > progress.best_map:
                progress.best_map, progress.best_epoch, progress.stale_epochs = _score(row), number, 0
                if self.is_chief:
                    self.checkpoints.save_best(number)
            else:
                progress.stale_epochs += 1
            if self.options.average_checkpoints > 1 and self.is_chief:
                self.checkpoints.keep_epochs(self._epochs_to_average(), number)
        progress.epoch, progress.step, progress.loss_sum, progress.epoch_seconds = number, 0, 0.0, 0.0
        self._save_last()
        if self.is_chief:
            write_history(self.output, progress.history)
        if self.verbose:
            names = [name for name in ("loss", "val_loss", "val_map", "val_gap_at_20") if name in row]
            metrics = " - ".join(f"{name}: {row[name]:.4f}" for name in names)
            print(f"  {metrics} - {row['examples_per_second']:.0f} examples/s", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Gives the model the moving average of its weights, if there is one, and takes it back at the end."""
        if self.average is None:
            yield
            return
        self.average.swap()
        yield
        self.average.swap()

    def _save_last(self) -> None:
        if self.is_chief:
            self.checkpoints.save_last(dataclasses.asdict(self.progress))

    def _validate(self) -> dict[str, float]:
        """Validation loss and metrics; nothing, from now on, where no video of the split has a label."""
        accumulator, loss = self.evaluate()
        if not accumulator.videos:
            self.has_validation = False
            if self.is_chief:
                print(
                    "warning: no video of the validation split has a label: the last epoch counts as the best, as "
                    "without validation",
                    file=sys.stderr,
                )
            return {}
        summary = compute_result(accumulator).summary
        return {"val_loss": loss, **{history_column(metric.key): float(summary[metric.key]) for metric in IN_HISTORY}}

    def evaluate(
        self, class_thresholds: np.ndarray | None = None, calibration: Calibration = UNCALIBRATED
    ) -> tuple[MetricAccumulator, float]:
        """Metrics of the validation split with the model's present weights, calibrated, and the mean loss, which is
        that of training."""

        def predict(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
            logits, losses = self._predict(batch)
            return calibration.applied_to(logits), losses

        return evaluate(
            predict,
            self.data,
            self.modalities,
            self.options.read,
            class_thresholds=class_thresholds,
            presence=self.presence,
        )

    def _epochs_to_average(self) -> list[int]:
        """The best few epochs so far, in chronological order; the last ones where there is no validation."""
        ranked = sorted(self.progress.history, key=_score, reverse=True)
        return sorted(int(row["epoch"]) for row in ranked[: self.options.average_checkpoints])

    def _load_final(self) -> None:
        """Assigns the best epoch's weights, or the mean of the best few epochs' when that validates better."""
        self.checkpoints.restore_best()
        if self.options.average_checkpoints < 2:
            return
        epochs = self._epochs_to_average()
        weights = self.checkpoints.epoch_weights(epochs)
        if len(weights) < len(epochs):
            print(
                f"warning: of the epochs to average ({', '.join(map(str, epochs))}) only the weights of "
                f"{', '.join(map(str, weights)) or 'none'} were kept, because --average_checkpoints was not set when "
                "the others were trained",
                file=sys.stderr,
            )
        if len(weights) < 2:
            return
        self.checkpoints.assign(mean_of_epochs(list(weights.values())))
        mean_map = self._validate().get(_SELECTED, math.inf) if self.has_validation else math.inf
        if mean_map < self.progress.best_map:
            self.checkpoints.restore_best()
            print(
                f"note: --average_checkpoints: the mean of epochs {', '.join(map(str, weights))} has a validation map "
                f"of {mean_map:.4f}, epoch {self.progress.best_epoch} alone one of {self.progress.best_map:.4f}: the "
                "best epoch is exported instead",
                file=sys.stderr,
            )
            return
        self.averaged_epochs = list(weights)
