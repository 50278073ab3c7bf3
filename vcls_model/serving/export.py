"""Writes a trained model with the transform graph inside, so that serving cannot drift from training.

`TFTransformOutput.transform_features_layer()` is a Keras 2 object that a Keras 3 model would silently lose at export,
so the transform graph and the model are held side by side by a `tf.Module`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.input.dataset import decode_features
from vcls_model.layers import NeighbourVote, without_votes
from vcls_model.records.schema import DEQUANTISE_OFFSET, DEQUANTISE_SCALE, FRAMES, RecordSchema
from vcls_model.records.transformed import TransformedModality

Features = dict[str, tf.Tensor]


def parse_raw_records(serialized: tf.Tensor, schema: RecordSchema) -> Features:
    """Raw features, without id and labels, of serialized records.

    Args:
        serialized: string (B,), `tf.train.Example` or `tf.train.SequenceExample` as the schema says.
        schema: the layout of the records.

    Returns:
        A dict of `<name>` float32 (B, D) for video-level modalities, or one string (B,) for frame-level ones: the
        codes of all frames, one after the other.

    Raises:
        JobError: records of this schema cannot be serialized (CSV).
    """
    if not schema.has_frames:
        spec: dict[str, Any] = {}
        for modality in schema.modalities:
            if modality.encoding == "float32":
                spec[modality.name] = tf.io.FixedLenFeature([modality.width], tf.float32)
            else:
                spec[modality.name] = tf.io.FixedLenFeature([], tf.string)
        parsed = tf.io.parse_example(serialized, spec)
        for modality in schema.modalities:
            if modality.encoding != "float32":
                codes = tf.io.decode_raw(parsed[modality.name], tf.uint8, fixed_length=modality.width)
                parsed[modality.name] = _dequantise(tf.ensure_shape(codes, [None, modality.width]))
        return parsed
    frames = {modality.name: tf.io.RaggedFeature(tf.string) for modality in schema.modalities}
    if schema.container == "sequence_example":
        _, parsed, _ = tf.io.parse_sequence_example(serialized, sequence_features=frames)
        parsed = {name: value.merge_dims(1, 2) for name, value in parsed.items()}  # a frame is a list of one string
    else:
        parsed = tf.io.parse_example(serialized, frames)
    return {name: tf.strings.reduce_join(value, axis=1) for name, value in parsed.items()}


def _dequantise(codes: tf.Tensor) -> tf.Tensor:
    return tf.cast(codes, tf.float32) * DEQUANTISE_SCALE + DEQUANTISE_OFFSET


class TransformGraph(tf.Module):
    """The graph that tf.Transform wrote, from raw features to transformed ones.

    Args:
        directory: the transformed dataset (it holds `transform_fn/`).
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        import tensorflow_transform as tft
        from tensorflow_transform.saved import saved_transform_io_v2

        try:
            output = tft.TFTransformOutput(directory)
            loader = saved_transform_io_v2.SavedModelLoader(output.transform_savedmodel_dir)
        except (OSError, ValueError) as error:
            raise JobError(f"{directory} holds no transform graph that can be loaded: {error}") from None
        self._loader = loader
        # Tracked one by one: what the loader holds would be missing from a SavedModel otherwise.
        self.tracked = [
            value for value in vars(loader).values() if isinstance(value, tf.__internal__.tracking.Trackable)
        ]

    def __call__(self, raw: Features) -> Features:
        """Transforms a batch; outputs that need a feature that is not in `raw` are left out."""
        return dict(self._loader.apply_transform_model(raw))


