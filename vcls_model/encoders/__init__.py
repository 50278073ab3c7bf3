"""Pretrained encoders: pixels and waveforms to the rows of a record, titles to one vector.

An encoder is named (`efficientnet-lite2`, `efficientnet-lite0`, `yamnet`) or given by the path of a model of the user's
own (docs/ENCODERS.md). Beam is never needed, TensorFlow only for models of the user's own that are not ONNX.

Example:
    >>> encoder = load_encoder("efficientnet-lite2", "picture")
    >>> batch = np.stack([encoder.info.input.prepare(picture) for picture in pictures])  # (N, 260, 260, 3) uint8
    >>> encoder.encode_codes(batch)  # (N, 1280) uint8
"""

from vcls_model.encoders.catalogue import (
    AUDIO_ENCODERS,
    DEFAULT_AUDIO_ENCODER,
    DEFAULT_IMAGE_ENCODER,
    ENCODERS,
    IMAGE_ENCODERS,
    encoder_info,
    heads,
    load_encoder,
)
from vcls_model.encoders.codes import dequantise, quantise
from vcls_model.encoders.encoder import Encoder, EncoderInfo, PretrainedHead, TextInput
from vcls_model.encoders.pictures import PictureInput
from vcls_model.encoders.sentences import load_text_encoder, text_encoder_info
from vcls_model.encoders.sounds import SAMPLE_RATE, SoundInput

__all__ = [
    "AUDIO_ENCODERS",
    "DEFAULT_AUDIO_ENCODER",
    "DEFAULT_IMAGE_ENCODER",
    "ENCODERS",
    "IMAGE_ENCODERS",
    "SAMPLE_RATE",
    "Encoder",
    "EncoderInfo",
    "PretrainedHead",
    "PictureInput",
    "SoundInput",
    "TextInput",
    "dequantise",
    "encoder_info",
    "heads",
    "load_encoder",
    "load_text_encoder",
    "quantise",
    "text_encoder_info",
]
