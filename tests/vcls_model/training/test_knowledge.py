"""What a model takes from the training videos before it learns."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import training_data
from vcls_model.commands import JobError
from vcls_model.input.options import InputOptions
from vcls_model.models.label_graph import count_label_graph
from vcls_model.records.transformed import open_transformed
from vcls_model.train import run
from vcls_model.training.starting_points import class_prior, iterate_labels, training_knowledge


@pytest.mark.parametrize("level", ["video", "frame"])
def test_memory_and_graph_hold_the_training_videos(level: str, video_data: Path, frame_data: Path) -> None:
    data = open_transformed(str(video_data if level == "video" else frame_data))
    asked = {"head": "label_graph", "label_projection": 0.0, "neighbours": 5, "modality_norm": "none"}
    knowledge = training_knowledge(data, data.modalities, asked, InputOptions(batch_size=16))
    values, lengths = (np.concatenate(parts) for parts in zip(*iterate_labels(data), strict=True))
    memory = knowledge["memory"]
    assert len(memory.keys) == data.records["train"]
    assert memory.labels[memory.labels < data.class_count].tolist() == values.tolist()
    np.testing.assert_allclose(np.linalg.norm(memory.keys.astype(np.float32), axis=1), 1, atol=1e-3)
    expected = count_label_graph(values, lengths, data.class_count)
    np.testing.assert_array_equal(knowledge["label_graph"].neighbours, expected.neighbours)
    assert training_knowledge(data, data.modalities, {**asked, "head": "none", "neighbours": 0}, InputOptions(16)) == {}
    asked["label_projection"] = 0.75
    projected = training_knowledge(data, data.modalities, asked, InputOptions(batch_size=16))
    directions = projected["label_directions"]
    assert (directions.strengths > 0).all() and directions.strengths[0] == 1
    assert not np.allclose(projected["memory"].keys[:, :3], memory.keys[:, :3], atol=0.01)


@pytest.mark.slow
def test_a_run_exports_its_neighbours(video_data: Path, tmp_path: Path) -> None:
    info = run(
        [
            f"--data={video_data}",
            f"--output={tmp_path / 'model'}",
            "--model=logistic",
            "--epochs=1",
            "--neighbours=3",
            "--head=label_graph",
            "--label_projection=0.5",
            "--batch_size=20",
            "--quiet",
        ]
    )
    assert info["model"]["hyperparameters"]["neighbours"] == 3
    model = keras.saving.load_model(tmp_path / "model" / "model.keras")
    assert np.abs(keras.ops.convert_to_numpy(model.get_layer("classifier_neighbours").keys)).max() > 0


def test_unlabelled_videos_are_neither_remembered_nor_counted(graphs: dict[str, Path], tmp_path: Path) -> None:
    training_data.write_transformed(
        tmp_path, training_data.VIDEO_SCHEMA, train=40, train_shards=1, graph=graphs["video"]
    )
    before = open_transformed(str(tmp_path))
    asked = {"head": "none", "label_projection": 0.75, "neighbours": 5, "modality_norm": "none"}
    expected = training_knowledge(before, before.modalities, asked, InputOptions(batch_size=16))
    prior = class_prior(before)
    shard = next((tmp_path / "train").glob("*.tfrecord"))
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(shard))]
    unlabelled = tf.train.Example.FromString(records[0])
    del unlabelled.features.feature["labels"].int64_list.value[:]
    unlabelled.features.feature["mean_rgb"].float_list.value[:] = [9.0] * 12
    training_data.write_shard(shard, [unlabelled.SerializeToString()] * 20 + records)
    info = json.loads((tmp_path / "info.json").read_text())
    info["splits"]["train"]["records"] = 60
    (tmp_path / "info.json").write_text(json.dumps(info))
    data = open_transformed(str(tmp_path))
    found = training_knowledge(data, data.modalities, asked, InputOptions(batch_size=16))
    np.testing.assert_array_equal(found["memory"].labels, expected["memory"].labels)
    np.testing.assert_allclose(found["label_directions"].mean, expected["label_directions"].mean, atol=1e-6)
    # 10 classes have 9 or 10 directions; the others are any basis of what is left.
    np.testing.assert_allclose(found["memory"].keys[:, :9], expected["memory"].keys[:, :9], atol=2e-3)
    np.testing.assert_allclose(class_prior(data), prior, atol=1e-9)


def test_remembered_videos_are_seen_without_chance(frame_data: Path) -> None:
    data = open_transformed(str(frame_data))
    asked = {"head": "none", "label_projection": 0.0, "neighbours": 5, "modality_norm": "none", "input_norm": "data"}
    keys = [
        training_knowledge(data, data.modalities, asked, InputOptions(16, frames, 2, seed))["memory"].keys
        for frames, seed in (("random", 1), ("random", 2), ("uniform", 1))
    ]
    np.testing.assert_array_equal(keys[0], keys[1])
    np.testing.assert_array_equal(keys[0], keys[2])


@pytest.mark.parametrize("flags", [["--neighbours=3"], ["--label_projection=0.75"], ["--head=label_graph"], []])
def test_a_split_without_videos_or_labels_is_refused(flags: list[str], graphs: dict[str, Path], tmp_path: Path) -> None:
    arguments = [f"--output={tmp_path / 'm'}", "--quiet", *flags]
    training_data.write_transformed(tmp_path / "empty", training_data.VIDEO_SCHEMA, train=0, graph=graphs["video"])
    with pytest.raises(JobError, match="holds no training video"):
        run([f"--data={tmp_path / 'empty'}", *arguments])
    training_data.write_transformed(tmp_path / "none", training_data.VIDEO_SCHEMA, train=20, graph=graphs["video"])
    info = json.loads((tmp_path / "none" / "info.json").read_text())
    info["statistics"] = {"class_counts": {"train": [0] * 10}}
    (tmp_path / "none" / "info.json").write_text(json.dumps(info))
    with pytest.raises(JobError, match="no training video of .* has a label"):
        run([f"--data={tmp_path / 'none'}", *arguments])
