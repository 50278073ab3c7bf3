"""Has the transform graph written while the shards are being transformed, which does not need it.

Importing TensorFlow keeps one core busy for seconds, and Python to itself all that time: so it happens in a process of
its own, from the start of the job on. Where TensorFlow is imported already, this process does it.
"""

import gc
import os
import pickle
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any

from pipelines.preprocessing.config import TransformConfig
from pipelines.preprocessing.moments import Moments, moments_from_json
from vcls_model import storage

_LOCAL_SECONDS, _OBJECT_STORE_SECONDS = 0.02, 20.0


class GraphWriter:
    """Writes the graph of a job whose shards need none. A context manager: leaving it ends the process.

    Args:
        import_early: start a process at once that imports TensorFlow meanwhile.
    """

    def __init__(self, import_early: bool = True) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._pipeline_over = threading.Event()
        self._error: BaseException | None = None
        if import_early and "tensorflow" not in sys.modules:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
            )  # a graph is no work for a GPU

    def __enter__(self) -> "GraphWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pipeline_over.set()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._thread is not None:
            self._thread.join()

    def start(self, statistics_path: str, config: TransformConfig, output: str, options: Any) -> None:
        """Writes the graph, see `graph.write_transform`, as soon as the statistics appear, in a thread of its own.

        Args:
            statistics_path: where the pipeline leaves them, see `steps.finish_statistics`; there is nothing yet.
            options: Beam's, for the file system that `output` is on.
        """
        self._thread = threading.Thread(
            target=self._run, args=(statistics_path, config, output, options), name="graph", daemon=True
        )
        self._thread.start()

    def finish(self) -> None:
        """Waits for the graph, once the pipeline is over. Raises what went wrong with it."""
        self._pipeline_over.set()
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, path: str, config: TransformConfig, output: str, options: Any) -> None:
        pause = _OBJECT_STORE_SECONDS if storage.is_object_store(path) else _LOCAL_SECONDS
        try:
            while not storage.exists(path):
                if self._pipeline_over.wait(pause) and not storage.exists(path):
                    return
            self._write(moments_from_json(storage.read_bytes(path)), config, output, options)
        except BaseException as error:  # raised again by `finish`
            self._error = error

    def _write(self, statistics: dict[str, Moments], config: TransformConfig, output: str, options: Any) -> None:
        if self._process is None:
            from pipelines.preprocessing.transform.graph import write_transform
            from pipelines.preprocessing.transform.lean_import import import_transform

            import_transform()
            write_transform(statistics, config, output)
            return
        flags = options.get_all_options(drop_default=True) if storage.is_object_store(output) else None
        answer, _ = self._process.communicate(pickle.dumps((statistics, config, output, flags)))
        if self._process.returncode:
            raise RuntimeError(f"the process that writes the transform graph ended with {self._process.returncode}")
        error = pickle.loads(answer)
        if error is not None:
            raise error


def serve() -> None:
    """The process: imports TensorFlow, waits for its task on standard input, answers with its error or None."""
    from pipelines.preprocessing.transform.graph import write_transform
    from pipelines.preprocessing.transform.lean_import import import_transform

    gc.disable()  # a fifth of the time that the import takes
    import_transform()
    task = sys.stdin.buffer.read()
    if not task:  # the job came to its end before it had statistics
        return
    statistics, config, output, flags = pickle.loads(task)
    if flags is not None:
        from apache_beam.io.filesystems import FileSystems
        from apache_beam.options.pipeline_options import PipelineOptions

        FileSystems.set_options(PipelineOptions.from_dictionary(flags))
    error: Exception | None = None
    try:
        write_transform(statistics, config, output)
    except Exception as failure:  # raised again by whoever waits for the answer
        error = failure
    sys.stdout.buffer.write(pickle.dumps(error))


if __name__ == "__main__":
    serve()
