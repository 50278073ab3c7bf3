"""The tokenisers of a job: texts are transformed by kernels, whatever is done with the other modalities."""

from pipelines.preprocessing.config import TransformConfig
from pipelines.preprocessing.statistics import Fitted
from vcls_model.records.text import DocumentCounts, Tokeniser


def tokenisers_of(config: TransformConfig, statistics: Fitted) -> dict[str, Tokeniser]:
    """A tokeniser for each text modality, from the statistics of the training records."""
    timed = {modality.name for modality in config.schema.texts if modality.timed}
    return {
        name: Tokeniser(config.text_options, counts.weights(config.text_options), lines=name in timed)
        for name, counts in statistics.items()
        if isinstance(counts, DocumentCounts)
    }
