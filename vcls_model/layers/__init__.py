"""Keras 3 layers on `keras.ops`, for TensorFlow, JAX and PyTorch. Importing this registers them for loading."""

from vcls_model.layers.clusters import BagOfFrames, NetVLAD, NeXtVLAD
from vcls_model.layers.gating import ContextGating, L2Normalise, ScoreGating, SqueezeExciteGating
from vcls_model.layers.label_graph import LabelGraphHead
from vcls_model.layers.label_vectors import LabelVectorScores
from vcls_model.layers.masking import ClearPadding, FrameMask, RepeatOverFrames
from vcls_model.layers.members import MeanOfMembers
from vcls_model.layers.mixture import MixtureOfExperts
from vcls_model.layers.neighbours import MemoryKey, NeighbourVote, SharedNeighbourVote, without_votes
from vcls_model.layers.pooling import AttentionPool, FeatureAttentionPool, MaxPool, MeanPool
from vcls_model.layers.presence import (
    AnyPresent,
    KeepPresent,
    MeanOfPresent,
    PresenceTable,
    PresentFrames,
    RescalePresent,
)
from vcls_model.layers.projection import LabelProjection, PresentProjection
from vcls_model.layers.temporal import MaskedConvolution, PositionEncoding, TransformerBlock
from vcls_model.layers.text_bag import LineBags, TextBag
from vcls_model.layers.unit_input import UnitInput, unit_inputs

__all__ = [
    "AnyPresent",
    "AttentionPool",
    "BagOfFrames",
    "ClearPadding",
    "ContextGating",
    "FeatureAttentionPool",
    "FrameMask",
    "KeepPresent",
    "L2Normalise",
    "LabelGraphHead",
    "LabelProjection",
    "LabelVectorScores",
    "LineBags",
    "MaskedConvolution",
    "MaxPool",
    "MeanOfMembers",
    "MeanOfPresent",
    "MeanPool",
    "MemoryKey",
    "MixtureOfExperts",
    "NeXtVLAD",
    "NeighbourVote",
    "NetVLAD",
    "PositionEncoding",
    "PresenceTable",
    "PresentFrames",
    "PresentProjection",
    "RepeatOverFrames",
    "RescalePresent",
    "ScoreGating",
    "SharedNeighbourVote",
    "SqueezeExciteGating",
    "TextBag",
    "TransformerBlock",
    "UnitInput",
    "unit_inputs",
    "without_votes",
]
