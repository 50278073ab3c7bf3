"""Running the pipeline: temporary directories, what goes wrong on the way, and the counts at the end."""

import concurrent.futures
import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from pipelines import files
from pipelines.preprocessing.config import JobConfig
from pipelines.preprocessing.job import TEMPORARY, moments_path, summary_path
from pipelines.preprocessing.manifests import Summary
from pipelines.preprocessing.progress import shown_progress
from pipelines.preprocessing.statistics import Moments
from pipelines.runners import is_local
from vcls_model.commands import JobError

# Errors of the file system that a person must mend, as they appear in the text of a worker's traceback.
_OS_ERRORS = {"28": "the disk is full", "122": "the disk quota is used up", "30": "the file system is read-only",
              "13": "permission denied"}


def execute(config: JobConfig, options: Any, build_pipeline: Callable[[Any, JobConfig], None],
            build_measuring: Callable[[Any, JobConfig], Any]) -> tuple[Summary, dict[str, Moments]]:
    """Runs the job and returns its counts and the statistics of the raw modalities over the training records.

    On one machine the shards are measured while TensorFlow is still being imported and the graph of the pipeline built,
    which takes one core some seconds: the pipeline then finds the statistics in place, as after an interruption.

    Raises:
        JobError: the output cannot be written.
    """
    import apache_beam as beam

    temporary = files.join(config.output, TEMPORARY[0])
    try:
        with (quiet_runner(), explained_failures(config), shown_progress(config),
              concurrent.futures.ThreadPoolExecutor(1) as background):
            measuring = background.submit(_run, build_measuring, config, options) if is_local(options) else None
            import tensorflow_transform.beam as tft_beam

            with tft_beam.Context(temp_dir=temporary):
                pipeline = beam.Pipeline(options=options)
                build_pipeline(pipeline, config)
                if measuring:
                    measuring.result()
                pipeline.run().wait_until_finish()
    finally:
        for name in TEMPORARY:
            files.delete(files.join(config.output, name))
    moments = json.loads(files.read_bytes(moments_path(config)))
    return (Summary.from_dict(json.loads(files.read_bytes(summary_path(config)))),
            {name: Moments.from_dict(value) for name, value in moments.items()})


def _run(build: Callable[[Any, JobConfig], Any], config: JobConfig, options: Any) -> None:
    import apache_beam as beam

    with beam.Pipeline(options=options) as pipeline:
        build(pipeline, config)


@contextlib.contextmanager
def explained_failures(config: JobConfig) -> Iterator[None]:
    """Turns a worker's error that the user can mend into a `JobError`; others pass through."""
    try:
        yield
    except Exception as error:
        found = re.search(r"\[Errno (\d+)\] ([^\n]*)", str(error))
        if isinstance(error, OSError) and error.errno is not None:
            number, detail = str(error.errno), str(error)
        elif found:
            number, detail = found.group(1), found.group(0)
        else:
            raise
        if number not in _OS_ERRORS:
            raise
        raise JobError(f"{_OS_ERRORS[number]}: {detail.strip()}. What is done is kept in {config.output}: "
                       "the same command with --resume continues") from None


@contextlib.contextmanager
def quiet_runner() -> Iterator[None]:
    """Keeps Beam's and TensorFlow's chatter, and tracebacks of errors that are raised anyway, off the screen."""
    loggers = [logging.getLogger(name) for name in ("apache_beam", "tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
