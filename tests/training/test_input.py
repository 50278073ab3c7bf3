import numpy as np
import pytest
import tensorflow as tf

import vcls_model.input
from tests.training import synthetic
from vcls_model.commands import UsageError
from vcls_model.input import _chosen_frames, decode_features, make_batches
from vcls_model.options import ReadOptions
from vcls_model.transformed import open_transformed


def collect(dataset):
    return [{key: (value if key == "features" else value.numpy()) for key, value in batch.items()} for batch in dataset]


def ids_of(dataset):
    return [list(batch["id"]) for batch in collect(dataset)]


@pytest.fixture(scope="module")
def data(video_data):
    return open_transformed(str(video_data))


def test_an_epoch_holds_every_video_once_with_its_own_values(data):
    raw = synthetic.make_videos(synthetic.VIDEO_SCHEMA, 100, 1)
    done = synthetic.transform(raw, synthetic.VIDEO_SCHEMA,
                               synthetic.moments(synthetic.make_videos(synthetic.VIDEO_SCHEMA, 200, 77),
                                                 synthetic.VIDEO_SCHEMA))
    place = {video_id: number for number, video_id in enumerate(raw.ids)}
    shards = data.shards("train")
    seen = []
    for batch in make_batches(shards, data.modalities, ReadOptions(16, seed=5), epoch=0, with_ids=True):
        for row, video_id in enumerate(batch["id"].numpy()):
            number = place[video_id]
            seen.append(video_id)
            labels = batch["labels"].numpy()[row]
            assert labels[labels >= 0].tolist() == raw.labels[number]
            for name in ("mean_rgb", "mean_audio"):
                np.testing.assert_allclose(batch["features"][name].numpy()[row], done.features[name][number], rtol=1e-6)
            assert batch["shard"].numpy()[row] == number // 25  # 4 shards of 25 videos
    assert sorted(seen) == sorted(raw.ids)


def test_seed_and_epoch_alone_decide_the_order(data):
    def read(seed, epoch):
        return ids_of(make_batches(data.shards("train"), data.modalities, ReadOptions(16, seed=seed), epoch=epoch,
                                   with_ids=True))

    assert read(1, 0) == read(1, 0)
    assert read(1, 0) != read(1, 1)
    assert read(1, 0) != read(2, 0)
    assert [len(batch) for batch in read(1, 0)] == [16] * 6 + [4]


def test_a_batch_mixes_shards(data):
    batch = next(iter(make_batches(data.shards("train"), data.modalities, ReadOptions(40, seed=1), epoch=0)))
    assert len(set(batch["shard"].numpy().tolist())) == 4


@pytest.mark.parametrize("skip", [1, 3])
def test_skipping_batches_continues_where_an_epoch_stood(data, skip):
    arguments = (data.shards("train"), data.modalities, ReadOptions(16, seed=3))
    whole = ids_of(make_batches(*arguments, epoch=2, with_ids=True))
    assert ids_of(make_batches(*arguments, epoch=2, skip_batches=skip, with_ids=True)) == whole[skip:]


def test_without_an_epoch_the_files_keep_their_order(data):
    ids = ids_of(make_batches(data.shards("train"), data.modalities, ReadOptions(30), with_ids=True))
    assert sum(ids, []) == synthetic.make_videos(synthetic.VIDEO_SCHEMA, 100, 1).ids


def test_the_last_short_batch_can_be_dropped(data):
    sizes = [batch["labels"].shape[0] for batch in make_batches(
        data.shards("train"), data.modalities, ReadOptions(16), epoch=0, drop_remainder=True)]
    assert sizes == [16] * 6


def test_labels_are_padded_with_minus_one_to_multiples_of_eight(data):
    batch = next(iter(make_batches(data.shards("train"), data.modalities, ReadOptions(16))))
    labels = batch["labels"].numpy()
    assert labels.dtype == np.int32 and labels.shape == (16, 8)
    assert (labels[:, 3:] == -1).all()


