"""Small records made with TensorFlow's own protocol buffers and writer: independent of the code under test."""

import dataclasses
from pathlib import Path

import numpy as np
import tensorflow as tf

from vcls_model.schema import Modality, RecordSchema

VIDEO = RecordSchema("small-video", "example", "id", "labels",
                     (Modality("mean_rgb", 6, "video", "float32"), Modality("mean_audio", 3, "video", "float32")), 10)
FRAME = RecordSchema("small-frame", "sequence_example", "id", "labels",
                     (Modality("rgb", 6, "frame", "uint8"), Modality("audio", 3, "frame", "uint8")), 10)


def bytes_feature(*values: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def int64_feature(*values: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def float_feature(*values: float) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


@dataclasses.dataclass
class Video:
    """One video: values float32 (D,) by modality, or frames uint8 (T, D)."""

    id: bytes
    labels: tuple[int, ...]
    values: dict[str, np.ndarray]

    def features(self) -> dict[str, tf.train.Feature]:
        return {"id": bytes_feature(self.id), "labels": int64_feature(*self.labels)}

    def example(self, **changes: tf.train.Feature | None) -> bytes:
        """Serialized tf.train.Example; `changes` replace or (None) drop features."""
        features = self.features()
        features.update({name: float_feature(*rows) for name, rows in self.values.items()})
        features.update(changes)
        kept = {name: feature for name, feature in features.items() if feature is not None}
        return tf.train.Example(features=tf.train.Features(feature=kept)).SerializeToString()

    def sequence(self, context: dict | None = None, lists: dict | None = None) -> bytes:
        """Serialized tf.train.SequenceExample; `context` and `lists` replace or (None) drop parts."""
        features = {**self.features(), **(context or {})}
        frames = {name: tf.train.FeatureList(feature=[bytes_feature(row.tobytes()) for row in rows])
                  for name, rows in self.values.items()}
        frames.update(lists or {})
        return tf.train.SequenceExample(
            context=tf.train.Features(feature={k: v for k, v in features.items() if v is not None}),
            feature_lists=tf.train.FeatureLists(feature_list={k: v for k, v in frames.items() if v is not None}),
        ).SerializeToString()


def videos(count: int, schema: RecordSchema, seed: int = 0, prefix: str = "v", frames: tuple[int, int] = (1, 12),
           ) -> list[Video]:
    """Random videos of a schema."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        labels = tuple(sorted(rng.choice(10, rng.integers(1, 4), replace=False).tolist()))
        length = int(rng.integers(*frames))
        values = {modality.name: rng.normal(1.0, 2.0, modality.width).astype(np.float32)
                  if modality.level == "video" else rng.integers(0, 256, (length, modality.width)).astype(np.uint8)
                  for modality in schema.modalities}
        made.append(Video(f"{prefix}{index:04d}".encode(), labels, values))
    return made


def write_shard(path: Path, payloads: list[bytes], compression: str = "") -> Path:
    """Writes a TFRecord file with TensorFlow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for payload in payloads:
            writer.write(payload)
    return path


def read_payloads(path: Path) -> list[bytes]:
    """Reads a TFRecord file with TensorFlow, which checks the checksums."""
    return [record.numpy() for record in tf.data.TFRecordDataset(str(path))]


def record_starts(payloads: list[bytes]) -> list[int]:
    """Where each record begins in a file of these."""
    starts = [0]
    for payload in payloads:
        starts.append(starts[-1] + 16 + len(payload))
    return starts
