"""Encoders of the user's own: an ONNX, SavedModel or `.keras` model with a JSON file beside it (docs/ENCODERS.md)."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vcls_model.commands import JobError, UsageError, nearest
from vcls_model.encoders.codes import ROUNDINGS
from vcls_model.encoders.encoder import Encoder, EncoderInfo
from vcls_model.encoders.onnx_network import open_session
from vcls_model.encoders.pictures import PictureInput
from vcls_model.encoders.projection import Projection, read_projection
from vcls_model.encoders.sounds import MEL_BANDS, PATCH_FRAMES, PATCH_SAMPLES, SoundInput
from vcls_model.encoders.weights import file_sha256
from vcls_model.storage import read_json, to_json

Run = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
_MAX_SIZE = 4096  # pixels on a side
_MAX_SAMPLES = 60 * 16_000
_MAX_WIDTH = 65_536
_REQUIRED = object()  # the default of keys that have none


@dataclasses.dataclass(frozen=True)
class Description:
    """A custom encoder before it is loaded.

    Attributes:
        info: its identity; the hash covers the model and the projection.
        model: the ONNX or `.keras` file, or the SavedModel's directory.
        projection: applied to the network's output, or None.
        output: name of the output to take; None where there is only one.
    """

    info: EncoderInfo
    model: Path
    projection: Projection | None
    output: str | None


def looks_like_path(value: str) -> bool:
    """Whether a flag's value is meant as a path rather than as a name."""
    return "/" in value or value.endswith((".onnx", ".keras")) or Path(value).exists()


def description_path(model: Path) -> Path:
    """The JSON file beside a model: `clip.json` for `clip.onnx`, `inception.json` for the directory `inception`."""
    return model.with_name(model.name + ".json") if model.is_dir() else model.with_suffix(".json")


def read_description(model: Path) -> Description:
    """Reads and checks everything about a custom encoder that can be checked without running it.

    Raises:
        UsageError: the model or its JSON file is absent, or a key is unknown, missing, or has an impossible value.
    """
    if not model.exists():
        raise UsageError(f"there is no encoder at {model}")
    if not (model.is_file() or model.is_dir()):
        raise UsageError(f"{model} is a pipe, a socket or a device, not an encoder")
    if not (model.suffix in (".onnx", ".keras") or (model / "saved_model.pb").is_file()):
        raise UsageError(f"{model} is neither an .onnx file, nor a .keras file, nor a SavedModel's directory")
    beside = description_path(model)
    try:
        value = read_json(str(beside))
    except FileNotFoundError:
        raise UsageError(f"{model} needs a description of its input in {beside}; see docs/ENCODERS.md") from None
    except OSError as error:
        raise UsageError(f"{beside} cannot be read: {error.strerror or error}") from None
    except JobError as error:
        raise UsageError(str(error)) from None
    keys = _Keys(value, str(beside))
    modality = keys.choice("modality", ("picture", "sound"))
    width = keys.whole("width", 1, _MAX_WIDTH)
    projection_name = keys.text("projection", default=None)
    projection_file = beside.parent / projection_name if projection_name is not None else None
    projection = read_projection(projection_file, width) if projection_file is not None else None
    inner = _Keys(keys.get("input", {}), f"{beside}: input")
    read_input = _picture_input if modality == "picture" else _sound_input
    low, high = keys.numbers("range", 2)
    if not low < high:
        raise UsageError(f"{beside}: range must increase, got [{low}, {high}]")
    info = EncoderInfo(
        name=keys.text("name"),
        version=keys.text("version", default="1"),
        input=read_input(inner),
        width=width,
        value_range=(low, high),
        rounding=keys.choice("rounding", ROUNDINGS, default="midpoint"),
        weights_sha256=_sha256(model, projection_file),
        licence=keys.text("licence"),
    )
    output = keys.text("output", default=None)
    inner.finish()
    keys.finish()
    return Description(info, model, projection, output)


