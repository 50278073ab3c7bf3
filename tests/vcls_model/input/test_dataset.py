import numpy as np
import pytest
import tensorflow as tf

from tests.fixtures import training_data
from vcls_model.commands import UsageError
from vcls_model.input import batches
from vcls_model.input.dataset import decode_features, make_batches
from vcls_model.input.options import InputOptions
from vcls_model.records import kernels
from vcls_model.records.transformed import open_transformed


def collect(dataset):
    return [{key: (value if key == "features" else value.numpy()) for key, value in batch.items()} for batch in dataset]


def ids_of(dataset):
    return [list(batch["id"]) for batch in collect(dataset)]


def chosen_frames(counts, limit, sampling):
    positions, kept = np.zeros((len(counts), limit), np.int32), np.zeros(len(counts), np.int32)
    kernels.choose_frames(np.array(counts), limit, batches._SAMPLINGS[sampling], 5, 0, positions, kept)
    return positions, kept


@pytest.fixture(scope="module")
def data(video_data):
    return open_transformed(str(video_data))


def test_an_epoch_holds_every_video_once_with_its_own_values(data):
    raw = training_data.make_videos(training_data.VIDEO_SCHEMA, 100, 1)
    done = training_data.transform(
        raw,
        training_data.VIDEO_SCHEMA,
        training_data.moments(
            training_data.make_videos(training_data.VIDEO_SCHEMA, 200, 77), training_data.VIDEO_SCHEMA
        ),
    )
    place = {video_id: number for number, video_id in enumerate(raw.ids)}
    shards = data.shards("train")
    seen = []
    for batch in make_batches(shards, data.modalities, InputOptions(16, seed=5), epoch=0, with_ids=True):
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
        return ids_of(
            make_batches(data.shards("train"), data.modalities, InputOptions(16, seed=seed), epoch=epoch, with_ids=True)
        )

    assert read(1, 0) == read(1, 0)
    assert read(1, 0) != read(1, 1)
    assert read(1, 0) != read(2, 0)
    assert [len(batch) for batch in read(1, 0)] == [16] * 6 + [4]


def test_a_batch_mixes_shards(data):
    batch = next(iter(make_batches(data.shards("train"), data.modalities, InputOptions(40, seed=1), epoch=0)))
    assert len(set(batch["shard"].numpy().tolist())) == 4


@pytest.mark.parametrize("skip", [1, 3])
def test_skipping_batches_continues_where_an_epoch_stood(data, skip):
    arguments = (data.shards("train"), data.modalities, InputOptions(16, seed=3))
    whole = ids_of(make_batches(*arguments, epoch=2, with_ids=True))
    assert ids_of(make_batches(*arguments, epoch=2, skip_batches=skip, with_ids=True)) == whole[skip:]


def test_without_an_epoch_the_files_keep_their_order(data):
    ids = ids_of(make_batches(data.shards("train"), data.modalities, InputOptions(30), with_ids=True))
    assert sum(ids, []) == training_data.make_videos(training_data.VIDEO_SCHEMA, 100, 1).ids


def test_the_last_short_batch_can_be_dropped(data):
    sizes = [
        batch["labels"].shape[0]
        for batch in make_batches(data.shards("train"), data.modalities, InputOptions(16), epoch=0, drop_remainder=True)
    ]
    assert sizes == [16] * 6


def test_labels_are_padded_with_minus_one_to_multiples_of_eight(data):
    batch = next(iter(make_batches(data.shards("train"), data.modalities, InputOptions(16))))
    labels = batch["labels"].numpy()
    assert labels.dtype == np.int32 and labels.shape == (16, 8)
    assert (labels[:, 3:] == -1).all()


