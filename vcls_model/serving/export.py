"""Writes a trained model with the transform graph inside, so that serving cannot drift from training.

`TFTransformOutput.transform_features_layer()` is a Keras 2 object that a Keras 3 model would silently lose at export,
so the transform graph and the model are held side by side by a `tf.Module`.

In every signature, a modality that a video lacks is a vector of NaN, frames of NaN, or an empty string: a client that
knows nothing of it sends what it always sent.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vcls_model import storage
from vcls_model.input.dataset import decode_features
from vcls_model.layers import NeighbourVote, without_votes
from vcls_model.records.decoding import filling
from vcls_model.records.schema import FRAMES, TEXT, RecordSchema
from vcls_model.records.text import LINE_SHIFT
from vcls_model.records.transformed import TransformedModality, presence_name, sources_of
from vcls_model.saved_models import graph_errors
from vcls_model.serving.exported import CODES_SIGNATURE, FEATURES_SIGNATURE, SAVED_MODEL, TABLES_SIGNATURE

Features = dict[str, tf.Tensor]


def parse_raw_records(serialized: tf.Tensor, schema: RecordSchema, *, may_lack: bool = False) -> Features:
    """Raw features, without id and labels, of serialized records.

    Args:
        serialized: string (B,), `tf.train.Example` or `tf.train.SequenceExample` as the schema says.
        schema: the layout of the records.
        may_lack: a record may lack modalities; else it is an error, but for frames.

    Returns:
        A dict of `<name>`: float32 (B, D) for a vector; for frames string (B,), the bytes of all frames of a video,
        one after the other: codes, or float32; for a text string (B,), its values joined by blanks, or of a text of
        each second by line ends. NaN, or an empty string, where the record lacks it.

    Raises:
        JobError: records of this schema cannot be serialized (CSV).
    """
    vectors: dict[str, Any] = {
        modality.source: tf.io.FixedLenFeature(
            [modality.width], tf.float32, [math.nan] * modality.width if may_lack else None
        )
        if modality.encoding == "float32"
        else tf.io.FixedLenFeature([], tf.string, b"" if may_lack else None)
        for modality in schema.modalities
        if modality.kind not in (FRAMES, TEXT)
    }
    listed = {each.name for each in schema.texts if each.timed and schema.container == "sequence_example"}
    vectors |= {each.source: tf.io.RaggedFeature(tf.string) for each in schema.texts if each.name not in listed}
    frames = {
        modality.source: tf.io.RaggedFeature(
            tf.float32 if modality.kind == FRAMES and not modality.coded else tf.string
        )
        for modality in schema.modalities
        if modality.kind == FRAMES or modality.name in listed
    }
    if schema.container == "sequence_example":
        context, lists, _ = tf.io.parse_sequence_example(
            serialized, context_features=vectors or None, sequence_features=frames or None
        )
        texts = {each.source for each in schema.texts}
        # A frame is a list of one string, or of D values.
        lists = {name: _lines(value) if name in texts else value.merge_dims(1, 2) for name, value in lists.items()}
        parsed = {**context, **lists}
    else:
        parsed = tf.io.parse_example(serialized, {**vectors, **frames})
    parsed = {modality.name: parsed[modality.source] for modality in schema.modalities}
    for modality in schema.modalities:
        if modality.kind == TEXT:
            join = _joined_lines if modality.timed else _joined_values
            parsed[modality.name] = join(parsed[modality.name])
        elif modality.coded:
            parsed[modality.name] = tf.strings.reduce_join(parsed[modality.name], axis=1)
        elif modality.kind == FRAMES:
            parsed[modality.name] = tf.map_fn(_as_bytes, parsed[modality.name], fn_output_signature=tf.string)
        elif modality.encoding != "float32":
            strings = parsed[modality.name]
            codes = tf.io.decode_raw(strings, tf.uint8, fixed_length=modality.width)
            codes = tf.cast(tf.ensure_shape(codes, [None, modality.width]), tf.float32)
            held = tf.strings.length(strings)[:, tf.newaxis] > 0
            parsed[modality.name] = tf.where(held, modality.quantisation.values(codes), math.nan)
    return parsed


def _lines(texts: tf.RaggedTensor) -> tf.RaggedTensor:
    """The text of each second, ragged (B, T), of lists of strings (B, T, …)."""
    joined = tf.strings.reduce_join(texts, axis=2, separator=" ")
    return joined.with_flat_values(tf.strings.regex_replace(joined.flat_values, "\n", " "))


def _joined_values(texts: tf.RaggedTensor) -> tf.Tensor:
    """Texts (B, N) as one each, (B,)."""
    return tf.strings.reduce_join(texts, axis=1, separator=" ")


def _joined_lines(texts: tf.RaggedTensor) -> tf.Tensor:
    """Texts (B, T) as lines, (B,). Between empty strings `reduce_join` would leave out separators."""
    begun = texts.with_flat_values(tf.strings.join(["\n", texts.flat_values]))
    return tf.strings.regex_replace(tf.strings.reduce_join(begun, axis=1), r"\A\n", "")


def _as_bytes(values: tf.Tensor) -> tf.Tensor:
    """Float32 (N,) as one byte string: the last bytes of the serialized tensor; `decode_raw` has no inverse."""
    size = 4 * tf.size(values)
    return tf.strings.substr(tf.io.serialize_tensor(values), -size, size)


class EmbeddedTransform(tf.Module):
    """The graph that tf.Transform wrote, from raw features to transformed ones.

    Args:
        directory: the transformed dataset (it holds `transform_fn/`).
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        import tensorflow_transform as tft
        from tensorflow_transform.saved import saved_transform_io_v2

        with (
            storage.local_copy(directory) as local,
            graph_errors(f"{directory} holds no transform graph that can be loaded"),
        ):
            output = tft.TFTransformOutput(local)
            storage.refuse_devices_below(output.transform_savedmodel_dir)
            loader = saved_transform_io_v2.SavedModelLoader(output.transform_savedmodel_dir)
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
        frames: which those are: `all` (the first), `middle` or `uniform`, as `InputOptions` defines them.
        teaching: the same as `logits` for the training videos of a student; None when `logits` serves for these, too.
        presence: `logits` takes the presence of each modality, too.
    """

    def __init__(
        self,
        logits: Callable[[Features], tf.Tensor],
        schema: RecordSchema,
        modalities: Sequence[TransformedModality],
        transform: EmbeddedTransform,
        tracked: Sequence[Any],
        *,
        max_frames: int = 300,
        frames: str = "all",
        teaching: Callable[[Features], tf.Tensor] | None = None,
        presence: bool = False,
    ) -> None:
        super().__init__()
        others = [modality for modality in modalities if modality.kind != TEXT]
        self._sources = sources_of(others, schema) if presence else {}  # a text that is missing is empty
        self._logits = logits
        self._schema = schema
        self._modalities = tuple(modalities)
        self._max_frames = max_frames
        self._frames = frames
        self._teaching = teaching
        self._frame_modalities = [modality for modality in modalities if modality.kind == FRAMES]
        self._timed = [modality for modality in modalities if modality.timed]
        self.transform = transform
        self.tracked = list(tracked)

    def logits_of_features(self, raw: Features) -> tf.Tensor:
        """Logits (B, C) of raw features."""
        if self._sources:
            raw = _aligned(raw, self._schema)
        transformed = self.transform(raw)
        features = {modality.name: _dense(transformed[modality.name]) for modality in self._modalities}
        self._note_presence(features, raw)
        if not self._frame_modalities:
            return self._logits_of(decode_features(features, self._modalities))
        held = tf.cast(transformed["num_frames"], tf.int32)
        decoded = tf.minimum(held, self._max_frames) if self._frames == "all" else held
        longest = tf.maximum(tf.reduce_max(tf.concat([decoded, [1]], 0)), 1)
        for modality in self._frame_modalities:
            codes = tf.io.decode_raw(features[modality.name], tf.uint8, fixed_length=longest * modality.width)
            features[modality.name] = tf.reshape(codes, tf.stack([tf.shape(codes)[0], longest, modality.width]))
        return self._logits_of_frames(features, held)

    def logits_of_codes(self, features: Features) -> tf.Tensor:
        """Logits (B, C) of raw vectors and of frames whose codes went through `code_tables`.

        Of a model that takes presence, `has_<name>` float32 (B,) says of frames, and NaN of vectors, what is missing.
        """
        held = self._with_seconds(features["num_frames"], features)
        vectors = [modality.name for modality in self._modalities if modality.kind != FRAMES]
        transformed = self.transform({name: features[name] for name in vectors}) if vectors else {}
        longest = tf.maximum(tf.reduce_max(held), 1)
        if self._frames == "all":
            longest = tf.minimum(longest, self._max_frames)
        frames = {each.name: self._of_length(features[each.name], longest) for each in self._frame_modalities}
        chosen = {**{name: _dense(transformed[name]) for name in vectors}, **frames}
        self._note_presence(chosen, features)
        return self._logits_of_frames(chosen, held)

    def _with_seconds(self, held: tf.Tensor, raw: Features) -> tf.Tensor:
        """Frames of each video, int32 (B,): of one without any the lines of its texts, see `RawBatch.frame_counts`."""
        lines = [
            tf.where(tf.strings.length(raw[text.name]) > 0, tf.strings.split(raw[text.name], "\n").row_lengths(), 0)
            for text in self._timed
        ]
        return tf.where(held > 0, held, tf.cast(functools.reduce(tf.maximum, lines), tf.int32)) if lines else held

    def _of_length(self, codes: tf.Tensor, longest: tf.Tensor) -> tf.Tensor:
        """Codes uint8 (B, T, D) cut to `longest` frames, and filled up to as many where texts may need them."""
        if self._timed:
            lacking = tf.maximum(longest - tf.shape(codes)[1], 0)
            codes = tf.pad(codes, [[0, 0], [0, lacking], [0, 0]])
        return codes[:, :longest]

    def _note_presence(self, features: Features, raw: Features) -> None:
        """Adds to transformed features what is present of them, and clears vectors of what is missing."""
        vectors = {modality.name for modality in self._modalities if modality.kind != FRAMES}
        for name, source in self._sources.items():
            presence = raw.get(presence_name(source))
            if presence is None:
                presence = _presence(raw[source])
            features[presence_name(name)] = presence
            if name in vectors:
                features[name] = tf.where(presence[:, tf.newaxis] > 0, features[name], 0.0)

    def _logits_of_frames(self, features: Features, held: tf.Tensor) -> tf.Tensor:
        """Logits of vectors float32 (B, D) and frames uint8 (B, T, D), of which video b has held[b]."""
        counts = tf.minimum(held, self._max_frames)
        if self._sources:  # a video of other modalities alone counts as one empty frame
            counts = tf.maximum(counts, 1)
        features["num_frames"] = counts
        chosen = _chosen_frames(held, counts, self._frames) if self._frames != "all" else None
        for modality in self._modalities:
            if modality.timed and chosen is not None:
                features[modality.name] = _moved_lines(features[modality.name], chosen)
        for modality in self._frame_modalities:
            codes = features[modality.name]
            if chosen is not None:
                codes = tf.gather(codes, chosen, axis=1, batch_dims=1)
            features[modality.name] = tf.ensure_shape(codes, [None, None, modality.width])
        return self._logits_of(decode_features(features, self._modalities))

    def logits_of_transformed(self, features: Features) -> tf.Tensor:
        """Logits (B, C) of transformed, decoded features, NaN where a video lacks them."""
        return self._logits_of(self._unmarked(features))

    def _unmarked(self, features: Features) -> Features:
        """Transformed features as the model takes them: 0 instead of NaN, and their presence."""
        unmarked = dict(features)
        for name in self._sources:
            values = features[name]
            presence = unmarked[presence_name(name)] = _presence(values)
            has = tf.reshape(presence, [-1] + [1] * (len(values.shape) - 1))
            unmarked[name] = tf.where(has > 0, values, 0.0)
        return unmarked

    def _logits_of(self, features: Features) -> tf.Tensor:
        return tf.cast(self._logits(features), tf.float32)

    def signatures(self) -> dict[str, Any]:
        """Concrete functions: `serving_default` takes serialized records, `features` raw features, `transformed`
        transformed and decoded ones, `teaching` (where it differs) the same; each returns
        `{"logits": float32 (B, C)}`.

        Where the transform treats each code of a frame by itself, `codes` takes raw vectors, and frames as arrays of
        codes that the caller has looked up in what `code_tables` returns, uint8 (D, 256) per modality: the transform
        graph itself takes frames as strings, and building and parsing those takes longer than many a model.
        """

        def serve(serialized: tf.Tensor) -> Features:
            raw = parse_raw_records(serialized, self._schema, may_lack=bool(self._sources))
            return {"logits": self.logits_of_features(raw)}

        def serve_features(**raw: tf.Tensor) -> Features:
            return {"logits": self.logits_of_features(raw)}

        def serve_transformed(**features: tf.Tensor) -> Features:
            return {"logits": self.logits_of_transformed(features)}

        functions = {
            FEATURES_SIGNATURE: tf.function(serve_features).get_concrete_function(**raw_signature(self._schema)),
            "transformed": tf.function(serve_transformed).get_concrete_function(
                **transformed_signature(self._modalities)
            ),
        }
        if tables := self._code_tables():

            def serve_codes(**features: tf.Tensor) -> Features:
                return {"logits": self.logits_of_codes(features)}

            functions[CODES_SIGNATURE] = tf.function(serve_codes).get_concrete_function(**self._codes_signature())
            functions[TABLES_SIGNATURE] = tf.function(
                lambda: {name: tf.constant(table) for name, table in tables.items()}
            ).get_concrete_function()
        if self._teaching is not None:
            teach = self._teaching
            functions["teaching"] = tf.function(
                lambda **features: {"logits": tf.cast(teach(self._unmarked(features)), tf.float32)}
            ).get_concrete_function(**transformed_signature(self._modalities))
        if self._schema.container != "csv":
            functions["serving_default"] = tf.function(serve).get_concrete_function(
                tf.TensorSpec([None], tf.string, name="serialized")
            )
        else:
            functions["serving_default"] = functions[FEATURES_SIGNATURE]
        return functions

    def _codes_signature(self) -> dict[str, tf.TensorSpec]:
        """The arguments of the signature `codes`."""
        specs = {
            modality.name: tf.TensorSpec([None, None, modality.width], tf.uint8, name=modality.name)
            if modality.kind == FRAMES
            else raw_signature(self._schema)[modality.name]
            for modality in self._modalities
        }
        for name in [presence_name(modality.name) for modality in self._frame_modalities if self._sources]:
            specs[name] = tf.TensorSpec([None], tf.float32, name=name)
        return {**specs, "num_frames": tf.TensorSpec([None], tf.int32, name="num_frames")}

    def _code_tables(self) -> dict[str, np.ndarray]:
        """The transformed code of each raw code, uint8 (D, 256) by frames modality.

        The transform graph is run to fill them, on frames that hold one code each, and run again on random frames to
        see whether the tables are all there is to it. {} where they are not (PCA, scaling to length 1), where the model
        takes something else that is made of frames (pooled frames), or where it takes no frames, or frames of float32.
        """
        raw = {modality.name: modality for modality in self._schema.modalities}
        if (
            not self._frame_modalities
            or self._schema.has_float_frames
            or any(
                raw.get(modality.name, modality).kind != modality.kind
                or modality.name not in raw
                or (modality.kind == FRAMES and raw[modality.name].width != modality.width)
                for modality in self._modalities
            )
        ):
            return {}
        frames = [modality for modality in self._schema.modalities if modality.kind == FRAMES]
        random = np.random.default_rng(0)
        lengths = (1, 7, 64)
        every = {each.name: np.repeat(np.arange(256, dtype=np.uint8)[:, None], each.width, axis=1) for each in frames}
        some = {each.name: random.integers(0, 256, (sum(lengths), each.width), dtype=np.uint8) for each in frames}
        filled, checked = self._transformed_codes(every, (256,)), self._transformed_codes(some, lengths)
        tables = {}
        for modality in self._frame_modalities:
            if len(filled[modality.name]) != 256 * modality.width:
                return {}
            table = np.frombuffer(filled[modality.name], np.uint8).reshape(256, modality.width).T
            looked_up = table[np.arange(modality.width), some[modality.name]]
            if looked_up.tobytes() != checked[modality.name]:
                return {}
            tables[modality.name] = np.ascontiguousarray(table)
        return tables

    def _transformed_codes(self, codes: Mapping[str, np.ndarray], lengths: Sequence[int]) -> dict[str, bytes]:
        """The transformed codes of some videos, joined, from their raw codes uint8 (sum of lengths, D), by modality."""
        ends = np.cumsum(lengths)
        strings = {
            name: tf.constant([rows[end - count : end].tobytes() for end, count in zip(ends, lengths, strict=True)])
            for name, rows in codes.items()
        }
        transformed = tf.function(self.transform)(strings)
        return {name: b"".join(transformed[name].numpy().tolist()) for name in codes}


def _dense(values: Any) -> tf.Tensor:
    """Transformed values, of texts the tokens filled with 0."""
    return tf.sparse.to_dense(values) if isinstance(values, tf.SparseTensor) else values


def _presence(values: tf.Tensor) -> tf.Tensor:
    """Float32 (B,): 0 where a modality is missing: an empty string, or NaN; else 1."""
    if values.dtype == tf.string:
        return tf.cast(tf.strings.length(values) > 0, tf.float32)
    first = tf.reshape(values, [tf.shape(values)[0], -1])[:, :1]  # of frames there may be none in an empty batch
    return 1.0 - tf.cast(tf.reduce_any(tf.math.is_nan(first), axis=1), tf.float32)


def marked_features(features: Features, modalities: Sequence[TransformedModality]) -> Features:
    """What a model takes, as the signatures of an exported one take it: NaN for what is missing."""
    marked = dict(features)
    for modality in modalities:
        presence = marked.pop(presence_name(modality.name), None)
        if presence is not None:
            values = features[modality.name]
            has = tf.reshape(presence, [-1] + [1] * (len(values.shape) - 1))
            marked[modality.name] = tf.where(has > 0, tf.cast(values, tf.float32), math.nan)
    return marked


def _aligned(raw: Features, schema: RecordSchema) -> Features:
    """Raw features in which every frames modality that a video has is as long as the longest, as `Decoder` pads it."""
    frames = [modality for modality in schema.modalities if modality.kind == FRAMES and modality.name in raw]
    if len(frames) < 2:
        return raw
    counts = {each.name: tf.strings.length(raw[each.name]) // each.frame_bytes for each in frames}
    longest = tf.reduce_max(tf.stack(list(counts.values())), axis=0)
    missing = {name: tf.where(count > 0, longest - count, 0) for name, count in counts.items()}

    def padded() -> list[tf.Tensor]:
        strings = []
        for each in frames:
            rows = missing[each.name]
            whole = tf.strings.reduce_join(tf.fill([tf.reduce_max(rows)], filling(each)))
            pads = tf.strings.substr(tf.fill(tf.shape(rows), whole), tf.zeros_like(rows), rows * each.frame_bytes)
            strings.append(tf.strings.join([raw[each.name], pads]))
        return strings

    unequal = tf.reduce_any(tf.stack(list(missing.values())) > 0)
    strings = tf.cond(unequal, padded, lambda: [raw[each.name] for each in frames])
    return {**raw, **{each.name: strings[number] for number, each in enumerate(frames)}}


def _chosen_frames(held: tf.Tensor, counts: tf.Tensor, frames: str) -> tf.Tensor:
    """Positions int32 (B, K) of the frames to see, as `kernels.choose_frames` defines them; filled with the last."""
    step = tf.range(tf.maximum(tf.reduce_max(tf.concat([counts, [1]], 0)), 1))[tf.newaxis]
    held, counts = held[:, tf.newaxis], counts[:, tf.newaxis]
    middles = (2 * step + 1) * held // tf.maximum(2 * counts, 1)
    chosen = middles if frames == "uniform" else (held - counts) // 2 + step
    return tf.clip_by_value(chosen, 0, tf.maximum(held - 1, 0))


def _moved_lines(tokens: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Tokens of lines int64 (B, L), laid on the frames chosen, int32 (B, K), as `kernels.move_lines` does."""
    lines = tokens // (1 << LINE_SHIFT)
    positions = tf.cast(chosen, tf.int64)
    frames = tf.searchsorted(positions, lines, out_type=tf.int64)
    here = tf.gather(positions, tf.minimum(frames, tf.shape(chosen, tf.int64)[1] - 1), batch_dims=1) == lines
    return tf.where(here, tokens + (frames - lines) * (1 << LINE_SHIFT), 0)


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
    return {name: tf.TensorSpec([None, *shape], dtype, name=name) for name, (dtype, shape) in schema.elements().items()}


def transformed_signature(modalities: Sequence[TransformedModality]) -> dict[str, tf.TensorSpec]:
    """The arguments of the signature `transformed`."""
    shapes = {
        modality.name: [None, None, modality.width]
        if modality.kind == FRAMES
        else [None, None, 3 if modality.timed else 2]
        if modality.kind == TEXT
        else [None, modality.width]
        for modality in modalities
    }
    specs = {name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in shapes.items()}
    if any(modality.kind == FRAMES for modality in modalities):
        specs["num_frames"] = tf.TensorSpec([None], tf.int32, name="num_frames")
    return specs


def save_module(module: tf.Module, signatures: Mapping[str, Any], output: str) -> None:
    """Writes `saved_model/` of an exported model directory, on any store; replaces an older one."""
    with storage.replace_directory(storage.join(output, SAVED_MODEL)) as local:
        tf.saved_model.save(module, local, signatures=dict(signatures))