def load(model: Path) -> Encoder:
    """A custom encoder, ready to encode; it was run once on zeros to see that what it gives fits its description.

    Raises:
        UsageError: as `read_description`, or the model takes or gives other shapes than described.
        JobError: the model cannot be loaded or run.
    """
    description = read_description(model)
    own = description.info
    try:
        network = _onnx(description) if model.suffix == ".onnx" else _tensorflow(description)
    except (UsageError, JobError):
        raise
    except Exception as error:  # the frameworks raise their own kinds
        raise JobError(f"the encoder {model} cannot be loaded: {_first_line(error)}") from error

    def run(batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        features = np.empty((len(batch), own.width), np.float32)
        # One at a time: frameworks may sum in another order in another batch.
        for row in range(len(batch)):
            values = network(own.input.network_input(batch[row : row + 1]))
            if description.projection is not None:
                if values.shape != (1, len(description.projection.mean)):
                    raise UsageError(
                        f"{model} gives {values.shape}, its projection takes (1, {len(description.projection.mean)})"
                    )
                values = description.projection(values)
            if values.shape != (1, own.width):
                raise UsageError(f"{model} gives {values.shape}, its description says (1, {own.width})")
            features[row] = values[0]
        return features

    encoder = Encoder(own, run)
    try:
        encoder.encode_codes(np.zeros((1, *own.input.row_shape), own.input.row_type))
    except UsageError:
        raise
    except Exception as error:  # the frameworks raise their own kinds
        raise JobError(f"the encoder {model} does not run on its described input: {_first_line(error)}") from error
    return encoder


def _onnx(description: Description) -> Run:
    session = open_session(description.model)
    inputs = [entry.name for entry in session.get_inputs()]
    outputs = [entry.name for entry in session.get_outputs()]
    if len(inputs) != 1:
        raise UsageError(f"{description.model} takes {len(inputs)} inputs ({', '.join(inputs)}), an encoder takes one")
    output = _output(description, outputs)
    return lambda batch: np.asarray(session.run([output], {inputs[0]: batch})[0], np.float32)


def _tensorflow(description: Description) -> Run:
    import tensorflow as tf

    if description.model.suffix == ".keras":
        import keras

        model = keras.models.load_model(description.model, compile=False)
        names = list(model.output_names)

        @tf.function
        def keras_call(batch: Any) -> dict[str, Any]:
            return dict(zip(names, tf.nest.flatten(model(batch, training=False)), strict=True))

        call: Callable[[Any], Mapping[str, Any]] = keras_call
    else:
        loaded = tf.saved_model.load(str(description.model))
        signature = loaded.signatures.get("serving_default")
        if signature is None:
            raise UsageError(f"{description.model} has no signature serving_default")
        takes = list(signature.structured_input_signature[1])
        if len(takes) != 1:
            raise UsageError(
                f"{description.model} takes {len(takes)} inputs ({', '.join(takes)}), an encoder takes one"
            )
        names = list(signature.structured_outputs)

        def call(batch: Any) -> Mapping[str, Any]:
            # `loaded` owns the variables, and lives as long as what calls it.
            return loaded.signatures["serving_default"](**{takes[0]: batch})  # type: ignore[no-any-return]

    output = _output(description, names)
    return lambda batch: np.asarray(call(tf.constant(batch))[output], np.float32)


def _output(description: Description, names: list[str]) -> str:
    if description.output is None and len(names) == 1:
        return names[0]
    if description.output in names:
        return str(description.output)
    asked = "no output is named" if description.output is None else f"there is no output {description.output!r}"
    raise UsageError(f"{description_path(description.model)}: {asked}; {description.model} has {', '.join(names)}")


def _picture_input(keys: "_Keys") -> PictureInput:
    return PictureInput(
        size=keys.whole("size", 1, _MAX_SIZE),
        crop=keys.crop("crop", default=1.0),
        resize=keys.choice("resize", ("bicubic", "bilinear"), default="bicubic"),
        mean=keys.numbers("mean", 3),
        scale=keys.numbers("scale", 3, zero=False),
        channels=keys.choice("channels", ("rgb", "bgr"), default="rgb"),
        layout=keys.choice("layout", ("nhwc", "nchw")),
    )


def _sound_input(keys: "_Keys") -> SoundInput:
    features = keys.choice("features", ("waveform", "log_mel"))
    if features == "log_mel":
        samples, default_shape = PATCH_SAMPLES, [PATCH_FRAMES, MEL_BANDS]
        offset = keys.number("log_offset")
        if offset <= 0:
            raise UsageError(f"{keys.origin}: log_offset must be positive, got {offset}")
    else:
        samples, offset = keys.whole("samples", 1, _MAX_SAMPLES), 0.0
        default_shape = [samples]
    shape = keys.get("shape", default_shape)
    if not isinstance(shape, list):
        raise UsageError(f"{keys.origin}: shape must be a list of whole numbers")
    shape = tuple(shape)
    count = PATCH_FRAMES * MEL_BANDS if features == "log_mel" else samples
    if not all(type(size) is int and size > 0 for size in shape) or int(np.prod(shape, dtype=object)) != count:
        raise UsageError(f"{keys.origin}: shape {list(shape)} does not hold {count} values")
    return SoundInput(samples=samples, features=features, log_offset=offset, network_shape=shape)


class _Keys:
    """Takes a JSON object apart, key by key; what is left over is unknown."""

    def __init__(self, value: Any, origin: str) -> None:
        if not isinstance(value, dict):
            raise UsageError(f"{origin} must be a JSON object")
        self._value = value
        self._known: list[str] = []
        self.origin = origin

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        self._known.append(key)
        if key in self._value:
            return self._value[key]
        if default is _REQUIRED:
            raise UsageError(f"{self.origin} lacks the key {key!r}")
        return default

    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        value = self.get(key, default)
        if value is not default and not (isinstance(value, str) and value.strip()):
            raise self._wrong(key, "a text that is not empty", value)
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: Any = _REQUIRED) -> Any:
        value = self.get(key, default)
        if value not in choices:
            raise self._wrong(key, f"one of {', '.join(choices)}", value)
        return value

    def whole(self, key: str, lowest: int, highest: int) -> int:
        value = self.get(key)
        if type(value) is not int or not lowest <= value <= highest:
            raise self._wrong(key, f"a whole number from {lowest} to {highest}", value)
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if not _is_number(value):
            raise self._wrong(key, "a number", value)
        return float(value)

    def numbers(self, key: str, count: int, zero: bool = True) -> Any:
        value = self.get(key)
        good = isinstance(value, list) and len(value) == count and all(_is_number(entry) for entry in value)
        if not good or (not zero and 0 in value):
            raise self._wrong(key, f"a list of {count} numbers{'' if zero else ' other than 0'}", value)
        return tuple(float(entry) for entry in value)

    def crop(self, key: str, default: float) -> float | None:
        value = self.get(key, default)
        if value == "none":
            return None
        if not _is_number(value) or not 0 < value <= 1:
            raise self._wrong(key, 'a share of the shorter side in (0, 1], or "none"', value)
        return float(value)

    def finish(self) -> None:
        """Raises `UsageError` for a key that nothing asked for."""
        for key in self._value:
            if key not in self._known:
                suggestion = nearest(key, self._known)
                hint = f"; did you mean {suggestion!r}?" if suggestion else f" (known: {', '.join(self._known)})"
                raise UsageError(f"{self.origin} has the unknown key {key!r}{hint}")

    def _wrong(self, key: str, expected: str, value: Any) -> UsageError:
        return UsageError(f"{self.origin}: {key} must be {expected}, got {to_json(value)[:60]}")


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _sha256(model: Path, projection: Path | None) -> str:
    """Of one file its own; of a directory, or of a model with a projection, that of its files' names and hashes."""
    files = sorted(path for path in model.rglob("*") if path.is_file()) if model.is_dir() else [model]
    if projection is None and files == [model]:
        return file_sha256(model)
    lines = [f"{file_sha256(file)}  {file.relative_to(model)}\n" for file in files]
    if projection is not None:
        lines.append(f"{file_sha256(projection)}  projection\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