def test_frames_are_decoded_on_demand(frame_data, caplog):
    data = open_transformed(str(frame_data))
    raw = training_data.make_videos(training_data.FRAME_SCHEMA, 60, 1)
    done = training_data.transform(
        raw,
        training_data.FRAME_SCHEMA,
        training_data.moments(
            training_data.make_videos(training_data.FRAME_SCHEMA, 200, 77), training_data.FRAME_SCHEMA
        ),
    )
    place = {video_id: number for number, video_id in enumerate(raw.ids)}
    for batch in make_batches(
        data.shards("train"), data.modalities, InputOptions(16, max_frames=5), epoch=0, with_ids=True
    ):
        assert batch["features"]["rgb"].dtype == tf.uint8
        decoded = tf.function(decode_features)(batch["features"], data.modalities)
        for row, video_id in enumerate(batch["id"].numpy()):
            codes = done.features["rgb"][place[video_id]][:5]
            assert batch["features"]["num_frames"].numpy()[row] == len(codes)
            values = decoded["rgb"].numpy()[row]
            np.testing.assert_allclose(values[: len(codes)], codes * (8 / 255) - 4, atol=1e-5)
            assert (values[len(codes) :] == 0).all()
    assert "AutoGraph" not in caplog.text  # it cannot read all of Python, and would warn every user


@pytest.mark.parametrize("sampling", ["middle", "random", "sequence", "uniform"])
def test_frame_sampling(sampling):
    counts = [1, 3, 4, 9, 50]
    positions, kept = chosen_frames(counts, 4, sampling)
    assert kept.tolist() == [1, 3, 4, 4, 4]
    for row, count in enumerate(counts):
        chosen = positions[row, : kept[row]]
        assert (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < count
        if sampling in ("middle", "sequence"):
            assert (np.diff(chosen) == 1).all()
    if sampling == "middle":
        assert positions[4].tolist() == [23, 24, 25, 26] and positions[3].tolist() == [2, 3, 4, 5]
    if sampling == "uniform":
        assert positions[4].tolist() == [6, 18, 31, 43]  # the middles of four quarters of 50


@pytest.mark.parametrize("sampling", ["random", "sequence"])
def test_sampled_frames_are_uniform_over_the_video(sampling):
    positions, _ = chosen_frames([6] * 4000, 3, sampling)
    frequency = np.bincount(positions.ravel(), minlength=6) / 4000
    expected = np.full(6, 0.5) if sampling == "random" else np.array([1, 2, 3, 3, 2, 1]) / 4
    np.testing.assert_allclose(frequency, expected, atol=0.04)
    # Every subset, or run, is as likely as another.
    _, times = np.unique(positions, axis=0, return_counts=True)
    assert len(times) == (20 if sampling == "random" else 4)
    assert times.min() / times.mean() > 0.8 and times.max() / times.mean() < 1.2 + 0.1 * (sampling == "random")


def test_sampling_draws_anew_each_epoch_and_the_same_for_a_seed(frame_data):
    data = open_transformed(str(frame_data))

    def read(epoch, sampling):
        options = InputOptions(60, frames=sampling, max_frames=2, seed=4)
        batch = next(iter(make_batches(data.shards("train"), data.modalities, options, epoch=epoch, with_ids=True)))
        order = np.argsort(batch["id"].numpy())
        return batch["features"]["rgb"].numpy()[order]

    assert read(0, "random").shape == (60, 2, 6)
    np.testing.assert_array_equal(read(0, "random"), read(0, "random"))
    assert (read(0, "random") != read(1, "random")).any()


@pytest.mark.parametrize("sampling", ["random", "sequence"])
def test_a_run_that_continues_draws_the_same_frames(frame_data, sampling):
    data = open_transformed(str(frame_data))
    arguments = (data.shards("train"), data.modalities, InputOptions(8, frames=sampling, max_frames=2, seed=4))
    whole = [batch["features"]["rgb"].numpy() for batch in make_batches(*arguments, epoch=1)]
    rest = [batch["features"]["rgb"].numpy() for batch in make_batches(*arguments, epoch=1, skip_batches=3)]
    assert len(rest) == len(whole) - 3
    for one, other in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 1, "frames": "some"},
        {"batch_size": 1, "max_frames": 0},
        {"batch_size": 1, "seed": -1},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError):
        InputOptions(**options)
