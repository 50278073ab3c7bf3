"""Keras 3 layers on `keras.ops`, for TensorFlow, JAX and PyTorch. Importing this registers them for loading."""

from vcls_model.layers.clusters import BagOfFrames, NetVLAD, NeXtVLAD
from vcls_model.layers.gating import ContextGating, L2Normalise, ScoreGating, SqueezeExciteGating
from vcls_model.layers.label_graph import LabelGraphHead
from vcls_model.layers.label_vectors import LabelVectorScores
from vcls_model.layers.masking import ClearPadding, FrameMask, RepeatOverFrames
from vcls_model.layers.members import MeanOfMembers
from vcls_model.layers.mixture import MixtureOfExperts
from vcls_model.layers.neighbours import MemoryKey, NeighbourVote, without_votes
from vcls_model.layers.pooling import AttentionPool, FeatureAttentionPool, MaxPool, MeanPool
from vcls_model.layers.projection import LabelProjection
from vcls_model.layers.temporal import MaskedConvolution, PositionEncoding, TransformerBlock
from vcls_model.layers.unit_input import UnitInput, unit_inputs

__all__ = [
    "AttentionPool",
    "BagOfFrames",
    "ClearPadding",
    "ContextGating",
    "FeatureAttentionPool",
    "FrameMask",
    "L2Normalise",
    "LabelGraphHead",
    "LabelProjection",
    "LabelVectorScores",
    "MaskedConvolution",
    "MaxPool",
    "MeanOfMembers",
    "MeanPool",
    "MemoryKey",
    "MixtureOfExperts",
    "NeXtVLAD",
    "NeighbourVote",
    "NetVLAD",
    "PositionEncoding",
    "RepeatOverFrames",
    "ScoreGating",
    "SqueezeExciteGating",
    "TransformerBlock",
    "UnitInput",
    "unit_inputs",
    "without_votes",
]
