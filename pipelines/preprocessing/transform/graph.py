"""The transform graph: what tf.Transform builds, saves, and the exported model contains.

A modality that is missing is a vector of NaN, or an empty byte string, before and after.

Raw features in: `id` (bytes), `labels` (int64 list), each video-level modality as float32 (B, D), each frame-level
modality as one byte string per video, the bytes of its frames one after another, each text as UTF-8 (of each second: as
lines). Out: see
`TransformConfig.transformed`.

TensorFlow is imported where it is used: a worker that does not need it does not pay for it.
"""

import functools
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.preprocessing.config import POOLS, TransformConfig
from pipelines.preprocessing.statistics import Fitted, Moments
from pipelines.preprocessing.transform.affine import AffineTransform, affine_of
from pipelines.preprocessing.transform.tokens import tokenisers_of
from vcls_model import storage
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.schema import FRAMES, LINE_TOKENS, TEXT, TOKENS, Modality
from vcls_model.records.text import DocumentCounts

if TYPE_CHECKING:
    import tensorflow as tf

TOP_FRAMES = 5
# Texts in which the graph and the kernels must agree.
_PROBE_TEXTS = (
    "",
    " \t\n",
    "Café ﬁnale STRASSE straße İstanbul Ⅷ ½ 10.000 €",
    "Cafe\u0301 o\u0323\u0302 \u0301lone",
    "한국어 텍스트 \u1112\u1161\u11ab",
    "日本語テスト ﾃﾞｰﾀ 数据集",
    "हिन्दी में शीर्षक ภาษาไทย நன்றி",
    "مرحبا بالعالم שלום \u200fעולם\u200e",
    "😀😀 hi👍🏽 👩\u200d👩\u200d👧 1️⃣",
    "nul\0in \ufeffit \ud800 " + "of-words " * 40,
    " ".join(f"word{number}" for number in range(300)),
    "a" * 200,
)
# On how many raw vectors the kernels and the graph are compared; a divisor of the 256 codes.
_PROBES = 64
# Principal components that vary less than this fraction of the first are the rounding of float32.
_LEAST_VARIANCE = 1e-10

# (inputs: raw tensors by name) -> transformed tensors by name
PreprocessingFn = Callable[[Mapping[str, Any]], dict[str, Any]]
# (modality, its raw values float32 (N, D) of the batch) -> (location, factor): float32 (D,) tensors; for PCA the mean
# and what float32 has rounded off it
FitAffine = Callable[[Modality, Any], tuple[Any, Any]]
# (text modality, the raw texts of the batch) -> int64 (buckets,), see `DocumentCounts.weights`
FitWeights = Callable[[Modality, Any], Any]


def raw_feature_spec(config: TransformConfig) -> dict[str, Any]:
    """The feature spec of the graph's inputs."""
    return _feature_spec(config.schema.modalities)


def transformed_feature_spec(config: TransformConfig) -> dict[str, Any]:
    """The feature spec of the graph's outputs."""
    import tensorflow as tf

    spec = _feature_spec(config.transformed())
    if config.schema.has_frames:
        spec["num_frames"] = tf.io.FixedLenFeature([], tf.int64)
    return spec


def _feature_spec(features: Iterable[Modality]) -> dict[str, Any]:
    """Of `id`, `labels` and these: frames as one byte string, video-level features as vectors, tokens as lists."""
    import tensorflow as tf

    spec: dict[str, Any] = {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)}
    for feature in features:
        if feature.encoding in (TOKENS, LINE_TOKENS):
            spec[feature.name] = tf.io.VarLenFeature(tf.int64)
            continue
        dtype, shape = feature.element
        spec[feature.name] = tf.io.FixedLenFeature(shape, tf.as_dtype(dtype))
    return spec


