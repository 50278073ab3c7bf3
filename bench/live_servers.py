"""The live service and its peer as processes, and what they serve, for `bench/live.py`.

As a command it writes the models into a folder.
"""

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CLASSES = 1000
PEER = """
import base64, os, sys
from collections import defaultdict, deque
os.environ["KERAS_BACKEND"] = "tensorflow"
import cv2, keras, numpy as np, uvicorn
from fastapi import FastAPI
from vcls_model.encoders import load_encoder
encoder = load_encoder("efficientnet-lite2", "picture")
wide = 1280
def dense(width):
    layers = [keras.layers.Dense(512, "relu"), keras.layers.Dense(1000, "sigmoid")]
    return keras.Sequential([keras.layers.Input((width,)), *layers])
video, model = dense(1152), dense(wide)
rows = defaultdict(lambda: deque(maxlen=10))
app = FastAPI()
@app.post("/frame")
def frame(body: dict):
    content = np.frombuffer(base64.b64decode(body["image"]), np.uint8)
    picture = cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    features = encoder.encode(encoder.info.input.prepare(picture)[None])[0]
    last = rows[body["stream"]]
    last.append(features)
    return {"labels": model.predict(np.mean(last, axis=0)[None], verbose=0)[0].tolist()}
@app.post("/predict")
def predict(body: dict):
    return {"predictions": video.predict(np.array(body["instances"], np.float32), verbose=0).tolist()}
model.predict(np.zeros((1, wide)), verbose=0); video.predict(np.zeros((1, 1152)), verbose=0)
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""


def pictures(count: int = 32) -> list[bytes]:
    """JPEG files of 640 × 360, as a camera's page sends them."""
    from PIL import Image

    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (9, 16, 3), np.uint8))
        stream = io.BytesIO()
        small.resize((640, 360), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        made.append(stream.getvalue())
    return made


def write_models(folder: Path) -> tuple[Path, Path]:
    """A frame-level model of the default encoders, and a video-level one of 1,152 values, with random weights."""
    import tensorflow as tf

    from vcls_model.embedding import EmbeddingConfig
    from vcls_model.records.schema import schema_by_name

    rng = np.random.default_rng(0)

    def dense(width: int, units: int) -> tf.Variable:
        return tf.Variable(rng.normal(0, width**-0.5, (width, units)).astype(np.float32))

    def write(directory: Path, schema: Any, inputs: list[tf.TensorSpec]) -> Path:
        module = tf.Module()
        width = sum(each.width for each in schema.modalities)
        module.first, module.second = dense(width, 512), dense(512, CLASSES)

        def logits(**features: tf.Tensor) -> dict[str, tf.Tensor]:
            parts = []
            for each in schema.modalities:
                values = features[each.name]
                if each.kind == "frames":
                    counts = tf.strings.length(values) // each.width
                    codes = tf.io.decode_raw(values, tf.uint8, fixed_length=tf.reduce_max(counts) * each.width)
                    rows = tf.cast(tf.reshape(codes, [tf.shape(values)[0], -1, each.width]), tf.float32)
                    values = tf.reduce_sum(rows, 1) / tf.cast(counts, tf.float32)[:, None] / 256
                parts.append(values)
            return {"logits": tf.nn.relu(tf.concat(parts, 1) @ module.first) @ module.second}

        call = tf.function(logits).get_concrete_function(**{spec.name: spec for spec in inputs})
        tf.saved_model.save(module, str(directory / "saved_model"), signatures={"features": call})
        rows = [f"{index},class {index},0.9" for index in range(CLASSES)]
        (directory / "labels.csv").write_text("\n".join(["index,name,best_threshold", *rows]) + "\n")
        info = {"schema": schema.to_dict(), "class_count": CLASSES, "model": {"name": "bench"}, "split": {}}
        (directory / "info.json").write_text(json.dumps(info))
        return directory

    media = EmbeddingConfig.of("efficientnet-lite2", "yamnet").schema(CLASSES)
    strings = [tf.TensorSpec([None], tf.string, each.name) for each in media.modalities]
    plain = schema_by_name("yt8m-video")
    floats = [tf.TensorSpec([None, each.width], tf.float32, each.name) for each in plain.modalities]
    return write(folder / "frames", media, strings), write(folder / "video", plain, floats)


@contextlib.contextmanager
def process(command: Sequence[str], address: str | None = None) -> Iterator[tuple[str, int]]:
    """A server's address and process id; what it logs is shown where it fails to start or ends in an error."""
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        try:
            assert started.stdout is not None
            if address is None:
                printed = re.search(r"http://\S+[^/\s]", started.stdout.readline())
                if printed is None:
                    _fail("the service did not start", log)
                address = printed[0]
            elif not _answers(address, started):
                _fail("the peer did not start", log)
            yield address, started.pid
            if started.poll() is not None:
                _fail(f"the server ended with status {started.returncode}", log)
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def _fail(why: str, log: IO[bytes]) -> NoReturn:
    log.seek(0)
    print(log.read()[-4000:].decode(errors="replace"), file=sys.stderr)
    raise SystemExit(why)


def _answers(address: str, started: "subprocess.Popen[str]") -> bool:
    deadline = time.monotonic() + 300
    while started.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/docs", timeout=2):
            return True
        time.sleep(0.2)
    return False


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    """Processor time of a process and its children."""
    total = 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = place.read_text().rpartition(")")[2].split()
            if int(place.parent.name) == pid or int(fields[1]) == pid:
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


class Watched:
    """The resident memory of a process while a block runs, twice a second."""

    def __init__(self, pid: int) -> None:
        self.bytes: list[int] = []
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self.bytes.append(resident_bytes(self._pid))

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def values(self) -> dict[str, float]:
        """What it was after a quarter of the time, in MiB, and by how much it grew at most after that."""
        begun = self.bytes[len(self.bytes) // 4]
        most = max(self.bytes[len(self.bytes) // 4 :])
        return {"quarter_mib": begun >> 20, "growth": round(most / begun - 1, 4)}


if __name__ == "__main__":
    write_models(Path(sys.argv[1]))
