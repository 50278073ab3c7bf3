"""Trunks of the frame-level models: (B, T, D) frames and their mask to (B, F) features that a classifier reads."""

from typing import Any

import keras
from keras import KerasTensor

from vcls_model.layers import (
    AttentionPool,
    BagOfFrames,
    ClearPadding,
    ContextGating,
    FeatureAttentionPool,
    MaskedConvolution,
    MaxPool,
    MeanPool,
    NetVLAD,
    NeXtVLAD,
    PositionEncoding,
    SqueezeExciteGating,
    TransformerBlock,
)
from vcls_model.models.branch import Branch, batch_norm, hidden_layers


def average_trunk(branch: Branch) -> KerasTensor:
    """Dense layers on every frame, the mean over frames, then dense layers.

    Mean pooling is the frame-level baseline of Abu-El-Haija et al. 2016, "YouTube-8M: A Large-Scale Video
    Classification Benchmark", section 4.1.1. It cannot see the order of frames.
    """
    frames = hidden_layers(branch, branch.features, branch.options["frame_units"], normalised=True, name="frame")
    pooled = MeanPool(name=branch.name("mean"))(frames, branch.frame_mask)
    return hidden_layers(branch, pooled, branch.options["hidden_units"], normalised=True)


def feature_attention_trunk(branch: Branch) -> KerasTensor:
    """Dense layers on every frame, then a weighted mean with weights for every feature.

    Kong et al. 2019, "Weakly Labelled AudioSet Tagging with Attention Neural Networks" (feature-level attention; three
    layers of 1,024 units).
    """
    frames = hidden_layers(branch, branch.features, branch.options["frame_units"], normalised=True, name="frame")
    pooled = FeatureAttentionPool(name=branch.name("attention"))(frames, branch.frame_mask)
    return hidden_layers(branch, pooled, branch.options["hidden_units"], normalised=True)


def _recurrent(cell: str, units: int, **options: Any) -> keras.layers.RNN:
    """A GRU or LSTM layer."""
    layer = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[cell]
    return layer(units, **options)


def cnn_rnn_trunk(branch: Branch) -> KerasTensor:
    """Convolutions over time, then recurrent layers, whose outputs are pooled by maximum and by mean.

    Convolutions below an LSTM: Sainath et al. 2015, "Convolutional, Long Short-Term Memory, Fully Connected Deep Neural
    Networks"; GRU: Cho et al. 2014; LSTM: Hochreiter and Schmidhuber 1997; on videos: Ng et al. 2015, "Beyond Short
    Snippets".
    """
    options, frames, mask = branch.options, branch.features, branch.frame_mask
    for number, filters in enumerate(options["filters"]):
        convolution = MaskedConvolution(
            branch.units(filters), options["kernel_size"], name=branch.name(f"convolution_{number}")
        )
        frames = convolution(frames, mask)
    for number, units in enumerate(options["recurrent_units"]):
        recurrent = _recurrent(
            options["cell"], branch.units(units), return_sequences=True, name=branch.name(f"recurrent_{number}")
        )
        frames = ClearPadding(name=branch.name(f"recurrent_{number}_clear"))(recurrent(frames, mask=mask), mask)
    pooled = [
        MaxPool(name=branch.name("max"))(frames, mask),
        MeanPool(name=branch.name("mean"))(frames, mask),
    ]
    features = keras.layers.Concatenate(name=branch.name("pooled"))(pooled)
    return hidden_layers(branch, features, options["hidden_units"], normalised=True)


def multiscale_cnn_trunk(branch: Branch) -> KerasTensor:
    """Blocks of convolutions of several lengths side by side, reaching twice as far at every block; all blocks are
    pooled.

    Side-by-side lengths with maximum over time: Kim 2014, "Convolutional Neural Networks for Sentence Classification";
    growing dilation: Bai, Kolter and Koltun 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent
    Networks for Sequence Modeling"; a pool at every scale: Wang et al. 2017, "The Monkeytyping Solution to the
    YouTube-8M Video Understanding Challenge".
    """
    options, frames, mask = branch.options, branch.features, branch.frame_mask
    pooled = []
    for block in range(options["blocks"]):
        scales = [
            MaskedConvolution(
                branch.units(options["filters"]), length, 2**block, name=branch.name(f"block_{block}_of_{length}")
            )(frames, mask)
            for length in options["kernel_sizes"]
        ]
        joined = scales[0]
        if len(scales) > 1:
            joined = keras.layers.Concatenate(name=branch.name(f"block_{block}"))(scales)
        if joined.shape[-1] == frames.shape[-1]:
            joined = keras.layers.Add(name=branch.name(f"block_{block}_add"))([joined, frames])
        frames = joined
        pooled.append(MaxPool(name=branch.name(f"block_{block}_max"))(frames, mask))
        pooled.append(MeanPool(name=branch.name(f"block_{block}_mean"))(frames, mask))
    features = keras.layers.Concatenate(name=branch.name("pooled"))(pooled)
    return hidden_layers(branch, features, options["hidden_units"], normalised=True)


