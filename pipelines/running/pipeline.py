"""Running a job's pipeline: what every job puts around it."""

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.running.failures import explained_failures
from pipelines.running.loopback import bind_to_loopback
from pipelines.running.progress import Progress, shown_progress
from pipelines.running.quiet import quiet_runner
from pipelines.running.whole_elements import send_whole_elements

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions


@contextlib.contextmanager
def running_pipeline(
    options: "PipelineOptions",
    output: str,
    progress: Progress,
    around: contextlib.AbstractContextManager[None] | None = None,
) -> "Iterator[beam.Pipeline]":
    """An empty pipeline for the block to fill; it runs, and is waited for, when the block ends.

    Args:
        options: Beam's; the caller has checked that its runner can be reached.
        output: the job's output directory, for messages.
        progress: shown while the pipeline runs.
        around: entered before the pipeline is made and left after it ran; its errors are explained like a worker's.

    Raises:
        UsageError, JobError: a worker failed for a reason that the user can act on.
    """
    import apache_beam as beam

    with (
        explained_failures(output),
        quiet_runner(),
        shown_progress(progress, output),
        around or contextlib.nullcontext(),
    ):
        bind_to_loopback()
        send_whole_elements()
        gc.freeze()  # what is loaded stays: one look through it would take up to 0.9 s of the run
        pipeline = beam.Pipeline(options=options)
        yield pipeline
        pipeline.run().wait_until_finish()
