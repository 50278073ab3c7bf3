"""How a job comes by its transform graph: beside the pipeline, in it, or with PCA by tf.Transform's own analysis."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import apache_beam as beam

from pipelines.preprocessing.config import JobConfig
from pipelines.preprocessing.steps import moments_of
from pipelines.preprocessing.transform.background import graph_in_background
from pipelines.preprocessing.transform.graph import write_transform
from vcls_model.quiet import start_tensorflow

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def fit_graph(shards: beam.PCollection, fitted: beam.PCollection, config: JobConfig) -> beam.PCollection:
    """The directory of the transform graph, for workers that need it.

    Args:
        shards: all of the job.
        fitted: one element, `FittedStatistics`.
        config: a job that is not affine.
    """
    moments = fitted | "Moments" >> beam.Map(moments_of)
    if not config.transform.pca_dims:
        return moments | "FitTransform" >> beam.Map(write_transform, config.transform, config.output)
    import tensorflow_transform.beam as tft_beam

    from pipelines.preprocessing.transform.pca import FitTransform, ReadTrainingBatches

    training = shards | "TrainingBatches" >> beam.ParDo(ReadTrainingBatches(config.transform))
    transform_fn = training | "FitTransform" >> FitTransform(config.transform, moments)
    transform_fn | "WriteTransformFn" >> tft_beam.WriteTransformFn(config.output)
    return transform_fn[0]


@contextlib.contextmanager
def graph_context(config: JobConfig, options: "PipelineOptions") -> Iterator[None]:
    """What the graph needs around the pipeline, see `running_pipeline`."""
    if config.transform.is_affine:
        with graph_in_background(config, options):
            yield
        return
    start_tensorflow()  # the workers' threads would import it a moment later, less quietly
    if not config.transform.pca_dims:
        yield
        return
    from pipelines.preprocessing.transform.pca import analysis_directories

    with analysis_directories(config):
        yield
