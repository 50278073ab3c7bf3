"""What surrounds the pipeline of a scoring job."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipelines.running.pipeline import running_pipeline
from pipelines.running.runners import is_local
from pipelines.scoring.planning import Group
from pipelines.scoring.progress import ScoreProgress, forget_notes
from vcls_model.quiet import start_tensorflow

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions


@contextlib.contextmanager
def running_groups(output: str, groups: Sequence[Group], options: "PipelineOptions") -> "Iterator[beam.Pipeline]":
    """An empty pipeline for the block to fill; it runs, and is waited for, when the block ends.

    Args:
        output: the scores directory.
        groups: what the pipeline will score, for the progress line.
        options: Beam's.

    Raises:
        UsageError, JobError: see `running_pipeline`.
    """
    if is_local(options):
        start_tensorflow()  # the workers' threads would import it a moment later
    # RunInference warns, for every process, that it cannot measure memory where PyTorch is not installed.
    logging.getLogger().addFilter(_is_worth_showing)
    forget_notes(output)
    try:
        with running_pipeline(options, output, ScoreProgress(output, groups)) as pipeline:
            yield pipeline
    finally:
        forget_notes(output)
        logging.getLogger().removeFilter(_is_worth_showing)


def _is_worth_showing(record: logging.LogRecord) -> bool:
    return "Resource module is not available" not in record.getMessage()
