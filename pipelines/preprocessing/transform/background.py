"""Has the transform graph written while the shards are being transformed, which does not need it.

Importing TensorFlow keeps one core busy for seconds and holds Python's lock all that time, so a process of its own does
it. Not one of `multiprocessing`, which would run a caller's script without a `__main__` guard again.
"""

import contextlib
import os
import pickle
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pipelines.preprocessing.config import JobConfig, TransformConfig
from pipelines.preprocessing.outputs import moments_path, read_moments
from pipelines.preprocessing.transform.graph import write_transform
from vcls_model import storage
from vcls_model.quiet import absent, quiet_start_up

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_LOCAL_SECONDS, _OBJECT_STORE_SECONDS = 0.02, 20.0


@contextlib.contextmanager
def graph_in_background(config: JobConfig, options: "PipelineOptions") -> Iterator[None]:
    """While the block runs the pipeline: the graph is written as soon as the pipeline has fitted the statistics.

    Args:
        config: a job whose shards need no graph.
        options: Beam's, for the file system that the output is on.

    Raises:
        RuntimeError: the graph could not be written, or differs from the kernels.
    """
    if "tensorflow" in sys.modules:
        with _graph_by_thread(config):
            yield
        return
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}  # too little work for a GPU
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    try:
        flags = options.get_all_options(drop_default=True) if storage.is_object_store(config.output) else None
        assert process.stdin is not None
        pickle.dump((moments_path(config), config.transform, config.output, flags), process.stdin)
        process.stdin.flush()
        yield
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the transform graph was not written: {errors.decode(errors='replace')}")
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _graph_by_thread(config: JobConfig) -> Iterator[None]:
    """The same where the import is not to pay for any more: reading and writing shards leaves Python's lock free."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        graph = pool.submit(_write_when_fitted, moments_path(config), config.transform, config.output, ended.wait)
        try:
            yield
        finally:
            ended.set()
        graph.result()


def _write_when_fitted(path: str, config: TransformConfig, output: str, ended: Callable[[float], bool]) -> None:
    """Writes the graph once the statistics are there; `ended` waits some seconds, and says whether none will come."""
    pause = _OBJECT_STORE_SECONDS if storage.is_object_store(path) else _LOCAL_SECONDS
    while not storage.exists(path):
        if ended(pause) and not storage.exists(path):
            return
    write_transform(read_moments(path), config, output)


def serve() -> None:
    """The process: imports TensorFlow, waits for the statistics, writes the graph."""
    path, config, output, flags = pickle.load(sys.stdin.buffer)
    if flags is not None:
        from apache_beam.io.filesystems import FileSystems
        from apache_beam.options.pipeline_options import PipelineOptions

        FileSystems.set_options(PipelineOptions.from_dictionary(flags))

    _import_transform()

    def ended(seconds: float) -> bool:  # the job closes its end once the pipeline is over, or it has been killed
        return bool(select.select([sys.stdin.buffer], [], [], seconds)[0])

    _write_when_fitted(path, config, output, ended)


def _import_transform() -> None:
    """Imports TensorFlow and tf.Transform without Keras and scikit-learn, which the graph does not use.

    TensorFlow imports Keras for its optimizers and does without where that fails. The figure that keeps this is in
    docs/BENCHMARKS.md ("0.1.0 and today"): a third of the process's time.
    """
    with absent("keras.src.optimizers", "sklearn"), quiet_start_up():
        import tensorflow_transform  # noqa: F401


if __name__ == "__main__":
    serve()
