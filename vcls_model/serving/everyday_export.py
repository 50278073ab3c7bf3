"""The classifiers that came with the encoders' weights as an exported model, which scores records and media files."""

from typing import Any

import tensorflow as tf

from vcls_model import storage
from vcls_model.embedding import EmbeddingConfig
from vcls_model.records.schema import Modality, RecordSchema
from vcls_model.records.vocabulary import write_labels_csv
from vcls_model.serving.combining import LARGEST_LOGIT
from vcls_model.serving.everyday import Everyday, Medium
from vcls_model.serving.export import Features, parse_raw_records, raw_signature, save_module

_NEVER = 1e-35  # a probability below this has no logit in float32


class EverydayModule(tf.Module):
    """Codes of the rows of videos -> logits of the mean probability of every class.

    Args:
        everyday: the classifiers.
        schema: of the records; at frame level, made by their encoders.
    """

    def __init__(self, everyday: Everyday, schema: RecordSchema) -> None:
        super().__init__()
        self._everyday = everyday
        self._schema = schema
        self.weights = {name: tf.Variable(head.weights, trainable=False) for name, head in everyday.heads.items()}
        self.biases = {name: tf.Variable(head.bias, trainable=False) for name, head in everyday.heads.items()}

    def logits(self, raw: Features) -> tf.Tensor:
        """Logits (B, C) of the codes of all rows of each video, string (B,) by modality."""
        mediums: tuple[Medium, ...] = ("picture", "sound")
        parts = [
            self._logits_of(medium, modality, raw[modality.name])
            for medium, modality in zip(mediums, self._schema.modalities, strict=True)
        ]
        return tf.concat(parts, axis=1)

    def _logits_of(self, medium: Medium, modality: Modality, strings: tf.Tensor) -> tf.Tensor:
        rows = tf.strings.length(strings) // modality.width
        longest = tf.maximum(tf.reduce_max(tf.concat([rows, [1]], 0)), 1)
        codes = tf.io.decode_raw(strings, tf.uint8, fixed_length=longest * modality.width)
        codes = tf.reshape(codes, tf.stack([tf.shape(strings)[0], longest, modality.width]))
        # No encoder gives nothing but its lowest code: such rows stand for a medium that a video does not have.
        present = tf.sequence_mask(rows, longest) & tf.reduce_any(codes > 0, axis=2)
        values = modality.quantisation.values(tf.cast(codes, tf.float32))
        logits = tf.matmul(values, self.weights[medium]) + self.biases[medium]
        softmax = self._everyday.heads[medium].activation == "softmax"
        each = tf.nn.softmax(logits) if softmax else tf.sigmoid(logits)
        counts = tf.reduce_sum(tf.cast(present, tf.float32), axis=1, keepdims=True)
        total = tf.reduce_sum(tf.where(present[:, :, tf.newaxis], each, 0.0), axis=1)
        mean = total / tf.maximum(counts, 1.0)
        logit = tf.math.log(tf.maximum(mean, _NEVER)) - tf.math.log(tf.maximum(1 - mean, 1e-7))
        return tf.maximum(logit, -LARGEST_LOGIT)

    def signatures(self) -> dict[str, Any]:
        """`features` takes the raw features of videos, `serving_default` serialized records."""

        def serve(serialized: tf.Tensor) -> Features:
            return {"logits": self.logits(parse_raw_records(serialized, self._schema))}

        def serve_features(**raw: tf.Tensor) -> Features:
            return {"logits": self.logits(raw)}

        return {
            "features": tf.function(serve_features).get_concrete_function(**raw_signature(self._schema)),
            "serving_default": tf.function(serve).get_concrete_function(
                tf.TensorSpec([None], tf.string, name="serialized")
            ),
        }


def export_everyday(everyday: Everyday, config: EmbeddingConfig, output: str) -> dict[str, Any]:
    """Writes the model directory; returns the content of its `info.json`, which is written last.

    Args:
        everyday: the classifiers.
        config: of both encoders, at frame level.
        output: directory, empty or absent.
    """
    schema = config.schema(len(everyday.classes))
    module = EverydayModule(everyday, schema)
    save_module(module, module.signatures(), output)
    storage.write_text(storage.join(output, "labels.csv"), write_labels_csv(everyday.classes))
    info = {
        "schema": schema.to_dict(),
        "split": {},
        "class_count": len(everyday.classes),
        "model": {
            "name": "everyday",
            "hyperparameters": {},
            "parameter_count": sum(head.weights.size + head.bias.size for head in everyday.heads.values()),
        },
        "data": {},
        "versions": {"tensorflow": tf.__version__},
    }
    storage.write_json(storage.join(output, "info.json"), info)
    return info
