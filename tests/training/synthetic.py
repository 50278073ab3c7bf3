"""Small data sets as `pipelines.preprocess` writes them, made here so that training's tests need no other room."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from vcls_model.schema import (
    DEQUANTISE_OFFSET,
    DEQUANTISE_SCALE,
    REQUANTISE_OFFSET,
    REQUANTISE_SCALE,
    Modality,
    RecordSchema,
)

VIDEO_SCHEMA = RecordSchema(
    "small-video", "example", "id", "labels",
    (Modality("mean_rgb", 12, "video", "float32"), Modality("mean_audio", 4, "video", "float32")))
FRAME_SCHEMA = RecordSchema(
    "small-frame", "sequence_example", "id", "labels",
    (Modality("rgb", 6, "frame", "uint8"), Modality("audio", 3, "frame", "uint8")))
CLASS_COUNT = 10


@dataclasses.dataclass
class Videos:
    """Raw videos: ids, label lists, and per modality a float32 (N, D) array or a list of uint8 (T, D) codes."""

    ids: list[bytes]
    labels: list[list[int]]
    features: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> "Videos":
        return Videos(self.ids[start:stop], self.labels[start:stop],
                      {name: value[start:stop] for name, value in self.features.items()})


def make_videos(schema: RecordSchema, count: int, seed: int = 0, class_count: int = CLASS_COUNT) -> Videos:
    """Videos whose labels a linear classifier can find."""
    random = np.random.default_rng(seed)
    teacher = np.random.default_rng(123)
    total = sum(modality.width for modality in schema.modalities)
    directions = teacher.normal(size=(total, class_count))
    hidden = random.normal(size=(count, total))
    scores = hidden @ directions
    labels = [sorted({int(i) for i in np.argsort(-row)[:1 + number % 3]}) for number, row in enumerate(scores)]
    features: dict[str, Any] = {}
    start = 0
    for modality in schema.modalities:
        part = hidden[:, start:start + modality.width]
        start += modality.width
        if modality.level == "video":
            features[modality.name] = (part * 0.5 + 0.1).astype(np.float32)
        else:
            features[modality.name] = [
                np.clip((row * 0.4 + random.normal(scale=0.1, size=(2 + number % 7, modality.width)) + 2) * 255 / 4, 0,
                        255).astype(np.uint8) for number, row in enumerate(part)]
    return Videos([f"v{seed}-{number:04d}".encode() for number in range(count)], labels, features)


def serialize_raw(videos: Videos, schema: RecordSchema) -> list[bytes]:
    """The raw records, as the schema lays them out."""
    records = []
    for number, video_id in enumerate(videos.ids):
        context = {schema.id_feature: tf.train.Feature(bytes_list=tf.train.BytesList(value=[video_id])),
                   schema.labels_feature: _ints(videos.labels[number])}
        if schema.level == "video":
            for modality in schema.modalities:
                context[modality.name] = _floats(videos.features[modality.name][number])
            records.append(tf.train.Example(features=tf.train.Features(feature=context)).SerializeToString())
        else:
            lists = {modality.name: tf.train.FeatureList(feature=[
                _bytes(frame.tobytes()) for frame in videos.features[modality.name][number]])
                for modality in schema.modalities}
            records.append(tf.train.SequenceExample(
                context=tf.train.Features(feature=context),
                feature_lists=tf.train.FeatureLists(feature_list=lists)).SerializeToString())
    return records


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _floats(values: Any) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=[float(value) for value in values]))


def _ints(values: list[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def moments(videos: Videos, schema: RecordSchema) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation (D,) of each modality, of dequantised values."""
    found = {}
    for modality in schema.modalities:
        if modality.level == "video":
            values = videos.features[modality.name].astype(np.float64)
        else:
            values = np.concatenate(videos.features[modality.name]) * DEQUANTISE_SCALE + DEQUANTISE_OFFSET
        found[modality.name] = values.mean(0), values.std(0) + 1e-6
    return found


def transform(videos: Videos, schema: RecordSchema, statistics: dict[str, tuple[np.ndarray, np.ndarray]]) -> Videos:
    """The transformed videos, computed with numpy: an oracle for the transform graph."""
    features: dict[str, Any] = {}
    for modality in schema.modalities:
        mean, deviation = statistics[modality.name]
        if modality.level == "video":
            features[modality.name] = ((videos.features[modality.name] - mean) / deviation).astype(np.float32)
        else:
            features[modality.name] = [requantise(((codes * DEQUANTISE_SCALE + DEQUANTISE_OFFSET) - mean) / deviation)
                                       for codes in videos.features[modality.name]]
    return Videos(videos.ids, videos.labels, features)


def requantise(values: np.ndarray) -> np.ndarray:
    return np.round((np.clip(values, -4, 4) - REQUANTISE_OFFSET) / REQUANTISE_SCALE).astype(np.uint8)