class ServingModule(tf.Module):
    """A model behind its transform graph, with the signatures of an exported model.

    Args:
        logits: takes a batch of decoded transformed features, returns logits (B, C).
        schema: of the raw records.
        modalities: the transformed features that `logits` takes.
        transform: from raw to transformed features.
        tracked: what `logits` holds variables in.
        max_frames: frames of a video that the model sees.
        frames: which those are: `all` (the first), `middle` or `uniform`, as `ReadOptions` has them.
        teaching: likewise `logits`, for a student's training videos; None when `logits` may be asked about them.
    """

    def __init__(
        self,
        logits: Callable[[Features], tf.Tensor],
        schema: RecordSchema,
        modalities: Sequence[TransformedModality],
        transform: TransformGraph,
        tracked: Sequence[Any],
        *,
        max_frames: int = 300,
        frames: str = "all",
        teaching: Callable[[Features], tf.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self._logits = logits
        self._schema = schema
        self._modalities = tuple(modalities)
        self._max_frames = max_frames
        self._frames = frames
        self._teaching = teaching
        self.transform = transform
        self.tracked = list(tracked)

    def logits_of_features(self, raw: Features) -> tf.Tensor:
        """Logits (B, C) of raw features."""
        transformed = self.transform(raw)
        features = {modality.name: transformed[modality.name] for modality in self._modalities}
        frames = [modality for modality in self._modalities if modality.kind == FRAMES]
        if frames:
            held = tf.cast(transformed["num_frames"], tf.int32)
            counts = tf.minimum(held, self._max_frames)
            features["num_frames"] = counts
            decoded = counts if self._frames == "all" else held
            longest = tf.maximum(tf.reduce_max(tf.concat([decoded, [1]], 0)), 1)
            for modality in frames:
                codes = tf.io.decode_raw(features[modality.name], tf.uint8, fixed_length=longest * modality.width)
                codes = tf.reshape(codes, tf.stack([tf.shape(codes)[0], longest, modality.width]))
                if self._frames != "all":
                    codes = tf.gather(codes, _chosen_frames(held, counts, self._frames), axis=1, batch_dims=1)
                features[modality.name] = tf.ensure_shape(codes, [None, None, modality.width])
        return self.logits_of_transformed(decode_features(features, self._modalities))

    def logits_of_transformed(self, features: Features) -> tf.Tensor:
        """Logits (B, C) of transformed features as the model takes them."""
        return tf.cast(self._logits(features), tf.float32)

    def signatures(self) -> dict[str, Any]:
        """Concrete functions: `serving_default` takes serialized records, `features` raw features, `transformed`
        transformed and decoded ones, `teaching` (where it differs) the same; each returns
        `{"logits": float32 (B, C)}`."""

        def serve(serialized: tf.Tensor) -> Features:
            return {"logits": self.logits_of_features(parse_raw_records(serialized, self._schema))}

        def serve_features(**raw: tf.Tensor) -> Features:
            return {"logits": self.logits_of_features(raw)}

        def serve_transformed(**features: tf.Tensor) -> Features:
            return {"logits": self.logits_of_transformed(features)}

        functions = {
            "features": tf.function(serve_features).get_concrete_function(**raw_signature(self._schema)),
            "transformed": tf.function(serve_transformed).get_concrete_function(
                **transformed_signature(self._modalities)
            ),
        }
        if self._teaching is not None:
            teach = self._teaching
            functions["teaching"] = tf.function(
                lambda **features: {"logits": tf.cast(teach(features), tf.float32)}
            ).get_concrete_function(**transformed_signature(self._modalities))
        if self._schema.container != "csv":
            functions["serving_default"] = tf.function(serve).get_concrete_function(
                tf.TensorSpec([None], tf.string, name="serialized")
            )
        else:
            functions["serving_default"] = functions["features"]
        return functions


def _chosen_frames(held: tf.Tensor, counts: tf.Tensor, frames: str) -> tf.Tensor:
    """Positions int32 (B, K) of the frames to see, as `record_kernels.choose_frames` has them; filled with the last."""
    step = tf.range(tf.maximum(tf.reduce_max(tf.concat([counts, [1]], 0)), 1))[tf.newaxis]
    held, counts = held[:, tf.newaxis], counts[:, tf.newaxis]
    middles = (2 * step + 1) * held // tf.maximum(2 * counts, 1)
    chosen = middles if frames == "uniform" else (held - counts) // 2 + step
    return tf.clip_by_value(chosen, 0, tf.maximum(held - 1, 0))


def teaching_logits(model: keras.Model) -> Callable[[Features], tf.Tensor] | None:
    """What `model` says without asking the videos that it remembers; None when it remembers none.

    A student trains on the very videos that are in the memory, and each of them is its own nearest neighbour.
    """
    if not any(isinstance(layer, NeighbourVote) for layer in model.layers):
        return None

    def teach(features: Features) -> tf.Tensor:
        with without_votes():
            return model(features, training=False)

    return teach


def raw_signature(schema: RecordSchema) -> dict[str, tf.TensorSpec]:
    """The arguments of the signature `features`."""
    return {
        modality.name: (
            tf.TensorSpec([None], tf.string, name=modality.name)
            if modality.kind == FRAMES
            else tf.TensorSpec([None, modality.width], tf.float32, name=modality.name)
        )
        for modality in schema.modalities
    }


def transformed_signature(modalities: Sequence[TransformedModality]) -> dict[str, tf.TensorSpec]:
    """The arguments of the signature `transformed`."""
    specs = {
        modality.name: tf.TensorSpec(
            [None, None, modality.width] if modality.kind == FRAMES else [None, modality.width],
            tf.float32,
            name=modality.name,
        )
        for modality in modalities
    }
    if any(modality.kind == FRAMES for modality in modalities):
        specs["num_frames"] = tf.TensorSpec([None], tf.int32, name="num_frames")
    return specs


def save_module(module: tf.Module, signatures: Mapping[str, Any], output: str) -> None:
    """Writes `saved_model/` of an exported model directory; replaces an older one."""
    final = storage.join(output, "saved_model")
    temporary = storage.join(output, "saved_model.tmp")
    for path in (temporary, final):
        if storage.exists(path):
            tf.io.gfile.rmtree(path)
    tf.saved_model.save(module, temporary, signatures=dict(signatures))
    tf.io.gfile.rename(temporary, final)


def open_model_info(directory: str) -> Mapping[str, Any]:
    """The `info.json` of an exported model.

    Raises:
        JobError: the directory holds no finished model.
    """
    path = storage.join(directory, "info.json")
    if not storage.exists(path) or not storage.exists(storage.join(directory, "saved_model")):
        raise JobError(f"{directory} is not a finished model: python -m vcls_model.train writes info.json last")
    info = storage.read_json(path)
    if not isinstance(info, dict) or "model" not in info or "class_count" not in info:
        raise JobError(f"{path} does not describe a model; is it the directory that vcls_model.train wrote?")
    return info
