"""Training on several devices and in several processes gives what one device gives."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.fixtures import training_data
from vcls_model import train
from vcls_model.training import checkpoints

FLAGS = ["--epochs=2", "--hidden_units=16", "--batch_size=20", "--learning_rate=0.01", "--quiet"]
TWO_DEVICES = (
    "import sys, tensorflow as tf\n"
    "cpu = tf.config.list_physical_devices('CPU')[0]\n"
    "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)\n"
    "import json\n"
    "from vcls_model.train import run\n"
    "for arguments in json.loads(sys.argv[1]):\n"
    "    run(arguments)\n"
)
MIRRORED = {"plain": [], "averaged": ["--ema=0.9", "--clip_norm=1"]}


def weights(directory):
    return checkpoints.load(str(directory / "checkpoints" / "best.npz"))[0]["model"]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def mirrored(video_data, tmp_path_factory):
    """A directory with a model of each of `MIRRORED`, trained on two devices: by one process, which must begin so."""
    directory = tmp_path_factory.mktemp("mirrored")
    runs = [
        [f"--data={video_data}", f"--output={directory / name}", "--devices=CPU:0,CPU:1", *FLAGS, *extra]
        for name, extra in MIRRORED.items()
    ]
    subprocess.run([sys.executable, "-c", TWO_DEVICES, json.dumps(runs)], cwd=ROOT, check=True, capture_output=True)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("name", MIRRORED)
def test_two_mirrored_devices_train_as_one(name, mirrored, video_data, tmp_path):
    train.run([f"--data={video_data}", f"--output={tmp_path}", *FLAGS, *MIRRORED[name]])
    info = json.loads((mirrored / name / "info.json").read_text())
    assert info["training"]["devices"] == 2
    for one, two in zip(weights(tmp_path), weights(mirrored / name), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-4)


def run_together(cluster, tasks, arguments):
    """Runs training once a task on loopback; returns exit codes and outputs."""
    processes = []
    try:
        for kind, index in tasks:
            environment = {
                **os.environ,
                "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}),
            }
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "vcls_model.train", *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def cluster_of_two(with_chief):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    if with_chief:
        return {"chief": addresses[:1], "worker": addresses[1:]}, [("chief", 0), ("worker", 0)]
    return {"worker": addresses}, [("worker", 0), ("worker", 1)]


@pytest.mark.long
@pytest.mark.parametrize("with_chief", [False, True])
def test_two_workers_train_over_loopback_and_resume(with_chief, video_data, tmp_path):
    arguments = [f"--data={video_data}", f"--output={tmp_path / 'm'}", *FLAGS]
    codes, outputs = run_together(*cluster_of_two(with_chief), arguments)
    assert codes == [0, 0], outputs
    info = json.loads((tmp_path / "m" / "info.json").read_text())
    assert info["training"]["devices"] == 2
    assert info["training"]["validation"]["map"] > 0.3
    # Nothing is left to do, and every worker finds that out.
    codes, outputs = run_together(*cluster_of_two(with_chief), [*arguments, "--resume"])
    assert codes == [0, 0], outputs


@pytest.mark.long
def test_two_workers_train_a_single_epoch_with_averages(video_data, tmp_path):
    codes, outputs = run_together(
        *cluster_of_two(False),
        [f"--data={video_data}", f"--output={tmp_path / 'm'}", *FLAGS, "--epochs=1", "--ema=0.99"],
    )
    assert codes == [0, 0], outputs
    assert (tmp_path / "m" / "saved_model").is_dir()


@pytest.mark.long
def test_the_others_say_so_when_a_worker_ends(video_data, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("in use")
    arguments = [f"--data={video_data}", f"--output={tmp_path / 'm'}", *FLAGS]
    codes, outputs = run_together(*cluster_of_two(False), arguments)
    assert codes == [2, 1], outputs
    assert "is not empty" in outputs[0]
    assert "error: another worker of TF_CONFIG has ended" in outputs[1] and "Traceback" not in outputs[1]


@pytest.mark.long
def test_every_worker_stops_at_a_loss_that_is_not_finite(graphs, tmp_path):
    data = tmp_path / "data"
    training_data.write_transformed(data, training_data.VIDEO_SCHEMA, train=80, graph=graphs["video"])
    shard = data / "train" / "train-00001-of-00004.tfrecord"  # of the second worker
    records = [
        tf.train.Example.FromString(record) for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()
    ]
    for record in records:
        record.features.feature["mean_rgb"].float_list.value[0] = float("nan")
    training_data.write_shard(shard, [record.SerializeToString() for record in records])
    codes, outputs = run_together(*cluster_of_two(False), [f"--data={data}", f"--output={tmp_path / 'm'}", *FLAGS])
    assert codes == [1, 1], outputs
    assert "another worker's output names the shard" in outputs[0] and shard.name in outputs[1]