def serialize_transformed(videos: Videos, schema: RecordSchema) -> list[bytes]:
    records = []
    for number, video_id in enumerate(videos.ids):
        feature = {"id": _bytes(video_id), "labels": _ints(videos.labels[number])}
        for modality in schema.modalities:
            value = videos.features[modality.name][number]
            if modality.level == "video":
                feature[modality.name] = _floats(value)
            else:
                feature[modality.name] = _bytes(value.tobytes())
                feature["num_frames"] = _ints([len(value)])
        records.append(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return records


def write_shard(path: Path, records: list[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def write_transform_graph(directory: Path, schema: RecordSchema,
                          statistics: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """A graph made by tf.Transform itself, with the given z-scores."""
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam

    def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = {"id": inputs["id"], "labels": inputs["labels"]}
        for modality in schema.modalities:
            mean, deviation = (value.astype(np.float32) for value in statistics[modality.name])
            if modality.level == "video":
                outputs[modality.name] = (inputs[modality.name] - mean) / deviation
                continue
            joined = tf.reshape(inputs[modality.name], [-1])
            codes = tf.RaggedTensor.from_row_lengths(
                tf.io.decode_raw(tf.strings.reduce_join(joined, keepdims=True), tf.uint8)[0],
                tf.strings.length(joined))
            frames = tf.reshape(codes.flat_values, [-1, modality.width])
            values = (tf.cast(frames, tf.float32) * DEQUANTISE_SCALE + DEQUANTISE_OFFSET - mean) / deviation
            values = tf.round((tf.clip_by_value(values, -4.0, 4.0) - REQUANTISE_OFFSET) / REQUANTISE_SCALE)
            new = tf.gather(tf.constant([bytes([code]) for code in range(256)]),
                            tf.reshape(tf.cast(values, tf.int32), [-1]))
            ragged = tf.RaggedTensor.from_row_lengths(new, tf.strings.length(joined))
            outputs[modality.name] = tf.strings.reduce_join(ragged, axis=1)
            outputs["num_frames"] = tf.cast(tf.strings.length(joined) // modality.width, tf.int64)
        tft.mean(tf.cast(tf.strings.length(inputs["id"]), tf.float32))
        return outputs

    spec: dict[str, Any] = {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)}
    row: dict[str, Any] = {"id": b"a", "labels": [1]}
    for modality in schema.modalities:
        if modality.level == "video":
            spec[modality.name] = tf.io.FixedLenFeature([modality.width], tf.float32)
            row[modality.name] = [0.0] * modality.width
        else:
            spec[modality.name] = tf.io.FixedLenFeature([], tf.string)
            row[modality.name] = bytes(2 * modality.width)
    metadata = tft.DatasetMetadata.from_feature_spec(spec)
    import apache_beam as beam

    with tempfile.TemporaryDirectory() as scratch, tft_beam.Context(temp_dir=scratch), beam.Pipeline(
            runner="FnApiRunner") as pipeline:
        rows = pipeline | "Rows" >> beam.Create([row])
        graph = (rows, metadata) | tft_beam.AnalyzeDataset(preprocessing_fn)
        _ = graph | tft_beam.WriteTransformFn(str(directory))


def write_transformed(directory: Path, schema: RecordSchema, *, train: int = 96, validate: int = 40,
                      train_shards: int = 4, class_count: int = CLASS_COUNT, graph: Path | None = None,
                      seed: int = 0) -> dict[str, Videos]:
    """Writes a whole transformed dataset; returns the raw videos by split.

    `graph` is a directory whose transform graph (made for the same schema) is copied instead of made anew.
    """
    import shutil

    raw = {"train": make_videos(schema, train, 1 + seed, class_count),
           "validate": make_videos(schema, validate, 2 + seed, class_count),
           "test": make_videos(schema, 8, 3 + seed, class_count)}
    statistics = moments(make_videos(schema, 200, 77), schema)
    splits = {}
    for split, videos in raw.items():
        done = transform(videos, schema, statistics)
        count = train_shards if split == "train" else 1
        edges = np.linspace(0, len(videos), count + 1).astype(int)
        for number in range(count):
            write_shard(directory / split / f"{split}-{number:05d}-of-{count:05d}.tfrecord",
                        serialize_transformed(done.part(edges[number], edges[number + 1]), schema))
        splits[split] = {"records": len(videos), "shards": count}
    if graph is None:
        write_transform_graph(directory, schema, statistics)
    else:
        for name in ("transform_fn", "transformed_metadata"):
            shutil.copytree(graph / name, directory / name)
    total = sum(len(videos) for videos in raw.values())
    (directory / "info.json").write_text(json.dumps({
        "records_read": total, "records_written": total, "records_rejected": 0, "rejected_by_reason": {},
        "splits": splits, "schema": schema.to_dict(), "class_count": class_count,
        "transformed": [dataclasses.asdict(modality) for modality in schema.modalities],
        "split": {"method": "given", "ratios": None}, "config_hash": f"{schema.name}-{class_count}-{seed}"}))
    return raw
