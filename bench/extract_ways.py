"""Ways from a file to features that `bench/extract.py` compares: four that others use, and this project's own.

Each takes a path and returns how many rows it made. All of them use the same EfficientNet-Lite0 in ONNX Runtime; a way
in a process of its own gets as many threads as it is allowed.
"""

import functools
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vcls_model.embedding import Embedder, EmbeddingConfig
from vcls_model.encoders import efficientnet_lite, load_encoder, yamnet
from vcls_model.encoders.network import Network
from vcls_model.encoders.onnx_network import onnx_model

SIZE = 224
Way = Callable[[str], int]


def _ffmpeg() -> str:
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


class Pictures:
    """The encoder as others would call it: pictures (224, 224, 3) uint8 RGB in batches."""

    def __init__(self, batch: int, threads: int) -> None:
        network = efficientnet_lite.build_network(
            "efficientnet-lite0", efficientnet_lite.read_state("efficientnet-lite0")
        )
        self._sessions = {size: _session(network, size, threads) for size in {1, batch}}
        self._batch = batch
        self._waiting: list[np.ndarray] = []
        self.rows = 0

    def add(self, picture: np.ndarray) -> None:
        """Takes a picture, and encodes a batch where it is full."""
        self._waiting.append(picture)
        if len(self._waiting) == self._batch:
            self._encode(self._batch)

    def finish(self) -> int:
        """Encodes what is left, one by one; returns the rows since the last time."""
        while self._waiting:
            self._encode(1)
        rows, self.rows = self.rows, 0
        return rows

    def _encode(self, count: int) -> None:
        batch = np.stack(self._waiting[:count]).transpose(0, 3, 1, 2).astype(np.float32)
        self._sessions[count].run(None, {"input": batch})
        del self._waiting[:count]
        self.rows += count


def _session(network: Network, batch: int, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(onnx_model(network, batch), options, providers=["CPUExecutionProvider"])


def _prepared(frame: np.ndarray) -> np.ndarray:
    """BGR as cv2 gives it -> what the encoder takes."""
    import cv2

    side = int(min(frame.shape[:2]) * SIZE / (SIZE + 32))
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    part = cv2.resize(frame[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.cvtColor(part, cv2.COLOR_BGR2RGB))


def _capture(path: str, threads: int) -> Any:
    import cv2

    cv2.setNumThreads(threads)
    return cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])


def by_file_of_one_fps(threads: int) -> Way:
    """ffmpeg writes a video of one frame per second, cv2 reads it, batch 1: v-iashin/video_features."""
    pictures = Pictures(1, threads)

    def read(path: str) -> int:
        with tempfile.TemporaryDirectory() as scratch:
            reduced = str(Path(scratch) / "one_fps.mp4")
            command = [_ffmpeg(), "-loglevel", "error", "-y", "-threads", str(threads), "-i", path]
            subprocess.run([*command, "-filter:v", "fps=fps=1", "-threads", str(threads), reduced], check=True)
            video = _capture(reduced, threads)
            while True:
                good, frame = video.read()
                if not good:
                    break
                pictures.add(_prepared(frame))
        return pictures.finish()

    return read


def by_reading_every_frame(threads: int) -> Way:
    """`cv2.read` of every frame, of which one per second is used, batch 1: the loop of youtube-8m's extractor."""
    import cv2

    pictures = Pictures(1, threads)

    def read(path: str) -> int:
        video = _capture(path, threads)
        last = -1000.0
        while True:
            good, frame = video.read()
            if not good:
                return pictures.finish()
            if (now := video.get(cv2.CAP_PROP_POS_MSEC)) - last >= 1000 - 1e-3:
                last = now
                pictures.add(_prepared(frame))

    return read


