"""What the addresses of a service share: the engine, its bounds, and how records of requests become logits."""

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request

from vcls_model.records.decoding import Decoder, FrameBatch, RawBatch, RecordOptions
from vcls_model.records.encoding import BytesColumn
from vcls_model.records.examples import (
    Feature,
    bytes_feature,
    float_feature,
    write_example,
    write_sequence_example,
)
from vcls_model.records.schema import FRAMES, TEXT, RecordSchema
from vcls_model.serving.http.bodies import RefusedError, body_chunks
from vcls_model.serving.http.metrics import Metrics
from vcls_model.serving.http.settings import ServiceSettings
from vcls_model.serving.live.engine import Engine
from vcls_model.serving.live.queues import OverloadedError, Scored
from vcls_model.serving.live.stream import RING_FRAMES, Features, nothing_of

_FIRST_RECORD_SECONDS = 1.0


@dataclasses.dataclass
class Service:
    """One model behind its addresses.

    Attributes:
        engine: of the model.
        settings: bounds.
        metrics: counters.
        ready: whether it takes requests: false while it warms up and while it shuts down.
        labelling: files that are being labelled.
        predicting: requests for predictions under way.
        body_bytes: of the requests that are being read.
    """

    engine: Engine
    settings: ServiceSettings
    metrics: Metrics
    ready: bool = False
    labelling: int = 0
    predicting: int = 0
    body_bytes: int = 0

    def warm_up(self) -> None:
        """Computes once what the first request would have to wait for.

        The loops that read records are compiled at the first start of an installation, which takes longer than all the
        rest: the service does not wait for them, only a request that holds such a record.
        """
        self.engine.warm_up()
        schema = self.engine.model.schema
        if schema is None or schema.container == "csv":
            return

        def read_one() -> None:
            with contextlib.suppress(OverloadedError):  # the service has ended meanwhile
                self.engine.queue.submit(self.of_records([_empty_record(schema)])).result()

        reading = threading.Thread(target=read_one, name="first record", daemon=True)
        reading.start()
        reading.join(_FIRST_RECORD_SECONDS)

    async def score(self, videos: Sequence[Features]) -> Scored:
        """The logits of some videos.

        Raises:
            RefusedError: 429 where too much waits.
        """
        if self.predicting >= self.settings.most_requests:
            raise RefusedError(429, f"{self.predicting} requests are under way; try again", retry_after=1)
        self.predicting += 1
        try:
            return await asyncio.wrap_future(self.engine.queue.submit(videos))
        except OverloadedError as error:
            raise RefusedError(429, str(error), retry_after=1) from None
        finally:
            self.predicting -= 1

    async def read_body(self, request: Request) -> bytes:
        """The whole body of a request for predictions; raises as `body_chunks`, and 429 where too much is read."""
        settings = self.settings
        parts: list[bytes] = []
        size = 0
        try:
            async for chunk in body_chunks(request, settings.most_body_bytes, settings.idle_seconds):
                size += len(chunk)
                self.body_bytes += len(chunk)
                if self.body_bytes > settings.most_bodies_bytes:
                    raise RefusedError(429, "too many large requests are being read; try again", retry_after=1)
                parts.append(chunk)
            return b"".join(parts)
        finally:
            self.body_bytes -= size

    def check_count(self, records: int) -> None:
        """Raises `RefusedError` for none, or more records than a request may hold."""
        if not records:
            raise RefusedError(400, "the request holds no record")
        if records > self.settings.most_records:
            raise RefusedError(
                413, f"the request holds {records:,} records; at most {self.settings.most_records:,} are taken"
            )

    def of_arrays(self, features: dict[str, np.ndarray], lengths: np.ndarray | None = None) -> list[Features]:
        """Videos from arrays of many.

        Args:
            features: by modality float32 (B, D), codes uint8 (B, T, D), or texts, object (B,) of bytes. Texts may be
                left out, and others where the model bears that they are missing.
            lengths: frames of each video, (B,); None: T.

        Raises:
            RefusedError: 400 where they are not what the model takes.
        """
        modalities = self.engine.model.modalities
        names = [each.name for each in modalities]
        texts = {each.name for each in modalities if each.kind == TEXT}
        if features:
            features = {**dict.fromkeys(texts - set(features), _no_texts(features)), **features}
        lacking = set(names) - set(features)
        if not features or not set(features) <= set(names) or (lacking and not self.engine.model.masks):
            raise RefusedError(
                400, f"the model takes {', '.join(names)}, the request holds {', '.join(sorted(features))}"
            )
        counts = {len(values) if values.ndim else 0 for values in features.values()}
        if len(counts) != 1:
            raise RefusedError(400, "the inputs hold different numbers of records")
        count = counts.pop()
        self.check_count(count)
        for each in modalities:
            if each.name in lacking:
                continue
            values = features[each.name]
            if each.kind == TEXT:
                if values.dtype != object or values.ndim != 1:
                    raise RefusedError(400, f"{each.name} must hold one text per record")
                continue
            dimensions = 3 if each.kind == FRAMES else 2
            if values.ndim != dimensions or values.shape[-1] != each.width or 0 in values.shape:
                shape = "[records, frames, " if dimensions == 3 else "[records, "
                raise RefusedError(
                    400, f"{each.name} must have the shape {shape}{each.width}], got {list(values.shape)}"
                )
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise RefusedError(400, f"{each.name} holds values that are not finite")
        if len({values.shape[1] for values in features.values() if values.ndim == 3}) > 1:
            raise RefusedError(400, "the modalities of a record must have the same number of frames")
        absent = {each.name: nothing_of(each) for each in modalities if each.name in lacking}
        videos: list[Features] = []
        for row in range(count):
            steps = _steps(lengths, row, features)
            own = {name: values[row][:steps] if values.ndim == 3 else values[row] for name, values in features.items()}
            videos.append({**own, **absent})
        return videos

    def of_records(self, payloads: Sequence[bytes]) -> list[Features]:
        """Videos from serialized records, read as batch scoring reads them.

        Raises:
            RefusedError: 400 where one cannot be used; says which and why.
        """
        self.check_count(len(payloads))
        schema = self.engine.model.schema
        if schema is None or schema.container == "csv":
            raise RefusedError(400, "the model takes no serialized records")
        options = RecordOptions(
            len(self.engine.model.classes),
            RING_FRAMES,
            require_labels=False,
            drop_unknown_labels=True,
            mask_missing=self.engine.model.masks,
        )
        lengths = np.array([len(payload) for payload in payloads], np.int64)
        starts = np.cumsum(lengths) - lengths
        buffer = np.frombuffer(b"".join(payloads) or b"\0", np.uint8)
        batch, rejected = Decoder(schema, options).decode("the request", buffer, starts, lengths, starts)
        if rejected:
            number = int(np.searchsorted(starts, rejected[0].offset, side="right")) - 1
            raise RefusedError(400, f"record {number}: {rejected[0].error}: {rejected[0].message}")
        return _videos(batch)