def test_frames_are_decoded_on_demand(frame_data):
    data = open_transformed(str(frame_data))
    raw = synthetic.make_videos(synthetic.FRAME_SCHEMA, 60, 1)
    done = synthetic.transform(raw, synthetic.FRAME_SCHEMA,
                               synthetic.moments(synthetic.make_videos(synthetic.FRAME_SCHEMA, 200, 77),
                                                 synthetic.FRAME_SCHEMA))
    place = {video_id: number for number, video_id in enumerate(raw.ids)}
    for batch in make_batches(data.shards("train"), data.modalities, ReadOptions(16, max_frames=5), epoch=0,
                              with_ids=True):
        assert batch["features"]["rgb"].dtype == tf.uint8
        decoded = decode_features(batch["features"], data.modalities)
        for row, video_id in enumerate(batch["id"].numpy()):
            codes = done.features["rgb"][place[video_id]][:5]
            assert batch["features"]["num_frames"].numpy()[row] == len(codes)
            values = decoded["rgb"].numpy()[row]
            np.testing.assert_allclose(values[:len(codes)], codes * (8 / 255) - 4, atol=1e-5)
            assert (values[len(codes):] == 0).all()


def test_large_records_are_read_one_by_one_with_the_same_promises(data, monkeypatch):
    monkeypatch.setattr(vcls_model.input, "LARGE_RECORD_BYTES", 0)
    arguments = (data.shards("train"), data.modalities, ReadOptions(16, seed=3))
    whole = ids_of(make_batches(*arguments, epoch=1, with_ids=True))
    assert [len(batch) for batch in whole] == [16] * 6 + [4]
    assert sorted(sum(whole, [])) == sorted(synthetic.make_videos(synthetic.VIDEO_SCHEMA, 100, 1).ids)
    assert ids_of(make_batches(*arguments, epoch=1, skip_batches=2, with_ids=True)) == whole[2:]
    assert ids_of(make_batches(*arguments, epoch=2, with_ids=True)) != whole
    assert len(ids_of(make_batches(*arguments, epoch=1, drop_remainder=True, with_ids=True))) == 6
    in_order = ids_of(make_batches(*arguments, with_ids=True))
    assert sum(in_order, []) == synthetic.make_videos(synthetic.VIDEO_SCHEMA, 100, 1).ids


@pytest.mark.parametrize("sampling", ["random", "sequence", "uniform"])
def test_frame_sampling(sampling):
    counts = tf.constant([1, 3, 4, 9, 50])
    positions, kept = (value.numpy() for value in _chosen_frames(counts, 4, sampling, tf.constant([1, 2], tf.int64)))
    assert kept.tolist() == [1, 3, 4, 4, 4]
    for row, count in enumerate(counts.numpy()):
        chosen = positions[row, :kept[row]]
        assert (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < count
        if sampling == "sequence":
            assert (np.diff(chosen) == 1).all()
    if sampling == "uniform":
        assert positions[4].tolist() == [6, 18, 31, 43]  # the middles of four quarters of 50


@pytest.mark.parametrize("sampling", ["random", "sequence"])
def test_sampled_frames_are_uniform_over_the_video(sampling):
    counts = tf.fill([4000], 6)
    positions, _ = _chosen_frames(counts, 3, sampling, tf.constant([1, 2], tf.int64))
    frequency = np.bincount(positions.numpy().ravel(), minlength=6) / 4000
    expected = np.full(6, 0.5) if sampling == "random" else np.array([1, 2, 3, 3, 2, 1]) / 4
    np.testing.assert_allclose(frequency, expected, atol=0.04)


def test_sampling_draws_anew_each_epoch_and_the_same_for_a_seed(frame_data):
    data = open_transformed(str(frame_data))

    def read(epoch, sampling):
        options = ReadOptions(60, frames=sampling, max_frames=2, seed=4)
        batch = next(iter(make_batches(data.shards("train"), data.modalities, options, epoch=epoch, with_ids=True)))
        order = np.argsort(batch["id"].numpy())
        return batch["features"]["rgb"].numpy()[order]

    assert read(0, "random").shape == (60, 2, 6)
    np.testing.assert_array_equal(read(0, "random"), read(0, "random"))
    assert (read(0, "random") != read(1, "random")).any()


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 1, "frames": "some"},
                                     {"batch_size": 1, "max_frames": 0}, {"batch_size": 1, "seed": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError):
        ReadOptions(**options)
