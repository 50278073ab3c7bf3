"""Running the pipeline: temporary directories, what goes wrong on the way, and the counts at the end."""

import contextlib
from collections.abc import Callable
from typing import Any

from pipelines.preprocessing.config import JobConfig
from pipelines.preprocessing.job import TEMPORARY, moments_path, summary_path
from pipelines.preprocessing.manifests import Summary
from pipelines.preprocessing.moments import Moments, moments_from_json
from pipelines.preprocessing.progress import PreprocessProgress
from pipelines.preprocessing.transform.background import GraphWriter
from pipelines.preprocessing.transform.lean_import import import_transform
from pipelines.running.failures import explained_failures, quick_handover, quiet_runner
from pipelines.running.progress import shown_progress
from pipelines.running.runners import check_runner
from vcls_model import storage


def execute(
    config: JobConfig, options: Any, build_pipeline: Callable[[Any, JobConfig], None], writer: GraphWriter
) -> tuple[Summary, dict[str, Moments]]:
    """Runs the job and returns its counts and the statistics of the raw modalities over the training records.

    Raises:
        JobError: the output cannot be written.
    """
    import apache_beam as beam

    check_runner(options)
    temporary = storage.join(config.output, TEMPORARY[0])
    try:
        with (
            explained_failures(config.output),
            quiet_runner(),
            quick_handover(),
            shown_progress(PreprocessProgress(config), config.output),
        ):
            if config.transform.is_affine:
                writer.start(moments_path(config), config.transform, config.output, options)
            else:
                import_transform()
            with analysis_context(config, temporary):
                pipeline = beam.Pipeline(options=options)
                build_pipeline(pipeline, config)
                pipeline.run().wait_until_finish()
            if config.transform.is_affine:
                writer.finish()
    finally:
        for name in TEMPORARY:
            storage.delete(storage.join(config.output, name))
    return (
        Summary.from_bytes(storage.read_bytes(summary_path(config))),
        moments_from_json(storage.read_bytes(moments_path(config))),
    )


def analysis_context(config: JobConfig, temporary: str) -> contextlib.AbstractContextManager:
    """Where tf.Transform's own analyzers, which only PCA needs, keep their intermediate results."""
    if not config.transform.pca_dims:
        return contextlib.nullcontext()
    import tensorflow_transform.beam as tft_beam

    return tft_beam.Context(temp_dir=temporary)
