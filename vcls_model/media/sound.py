"""A file's sound as patches of 16 kHz mono, aligned with the clock of its pictures."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from vcls_model.media.demuxing import packets_with_content
from vcls_model.media.requests import PATCH_SAMPLES, PATCH_SECONDS, SAMPLE_RATE

_GAP_SAMPLES = 1_600  # 0.1 s: smaller differences between timestamps and samples are jitter of the container
_MAX_GAP_SAMPLES = 3_600 * SAMPLE_RATE  # a longer silence is a broken timestamp
_SETTLE_SECONDS = 3.0
_MOST_PLANES = 8
_WEIGHTS = {"FC": 1.0, "FL": 0.7071, "FR": 0.7071, "LFE": 0.0}


class SoundReader:
    """Decodes an audio stream as far as it is asked, in increasing order of time.

    Samples are placed by their timestamps: where sound is missing between two packets there is silence, as in a player.

    Attributes:
        errors: packets that could not be read or decoded.
        decoded: whether any sample was decoded so far.
        first_time: when the first sample is heard, in seconds on the container's own clock; None before any.
        end_time: when the last sample that was decoded ends.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._container = container
        self._stream = stream
        stream.codec_context.thread_count = 1
        self.errors = 0
        self.first_time: float | None = None
        self._resampler: Any = None
        self._kind: tuple[int, str, str] | None = None
        self._template: Any = None  # a frame of the kind that was gathered
        self._gathered: list[np.ndarray] = []
        self._gathered_samples = 0
        self._blocks = self._decode()
        self._kept = np.zeros(0, np.float32)
        self._kept_from = 0  # position of the first kept sample, counted from the container's time 0
        self._start_position = 0
        self._floor = 0  # samples before this position will not be asked for
        self._cursor: float | None = None  # position after the last frame, in samples at 16 kHz
        self._shift = 0.0  # what to add to timestamps, in samples, since a clock was set
        self._ended = False
        self._skipped = False  # whether the position of the next block is not that of the last one's end

    @property
    def decoded(self) -> bool:
        return self.first_time is not None

    @property
    def ended(self) -> bool:
        """Whether all of it was decoded."""
        return self._ended

    @property
    def end_time(self) -> float:
        return (self._kept_from + len(self._kept)) / SAMPLE_RATE

    def start(self) -> float | None:
        """When the first sample is heard, in seconds on the container's clock; None where nothing can be decoded."""
        while self.first_time is None and not self._ended:
            self._advance()
        return self.first_time

    def skip_to(self, seconds: float) -> None:
        """Passes over the sound before `seconds` on the container's clock by the container's index.

        Decoding begins a little earlier, for the decoder to find its feet. Call it before the first patch is asked for.
        """
        begin = seconds - _SETTLE_SECONDS
        if self.start() is None or begin <= self.end_time:
            return
        self._seek(int(begin / self._stream.time_base))
        while self._skipped and not self._ended:
            self._advance()
        if self._skipped or self._kept_from > begin * SAMPLE_RATE:  # the index has led astray
            self._seek(0)

    def _seek(self, time: int) -> None:
        """Goes on from a time in the stream's units, or shortly before."""
        with contextlib.suppress(av.error.FFmpegError):  # it stays where it is, which `skip_to` finds out
            self._container.seek(time, stream=self._stream)
        self._stream.codec_context.flush_buffers()
        self._gathered, self._gathered_samples = [], 0
        self._kind = self._template = self._cursor = None
        self._kept = np.zeros(0, np.float32)
        self._blocks = self._decode()
        self._skipped, self._ended = True, False

    def reaches(self, seconds: float) -> bool:
        """Whether there is sound at or after `seconds` on the container's clock."""
        while self.end_time < seconds and not self._ended:
            self._advance()
        return self.decoded and self.end_time >= seconds

    def patch(self, seconds: float) -> np.ndarray:
        """The 0.975 s from `seconds` on (container's clock): float32, (15600,), in [-1, 1]; silence beyond the sound.

        Patches must be asked for in increasing order of time: what lies before is forgotten.
        """
        self._floor = first = round(seconds * SAMPLE_RATE)
        self.reaches(seconds + PATCH_SECONDS)
        forgotten = min(max(0, first - self._kept_from), len(self._kept))
        self._kept = self._kept[forgotten:]
        self._kept_from += forgotten
        patch = np.zeros(PATCH_SAMPLES, np.float32)
        begin = max(first, self._kept_from)
        end = min(first + PATCH_SAMPLES, self._kept_from + len(self._kept))
        if begin < end:
            patch[begin - first : end - first] = self._kept[begin - self._kept_from : end - self._kept_from]
        return patch

    def _advance(self) -> None:
        block = next(self._blocks, None)
        if block is None:
            self._ended = True
            return
        if (self.first_time is None or self._skipped) and len(block):
            self._kept_from = self._start_position
            self._skipped = False
            if self.first_time is None:
                self.first_time = self._kept_from / SAMPLE_RATE
        if self._kept_from + len(self._kept) + len(block) < self._floor:  # all of it is before what is asked for
            self._kept_from += len(self._kept) + len(block)
            self._kept = self._kept[:0]
        else:
            self._kept = np.concatenate([self._kept, block])

    def _decode(self) -> Iterator[np.ndarray]:
        """Blocks of samples at 16 kHz that follow each other without gaps."""
        packets = packets_with_content(self._container, self._stream, "sound", self._note_error)
        for packet in itertools.chain(packets, [None]):  # None empties the decoder
            try:
                frames = packet.decode() if packet is not None else self._stream.codec_context.decode(None)
            except MemoryError:
                raise
            except (av.error.FFmpegError, EOFError):
                self.errors += packet is not None
                continue
            for frame in frames:
                yield from self._placed(frame)
        yield self._flushed()

    def _note_error(self) -> None:
        self.errors += 1

    def _placed(self, frame: Any) -> Iterator[np.ndarray]:
        """Takes a frame in; yields silence for the time that is missing before it, and blocks that are complete."""
        frame = _packed(frame)
        length = frame.samples * SAMPLE_RATE / frame.sample_rate
        position = None if frame.pts is None else float(frame.pts * frame.time_base * SAMPLE_RATE) + self._shift
        if self._cursor is None:
            self._cursor = position or 0.0
            self._start_position = round(self._cursor)
        missing = 0.0 if position is None else position - self._cursor
        if missing <= -SAMPLE_RATE or missing > _MAX_GAP_SAMPLES:  # the clock was set: go on
            self._shift -= missing
            missing = 0.0
        if missing < -_GAP_SAMPLES:
            return  # samples for a time that is over: the sound's clock is faster than the container's
        kind = (frame.sample_rate, frame.format.name, frame.layout.name)
        if kind != self._kind or missing > _GAP_SAMPLES:
            yield self._flushed()
            self._kind, self._template = kind, frame
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            if missing > _GAP_SAMPLES:
                yield np.zeros(round(missing), np.float32)
                self._cursor += missing
        self._cursor += length
        self._gathered.append(frame.to_ndarray())
        self._gathered_samples += frame.samples
        if self._gathered_samples >= frame.sample_rate:
            yield self._resampled()

    def _resampled(self) -> np.ndarray:
        """What was gathered, at 16 kHz. Resampling a second at a time takes a fifth of the time of frame by frame."""
        if not self._gathered:
            return np.zeros(0, np.float32)
        samples = mono(np.concatenate(self._gathered, axis=1), self._template)
        self._gathered, self._gathered_samples = [], 0
        if self._template.sample_rate == SAMPLE_RATE:
            return samples
        frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
        frame.sample_rate = self._template.sample_rate
        return _joined(self._resampler.resample(frame))

    def _flushed(self) -> np.ndarray:
        """What was gathered and what the resampler holds back, after which a new one is due."""
        block = self._resampled()
        if self._template is None or self._template.sample_rate == SAMPLE_RATE:
            return block
        return np.concatenate([block, _joined(self._resampler.resample(None))])


