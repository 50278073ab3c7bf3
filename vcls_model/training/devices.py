"""Where steps run: one device, several devices of a machine, or several workers."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from vcls_model.commands import UsageError
from vcls_model.input.dataset import make_batches
from vcls_model.input.options import InputOptions
from vcls_model.records.listed_shards import ListedShard
from vcls_model.records.schema import Modality


def make_strategy(distribution: str, devices: Sequence[str]) -> tf.distribute.Strategy:
    """The distribution strategy for a machine: `auto` uses TF_CONFIG if set, else all GPUs, else one device.

    Raises:
        UsageError: a device does not exist.
    """
    known = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()] if devices else []
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


def computes_in_bfloat16() -> bool:
    """Whether the hardware multiplies in bfloat16 rather than emulate it, which takes longer than float32.

    GPUs do from compute capability 8.0 on; processors that list `avx512_bf16` or `amx_bf16`.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return all(
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (8, 0) for gpu in gpus
        )
    try:
        with open("/proc/cpuinfo") as stream:
            flags = next((line for line in stream if line.startswith("flags")), "").split()
    except FileNotFoundError:  # not Linux
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def _tasks(strategy: tf.distribute.Strategy) -> dict[str, int]:
    """Number of training processes in the cluster by kind; there is at most one `chief`."""
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict() if resolver else {}
    return {kind: len(cluster.get(kind, [])) for kind in ("chief", "worker")}


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """Number of processes that train together."""
    return max(1, sum(_tasks(strategy).values()))


def worker_number(strategy: tf.distribute.Strategy) -> int:
    """Index of this process among those that train together; number 0 writes the outputs."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type == "chief":
        return 0
    return _tasks(strategy)["chief"] + int(resolver.task_id or 0)


def worker_shards(shards: Sequence[ListedShard], strategy: tf.distribute.Strategy) -> Sequence[ListedShard]:
    """The training shards that this process reads."""
    return shards[worker_number(strategy) :: worker_count(strategy)]


def epoch_batches(
    shards: Sequence[ListedShard],
    modalities: Sequence[Modality],
    read: InputOptions,
    strategy: tf.distribute.Strategy,
    *,
    epoch: int,
    skip: int,
    drop_remainder: bool,
    presence: bool = False,
) -> Iterable[Any]:
    """The batches of an epoch from batch `skip` on, each split over the devices; see `make_batches`.

    Args:
        shards: those of all workers.
        read: its batch size counts the videos over all devices.
        drop_remainder: leave out a last batch that is not full.
        presence: include the presence of the modalities.
    """
    workers, replicas = worker_count(strategy), strategy.num_replicas_in_sync
    if workers > 1:
        own = dataclasses.replace(read, batch_size=read.batch_size // workers)
        # A worker with fewer videos than others starts again, so that all make the same number of steps.
        dataset = make_batches(
            worker_shards(shards, strategy),
            modalities,
            own,
            epoch=epoch,
            skip_batches=skip,
            drop_remainder=True,
            repeat=True,
            presence=presence,
        )
        local = replicas // workers
        dataset = dataset.rebatch(own.batch_size // local) if local > 1 else dataset
        return strategy.distribute_datasets_from_function(lambda context: dataset)
    dataset = make_batches(
        shards,
        modalities,
        read,
        epoch=epoch,
        skip_batches=skip,
        drop_remainder=drop_remainder,
        presence=presence,
    )
    if replicas == 1:
        return dataset
    settings = tf.data.Options()
    settings.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return strategy.experimental_distribute_dataset(dataset.with_options(settings))
