"""A media file as the features of a record: decoded in a child process, encoded row by row as the rows come.

    config = EmbeddingConfig.of("efficientnet-lite2", "yamnet")
    with Embedder(config) as embedder:
        embedded = embedder.embed("clip.mp4")
    payload = record_of(config, b"clip", [3], {}, embedded)

The job that writes records and the one that scores media files both go this way, so that a model sees in one what it
was trained on in the other.
"""

import contextlib
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.encoders import EncoderInfo, PictureInput, SoundInput, encoder_info, text_encoder_info
from vcls_model.encoders.batches import choose_device
from vcls_model.encoders.encoder import Medium
from vcls_model.encoders.gathering import Gathered, Submit, at_once, gather, load_planned_encoder
from vcls_model.encoders.network import GPU_BATCH
from vcls_model.encoders.screen_texts import SCREEN_TEXT, ReaderInfo, ScreenReader
from vcls_model.media import errors
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import PATCH_SAMPLES, PictureFormat, Request
from vcls_model.media.sampling import Sampling
from vcls_model.media.sandbox import MIB
from vcls_model.media.split import open_reader
from vcls_model.on_screen import ScreenTexts
from vcls_model.records.captions import read_captions_of
from vcls_model.records.examples import (
    Feature,
    bytes_feature,
    float_feature,
    int64_feature,
    write_example,
    write_sequence_example,
)
from vcls_model.records.schema import FRAMES, VECTOR, Modality, RecordSchema, lines_modality, text_modality

ID, LABELS, CAPTIONS = "id", "labels", "captions"
LEVELS = ("frame", "video")
# Names of the two modalities at each level, as YouTube-8M has them.
NAMES = {"frame": {"picture": "rgb", "sound": "audio"}, "video": {"picture": "mean_rgb", "sound": "mean_audio"}}
VECTOR_SUFFIX = "_vector"
# The one range whose codes a schema can describe in a convention other than `midpoint`.
_YOUTUBE8M_RANGE = (-2.0, 2.0)


@dataclasses.dataclass(frozen=True)
class EmbeddingConfig:
    """Everything that the features of a file depend on, apart from the file. Small and picklable.

    Attributes:
        encoders: by medium (`picture`, `sound`) the name or absolute path of an encoder, and its identity.
        fps: rows per second.
        max_seconds: length of a file, or of its segment, that is read at most; None: all of it.
        mode: `exact` or `keyframes`, see `Sampling`.
        level: `frame` (a row of codes per moment) or `video` (the mean of the rows, float32).
        captions: records hold what is said in each row; at video level, all that is said.
        ocr: what reads the texts in the pictures, likewise; None: nothing does.
        text_encoder: name or path of the encoder of texts, and its identity; None: texts are not embedded.
        texts: the columns of text that it embeds.
        seconds_per_minute, memory_bytes: what a file may cost, see `MediaReader`. No feature depends on them.
        device: `cpu`, `gpu`, or `auto` for a GPU where the worker has one.
        file_count: files that are read at a time, at most: fewer than a machine's cores share these. No feature depends
            on it.
    """

    encoders: tuple[tuple[Medium, str, EncoderInfo], ...]
    fps: float = 1.0
    max_seconds: float | None = None
    mode: str = "exact"
    level: str = "frame"
    captions: bool = False
    ocr: ReaderInfo | None = None
    text_encoder: tuple[str, EncoderInfo] | None = None
    texts: tuple[str, ...] = ()
    seconds_per_minute: float = 60.0
    memory_bytes: int = 1024 * MIB
    device: str = "cpu"
    file_count: int = 1 << 20

    @classmethod
    def of(cls, image_encoder: str | None, audio_encoder: str | None, **options: Any) -> "EmbeddingConfig":
        """The configuration for two encoders, each a name, a path or None.

        Raises:
            UsageError: there is no such encoder, or it cannot be used here.
            JobError: the weights of a known encoder are not installed.
        """
        encoders: list[tuple[Medium, str, EncoderInfo]] = []
        for medium, name in (("picture", image_encoder), ("sound", audio_encoder)):
            if name is not None:
                info = encoder_info(name, medium)  # type: ignore[arg-type]
                _check_usable(info)
                # Workers may have another working directory.
                place = os.path.abspath(name) if os.path.exists(name) else name
                encoders.append((medium, place, info))  # type: ignore[arg-type]
        if not encoders:
            raise UsageError("without --image_encoder and --audio_encoder there is nothing to extract")
        return cls(tuple(encoders), **options)

    def name_of(self, medium: Medium) -> str:
        """The modality that a medium becomes: `rgb`, `audio`, `mean_rgb` or `mean_audio`."""
        return NAMES[self.level][medium]

    def schema(self, class_count: int | None = None) -> RecordSchema:
        """The layout of the records, which also names their encoders and their sampling."""
        modalities = []
        for medium, _, info in self.encoders:
            name = self.name_of(medium)
            if self.level == "video":
                modalities.append(Modality(name, info.width, VECTOR, "float32"))
            else:
                codes = info.value_range if info.rounding == "midpoint" else None
                modalities.append(Modality(name, info.width, FRAMES, "uint8", range=codes))
        encoders = {self.name_of(medium): info.as_json() for medium, _, info in self.encoders}
        if self.text_encoder is not None:
            for column in self.texts:
                _, info = self.text_encoder
                modalities.append(Modality(vector_name(column), info.width, VECTOR, "float32"))
                encoders[vector_name(column)] = info.as_json()
        if self.ocr is not None:
            encoders[SCREEN_TEXT] = self.ocr.as_json()
        for name in [CAPTIONS] * self.captions + [SCREEN_TEXT] * (self.ocr is not None):
            modalities.append(lines_modality(name) if self.level == "frame" else text_modality(name))
        return RecordSchema(
            f"media-{self.level}",
            "sequence_example" if self.level == "frame" else "example",
            ID,
            LABELS,
            tuple(modalities),
            class_count,
            encoders=encoders,
            sampling={"fps": self.fps, "mode": self.mode, "max_seconds": self.max_seconds},
        )

    def request(self, start: float = 0.0, end: float | None = None) -> Request:
        """What to read of a file.

        Raises:
            ValueError: the segment is empty, or another number is out of range.
        """
        inputs = {medium: info.input for medium, _, info in self.encoders}
        pictures = inputs.get("picture")
        picture_format = None
        if pictures is not None:
            assert isinstance(pictures, PictureInput)
            picture_format = PictureFormat(pictures.size, pictures.crop, pictures.resize)
        sampling = Sampling(self.fps, start, end, self.max_seconds, self.mode)
        return Request(picture_format, "sound" in inputs, sampling)


