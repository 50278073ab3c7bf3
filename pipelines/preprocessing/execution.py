"""Running the pipeline: temporary directories, what goes wrong on the way, and the counts at the end."""

import concurrent.futures
import contextlib
import json
from collections.abc import Callable
from typing import Any

from pipelines import files
from pipelines.execution import explained_failures, quiet_runner
from pipelines.preprocessing.config import JobConfig
from pipelines.preprocessing.job import TEMPORARY, moments_path, summary_path
from pipelines.preprocessing.lean_import import import_transform
from pipelines.preprocessing.manifests import Summary
from pipelines.preprocessing.progress import PreprocessProgress
from pipelines.preprocessing.statistics import Moments
from pipelines.progress import shown_progress
from pipelines.runners import check_runner, is_local
from vcls_model.quiet import quiet_start_up


def execute(config: JobConfig, options: Any, build_pipeline: Callable[[Any, JobConfig], None],
            build_measuring: Callable[[Any, JobConfig], Any]) -> tuple[Summary, dict[str, Moments]]:
    """Runs the job and returns its counts and the statistics of the raw modalities over the training records.

    On one machine the shards are measured while TensorFlow is still being imported and the graph of the pipeline built,
    which takes one core some seconds: the pipeline then finds the statistics in place, as after an interruption.

    Raises:
        JobError: the output cannot be written.
    """
    import apache_beam as beam

    check_runner(options)
    temporary = files.join(config.output, TEMPORARY[0])
    try:
        with (quiet_runner(), explained_failures(config.output),
              shown_progress(PreprocessProgress(config), config.output),
              concurrent.futures.ThreadPoolExecutor(1) as background):
            measuring = background.submit(_run, build_measuring, config, options) if is_local(options) else None
            with quiet_start_up():
                import_transform()
            with analysis_context(config, temporary):
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


def analysis_context(config: JobConfig, temporary: str) -> contextlib.AbstractContextManager:
    """Where tf.Transform's own analyzers, which only PCA needs, keep their intermediate results."""
    if not config.transform.pca_dims:
        return contextlib.nullcontext()
    import tensorflow_transform.beam as tft_beam

    return tft_beam.Context(temp_dir=temporary)


def _run(build: Callable[[Any, JobConfig], Any], config: JobConfig, options: Any) -> None:
    import apache_beam as beam

    with beam.Pipeline(options=options) as pipeline:
        build(pipeline, config)