def by_pipe(threads: int) -> Way:
    """An ffmpeg pipe of one scaled frame per second, batch 64."""
    pictures = Pictures(64, threads)
    scale = f"fps=1,scale={SIZE + 32}:{SIZE + 32}:force_original_aspect_ratio=increase,crop={SIZE}:{SIZE}"

    def read(path: str) -> int:
        command = [_ffmpeg(), "-loglevel", "error", "-threads", str(threads), "-i", path, "-vf", scale]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=1 << 20) as process:
            assert process.stdout is not None
            while len(content := process.stdout.read(SIZE * SIZE * 3)) == SIZE * SIZE * 3:
                pictures.add(np.frombuffer(content, np.uint8).reshape(SIZE, SIZE, 3))
        return pictures.finish()

    return read


def by_grabbing(threads: int, sound: bool = False) -> Way:
    """The honest peer: cv2 grabs every frame and retrieves one per second, batches of 8; ffmpeg for the sound."""
    import cv2

    pictures = Pictures(8, threads)
    listener = load_encoder(yamnet.NAME, "sound") if sound else None

    def read(path: str) -> int:
        video = _capture(path, threads)
        rate = video.get(cv2.CAP_PROP_FPS)
        count = taken = 0
        while video.grab():
            if count >= round(taken * rate):
                pictures.add(_prepared(video.retrieve()[1]))
                taken += 1
            count += 1
        rows = pictures.finish()
        if listener is not None:
            command = [_ffmpeg(), "-loglevel", "error", "-threads", str(threads), "-i", path, "-vn", "-ac", "1"]
            command += ["-ar", "16000", "-f", "f32le", "-"]
            heard = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            listener.encode_codes(listener.info.input.patches(np.frombuffer(heard, np.float32), rows))
        return rows

    return read


def by_project(mode: str, sound: bool = False) -> Way:
    """This project as its jobs use it: a child process decodes, this one encodes."""
    config = EmbeddingConfig.of("efficientnet-lite0", yamnet.NAME if sound else None, mode=mode)
    embedder = Embedder(config)
    return lambda path: embedder.embed(path).rows


def by_parts(mode: str, sound: bool = False) -> Way:
    """What `by_project` cannot do without: demux, decode, convert, encode what differs from the row before.

    All in one process without pipes.
    """
    import cv2

    from vcls_model.media.rows import RowReader  # what the other ways do not load

    cv2.setNumThreads(1)
    config = EmbeddingConfig.of("efficientnet-lite0", yamnet.NAME if sound else None, mode=mode)
    encoders = {medium: load_encoder(name, medium) for medium, name, _ in config.encoders}

    def read(path: str) -> int:
        rows = 0
        last: dict[str, np.ndarray] = {}
        with RowReader(path, config.request()) as reader:
            for row in reader:
                rows += 1
                for medium, content in (("picture", row.picture), ("sound", row.sound)):
                    if content is None or (medium in last and np.array_equal(last[medium], content)):
                        continue
                    encoders[medium].encode_codes(content[None])  # type: ignore[index]
                    last[medium] = content
        return rows

    return read


# Letter of the peer or name of the way -> the way, for so many threads.
WAYS: dict[str, Callable[[int], Way]] = {
    "a": by_file_of_one_fps,
    "b": by_reading_every_frame,
    "c": by_pipe,
    "d": by_grabbing,
    "d_sound": functools.partial(by_grabbing, sound=True),
    "exact": lambda _: by_project("exact"),
    "keyframes": lambda _: by_project("keyframes"),
    "exact_sound": lambda _: by_project("exact", sound=True),
    "parts": lambda _: by_parts("exact"),
    "parts_keyframes": lambda _: by_parts("keyframes"),
}
DESCRIPTIONS = {
    "a": "ffmpeg to a file of 1 fps, cv2, batch 1",
    "b": "cv2.read of every frame, batch 1",
    "c": "ffmpeg pipe, fps=1,scale, batch 64",
    "d": "cv2 grab/retrieve, batches of 8",
    "d_sound": "(d) with ffmpeg for the sound",
    "exact": "exact",
    "keyframes": "keyframes",
    "exact_sound": "exact with sound",
}