def vector_name(column: str) -> str:
    """The modality that a column of text becomes when it is embedded."""
    return column + VECTOR_SUFFIX


def plan_text_encoder(name: str) -> tuple[str, EncoderInfo]:
    """A text encoder by name or path, as `EmbeddingConfig.text_encoder` holds it; raises as `text_encoder_info`."""
    info = text_encoder_info(name)
    return (os.path.abspath(name) if os.path.exists(name) else name), info


def _check_usable(info: EncoderInfo) -> None:
    if info.rounding != "midpoint" and info.value_range != _YOUTUBE8M_RANGE:
        raise UsageError(
            f"encoder {info.name!r}: rounding {info.rounding!r} is supported for the range [-2, 2] only; "
            'set "rounding": "midpoint" in its description'
        )
    if isinstance(info.input, SoundInput) and info.input.samples > PATCH_SAMPLES:
        raise UsageError(
            f"encoder {info.name!r} takes {info.input.samples:,} samples at a time, but a row of a record covers "
            f"{PATCH_SAMPLES:,} at most ({PATCH_SAMPLES / 16_000:g} s)"
        )


@dataclasses.dataclass(frozen=True)
class Embedded:
    """The features of one file.

    Attributes:
        rows: moments that were read.
        seconds: length of the presentation as far as it was read.
        features: by modality, the codes, or of captions the text, of each row; or the mean of all, float32 (D,), and
            all the text, or a text's vector. Sound, pictures or texts that a file does not have are absent.
        reason, message: None, or a reason of `vcls_model.media.errors` and a sentence on what could not be read.
        notes: what was wrong with the captions, see `records.captions`.
    """

    rows: int
    seconds: float
    features: Mapping[str, list[bytes] | np.ndarray | bytes]
    reason: str | None = None
    message: str | None = None
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Embedder:
    """Embeds one file after the other; owns decoding processes and shares the encoders of its own process."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self._config = config
        self._cores = max(1, len(os.sched_getaffinity(0)) // max(1, config.file_count))
        self._device = choose_device(config.device)
        limits = config.seconds_per_minute, config.memory_bytes
        self._reader = open_reader(self._cores, *limits)
        self._screen = ScreenTexts(ScreenReader(config.ocr), self._cores, *limits) if config.ocr else None

    def embed(
        self,
        path: str,
        start: float = 0.0,
        end: float | None = None,
        captions: str | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> Embedded:
        """The features of a file or of the segment from `start` to `end`, in seconds after its first moment.

        Args:
            path: of the file.
            start, end: see above.
            captions: path of its captions, where records hold them; times count from the file's first moment.
            texts: what is to be embedded as a vector, by column, for those of `EmbeddingConfig.texts` that it has.

        Raises:
            MediaError: the file has no rows, or could not be decoded to its end within its limits.
        """
        try:
            request = self._config.request(start, end)
        except ValueError as error:
            raise MediaError(errors.OUT_OF_RANGE, f"{path!r}: {error}") from None
        with local_file(path) as local:
            try:
                embedded = self._embed(local, request)
                if self._config.captions:
                    said, notes = read_captions_of(captions, embedded.rows, self._config.fps, start)
                    embedded = dataclasses.replace(self._with_texts(embedded, CAPTIONS, said), notes=notes)
                if self._screen is not None:
                    written = self._screen.read(local, request.sampling)
                    embedded = self._with_texts(embedded, SCREEN_TEXT, written[: embedded.rows])
                vectors = self._vectors(texts or {})
                return dataclasses.replace(embedded, features={**embedded.features, **vectors}) if vectors else embedded
            except MediaError as error:
                if local != path:
                    raise MediaError(error.reason, error.message.replace(repr(local), repr(path))) from error
                raise

    def _with_texts(self, embedded: Embedded, name: str, texts: Sequence[str]) -> Embedded:
        """The features with the texts of the rows as a modality; without any text as they are."""
        lines = [text.encode(errors="replace") for text in texts]
        # Of a whole video, what goes on from row to row is said once.
        whole = b" ".join(text for text, _ in itertools.groupby(lines) if text)
        if not whole:
            return embedded
        return dataclasses.replace(
            embedded, features={**embedded.features, name: lines if self._config.level == "frame" else whole}
        )

    def _vectors(self, texts: Mapping[str, str]) -> dict[str, np.ndarray]:
        """The vectors of a file's texts, by modality."""
        said = {column: texts[column] for column in self._config.texts if texts.get(column, "").strip()}
        if self._config.text_encoder is None or not said:
            return {}
        encoder = load_planned_encoder(*self._config.text_encoder)
        return {vector_name(column): encoder.encode(np.array([text], object))[0] for column, text in said.items()}

    def _embed(self, path: str, request: Request) -> Embedded:
        media = [medium for medium, _, _ in self._config.encoders]
        with contextlib.ExitStack() as stack:
            submit, depth = self._encoding(stack)
            keeps_rows = self._config.level == "frame"
            gathered = [
                Gathered(name, info, keeps_rows, self._device, submit) for _, name, info in self._config.encoders
            ]
            with self._reader.read(path, request) as rows:
                contents = ([row.picture if medium == "picture" else row.sound for medium in media] for row in rows)
                gather(contents, gathered, depth)
        outcome = rows.outcome
        assert outcome is not None
        if not outcome.rows:
            raise MediaError(errors.EMPTY, f"{path!r} has no moment in the part that was asked for")
        features = {
            self._config.name_of(medium): each.result()
            for medium, each in zip(media, gathered, strict=True)
            if each.count
        }
        return Embedded(outcome.rows, outcome.seconds, features, outcome.reason, outcome.message)

    def _encoding(self, stack: contextlib.ExitStack) -> "tuple[Submit, int]":
        """How a row is encoded, and how many are under way at a time."""
        if self._device == "gpu":
            return at_once, 2 * GPU_BATCH
        if self._cores == 1:
            return at_once, 0
        return stack.enter_context(ThreadPoolExecutor(self._cores)).submit, 2 * self._cores

    def close(self) -> None:
        """Ends the decoding processes."""
        self._reader.close()
        if self._screen is not None:
            self._screen.close()

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def local_file(path: str) -> Iterator[str]:
    """A path at which a decoder finds the file: that of a copy while the block runs, if it is on an object store."""
    if not storage.is_object_store(path):
        yield path.removeprefix("file://")
        return
    with tempfile.TemporaryDirectory(prefix="vcls-") as scratch:
        copy = os.path.join(scratch, "media" + os.path.splitext(path)[1][:16])
        storage.copy_to_disk(path, copy)
        yield copy


def record_of(
    config: EmbeddingConfig,
    video_id: bytes,
    labels: Sequence[int] | None,
    context: Mapping[str, str],
    embedded: Embedded,
) -> bytes:
    """A serialized record in the layout of `config.schema()`.

    Args:
        config: that the features were made with.
        video_id: of the video.
        labels: class indices; None where they are not known.
        context: further features of the video; text without content is left out.
        embedded: its features.
    """
    features: dict[str, Feature] = {ID: bytes_feature(video_id)}
    if labels is not None:
        features[LABELS] = int64_feature(labels)
    features.update({name: bytes_feature(text.encode()) for name, text in context.items() if text})
    rows = {}
    for name, values in embedded.features.items():
        if isinstance(values, list):
            rows[name] = values
        else:
            features[name] = bytes_feature(values) if isinstance(values, bytes) else float_feature(values)
    return write_sequence_example(features, rows) if config.level == "frame" else write_example(features)