def _packed(frame: Any) -> Any:
    """A frame whose samples PyAV can read: from eight planes on, it reads beyond the frame's list of them."""
    if not frame.format.is_planar or frame.layout.nb_channels < _MOST_PLANES:
        return frame
    packer = av.AudioResampler(format=frame.format.packed.name, layout=frame.layout, rate=frame.sample_rate)
    return packer.resample(frame)[0]


def _joined(frames: list[Any]) -> np.ndarray:
    parts = [frame.to_ndarray().reshape(-1) for frame in frames if frame is not None]
    return np.clip(np.concatenate(parts), -1, 1) if parts else np.zeros(0, np.float32)


def mono(samples: np.ndarray, frame: Any) -> np.ndarray:
    """Samples as FFmpeg lays them out as one channel, float32, (samples,), in [-1, 1].

    Two channels are averaged. More are weighted as for a mono programme (ITU-R BS.775: centre 1, front 0.71, rear 0.5,
    no low-frequency effects), by weights whose sum is 1, so that nothing is clipped.

    Args:
        samples: (channels, samples), or (1, samples x channels) for packed formats.
        frame: an `av.AudioFrame` of the same format and layout.
    """
    channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    if samples.dtype.kind in "iu":
        half = 2.0 ** (8 * samples.dtype.itemsize - 1)
        samples = samples.astype(np.float32) / np.float32(half) - np.float32(samples.dtype.kind == "u")
    if channels == 1:
        single = samples[0]
    elif channels == 2:
        single = (samples[0] + samples[1]) / 2
    else:
        weights = np.array([_WEIGHTS.get(channel.name, 0.5) for channel in frame.layout.channels], np.float32)
        single = weights @ samples / max(weights.sum(), 1e-6)
    return np.clip(np.nan_to_num(single), -1, 1).astype(np.float32)
