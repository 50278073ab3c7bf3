"""What a model takes from the training videos before it learns."""

from pathlib import Path

import keras
import numpy as np
import pytest

from vcls_model.models.graph import count_label_graph
from vcls_model.options import ReadOptions
from vcls_model.train import run
from vcls_model.transfer import iterate_labels, training_knowledge
from vcls_model.transformed import open_transformed


@pytest.mark.parametrize("level", ["video", "frame"])
def test_memory_and_graph_hold_the_training_videos(level: str, video_data: Path, frame_data: Path) -> None:
    data = open_transformed(str(video_data if level == "video" else frame_data))
    asked = {"head": "label_graph", "label_projection": 0.0, "neighbours": 5, "modality_norm": "none"}
    knowledge = training_knowledge(data, data.modalities, asked, ReadOptions(batch_size=16))
    values, lengths = (np.concatenate(parts) for parts in zip(*iterate_labels(data), strict=True))
    memory = knowledge["memory"]
    assert len(memory.keys) == data.records["train"]
    assert memory.labels[memory.labels < data.class_count].tolist() == values.tolist()
    np.testing.assert_allclose(np.linalg.norm(memory.keys.astype(np.float32), axis=1), 1, atol=1e-3)
    expected = count_label_graph(values, lengths, data.class_count)
    np.testing.assert_array_equal(knowledge["label_graph"].neighbours, expected.neighbours)
    assert training_knowledge(data, data.modalities, {**asked, "head": "none", "neighbours": 0}, ReadOptions(16)) == {}
    asked["label_projection"] = 0.75
    projected = training_knowledge(data, data.modalities, asked, ReadOptions(batch_size=16))
    directions = projected["label_directions"]
    assert (directions.strengths > 0).all() and directions.strengths[0] == 1
    assert not np.allclose(projected["memory"].keys[:, :3], memory.keys[:, :3], atol=0.01)


def test_a_run_exports_its_neighbours(video_data: Path, tmp_path: Path) -> None:
    info = run([f"--data={video_data}", f"--output={tmp_path / 'model'}", "--model=logistic", "--epochs=1",
                "--neighbours=3", "--head=label_graph", "--label_projection=0.5", "--batch_size=20", "--quiet"])
    assert info["model"]["hyperparameters"]["neighbours"] == 3
    model = keras.saving.load_model(tmp_path / "model" / "model.keras")
    assert np.abs(keras.ops.convert_to_numpy(model.get_layer("classifier_neighbours").keys)).max() > 0
