"""The compiled reader delivers what TensorFlow's parser reads, in any layout, and names a shard it cannot read."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import training_data, wire
from vcls_model.commands import JobError
from vcls_model.input import batches, blocks
from vcls_model.input.batches import BatchPlan, array_batches
from vcls_model.input.blocks import Layout, ShardError
from vcls_model.input.dataset import make_batches, readable
from vcls_model.input.options import InputOptions
from vcls_model.records.encoding import BytesColumn, CodeMap, CodesColumn, FloatColumn, IntegerColumn, encode_by_split
from vcls_model.records.listed_shards import ListedShard
from vcls_model.records.schema import FRAMES, Modality
from vcls_model.records.transformed import open_transformed

VIDEO = training_data.VIDEO_SCHEMA.modalities  # mean_rgb 12, mean_audio 4
FRAME = training_data.FRAME_SCHEMA.modalities  # rgb 6, audio 3


def parsed(shards, modalities):
    """What TensorFlow reads: id -> (labels, features); codes of frames as (T, D)."""
    spec = {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)}
    for modality in modalities:
        if modality.kind == FRAMES:
            spec["num_frames"] = tf.io.FixedLenFeature([], tf.int64)
            spec[modality.name] = tf.io.FixedLenFeature([], tf.string)
        else:
            spec[modality.name] = tf.io.FixedLenFeature([modality.width], tf.float32)
    found = {}
    for payload in tf.data.TFRecordDataset([listed(shard).path for shard in shards]):
        record = tf.io.parse_single_example(payload, spec)
        features = {}
        for modality in modalities:
            value = record[modality.name]
            if modality.kind == FRAMES:
                size = int(record["num_frames"]) * modality.width
                value = tf.io.decode_raw(value, tf.uint8, fixed_length=size) if size else np.zeros(0, np.uint8)
                value = np.reshape(value, (-1, modality.width))
            features[modality.name] = np.asarray(value)
        found[record["id"].numpy()] = (record["labels"].values.numpy(), features)
    return found


def check(batches, expected, max_frames=300):
    """Every record once, each value equal to the last bit; returns the ids in the order of the batches."""
    order = []
    for batch in batches:
        features = batch["features"]
        for row, video_id in enumerate(batch["id"]):
            labels, values = expected[video_id]
            order.append(video_id)
            assert batch["labels"][row].tolist() == labels.tolist() + [-1] * (batch["labels"].shape[1] - len(labels))
            for name, value in values.items():
                if value.ndim == 1:
                    assert features[name].dtype == np.float32
                    assert features[name][row].tobytes() == value.tobytes()
                else:
                    kept = min(len(value), max_frames)
                    assert features["num_frames"][row] == kept
                    np.testing.assert_array_equal(features[name][row, :kept], value[:kept])
                    assert not features[name][row, kept:].any()
        if "num_frames" in features:
            assert all(
                value.shape[1] == max(1, features["num_frames"].max()) for value in features.values() if value.ndim == 3
            )
    assert sorted(order) == sorted(expected)
    return order


def listed(shard):
    return shard if isinstance(shard, ListedShard) else ListedShard(str(shard))


def plan(shards, modalities, batch_size=16, **options):
    read = InputOptions(batch_size, max_frames=options.pop("max_frames", 300), seed=options.pop("seed", 3))
    return BatchPlan([listed(shard) for shard in shards], modalities, read, with_ids=True, **options)


def write(path, payloads):
    training_data.write_shard(path, payloads)
    return path


@pytest.fixture(params=["video", "frame"])
def dataset(request, video_data, frame_data):
    data = open_transformed(str(video_data if request.param == "video" else frame_data))
    return data.shards("train"), data.modalities


@pytest.mark.parametrize("epoch", [None, 0, 7])
def test_batches_hold_what_tensorflow_parses(dataset, epoch):
    shards, modalities = dataset
    order = check(array_batches(plan(shards, modalities, epoch=epoch)), parsed(shards, modalities))
    assert (order == list(parsed(shards, modalities))) == (epoch is None)


@pytest.mark.parametrize("block_bytes", [16, 700, 5000])
def test_records_larger_than_a_piece_and_batches_larger_than_a_block(dataset, block_bytes, monkeypatch):
    for name in ("VIDEO_BLOCK_BYTES", "FRAME_BLOCK_BYTES"):
        monkeypatch.setattr(batches, name, block_bytes)
    shards, modalities = dataset
    expected = parsed(shards, modalities)
    whole = check(array_batches(plan(shards, modalities, epoch=0)), expected)
    assert check(array_batches(plan(shards, modalities)), expected) == list(expected)
    rest = [
        video_id
        for batch in array_batches(plan(shards, modalities, epoch=0, skip_batches=2))
        for video_id in batch["id"]
    ]
    assert rest == whole[32:]


def test_frames_are_cut_in_batches_of_one_block_and_of_several(frame_data, monkeypatch):
    data = open_transformed(str(frame_data))
    shards = data.shards("train")
    for block_bytes in (300, 2**20):
        monkeypatch.setattr(batches, "FRAME_BLOCK_BYTES", block_bytes)
        check(array_batches(plan(shards, data.modalities, epoch=1, max_frames=5)), parsed(shards, data.modalities), 5)


def test_the_order_does_not_depend_on_the_threads(dataset, monkeypatch):
    monkeypatch.setattr(batches, "VIDEO_BLOCK_BYTES", 2000)
    shards, modalities = dataset
    expected = parsed(shards, modalities)
    orders = []
    for threads in (1, 5):
        monkeypatch.setattr(
            batches, "ThreadPoolExecutor", lambda count, name, threads=threads: ThreadPoolExecutor(threads, name)
        )
        orders.append(check(array_batches(plan(shards, modalities, epoch=0)), expected))
    assert orders[0] == orders[1]


def test_other_file_systems_give_the_same(dataset, monkeypatch):
    shards, modalities = dataset
    expected = parsed(shards, modalities)
    local = check(array_batches(plan(shards, modalities, epoch=0)), expected)
    for module in (batches, blocks):
        monkeypatch.setattr(module, "is_remote", lambda path: True)
    assert check(array_batches(plan(shards, modalities, epoch=0)), expected) == local


def test_what_preprocess_writes_is_read_without_being_rewritten(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    modalities = (Modality("clip", 5, "vector", "float32"), Modality("rgb", 4, "frames", "uint8"))
    frames = random.integers(0, 9, 40)
    ends = np.cumsum(frames)
    codes = random.integers(0, 256, (ends[-1], 4)).astype(np.uint8)
    counts = random.integers(0, 12, 40)
    columns = {
        "id": BytesColumn.of([b"video%d" % number for number in range(40)]),
        "labels": IntegerColumn.of_lengths(random.integers(0, 3862, counts.sum()), counts),
        "clip": FloatColumn(random.normal(size=(40, 5)).astype(np.float32)),
        "rgb": CodesColumn(
            codes.reshape(-1),
            (ends - frames) * 4,
            np.full(40, 4),
            frames,
            CodeMap.of(np.array([[255] * 4, [-1] * 4], np.float32), (1, 0), (1, 0)),
        ),
        "num_frames": IntegerColumn.of_lengths(frames, np.ones(40, np.int64)),
    }
    path = tmp_path / "shard"
    path.write_bytes(encode_by_split(columns, np.zeros(40, np.int64))[0][1].tobytes())
    monkeypatch.setattr(Layout, "rewritten", None)  # would fail
    batches = list(array_batches(plan([path], modalities, epoch=0)))
    check(batches, parsed([path], modalities))
    assert {batch["labels"].shape[1] for batch in batches} <= {8, 16}


def entry(name, feature):
    return wire.write_message(1, wire.write_message(1, name) + wire.write_message(2, feature))


def unpacked_floats(values):
    tag = wire.write_varint(1 << 3 | wire.FIXED32)
    return wire.write_message(2, b"".join(tag + np.float32(value).tobytes() for value in values))


def unpacked_integers(values):
    return wire.write_message(3, b"".join(wire.write_varint(1 << 3) + wire.write_varint(value) for value in values))


def odd_records():
    """The same content in layouts that protocol buffers allow and their writers do not produce."""
    rgb, audio = np.arange(12, dtype=np.float32) / 7, np.arange(4, dtype=np.float32) - 9
    features = {
        b"labels": wire.int64_feature([7, 3]),
        b"mean_rgb": wire.float_feature(rgb),
        b"mean_audio": wire.float_feature(audio),
    }

    def record(number, changes=None, extra=b"", before=b""):
        entries = {b"id": wire.bytes_feature(b"odd%d" % number), **features, **(changes or {})}
        return wire.write_message(
            1, before + b"".join(entry(*item) for item in entries.items() if item[1] is not None) + extra
        )

    split = record(9)
    return [
        record(0, {b"mean_rgb": unpacked_floats(rgb)}),
        record(1, {b"labels": unpacked_integers([300, 3])}),
        record(2, {b"labels": None}),
        record(3, {b"labels": b""}),
        record(4, extra=entry(b"mean_audio", wire.float_feature(audio + 1))),  # of two the last counts
        record(
            5,
            before=wire.write_message(
                1, wire.write_message(2, wire.bytes_feature(b"x")) + wire.write_message(1, b"other")
            ),
        ),  # value before key
        record(6, {b"labels": wire.write_message(3, wire.write_message(1, b""))}),
        record(7) + wire.write_message(9, b"unknown"),
        record(8, {b"other": wire.bytes_feature(b"a", b"b")}),
        # A message in two parts, which are merged.
        wire.write_message(1, entry(b"id", wire.bytes_feature(b"odd9"))) + split,
    ]


def test_odd_layouts_train_like_any(tmp_path, video_data):
    usual = tf.data.TFRecordDataset(open_transformed(str(video_data)).shards("train")[0].path)
    usual = [payload.numpy() for payload in usual]
    payloads = [payload for pair in zip(odd_records(), usual, strict=False) for payload in pair]
    shards = [write(tmp_path / "one", payloads[:9]), write(tmp_path / "two", payloads[9:])]
    expected = parsed(shards, VIDEO)
    assert len(expected) == len(payloads)
    for epoch in (None, 0):
        check(array_batches(plan(shards, VIDEO, batch_size=7, epoch=epoch)), expected)


def test_frames_that_are_too_few_or_too_many_for_their_number_are_filled_or_cut(tmp_path):
    def record(number, frames, count):
        return wire.write_example(
            {
                "id": wire.bytes_feature(b"v%d" % number),
                "labels": wire.int64_feature([1]),
                "rgb": wire.bytes_feature(bytes(range(1, 1 + 6 * frames))),
                "num_frames": wire.int64_feature([count]),
                "audio": wire.bytes_feature(bytes(range(1, 1 + 3 * count))),
            }
        )

    shard = write(tmp_path / "shard", [record(0, 4, 4), record(1, 2, 4), record(2, 5, 3), record(3, 0, 0)])
    check(array_batches(plan([shard], FRAME)), parsed([shard], FRAME))


def example(**features):
    whole = {
        "id": wire.bytes_feature(b"a"),
        "labels": wire.int64_feature([1]),
        "mean_rgb": wire.float_feature(np.zeros(12)),
        "mean_audio": wire.float_feature(np.zeros(4)),
    }
    return wire.write_example({name: value for name, value in {**whole, **features}.items() if value is not None})


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"no example", "not a tf.train.Example"),
        (b"", "lacks the feature 'id'"),
        (example(mean_rgb=None), "lacks the feature 'mean_rgb'"),
        (example(mean_rgb=wire.float_feature(np.zeros(11))), "'mean_rgb' of a record has 11 values where 12"),
        (
            example(mean_audio=wire.int64_feature([1, 2, 3, 4])),
            "'mean_audio' of a record holds int64 where float",
        ),
        (example(labels=wire.bytes_feature(b"cat")), "'labels' of a record holds bytes where int64 is expected"),
        (example(id=None), "lacks the feature 'id'"),
    ],
)
def test_what_is_no_transformed_record_is_named(payload, reason, tmp_path):
    shards = [write(tmp_path / "good", [example()]), write(tmp_path / "bad", [example(), payload])]
    with pytest.raises(ShardError, match=f"{tmp_path / 'bad'} cannot be read .*{reason}"):
        list(array_batches(plan(shards, VIDEO, epoch=0)))


def test_an_absurd_number_of_frames_reserves_no_memory(tmp_path):
    record = wire.write_example(
        {
            "id": wire.bytes_feature(b"v"),
            "rgb": wire.bytes_feature(b"abc"),
            "audio": wire.bytes_feature(b"abc"),
            "num_frames": wire.int64_feature([2**60]),
        }
    )
    with pytest.raises(ShardError, match="'num_frames' of a record is"):
        list(array_batches(plan([write(tmp_path / "shard", [record])], FRAME)))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:], "checksum of a record is wrong"),
        (lambda content: bytes([content[0] ^ 1]) + content[1:], "length of a record is damaged"),
        (lambda content: content[:-1], "last record is cut off"),
        (lambda content: content[:3], "last record is cut off"),
        (None, "No such file"),
    ],
)
@pytest.mark.parametrize("block_bytes", [64, 2**20])
def test_damage_is_named(damage, reason, block_bytes, video_data, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "VIDEO_BLOCK_BYTES", block_bytes)
    shards = open_transformed(str(video_data)).shards("train")
    bad = tmp_path / "bad"
    if damage is not None:
        bad.write_bytes(damage(tf.io.gfile.GFile(shards[0].path, "rb").read()))
    with pytest.raises(ShardError, match=f"{bad} cannot be read .*{reason}"):
        list(array_batches(plan([*shards[1:], bad], VIDEO, epoch=0)))
    with pytest.raises(ShardError, match=f"{bad} cannot be read .*{reason}"):
        list(readable(make_batches([*shards[1:], listed(bad)], VIDEO, InputOptions(16))))


@pytest.mark.parametrize("block_bytes", [64, 2**20])
def test_a_shard_of_other_records_than_its_manifest_counts_is_named(block_bytes, video_data, monkeypatch):
    monkeypatch.setattr(batches, "VIDEO_BLOCK_BYTES", block_bytes)
    shards = open_transformed(str(video_data)).shards("train")
    counted = [ListedShard(shard.path, records=len(parsed([shard], VIDEO))) for shard in shards]
    check(array_batches(plan(counted, VIDEO, epoch=0)), parsed(shards, VIDEO))
    held = counted[2].records
    wrong = ListedShard(shards[2].path, records=held + 1)
    message = f"{shards[2].path} cannot be read .it holds {held} records, its manifest counts {held + 1}"
    with pytest.raises(ShardError, match=message):
        list(array_batches(plan([*counted[:2], wrong, counted[3]], VIDEO, epoch=0)))


def test_a_pipe_in_the_place_of_a_shard_is_named(video_data, tmp_path):
    """Opening it would wait for a writer, for ever."""
    data = open_transformed(str(video_data))
    os.mkfifo(tmp_path / "pipe.tfrecord")
    with pytest.raises(JobError, match="pipe.tfrecord is a pipe, a socket or a device"):
        list(array_batches(plan([str(tmp_path / "pipe.tfrecord")], data.modalities)))


def test_empty_shards_are_no_trouble(tmp_path, video_data):
    shards = [write(tmp_path / f"empty{number}", []) for number in range(3)]
    shards += open_transformed(str(video_data)).shards("train")[:1]
    check(array_batches(plan(shards, VIDEO, epoch=0)), parsed(shards, VIDEO))
    assert list(array_batches(plan(shards[:3], VIDEO, epoch=0))) == []
    assert list(array_batches(plan(shards[:3], VIDEO, epoch=0, repeat=True))) == []


def test_repeating_starts_again_in_the_same_order_of_shards(dataset):
    shards, modalities = dataset
    count = len(parsed(shards, modalities))
    seen = []
    for batch in array_batches(plan(shards, modalities, epoch=0, repeat=True, drop_remainder=True)):
        assert len(batch["id"]) == 16
        seen += list(batch["id"])
        if len(seen) >= 5 * count:
            break
    times = np.unique(np.array(seen), return_counts=True)[1]
    assert len(times) == count and times.min() >= 3 and times.max() <= 7


def test_memory_is_two_buffers_however_many_blocks(video_data):
    shards = open_transformed(str(video_data)).shards("train")
    with ThreadPoolExecutor(2) as pool:
        read = blocks.read_blocks(
            shards, [0, 1, 2, 3] * 20, Layout(VIDEO, False), shards_open=4, block_bytes=4000, pool=pool
        )
        buffers = [block.buffer.ctypes.data for block in read]
    assert len(buffers) >= 100
    assert len(set(buffers[2:])) == 2


def test_a_reader_that_is_left_stops_its_threads(video_data):
    data = open_transformed(str(video_data))

    def readers():
        return [thread for thread in threading.enumerate() if thread.name.startswith("read")]

    before = len(readers())
    batches = array_batches(plan(data.shards("train"), data.modalities, epoch=0, repeat=True))
    next(batches)
    assert len(readers()) > before
    batches.close()
    iterator = iter(make_batches(data.shards("train"), data.modalities, InputOptions(4), epoch=0, repeat=True))
    next(iterator)
    del iterator
    assert len(readers()) == before
