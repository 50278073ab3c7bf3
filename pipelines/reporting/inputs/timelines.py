"""Pictures of videos, and what a model says of each of their seconds, from their media files."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.reporting.inputs.media import MediaFiles, Timeline
from vcls_model import storage
from vcls_model.embedding import CAPTIONS, Embedded, Embedder, EmbeddingConfig, local_file, record_of
from vcls_model.encoders import ENCODERS, dequantise
from vcls_model.encoders.screen_texts import READERS, SCREEN_TEXT
from vcls_model.media.errors import MediaError
from vcls_model.media.requests import PictureFormat, Request
from vcls_model.media.sampling import MAX_FPS, Sampling
from vcls_model.media.sandbox import MediaReader
from vcls_model.metrics.binning import sigmoid
from vcls_model.quiet import start_tensorflow
from vcls_model.recorded_media import recorded_config
from vcls_model.records.captions import captions_beside
from vcls_model.records.decoding import Decoder, FeatureValues, RecordOptions
from vcls_model.saved_models import refuse_programs
from vcls_model.serving.exported import SAVED_MODEL, ExportedModel, LoadedModel, read_exported_model

PICTURE_SIZE = 72  # pixels
_WINDOW_ROWS = 5  # a moment is judged by its own row and two on either side
_MOST_SECONDS = 300.0
_UNKNOWN_SECONDS = 10.0
_EXACT_UP_TO_SECONDS = 120.0  # longer videos show their key frames


class PictureSheet:
    """Reads a few pictures of each file, evenly over its time."""

    def __init__(self, files: MediaFiles) -> None:
        self._files = files
        self._reader = MediaReader()
        self._known: dict[str, list[np.ndarray]] = {}

    def pictures(self, video_id: str, count: int) -> list[np.ndarray]:
        """`count` square pictures, uint8 RGB, or fewer; [] where there is no such file, or it has none."""
        key = f"{count} {video_id}"
        if key not in self._known:
            place = self._files.find(video_id)
            self._known[key] = [] if place is None else self._read(*place, count)
        return self._known[key]

    def _read(self, path: str, start: float, count: int) -> list[np.ndarray]:
        try:
            with local_file(path) as local:
                facts = self._reader.probe(local)
                if facts.video is None:
                    return []
                whole = facts.video.seconds_promised or facts.seconds_promised or _UNKNOWN_SECONDS
                length = min(max(whole - start, 0.1), _MOST_SECONDS)
                mode = "exact" if start + length <= _EXACT_UP_TO_SECONDS else "keyframes"
                sampling = Sampling(
                    min(count / length, MAX_FPS),
                    start + length / count / 2,
                    max_seconds=length,
                    mode=mode,
                )
                request = Request(PictureFormat(PICTURE_SIZE, 1.0, "area"), False, sampling)
                with self._reader.read(local, request) as rows:
                    return [row.picture for row in rows if row.picture is not None][:count]
        except MediaError as error:
            print(f"warning: no pictures of {path}: {error.message}", file=sys.stderr)
            return []

    def close(self) -> None:
        """Ends the decoding process."""
        self._reader.close()

    def __enter__(self) -> "PictureSheet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def can_judge(model: ExportedModel) -> bool:
    """Whether the model's data were made from media, by encoders that need no path."""
    encoders = model.schema.encoders
    known = (*ENCODERS, *READERS)
    return bool(encoders) and all(recorded.get("name") in known for recorded in (encoders or {}).values())


def read_timelines(
    directory: str,
    files: MediaFiles,
    video_ids: Sequence[str],
    class_count: int,
    sheet: PictureSheet,
    pictures: int,
    *,
    trusted: bool = False,
) -> Iterator[Timeline]:
    """A timeline of each video that has a file; none where the model takes other records than of media.

    Args:
        directory: of the exported model.
        files: where the videos are.
        video_ids: of the videos.
        class_count: classes per timeline.
        sheet: reads their pictures.
        pictures: per timeline.
        trusted: the model may have any operations.

    Raises:
        UsageError: the directory is not an exported model, or may do more than compute.
        JobError: the weights of an encoder are not installed.
    """
    model = read_exported_model(directory)
    places = [(video_id, place) for video_id in video_ids if (place := files.find(video_id))]
    if not places or not can_judge(model):
        return
    start_tensorflow()
    refuse_programs(storage.join(directory, SAVED_MODEL), f"the model {directory}", trusted=trusted)
    recorded = recorded_config(model.schema, model.path, file_count=1)
    length = min(recorded.max_seconds or _MOST_SECONDS, _MOST_SECONDS)
    by_row = dataclasses.replace(recorded, level="frame", max_seconds=length)
    loaded = LoadedModel(directory, model.class_count)
    with Embedder(by_row) as embedder:
        for video_id, (path, start) in places:
            try:
                embedded = embedder.embed(path, start, captions=captions_beside(path) if recorded.captions else None)
            except MediaError as error:
                print(f"warning: no timeline of {path}: {error.message}", file=sys.stderr)
                continue
            probabilities = sigmoid(loaded.logits(_windows(model, recorded, by_row, embedded)))
            best = np.argsort(-probabilities.mean(axis=0), kind="stable")[:class_count]
            yield Timeline(
                video_id,
                np.arange(len(probabilities)) / recorded.fps,
                tuple(map(int, best)),
                probabilities[:, best],
                sheet.pictures(video_id, pictures),
            )


def _windows(
    model: ExportedModel, recorded: EmbeddingConfig, by_row: EmbeddingConfig, embedded: Embedded
) -> dict[str, FeatureValues]:
    """The features of each row with its neighbours, as those of a video of its own."""
    payloads = []
    for row in range(embedded.rows):
        near = slice(max(0, row - _WINDOW_ROWS // 2), row + _WINDOW_ROWS // 2 + 1)
        features: dict[str, list[bytes] | np.ndarray | bytes] = {}
        for medium, _, info in recorded.encoders:
            codes = embedded.features.get(by_row.name_of(medium))
            if not isinstance(codes, list) or not codes[near]:
                continue
            if recorded.level == "frame":
                features[recorded.name_of(medium)] = codes[near]
            else:
                values = dequantise(
                    np.frombuffer(b"".join(codes[near]), np.uint8).reshape(-1, info.width),
                    info.value_range,
                    info.rounding,
                )
                features[recorded.name_of(medium)] = values.mean(axis=0)
        for name in (CAPTIONS, SCREEN_TEXT):
            said = embedded.features.get(name)
            if isinstance(said, list):
                features[name] = said[near] if recorded.level == "frame" else b" ".join(said[near])
        window = Embedded(near.stop - near.start, 0.0, features)
        payloads.append(record_of(recorded, str(row).encode(), None, {}, window))
    lengths = np.array([len(payload) for payload in payloads], np.int64)
    starts = np.cumsum(lengths) - lengths
    options = RecordOptions(
        model.class_count, fill_missing=not model.presence, require_labels=False, mask_missing=model.presence
    )
    buffer = np.frombuffer(b"".join(payloads), np.uint8)
    batch, _ = Decoder(model.schema, options).decode("", buffer, starts, lengths, starts)
    return batch.features
