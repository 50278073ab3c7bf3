"""Transformed data sets, made once a session: tf.Transform takes seconds to write a graph."""

from pathlib import Path

import pytest

from tests.training import synthetic


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories with a transform graph, by level."""
    directory = tmp_path_factory.mktemp("graphs")
    random = {"video": synthetic.VIDEO_SCHEMA, "frame": synthetic.FRAME_SCHEMA}
    for level, schema in random.items():
        statistics = synthetic.moments(synthetic.make_videos(schema, 200, 77), schema)
        synthetic.write_transform_graph(directory / level, schema, statistics)
    return {level: directory / level for level in random}


@pytest.fixture(scope="session")
def video_data(graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformed video-level dataset: 100 training videos in 4 shards, 40 validation videos, 10 classes."""
    directory = tmp_path_factory.mktemp("video")
    synthetic.write_transformed(directory, synthetic.VIDEO_SCHEMA, train=100, graph=graphs["video"])
    return directory


@pytest.fixture(scope="session")
def frame_data(graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with frames: 2 to 8 a video."""
    directory = tmp_path_factory.mktemp("frame")
    synthetic.write_transformed(directory, synthetic.FRAME_SCHEMA, train=60, validate=20, graph=graphs["frame"])
    return directory


@pytest.fixture(scope="session")
def trained(video_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on `video_data` for three epochs."""
    from vcls_model.train import run

    output = tmp_path_factory.mktemp("models") / "trained"
    run([f"--data={video_data}", f"--output={output}", "--epochs=3", "--hidden_units=16", "--batch_size=20",
         "--learning_rate=0.01", "--quiet"])
    return output
