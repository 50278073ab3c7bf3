"""Opening: names, protocols, playlists, default streams and bounds."""

import os
import shutil
import socket
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.vcls_model.media.clips import make_clip, numbered_frame
from vcls_model.media.errors import MediaError
from vcls_model.media.probe import probe
from vcls_model.media.requests import Limits, MediaFacts, Request
from vcls_model.media.rows import RowReader

TIMES = [Fraction(n, 30) for n in range(30)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("probe") / "clip.mp4", TIMES)


def refusal(path: str | Path, limits: Limits | None = None) -> MediaError:
    with pytest.raises(MediaError) as caught:
        probe(str(path), limits)
    return caught.value


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", "-i.mp4", "two\nlines.mp4", "видео 视频 ünï.mp4", "http:x.mp4", "100%d.mp4", "[x]'\".mp4", "plain"],
)
def test_any_name_can_be_read(clip: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(clip, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with RowReader(name, Request()) as reader:
        assert len(list(reader)) == 1


def test_names_that_are_not_utf8_can_be_read(clip: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe.mp4"
    shutil.copy(clip, name)
    assert probe(os.fsdecode(name)).container.startswith("mov")


def test_facts(clip: Path) -> None:
    facts = probe(str(clip))
    assert facts.video is not None and facts.audio is None
    assert (facts.video.codec, facts.video.width, facts.video.height) == ("h264", 160, 160)
    assert facts.video.frame_rate == 30 and facts.video.frames_promised == 30
    assert facts.video.seconds_promised == pytest.approx(1)
    assert MediaFacts.from_dict(facts.to_dict()) == facts


def test_missing_and_special_files(clip: Path, tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.mp4").reason == "not_found"
    assert refusal(clip / "below.mp4").reason == "not_found"
    assert refusal("a\0b").reason == "not_found"
    assert refusal(tmp_path).reason == "unreadable"
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    assert refusal(tmp_path / "pipe.mp4").reason == "unreadable"
    (tmp_path / "empty.mp4").touch()
    assert refusal(tmp_path / "empty.mp4").reason == "empty"


def test_only_named_protocols_are_used() -> None:
    for address in ("http://127.0.0.1:9/a.mp4", "rtsp://127.0.0.1/a", "concat://a|b", "data://x"):
        error = refusal(address)
        assert error.reason == "forbidden_protocol" and "is not among file, pipe" in error.message


@pytest.mark.parametrize("suffix", [".m3u8", ".mp4"])
def test_playlists_open_neither_sockets_nor_files(clip: Path, tmp_path: Path, suffix: str) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.3)
    asked = []

    def listen() -> None:
        try:
            asked.append(server.accept())
        except TimeoutError:
            return

    listener = threading.Thread(target=listen)
    listener.start()
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-VERSION:3\n"
    for number, target in enumerate((f"http://127.0.0.1:{server.getsockname()[1]}/a.ts", str(clip), clip.name)):
        playlist = tmp_path / f"list{number}{suffix}"
        playlist.write_text(f"{head}#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n")
        assert refusal(playlist).reason == "unknown_format"
    for name, text in {
        "concat": f"ffconcat version 1.0\nfile '{clip}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "svg": f"<svg xmlns='http://www.w3.org/2000/svg'><image href='file://{clip}'/></svg>",
    }.items():
        (tmp_path / f"{name}{suffix}").write_text(text)
        assert refusal(tmp_path / f"{name}{suffix}").reason == "unknown_format"
    listener.join()
    server.close()
    assert not asked


def test_bounds(clip: Path) -> None:
    assert refusal(clip, Limits(max_pixels=160 * 160 - 1)).reason == "too_large"
    assert refusal(clip, Limits(max_frames=29)).reason == "too_large"
    assert probe(str(clip), Limits(max_pixels=160 * 160, max_frames=30)).video is not None
    with RowReader(str(clip), Request(limits=Limits(max_seconds=0.5))) as reader:
        assert len(list(reader)) == 1  # the row at 0 s; there is none after it


def test_presentations_beyond_the_limit_are_refused_where_they_get_there(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "jump.mkv", [Fraction(0), Fraction(1), Fraction(90_000)])
    with RowReader(str(path), Request(limits=Limits(max_seconds=5))) as reader:
        rows = []
        with pytest.raises(MediaError, match="longer than 5 seconds") as caught:
            for row in reader:
                rows.append(row.index)
    assert caught.value.reason == "too_large" and rows == [0, 1, 2, 3, 4, 5]


def test_many_streams_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.mkv"
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(70)]
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        for stream in streams:
            container.mux(stream.encode(frame))
    assert refusal(path).reason == "too_large"
    assert probe(str(path), Limits(max_streams=80)).audio is not None


def test_cover_art_is_not_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        voice: Any = container.add_stream("aac", rate=16000, layout="mono")
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 160
        cover.pix_fmt, cover.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(numbered_frame(5, 160, 160), format="rgb24").reformat(format="yuvj420p")
        container.mux(cover.encode(picture))
        container.mux(cover.encode())
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        sound.sample_rate = 16000
        container.mux(voice.encode(sound))
        container.mux(voice.encode())
    facts = probe(str(path))
    assert facts.video is None and facts.audio is not None
    with RowReader(str(path), Request()) as reader:
        rows = list(reader)
    assert rows[0].picture is None and rows[0].sound is not None
    with pytest.raises(MediaError, match="cover art is none") as caught:
        RowReader(str(path), Request(sound=False))
    assert caught.value.reason == "no_video_stream"


def test_a_file_without_sound_has_none_to_ask_for(clip: Path) -> None:
    with pytest.raises(MediaError) as caught:
        RowReader(str(clip), Request(pictures=None))
    assert caught.value.reason == "no_audio_stream"
    with pytest.raises(ValueError, match="pictures or sound"):
        Request(pictures=None, sound=False)


def test_the_default_stream_is_the_one_that_players_show(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream, side in zip(streams, (320, 160), strict=True):
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
        streams[0].disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for number in range(10):
            for stream, side in zip(streams, (320, 160), strict=True):
                image = av.VideoFrame.from_ndarray(numbered_frame(number, side, side), format="rgb24")
                frame = image.reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    facts = probe(str(path))
    assert facts.video is not None and facts.video.width == 160


def test_encrypted_samples_are_refused_by_name(tmp_path: Path) -> None:
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb"}
    options = key | {"encryption_kid": "a7e61c373e219033c21091fa607bf3b8"}
    path = make_clip(tmp_path / "secret.mp4", TIMES, container_options=options)
    with RowReader(str(path), Request()) as reader, pytest.raises(MediaError, match="secret.mp4.*encrypted") as caught:
        list(reader)
    assert caught.value.reason == "encrypted"


def test_what_begins_like_media_is_truncated_and_the_rest_unknown(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "head.mp4").write_bytes(clip.read_bytes()[:600])
    assert refusal(tmp_path / "head.mp4").reason == "truncated"
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 8)
    assert refusal(tmp_path / "noise.mp4").reason == "unknown_format"
    (tmp_path / "picture.mp4").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    assert refusal(tmp_path / "picture.mp4").reason == "unknown_format"
