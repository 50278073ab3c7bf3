"""A model in a Python program, without a server.

model = vcls_model.load("model")
labels = model.label("clip.mp4")
print(labels.spans)
probabilities = model.predict([record])
with model.stream() as stream:
    print(stream.push(picture=pixels, sound=waveform).events)
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.media.requests import Request
from vcls_model.metrics.binning import sigmoid
from vcls_model.records.decoding import Decoder, RecordOptions
from vcls_model.saved_models import refuse_programs
from vcls_model.serving.exported import SAVED_MODEL
from vcls_model.serving.live.engine import EngineOptions, sound_patch
from vcls_model.serving.live.events import LabelEvent, LabelRules, LabelTracker
from vcls_model.serving.live.everyday import EverydayModel
from vcls_model.serving.live.labelling import FileLabeller, MediaLabels
from vcls_model.serving.live.models import LiveModel, ServedModel
from vcls_model.serving.live.stream import RING_FRAMES, FrameRing


class Model:
    """A loaded model.

    Attributes:
        live: what the service uses of it: classes, thresholds, encoders.
    """

    def __init__(self, live: LiveModel, options: EngineOptions | None = None) -> None:
        self.live = live
        self._options = options or EngineOptions()

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by index."""
        return [each.name for each in self.live.classes]

    def label(self, path: str) -> MediaLabels:
        """Labels a media file over time.

        Raises:
            UsageError: the model does not take media.
            MediaError: the file has no rows, or could not be decoded to its end within its limits.
        """
        with FileLabeller(self.live, self._options) as labeller:
            for _ in labeller.label(path):
                pass
            assert labeller.labels is not None
            return labeller.labels

    def stream(self) -> "Stream":
        """A new stream, whose frames the caller pushes."""
        return Stream(self.live, self._options)

    def predict(self, records: Sequence[bytes]) -> np.ndarray:
        """Probabilities float32 (N, C) of serialized records, as batch scoring gives them.

        Raises:
            UsageError: a record cannot be used.
        """
        schema = self.live.schema
        if schema is None or not records:
            raise UsageError("predict takes at least one record" if schema else "the model takes media, not records")
        options = RecordOptions(
            len(self.live.classes),
            RING_FRAMES,
            require_labels=False,
            drop_unknown_labels=True,
            mask_missing=self.live.masks,
        )
        lengths = np.array([len(record) for record in records], np.int64)
        starts = np.cumsum(lengths) - lengths
        buffer = np.frombuffer(b"".join(records), np.uint8)
        batch, rejected = Decoder(schema, options).decode("records", buffer, starts, lengths, starts)
        if rejected:
            raise UsageError(f"a record cannot be used: {rejected[0].error}: {rejected[0].message}")
        assert isinstance(self.live, ServedModel)
        return sigmoid(self.live.loaded.logits(batch.features))


class StreamLabels:
    """What one push gave.

    Attributes:
        now: probabilities float32 (C,) over the last seconds.
        so_far: the same over the whole stream.
        events: what happened to labels.
    """

    def __init__(self, now: np.ndarray, so_far: np.ndarray, events: Sequence[LabelEvent]) -> None:
        self.now = now
        self.so_far = so_far
        self.events = tuple(events)


class Stream:
    """Frames that a program pushes one by one; a context manager for symmetry with files, it holds nothing open."""

    def __init__(self, live: LiveModel, options: EngineOptions) -> None:
        self._live = live
        self._window = options.window_seconds
        rules = LabelRules(live.thresholds(options.threshold), options.hold_seconds, options.hysteresis)
        self._tracker = LabelTracker(rules)
        self._ring = FrameRing(live.modalities, masks=live.masks)
        self._request: Request | None = live.media.request() if live.media is not None else None

    def push(
        self,
        *,
        picture: np.ndarray | None = None,
        sound: np.ndarray | None = None,
        row: Mapping[str, np.ndarray] | None = None,
        seconds: float | None = None,
    ) -> StreamLabels:
        """Adds a frame.

        Args:
            picture: RGB (H, W, 3) uint8 of any size.
            sound: up to 0.975 s of 16 kHz sound, float32 in [-1, 1].
            row: features as records hold them, by modality, instead of media.
            seconds: when it was; by default a second after the one before.

        Raises:
            UsageError: the model does not take media, and no row was given.
            ValueError: it is not what the model takes, or its time goes back.
        """
        if row is None:
            row = {name: values for name, values in self._encoded(picture, sound).items() if values is not None}
        if not row:
            raise ValueError("the frame has nothing that the model takes")
        last = self._ring.last_seconds if self._ring.rows else -1.0
        at = last + 1 if seconds is None else seconds
        self._ring.append(row, at)
        now, so_far = sigmoid(self._live.logits([self._ring.now(self._window), self._ring.so_far()]))
        return StreamLabels(now, so_far, self._tracker.update(now, at))

    def finish(self) -> list[LabelEvent]:
        """Ends the labels that are still there."""
        return self._tracker.finish()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def _encoded(self, picture: np.ndarray | None, sound: np.ndarray | None) -> Mapping[str, np.ndarray | None]:
        if self._request is None:
            raise UsageError("the model takes records that were not made from media: push rows")
        if picture is not None and self._request.pictures is not None:
            import av

            from vcls_model.media.convert import Converter

            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            picture = Converter(self._request.pictures).convert(frame)
        return self._live.row({"picture": picture, "sound": sound_patch(sound)})


def load(
    model: str | None = None,
    *,
    image_encoder: str | None = None,
    audio_encoder: str | None = None,
    trust_model: bool = False,
) -> Model:
    """Loads an exported model directory.

    Args:
        model: the directory, local or on an object store; None: the everyday classes of ImageNet and AudioSet.
        image_encoder, audio_encoder: paths of encoders that are not known by name.
        trust_model: load the model and the encoders whatever operations they have, see `saved_models`.

    Raises:
        UsageError: it is not an exported model, or may do more than compute.
        JobError: an encoder is not installed.
    """
    for name, path in (("image_encoder", image_encoder), ("audio_encoder", audio_encoder)):
        if path is not None:
            refuse_programs(path, f"{name}={path}", trusted=trust_model)
    if model is None:
        return Model(EverydayModel.load(image_encoder=image_encoder, audio_encoder=audio_encoder))
    from vcls_model.quiet import start_tensorflow

    start_tensorflow()
    refuse_programs(storage.join(model, SAVED_MODEL), f"the model {model}", trusted=trust_model)
    return Model(ServedModel.load(model, image_encoder=image_encoder, audio_encoder=audio_encoder))
