"""Small shards and small exported models to score them with."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from vcls_model.schema import RecordSchema, schema_by_name

CLASSES = 30


@dataclasses.dataclass
class Video:
    """One record to write: labels None leaves the feature out."""

    id: bytes
    labels: Sequence[int] | None
    mean_rgb: np.ndarray
    mean_audio: np.ndarray


def make_videos(count: int, seed: int, *, labelled: bool = True) -> list[Video]:
    """Videos whose labels have something to do with their features, so that metrics are neither 0 nor 1."""
    rng = np.random.default_rng(seed)
    videos = []
    for number in range(count):
        features = rng.normal(size=1152).astype(np.float32)
        scores = features @ weights(0)[0] + rng.normal(size=CLASSES)
        labels = sorted(np.argsort(-scores)[: rng.integers(1, 4)].tolist())
        videos.append(Video(b"s%dv%d" % (seed, number), labels if labelled else None, features[:1024],
                            features[1024:]))
    return videos


def weights(seed: int, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Of a linear model: (1152, classes) and (classes,)."""
    rng = np.random.default_rng(1000 + seed)
    return (rng.normal(size=(1152, classes)) * 0.05).astype(np.float32), np.full(classes, -2, np.float32)


def serialise(video: Video) -> bytes:
    """A `yt8m-video` record."""
    import tensorflow as tf

    def floats(values: np.ndarray) -> tf.train.Feature:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values.tolist()))

    features = {"id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[video.id])),
                "mean_rgb": floats(video.mean_rgb), "mean_audio": floats(video.mean_audio)}
    if video.labels is not None:
        features["labels"] = tf.train.Feature(int64_list=tf.train.Int64List(value=video.labels))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_shard(path: Path, payloads: Sequence[bytes]) -> Path:
    """A TFRecord file."""
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in payloads:
            writer.write(payload)
    return path


def write_model(directory: Path, seed: int = 0, *, classes: int = CLASSES, schema: RecordSchema | None = None,
                split: dict | None = None, thresholds: bool = True, nan_below: float | None = None) -> Path:
    """An exported model over the means of rgb and audio: linear, with the signatures that training exports.

    Args:
        directory: to write.
        seed: of the weights.
        classes: number of classes.
        schema: of the raw records, `yt8m-video` by default, `yt8m-frame` or `audioset`.
        split: how the training data were split.
        thresholds: labels.csv has a best threshold for each class.
        nan_below: records whose first feature lies below give NaN.
    """
    import tensorflow as tf

    schema = dataclasses.replace(schema or schema_by_name("yt8m-video"), class_count=classes)
    kernel, bias = weights(seed, classes)

    class Linear(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(kernel)
            self.bias = tf.Variable(bias)

        def logits(self, mean_rgb: tf.Tensor, mean_audio: tf.Tensor) -> dict[str, tf.Tensor]:
            joined = tf.concat([mean_rgb, mean_audio], axis=1)
            if nan_below is not None:
                joined = tf.where(joined[:, :1] < nan_below, np.float32("nan"), joined)
            return {"logits": tf.linalg.matmul(joined, self.kernel) + self.bias}

        @tf.function(input_signature=[tf.TensorSpec([None, 1024], tf.float32, name="mean_rgb"),
                                      tf.TensorSpec([None, 128], tf.float32, name="mean_audio")])
        def video_features(self, mean_rgb: tf.Tensor, mean_audio: tf.Tensor) -> dict[str, tf.Tensor]:
            return self.logits(mean_rgb, mean_audio)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="rgb"),
                                      tf.TensorSpec([None], tf.string, name="audio")])
        def frame_features(self, rgb: tf.Tensor, audio: tf.Tensor) -> dict[str, tf.Tensor]:
            return self.logits(self.means(rgb, 1024), self.means(audio, 128))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="audio_embedding")])
        def audio_features(self, audio_embedding: tf.Tensor) -> dict[str, tf.Tensor]:
            audio = self.means(audio_embedding, 128)
            return self.logits(tf.zeros([tf.shape(audio)[0], 1024]), audio)

        def means(self, codes: tf.Tensor, width: int) -> tf.Tensor:
            def mean(of_video: tf.Tensor) -> tf.Tensor:
                decoded = tf.cast(tf.io.decode_raw(of_video, tf.uint8), tf.float32)
                return tf.reduce_mean(tf.reshape(decoded * (4 / 255) + (4 / 512 - 2), [-1, width]), axis=0)

            return tf.map_fn(mean, codes, fn_output_signature=tf.float32)

    module = Linear()
    features = (module.video_features if schema.level == "video"
                else module.audio_features if schema.name == "audioset" else module.frame_features)
    tf.saved_model.save(module, str(directory / "saved_model"),
                        signatures={"features": features})
    rows = [f"{index},class {index},Vertical {index % 3},,,{0.3 if thresholds else ''},{index}"
            for index in range(classes)]
    (directory / "labels.csv").write_text("\n".join(
        ["index,name,vertical1,vertical2,vertical3,best_threshold,train_count", *rows]) + "\n")
    (directory / "history.csv").write_text("epoch,loss\n1,0.5\n")
    info = {"schema": schema.to_dict(), "class_count": classes, "model": {"name": "linear", "seed": seed},
            "split": split or {"method": "hash", "ratios": [0.5, 0.2, 0.3]}}
    (directory / "info.json").write_text(json.dumps(info))
    return directory


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear model for `yt8m-video` records."""
    return write_model(tmp_path_factory.mktemp("model") / "first")


@pytest.fixture(scope="session")
def second_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, with other weights."""
    return write_model(tmp_path_factory.mktemp("model") / "second", seed=1)


@pytest.fixture(scope="session")
def videos() -> list[list[Video]]:
    """The videos of each of five shards, all labelled."""
    return [make_videos(count, seed) for seed, count in enumerate((40, 25, 60, 1, 33))]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, videos: list[list[Video]]) -> Path:
    """A folder with the five shards."""
    folder = tmp_path_factory.mktemp("shards")
    for number, content in enumerate(videos):
        write_shard(folder / f"part{number:02d}.tfrecord", [serialise(video) for video in content])
    return folder


@pytest.fixture
def score(tmp_path: Path, model: Path) -> Callable[..., dict]:
    """Runs the job in this process: `score(input, *flags, output=…, models=…)`."""
    from pipelines.score import run

    def call(pattern: object, *flags: str, output: Path | None = None, models: Sequence[Path] | None = None) -> dict:
        return run([f"--input={pattern}", *(f"--model={each}" for each in models or [model]),
                    f"--output={output or tmp_path / 'scores'}", "--direct_num_workers=1", *flags])

    return call