def attention_rnn_trunk(branch: Branch) -> KerasTensor:
    """Recurrent layers in both directions, then attention over their outputs.

    Yang et al. 2016, "Hierarchical Attention Networks for Document Classification"; Schuster and Paliwal 1997 for the
    two directions.
    """
    options, frames, mask = branch.options, branch.features, branch.frame_mask
    for number, units in enumerate(options["recurrent_units"]):
        recurrent = _recurrent(options["cell"], branch.units(units), return_sequences=True)
        both = keras.layers.Bidirectional(recurrent, name=branch.name(f"recurrent_{number}"))
        frames = ClearPadding(name=branch.name(f"recurrent_{number}_clear"))(both(frames, mask=mask), mask)
    attention = AttentionPool(branch.units(options["attention_units"]), options["heads"], name=branch.name("attention"))
    return hidden_layers(branch, attention(frames, mask), options["hidden_units"], normalised=True)


def dbof_trunk(branch: Branch) -> KerasTensor:
    """Deep bag of frames, then a hidden layer.

    Abu-El-Haija et al. 2016, "YouTube-8M: A Large-Scale Video Classification Benchmark", section 4.1.2, with the sizes
    and the normalisation of the authors' code.
    """
    options = branch.options
    frames = batch_norm(branch.name("input_norm"))(branch.features, mask=branch.frame_mask)
    bag = BagOfFrames(branch.units(options["clusters"]), name=branch.name("bag"))(frames, branch.frame_mask)
    return hidden_layers(branch, bag, options["hidden_units"], normalised=True, activation="relu6")


def netvlad_trunk(branch: Branch) -> KerasTensor:
    """NetVLAD, a linear layer with batch normalisation, context gating.

    Miech, Laptev and Sivic 2017, "Learnable pooling with Context Gating for video classification" (Gated NetVLAD).
    """
    options = branch.options
    vlad = NetVLAD(branch.units(options["clusters"]), name=branch.name("vlad"))(branch.features, branch.frame_mask)
    features = hidden_layers(branch, vlad, options["hidden_units"], normalised=True, activation="linear")
    return ContextGating(name=branch.name("gating"))(features)


def nextvlad_trunk(branch: Branch) -> KerasTensor:
    """NeXtVLAD with batch normalisation and dropout, a linear layer, squeeze-and-excite gating.

    Lin, Xiao and Fan 2018, "NeXtVLAD: An Efficient Neural Network to Aggregate Frame-level Features for Large-scale
    Video Classification", sections 3.2 and 3.3 and the authors' code. With late fusion the audio branch has half the
    clusters and half the hidden units.
    """
    options = branch.options
    vlad = NeXtVLAD(
        branch.units(options["clusters"]), options["groups"], options["expansion"], name=branch.name("vlad")
    )
    features = batch_norm(branch.name("vlad_norm"))(vlad(branch.features, branch.frame_mask))
    if options["dropout"]:
        features = keras.layers.Dropout(options["dropout"], name=branch.name("vlad_dropout"))(features)
    for number, units in enumerate(options["hidden_units"]):
        dense = keras.layers.Dense(branch.units(units), use_bias=False, name=branch.name(f"hidden_{number}"))
        features = batch_norm(branch.name(f"hidden_{number}_norm"))(dense(features))
        features = SqueezeExciteGating(options["reduction"], name=branch.name(f"hidden_{number}_gating"))(features)
    return features


def transformer_trunk(branch: Branch) -> KerasTensor:
    """A transformer encoder over the frames, then attention over its outputs.

    Vaswani et al. 2017, "Attention Is All You Need" (sizes of its base model); the pool of Yang et al. 2016,
    "Hierarchical Attention Networks for Document Classification".
    """
    options, mask = branch.options, branch.frame_mask
    frames = keras.layers.Dense(branch.units(options["units"]), name=branch.name("projection"))(branch.features)
    frames = PositionEncoding(name=branch.name("position"))(frames)
    for number in range(options["blocks"]):
        block = TransformerBlock(
            options["heads"],
            branch.units(options["inner_units"]),
            options["dropout"],
            name=branch.name(f"block_{number}"),
        )
        frames = block(frames, mask)
    frames = keras.layers.LayerNormalization(epsilon=1e-5, name=branch.name("norm"))(frames)
    return AttentionPool(branch.units(options["units"]), options["heads"], name=branch.name("attention"))(frames, mask)


TRUNKS = {
    "attention_rnn": attention_rnn_trunk,
    "average": average_trunk,
    "cnn_rnn": cnn_rnn_trunk,
    "dbof": dbof_trunk,
    "feature_attention": feature_attention_trunk,
    "multiscale_cnn": multiscale_cnn_trunk,
    "netvlad": netvlad_trunk,
    "nextvlad": nextvlad_trunk,
    "transformer": transformer_trunk,
}
