"""Loads heavy libraries: what TensorFlow's print meanwhile stays off the screen, where it hides what the jobs say."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# Printed at every start on every machine, whatever TF_CPP_MIN_LOG_LEVEL says, before logging is set up.
_START_UP_LINES = re.compile(
    rb"All log messages before absl::InitializeLog|port\.cc:\d+\] oneDNN|cudart_stub\.cc|cpu_feature_guard\.cc"
    rb"|^To enable the following instructions|cuda_platform\.cc|cuda_executor\.cc|^W0000 .*computation_placer"
)


@contextlib.contextmanager
def quiet_start_up() -> Iterator[None]:
    """Holds back standard error meanwhile, then passes on all but the known start-up lines.

    To be put around the first import of TensorFlow. With TF_CPP_MIN_LOG_LEVEL=0 in the environment nothing is held
    back.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        yield
        return
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no standard error at all
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            lines = [line for line in held if not _START_UP_LINES.search(line)]
            if lines:
                os.write(2, b"".join(lines))


@contextlib.contextmanager
def absent(*modules: str) -> Iterator[None]:
    """Makes imports of modules fail meanwhile, for libraries that import them and do without."""
    hidden = [name for name in modules if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # what makes an import fail at once
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def start_tensorflow() -> None:
    """Imports TensorFlow and looks for its devices, quietly: the GPU libraries complain where there is no GPU."""
    import_matplotlib()  # as Keras will
    with quiet_start_up():
        import tensorflow as tf

        tf.config.list_physical_devices()


def start_tensorflow_without_keras() -> None:
    """The same for processes that only run SavedModels: TensorFlow imports Keras and two others, and does without.

    They can still be imported later. The figure that keeps this is in docs/BENCHMARKS.md ("Live").
    """
    with absent("keras.src.optimizers", "scipy", "googleapiclient"), quiet_start_up():
        import tensorflow as tf

        tf.config.list_physical_devices()


def import_matplotlib() -> None:
    """Imports matplotlib, whatever MPLBACKEND says: a notebook's backend may not be installed here."""
    try:
        import matplotlib  # noqa: F401
    except ValueError:
        if os.environ.pop("MPLBACKEND", None) is None:
            raise
        import matplotlib  # noqa: F401