def make_preprocessing_fn(config: TransformConfig, fit: FitAffine, fit_weights: FitWeights) -> PreprocessingFn:
    """The function that tf.Transform turns into the graph.

    Args:
        config: which operations.
        fit: gives the statistics of a modality as tensors; `graph_analyzer` in the pipeline.
        fit_weights: gives the weights of a text's buckets.
    """
    from pipelines.preprocessing.transform.text import line_tokens, text_tokens

    def preprocessing_fn(inputs: Mapping[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        outputs: dict[str, Any] = {"id": inputs["id"], "labels": inputs["labels"]}
        lines = []
        normalisers: dict[str, Callable[[Any], Any]] = {}
        for modality in config.schema.modalities:
            raw = inputs[modality.name]
            if modality.kind == TEXT:
                tokens_of = line_tokens if modality.timed else text_tokens
                outputs[modality.name] = tokens_of(raw, config.text_options, fit_weights(modality, raw))
                if modality.timed:
                    counts = tf.strings.split(raw, "\n").row_lengths()
                    lines.append(tf.where(tf.strings.length(raw) > 0, counts, 0))
                continue
            if modality.kind != FRAMES:
                outputs[modality.name] = _normaliser(config, modality, fit, raw)(raw)
                continue
            normalisers[modality.name] = _normaliser(config, modality, fit, raw)
            frames = tf.cast(tf.strings.length(raw) // modality.frame_bytes, tf.int64)
            # A modality that is missing has none.
            outputs["num_frames"] = tf.maximum(outputs["num_frames"], frames) if "num_frames" in outputs else frames
        if lines:  # of a video without frames they are the seconds
            seconds = functools.reduce(tf.maximum, lines)
            outputs["num_frames"] = tf.where(outputs["num_frames"] > 0, outputs["num_frames"], seconds)
        if normalisers:
            outputs.update(_frame_outputs(config, {name: inputs[name] for name in normalisers}, normalisers))
        return outputs

    return preprocessing_fn


def _normaliser(config: TransformConfig, modality: Modality, fit: FitAffine, raw: Any) -> Callable[[Any], Any]:
    """The function from raw values float32 (N, D) to normalised ones, its statistics bound as graph tensors."""
    import tensorflow as tf
    import tensorflow_transform as tft

    if config.pca_dims:
        width = config.width_of(modality)
        # Of videos that have the modality: others hold NaN, or no frames.
        present = lambda rows: tf.boolean_mask(rows, tf.math.is_finite(rows[:, 0]))  # noqa: E731
        values = _all_frames(raw, modality) if modality.kind == FRAMES else present(raw)
        # In float32 the mean of values far from 0, and their squares even more, are rounded by more than some vary.
        mean, remainder = fit(modality, raw)
        components = tft.pca(tf.cast(values, tf.float64), width, tf.float64, name=f"{modality.name}_pca")
        components = tf.cast(components, tf.float32)
        projected = tf.cast(tf.matmul(values - mean - remainder, components), tf.float64)
        variance = tft.var(projected, reduce_instance_dims=False, name=f"{modality.name}_pca_variance")
        # A component without variance in training says nothing: leave it near 0 instead of blowing noise up.
        largest = tf.reduce_max(variance)
        rounding = tf.cast(tf.reduce_max(tf.abs(mean)), tf.float64) * 1e-7  # of float32 values so far from 0
        varies = variance > tf.maximum(_LEAST_VARIANCE * largest, rounding * rounding)
        scale = tf.sqrt(tf.where(varies, variance, tf.where(largest > 0, largest, tf.ones_like(largest))))
        scale = tf.cast(scale, tf.float32)
        return lambda rows: tf.matmul(rows - mean - remainder, components) / scale
    if config.normalise == "l2":
        return lambda rows: tf.math.l2_normalize(rows, axis=-1)
    location, factor = fit(modality, raw)
    # Multiplied, not divided: TensorFlow turns a division by a constant into this anyway when it optimises a graph.
    return lambda rows: (rows - location) * factor


def _frame_values(joined: Any, modality: Modality) -> Any:
    """The values of the frames in a byte string, float32 (T, D)."""
    import tensorflow as tf

    decoded = tf.io.decode_raw(joined, tf.uint8 if modality.coded else tf.float32)
    rows = tf.reshape(decoded, [-1, modality.width])
    return modality.quantisation.values(tf.cast(rows, tf.float32)) if modality.coded else rows


def _all_frames(raw: Any, modality: Modality) -> Any:
    """The frames of all videos of the batch, float32 (sum of T, D)."""
    import tensorflow as tf

    return _frame_values(tf.strings.reduce_join(raw), modality)


def _frame_outputs(
    config: TransformConfig, raw: dict[str, Any], normalisers: dict[str, Callable[[Any], Any]]
) -> dict[str, Any]:
    """Requantised codes of each video and, if asked for, what is pooled over its frames; all modalities in one loop."""
    import tensorflow as tf

    modalities = [modality for modality in config.schema.modalities if modality.name in raw]
    vectors = {modality.name for modality in config.schema.modalities} - set(raw)
    features = [feature for feature in config.transformed() if feature.name not in vectors]

    def one_video(frames: dict[str, Any]) -> dict[str, Any]:
        outputs = {}
        for modality in modalities:
            name = modality.name
            values = normalisers[name](_frame_values(frames[name], modality))  # (T, D)
            scale, offset = config.code_range(modality)
            clipped = tf.clip_by_value(values, offset, offset + 255 * scale)
            outputs[name] = _as_bytes(tf.cast(tf.round((clipped - offset) * np.float32(1 / scale)), tf.uint8))
            if config.pool_frames:
                mean, variance = tf.nn.moments(values, axes=[0])
                largest = tf.math.top_k(tf.transpose(values), tf.minimum(TOP_FRAMES, tf.shape(values)[0])).values
                pooled = (mean, tf.sqrt(variance), tf.reduce_mean(largest, axis=1))
                outputs.update({f"{name}_{pool}": value for pool, value in zip(POOLS, pooled, strict=True)})
        return outputs

    outputs = tf.map_fn(
        one_video,
        raw,
        fn_output_signature={
            feature.name: tf.TensorSpec(feature.element[1], feature.element[0]) for feature in features
        },
    )
    return {
        feature.name: outputs[feature.name]
        if feature.kind == FRAMES
        else tf.ensure_shape(outputs[feature.name], [None, feature.width])
        for feature in features
    }


def _as_bytes(codes: Any) -> Any:
    """A uint8 tensor as one byte string. TensorFlow has no inverse of `decode_raw`; but of a serialized uint8 tensor,
    the values are the last bytes."""
    import tensorflow as tf

    count = tf.size(codes)
    return tf.strings.substr(tf.io.serialize_tensor(codes), -count, count)


def constant_weights(config: TransformConfig, statistics: Fitted) -> FitWeights:
    """Our own counts of documents as constants of the graph."""

    def fit_weights(modality: Modality, raw: Any) -> Any:
        import tensorflow as tf

        counts = statistics[modality.name]
        assert isinstance(counts, DocumentCounts)
        return tf.constant(counts.weights(config.text_options))

    return fit_weights


def constant_affine(config: TransformConfig, statistics: Fitted) -> FitAffine:
    """Our own statistics as constants of the graph, which leave tf.Transform nothing to analyse."""

    def fit(modality: Modality, raw: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        moments = statistics[modality.name]
        assert isinstance(moments, Moments)
        location, factor = affine_of(config.normalise, moments)
        return tf.constant(location), tf.constant(factor)

    return fit


def write_transform(statistics: Fitted, config: TransformConfig, output: str) -> str:
    """Has tf.Transform write `transform_fn` and `transformed_metadata` below `output`; returns the path of the first.

    Without PCA the statistics are all that the training records have to say. The graph is made on the scratch disk and
    then copied, so that `output` may be on any file system that Beam knows: TensorFlow knows fewer.

    Raises:
        RuntimeError: the graph does something else than the kernels that transform the shards.
    """
    import tensorflow as tf
    from tensorflow_transform import graph_context, impl_helper
    from tensorflow_transform.saved import saved_transform_io_v2
    from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io

    module = tf.Module()
    traced = impl_helper.get_traced_transform_fn(
        make_preprocessing_fn(config, constant_affine(config, statistics), constant_weights(config, statistics)),
        impl_helper.get_type_specs_from_feature_specs(raw_feature_spec(config)),
        graph_context.TFGraphContext(module_to_export=module, temp_dir=None, evaluated_replacements=None),
    )
    with tempfile.TemporaryDirectory() as scratch:
        # What tf.Transform's `analyze_in_place` does, but for tracing all again to find annotations: there are none.
        saved_transform_io_v2.write_v2_saved_model(
            module, traced, "transform_fn", os.path.join(scratch, "transform_fn")
        )
        metadata_io.write_metadata(
            dataset_metadata.DatasetMetadata.from_feature_spec(transformed_feature_spec(config)),
            os.path.join(scratch, "transformed_metadata"),
        )
        if config.is_affine:
            check_against_kernels(BatchGraph(config, module.transform_fn), config, statistics)
        check_tokens(config, module.transform_fn, statistics)
        for directory, _, names in os.walk(scratch):
            for name in names:
                path = os.path.join(directory, name)
                storage.write_atomically(
                    storage.join(output, *os.path.relpath(path, scratch).split(os.sep)), storage.read_bytes(path)
                )
    return storage.join(output, "transform_fn")


class BatchGraph:
    """A transform graph, ready to run on batches. A saved one is loaded once per process, for all its threads.

    Args:
        config: which operations.
        function: (raw tensors by name, `id` and `labels` among them) -> transformed tensors by name.
    """

    _lock = threading.Lock()
    _loaded: dict[str, "BatchGraph"] = {}

    def __init__(self, config: TransformConfig, function: PreprocessingFn) -> None:
        self._config = config
        self._function = function

    @classmethod
    def saved(cls, directory: str, config: TransformConfig) -> "BatchGraph":
        """The graph that `directory` holds."""
        import tensorflow as tf
        import tensorflow_transform as tft
        from tensorflow_transform.saved import saved_transform_io_v2

        del tft  # imported because loading needs its ops
        loader = saved_transform_io_v2.SavedModelLoader(directory)
        texts = {modality.name for modality in config.schema.texts}  # which kernels transform, always
        signature = {
            name: tf.TensorSpec([None, *shape], dtype)
            for name, (dtype, shape) in config.schema.elements().items()
            if name not in texts
        }

        @tf.function(input_signature=[signature], autograph=False)
        def apply(inputs: dict[str, "tf.Tensor"]) -> dict[str, "tf.Tensor"]:
            wanted = {feature.name for feature in config.transformed()}
            return {name: value for name, value in loader.apply_transform_model(inputs).items() if name in wanted}

        concrete = apply.get_concrete_function()
        return cls(config, lambda inputs: concrete(**{"inputs": {name: inputs[name] for name in signature}}))

    @classmethod
    def load(cls, directory: str, config: TransformConfig, statistics_hash: str) -> "BatchGraph":
        """The graph saved in `directory`, loaded once a process as long as it was made from the same statistics."""
        with cls._lock:
            key = f"{directory} {config.hash} {statistics_hash}"
            if key not in cls._loaded:
                cls._loaded.clear()
                with storage.local_copy(directory) as local:
                    cls._loaded[key] = cls.saved(local, config)
            return cls._loaded[key]

    def __call__(self, raw: dict[str, Any]) -> dict[str, np.ndarray]:
        """Runs the graph, but for texts.

        Args:
            raw: by modality: float32 (B, D), or a list of B byte strings of frames.
        """
        import tensorflow as tf

        videos = len(next(iter(raw.values())))
        tensors = {
            modality.name: tf.constant([b""] * videos if modality.kind == TEXT else raw[modality.name])
            for modality in self._config.schema.modalities
        }
        no_labels = tf.SparseTensor(tf.zeros([0, 2], tf.int64), tf.zeros([0], tf.int64), [videos, 0])
        outputs = self._function({"id": tf.constant([b""] * videos), "labels": no_labels, **tensors})
        return {
            feature.name: outputs[feature.name].numpy()
            for feature in self._config.transformed()
            if feature.kind != TEXT
        }


def check_tokens(config: TransformConfig, function: PreprocessingFn, statistics: Fitted) -> None:
    """Compares the tokens of a graph with those of the kernels, on texts of many scripts and on broken ones.

    Raises:
        RuntimeError: a token differs, so that what is written would not be what the exported model computes.
    """
    import tensorflow as tf

    if not config.schema.texts:
        return
    texts = [text.encode(errors="surrogatepass") for text in _PROBE_TEXTS] + [b"\xff\xe2\x82\xc3(", b"x" * 70_000]
    if config.schema.has_lines:
        texts += [b"\n".join(texts), b"\n\n", b"\nlast\n"]
    column = BytesColumn.of(texts)
    raw: dict[str, Any] = {
        "id": tf.constant([b""] * len(texts)),
        "labels": tf.SparseTensor(tf.zeros([0, 2], tf.int64), tf.zeros([0], tf.int64), [len(texts), 0]),
    }
    for modality in config.schema.modalities:
        _, shape = modality.element
        raw[modality.name] = (
            tf.constant(texts)
            if modality.kind == TEXT
            else tf.constant([bytes(modality.frame_bytes)] * len(texts))
            if modality.kind == FRAMES
            else tf.zeros([len(texts), *shape])
        )
    outputs = function(raw)
    for name, tokeniser in tokenisers_of(config, statistics).items():
        tokens, _ = tokeniser.tokens(column)
        for row, got in enumerate(tf.RaggedTensor.from_sparse(outputs[name]).to_list()):
            begin = tokens.begins[row]
            if got != tokens.values[begin : begin + tokens.counts[row]].tolist():
                raise RuntimeError(f"the transform graph and the kernels differ in the tokens of {name!r}")


def check_against_kernels(graph: BatchGraph, config: TransformConfig, statistics: Fitted) -> None:
    """Compares with what the kernels do: every code in every dimension of frames, probes of float32 for the others.

    Raises:
        RuntimeError: they differ by more than another processor's rounding could (one code, or 2e-6 of a value), so
            that what is written would not be what the exported model computes.
    """
    kernels = AffineTransform.of(config, statistics)
    raw: dict[str, Any] = {}
    kernel_outputs: dict[str, np.ndarray] = {}
    coded = {modality.name for modality in config.schema.modalities if modality.coded}
    moments = {name: value for name, value in statistics.items() if isinstance(value, Moments)}
    if not moments:
        return
    for name, mapping in kernels.codes.items():
        if name not in coded:
            values = _probes(moments[name])
            raw[name], kernel_outputs[name] = [row.tobytes() for row in values], mapping(values)
            continue
        # Every code in every dimension, as the frames of as many short videos as there are probes.
        codes = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], mapping.affine.shape[1], axis=1)
        raw[name] = [video.tobytes() for video in np.split(codes, _PROBES)]
        kernel_outputs[name] = mapping(codes)
    for name, (location, factor) in kernels.affine.items():
        raw[name] = _probes(moments[name])
        kernel_outputs[name] = (raw[name] - location) * factor
    graph_outputs = graph(raw)
    for name, values in kernel_outputs.items():
        if name in kernels.codes:
            expected = np.frombuffer(b"".join(graph_outputs[name]), np.uint8).reshape(values.shape)
            tolerance: Any = 1
        else:
            expected, tolerance = graph_outputs[name], 2e-6 * (1 + np.abs(values))
        difference = np.abs(values.astype(np.float64) - expected)
        if (difference > tolerance).any():
            raise RuntimeError(f"the transform graph and the kernels differ in {name!r} by up to {difference.max():g}")


def _probes(moments: Moments) -> np.ndarray:
    """Raw values float32 (P, D) as they occur, and some that do not."""
    draws = np.random.default_rng(0).normal(size=(_PROBES, len(moments.mean)))
    draws[:4] *= [[0.0], [1e-6], [1e3], [1e9]]
    return (moments.mean + moments.std * draws).astype(np.float32)
