"""A SavedModel is a program: those that may do more than compute are refused."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf

import vcls_model
from pipelines import score
from tests.conftest import ROOT
from tests.fixtures.scoring import guilty_copy
from vcls_model import ensemble, train
from vcls_model.commands import UsageError
from vcls_model.saved_models import other_operations, refuse_programs


def save(directory: Path, call: Callable[[tf.Tensor], tf.Tensor]) -> Path:
    module = tf.Module()
    module.scale = tf.Variable(2.0)
    module.call = tf.function(lambda x: module.scale * call(x), input_signature=[tf.TensorSpec([None], tf.float32)])
    tf.saved_model.save(module, str(directory), signatures=module.call)
    return directory


def writing(x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.io.write_file("/tmp/never", "x")]):
        return tf.identity(x)


def reading(x: tf.Tensor) -> tf.Tensor:
    return x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)


def calling(x: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.numpy_function(lambda y: y, [x], tf.float32), [None])


def nested(x: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.reduce_sum(x) > 0, lambda: writing(x), lambda: x)


def saving(x: tf.Tensor) -> tf.Tensor:
    saved = tf.raw_ops.SaveV2(prefix="/tmp/never", tensor_names=["x"], shape_and_slices=[""], tensors=[x])
    with tf.control_dependencies([saved]):
        return tf.identity(x)


@pytest.mark.parametrize(
    ("call", "operation"),
    [(writing, "WriteFile"), (reading, "ReadFile"), (calling, "PyFunc"), (nested, "WriteFile"), (saving, "SaveV2")],
)
def test_operations_that_do_more_than_compute_are_named(
    call: Callable[[tf.Tensor], tf.Tensor], operation: str, tmp_path: Path
) -> None:
    directory = save(tmp_path / "model", call)
    with pytest.raises(UsageError, match=f"--model=X has operations .*{operation}.*A SavedModel is a program"):
        refuse_programs(str(directory), "--model=X", trusted=False)
    refuse_programs(str(directory), "--model=X", trusted=True)


def test_a_model_that_computes_is_taken(tmp_path: Path) -> None:
    refuse_programs(str(save(tmp_path / "model", tf.nn.relu)), "--model=X", trusted=False)


def test_what_only_claims_to_be_a_saver_is_looked_at(tmp_path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    path = save(tmp_path / "model", saving) / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    graph = saved.meta_graphs[0]
    guilty = next(
        f
        for f in graph.graph_def.library.function
        if any(node.op == "SaveV2" for node in f.node_def) and not f.signature.name.startswith("__inference__traced")
    )
    graph.object_graph_def.concrete_functions["__inference__traced_save_1"].CopyFrom(
        graph.object_graph_def.concrete_functions[guilty.signature.name]
    )
    guilty.signature.name = "__inference__traced_save_1"
    assert "SaveV2" in other_operations(saved.SerializeToString(), "model")


def test_a_model_of_version_1_that_saves_when_it_is_loaded_is_refused(tmp_path: Path) -> None:
    """What the graph itself does is run there, and not only functions of it."""
    v1, place = tf.compat.v1, tmp_path / "written"
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None])
        saved = tf.raw_ops.SaveV2(prefix=str(place), tensor_names=["x"], shape_and_slices=[""], tensors=[tf.ones(1)])
        builder = v1.saved_model.Builder(str(tmp_path / "model"))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": x + 1})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=saved)
        builder.save()
    with pytest.raises(UsageError, match="--model=X has operations .*SaveV2"):
        refuse_programs(str(tmp_path / "model"), "--model=X", trusted=False)
    tf.saved_model.load(str(tmp_path / "model"))
    assert (tmp_path / "written.index").exists()  # it does harm


@pytest.mark.parametrize("encoder", ["image_encoder", "audio_encoder"])
def test_an_encoder_from_python_is_looked_at(encoder: str, tmp_path: Path) -> None:
    path = save(tmp_path / "encoder", reading)
    with pytest.raises(UsageError, match=f"{encoder}=.*ReadFile"):
        vcls_model.load("model", **{encoder: str(path)})


def test_a_model_stored_as_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pbtxt").write_text("saved_model_schema_version: 1")
    with pytest.raises(UsageError, match="--model=X is a SavedModel stored as text"):
        refuse_programs(str(tmp_path), "--model=X", trusted=False)
    (tmp_path / "saved_model.pbtxt").unlink()
    refuse_programs(str(tmp_path), "--model=X", trusted=False)  # what loads it says that there is none


def test_what_is_not_a_saved_model_is_named() -> None:
    with pytest.raises(UsageError, match="x.pb is not a SavedModel"):
        other_operations(b"\xff\xff\xff", "x.pb")


@pytest.mark.slow
def test_every_command_that_loads_a_model_refuses(
    model: Path, shards: Path, trained: Path, video_data: Path, tmp_path: Path
) -> None:
    guilty = guilty_copy(model, tmp_path / "guilty")
    with pytest.raises(UsageError, match="guilty has operations.*WriteFile"):
        score.run([f"--input={shards}/*", f"--model={guilty}", f"--output={tmp_path}/scores"])
    guilty = guilty_copy(trained, tmp_path / "teacher")
    with pytest.raises(UsageError, match="--teacher=.*WriteFile"):
        train.run([f"--data={video_data}", f"--output={tmp_path}/m", f"--teacher={guilty}"])
    with pytest.raises(UsageError, match="--model=.*WriteFile"):
        ensemble.run([f"--model={trained}", f"--model={guilty}", f"--output={tmp_path}/e"])
    data = shutil.copytree(video_data, tmp_path / "data")
    path = data / "transform_fn" / "saved_model.pb"
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    saved.meta_graphs[0].graph_def.node.add(name="guilty", op="ReadFile")
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(UsageError, match="the transform graph of --data=.*ReadFile"):
        train.run([f"--data={data}", f"--output={tmp_path}/m"])


@pytest.mark.parametrize(
    "module",
    [
        "pipelines.score",
        "pipelines.extract",
        "pipelines.report",
        "vcls_model.train",
        "vcls_model.ensemble",
        "vcls_model.label",
        "vcls_model.serve",
    ],
)
def test_help_says_that_a_saved_model_is_a_program(module: str) -> None:
    text = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "--trust_model" in text and "a SavedModel is a program" in " ".join(text.split())
