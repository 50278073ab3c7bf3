"""TFRecord framing: what TensorFlow writes is read, and what survives each kind of damage."""

import gzip
import io
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.records import read_payloads, record_starts, write_shard
from vcls_model.commands import JobError
from vcls_model.records.framing import frame_record, read_chunks

PAYLOADS = [bytes([index]) * (20 + 7 * index) for index in range(6)]


def read(path: Path, chunk_bytes: int = 1 << 16) -> tuple[list[bytes], list[tuple[int, str]], list[int]]:
    """(payloads, (offset, reason) of damage, offsets of the payloads' records)."""
    payloads, damage, offsets = [], [], []
    for chunk in read_chunks(str(path), chunk_bytes):
        for start, length in zip(chunk.starts.tolist(), chunk.lengths.tolist(), strict=True):
            payloads.append(chunk.buffer[start : start + length].tobytes())
        damage += [(item.offset, item.reason) for item in chunk.damage]
        offsets += chunk.offsets.tolist()
    return payloads, damage, offsets


def test_frames_are_those_of_tensorflow(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a", PAYLOADS)
    assert path.read_bytes() == b"".join(frame_record(payload) for payload in PAYLOADS)


@pytest.mark.parametrize("chunk_bytes", [64, 100, 1 << 16])
def test_reads_all_whatever_the_chunk(tmp_path: Path, chunk_bytes: int) -> None:
    path = write_shard(tmp_path / "a", PAYLOADS)
    assert read(path, chunk_bytes) == (PAYLOADS, [], record_starts(PAYLOADS)[:-1])


def damaged(tmp_path: Path, change) -> Path:  # type: ignore[no-untyped-def]
    data = bytearray(write_shard(tmp_path / "a", PAYLOADS).read_bytes())
    path = tmp_path / "bad"
    path.write_bytes(change(data))
    return path


def flip(data: bytearray, at: int, bit: int = 3) -> bytearray:
    data[at] ^= 1 << bit
    return data


STARTS = record_starts(PAYLOADS)


@pytest.mark.parametrize("chunk_bytes", [64, 1 << 16])
@pytest.mark.parametrize(
    ("name", "change", "lost", "reasons"),
    [
        ("payload bit", lambda data: flip(data, STARTS[2] + 15), [2], ["corrupt_payload"]),
        ("payload checksum bit", lambda data: flip(data, STARTS[3] - 1), [2], ["corrupt_payload"]),
        ("length bit", lambda data: flip(data, STARTS[2]), [2], ["corrupt_length"]),
        ("high length bit", lambda data: flip(data, STARTS[2] + 7), [2], ["corrupt_length"]),
        ("length checksum bit", lambda data: flip(data, STARTS[2] + 9), [2], ["corrupt_length"]),
        ("first length bit", lambda data: flip(data, 0), [0], ["corrupt_length"]),
        ("last length bit", lambda data: flip(data, STARTS[5]), [5], ["corrupt_length"]),
        ("last payload bit", lambda data: flip(data, STARTS[5] + 13), [5], ["corrupt_payload"]),
        ("truncated in header", lambda data: data[: STARTS[5] + 5], [5], ["truncated"]),
        ("truncated in payload", lambda data: data[: STARTS[5] + 30], [5], ["truncated"]),
        ("truncated in trailer", lambda data: data[:-2], [5], ["truncated"]),
        (
            "two payloads",
            lambda data: flip(flip(data, STARTS[1] + 14), STARTS[4] + 14),
            [1, 4],
            ["corrupt_payload", "corrupt_payload"],
        ),
        ("bytes missing inside", lambda data: data[: STARTS[2] + 14] + data[STARTS[2] + 19 :], [2], ["corrupt_length"]),
        (
            "bytes added inside",
            lambda data: data[: STARTS[2] + 14] + b"xyz" + data[STARTS[2] + 14 :],
            [2],
            ["corrupt_length"],
        ),
        ("zeros between", lambda data: data[: STARTS[2]] + bytes(500) + data[STARTS[2] :], [], ["corrupt_length"]),
    ],
)
def test_damage_costs_the_damaged_record(tmp_path, name, change, lost, reasons, chunk_bytes) -> None:  # type: ignore
    payloads, damage, _ = read(damaged(tmp_path, change), chunk_bytes)
    assert payloads == [payload for index, payload in enumerate(PAYLOADS) if index not in lost]
    assert [reason for _, reason in damage] == reasons
    if lost:
        assert [offset for offset, _ in damage] == [STARTS[index] for index in lost]


def test_missing_bytes_in_the_last_but_one_record_spare_the_last(tmp_path: Path) -> None:
    path = damaged(tmp_path, lambda data: data[: STARTS[4] + 14] + data[STARTS[4] + 20 :])
    payloads, damage, _ = read(path)
    assert payloads == PAYLOADS[:4] + PAYLOADS[5:]
    assert len(damage) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.random.default_rng(0).bytes(5000), "not_tfrecord"),
        (b"id,labels\n1,2\n" * 20, "not_tfrecord"),
        (b"short", "truncated"),
        (bytes(1000), "not_tfrecord"),
    ],
)
def test_what_is_not_a_tfrecord_is_one_rejection(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    assert read(path) == ([], [(0, reason)], [])


@pytest.mark.parametrize(
    ("content", "looks"),
    [(b"PAR1" + bytes(50), "Parquet"), (b'\n<?xml version="1.0"?>' + b"x" * 300, "XML"), (b"{" * 50, "JSON")],
)
def test_a_file_of_something_else_is_described(tmp_path: Path, content: bytes, looks: str) -> None:
    for name in ("bad", "bad.gz"):
        (tmp_path / name).write_bytes(content)
        (span,) = [span for chunk in read_chunks(str(tmp_path / name)) for span in chunk.damage]
        assert span.reason == "not_tfrecord" and f"looks like {looks}" in span.message


def test_a_zlib_stream_is_recognised_by_its_content(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tfrecord", PAYLOADS, "ZLIB")
    assert read(path, 64) == (PAYLOADS, [], STARTS[:-1])
    path.write_bytes(path.read_bytes()[:-9])
    payloads, damage, _ = read(path)
    assert payloads == PAYLOADS[: len(payloads)] and [reason for _, reason in damage] == ["truncated"]


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert read(tmp_path / "empty") == ([], [], [])


def test_a_file_that_cannot_be_read_is_not_a_rejected_record(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="absent cannot be read: No such file"):
        read(tmp_path / "absent")

    class Broken(io.RawIOBase):
        """A disk that fails after the first 4,096 bytes."""

        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, target) -> int:  # type: ignore[no-untyped-def]
            if self.given >= 4096:
                raise OSError(5, "Input/output error")
            count = min(len(target), 4096)
            target[:count] = bytes(count)
            self.given += count
            return count

    with pytest.raises(JobError, match="shard cannot be read: Input/output error"):
        list(read_chunks("shard", open_shard=lambda path: Broken()))  # type: ignore[arg-type, return-value]


def test_a_length_beyond_reason_is_damage(tmp_path: Path) -> None:
    length = struct.pack("<Q", 1 << 40)
    crc = google_crc32c.value(length)
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    path = damaged(tmp_path, lambda data: data[: STARTS[3]] + length + struct.pack("<I", masked) + data[STARTS[3] :])
    payloads, damage, _ = read(path)
    assert payloads == PAYLOADS
    assert damage == [(STARTS[3], "corrupt_length")]


@pytest.mark.parametrize("name", ["a.tfrecord.gz", "a.tfrecord"])
def test_gzip_is_recognised_by_its_content(tmp_path: Path, name: str) -> None:
    path = write_shard(tmp_path / name, PAYLOADS, "GZIP")
    assert read(path, 64) == (PAYLOADS, [], STARTS[:-1])


def test_a_plain_shard_named_gz_is_read(tmp_path: Path) -> None:
    assert read(write_shard(tmp_path / "a.gz", PAYLOADS)) == (PAYLOADS, [], STARTS[:-1])


def test_gzip_of_two_members_is_read(tmp_path: Path) -> None:
    data = write_shard(tmp_path / "a", PAYLOADS).read_bytes()
    (tmp_path / "two.gz").write_bytes(gzip.compress(data[:100]) + gzip.compress(data[100:]))
    assert read(tmp_path / "two.gz") == (PAYLOADS, [], STARTS[:-1])


def test_a_truncated_gzip_shard_keeps_what_is_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    payloads = [rng.bytes(1000) for _ in range(20)]
    whole = write_shard(tmp_path / "a.gz", payloads, "GZIP").read_bytes()
    (tmp_path / "cut.gz").write_bytes(whole[:-3000])
    found, damage, _ = read(tmp_path / "cut.gz")
    assert found == payloads[: len(found)] and len(found) >= 16
    assert [reason for _, reason in damage] == ["truncated"]


def test_a_damaged_gzip_shard_keeps_what_comes_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    payloads = [rng.bytes(1000) for _ in range(300)]
    whole = bytearray(write_shard(tmp_path / "a.gz", payloads, "GZIP").read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 4000] = bytes(4000)
    (tmp_path / "bad.gz").write_bytes(whole)
    found, damage, _ = read(tmp_path / "bad.gz")
    assert len(damage) >= 1 and damage[0][1] in ("corrupt_gzip", "corrupt_payload", "corrupt_length")
    assert len(found) >= 140
    assert set(found) <= set(payloads)


def test_a_plain_shard_damaged_into_gzips_magic_number_keeps_its_records(tmp_path: Path) -> None:
    whole = b"".join(frame_record(payload) for payload in PAYLOADS)
    (tmp_path / "a").write_bytes(b"\x1f\x8b" + whole)
    payloads, damage, _ = read(tmp_path / "a")
    assert payloads == PAYLOADS
    assert [reason for _, reason in damage] == ["corrupt_length"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_change_of_bytes_yields_only_true_records(tmp_path_factory, data) -> None:  # type: ignore[no-untyped-def]
    """Whatever happens to the bytes: no crash, no hang, no record that was not written, and damage is reported."""
    whole = b"".join(frame_record(payload) for payload in PAYLOADS)
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["set", "delete", "insert", "cut"]))
        at = data.draw(st.integers(0, max(len(changed) - 1, 0)))
        if kind == "set" and changed:
            changed[at] = data.draw(st.integers(0, 255))
        elif kind == "delete":
            del changed[at : at + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=40))
        else:
            del changed[at:]
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(changed)
    payloads, damage, _ = read(path, data.draw(st.sampled_from([64, 200, 4096])))
    remaining = iter(PAYLOADS)
    assert all(payload in remaining for payload in payloads)  # a subsequence: nothing invented, nothing reordered
    intact = sum(frame_record(payload) in bytes(changed) for payload in PAYLOADS)
    assert len(payloads) >= intact
    if bytes(changed) not in {whole[:start] for start in STARTS}:
        assert damage


def test_reads_what_tensorflow_wrote_and_back(tmp_path: Path) -> None:
    path = tmp_path / "ours"
    path.write_bytes(b"".join(frame_record(payload) for payload in PAYLOADS))
    assert read_payloads(path) == PAYLOADS