def _no_texts(features: dict[str, np.ndarray]) -> np.ndarray:
    """An empty text for each record."""
    return np.array([b""] * max((len(values) for values in features.values() if values.ndim), default=0), object)


def _empty_record(schema: RecordSchema) -> bytes:
    """A record with one frame of zeros."""
    context: dict[str, Feature] = {schema.id_feature: bytes_feature(b"0")}
    frames: dict[str, list[bytes]] = {}
    for each in schema.modalities:
        if each.kind == TEXT:
            continue
        if each.kind == FRAMES and schema.container == "sequence_example":
            frames[each.name] = [bytes(each.width)]
        elif each.encoding == "uint8":
            context[each.name] = bytes_feature(bytes(each.width))
        else:
            context[each.name] = float_feature(np.zeros(each.width, np.float32))
    return write_sequence_example(context, frames) if schema.container == "sequence_example" else write_example(context)


def _steps(lengths: np.ndarray | None, row: int, features: dict[str, np.ndarray]) -> int:
    longest = next((values.shape[1] for values in features.values() if values.ndim == 3), 0)
    steps = longest if lengths is None else int(lengths[row])
    if longest and not 1 <= steps <= longest:
        raise RefusedError(400, f"num_frames must lie in [1, {longest}], got {steps}")
    return min(steps, RING_FRAMES)


def _videos(batch: RawBatch) -> list[Features]:
    """The features of each record of a batch, copied."""
    columns: dict[str, list[Any]] = {}
    for name, values in batch.features.items():
        if isinstance(values, BytesColumn):
            columns[name] = values.tolist()
        elif isinstance(values, FrameBatch):
            columns[name] = np.split(values.codes, np.cumsum(values.lengths)[:-1])
        else:
            columns[name] = list(values.copy())
    return [{name: column[row] for name, column in columns.items()} for row in range(len(batch))]
