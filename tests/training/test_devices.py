"""Training on several devices and in several processes gives what one device gives."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from vcls_model import checkpoints, train

FLAGS = ["--epochs=2", "--hidden_units=16", "--batch_size=20", "--learning_rate=0.01", "--quiet"]
TWO_DEVICES = ("import sys, tensorflow as tf\n"
               "cpu = tf.config.list_physical_devices('CPU')[0]\n"
               "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)\n"
               "from vcls_model.train import run\n"
               "run(sys.argv[1:])\n")


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


def test_two_mirrored_devices_train_as_one(video_data, tmp_path):
    train.run([f"--data={video_data}", f"--output={tmp_path / 'one'}", *FLAGS])
    subprocess.run([sys.executable, "-c", TWO_DEVICES, f"--data={video_data}", f"--output={tmp_path / 'two'}",
                    "--devices=CPU:0,CPU:1", *FLAGS], cwd=ROOT, check=True, capture_output=True)
    info = json.loads((tmp_path / "two" / "info.json").read_text())
    assert info["training"]["devices"] == 2
    for one, two in zip(weights(tmp_path / "one"), weights(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-4)


@pytest.mark.slow
def test_two_workers_train_over_loopback(video_data, tmp_path):
    ports = free_ports(2)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes = []
    try:
        for index in range(2):
            environment = {**os.environ, "TF_CONFIG": json.dumps(
                {"cluster": cluster, "task": {"type": "worker", "index": index}})}
            processes.append(subprocess.Popen(
                [sys.executable, "-m", "vcls_model.train", f"--data={video_data}", f"--output={tmp_path / 'm'}",
                 *FLAGS], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    info = json.loads((tmp_path / "m" / "info.json").read_text())
    assert info["training"]["devices"] == 2
    assert info["training"]["validation"]["map"] > 0.3
