"""How the work is divided."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.scoring import handler
from pipelines.scoring.planning import SMALL_BYTES, InputShard, plan_groups


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 300 << 20), max_size=200), st.integers(1, 16), st.integers(1 << 20, 600 << 20))
def test_groups_hold_every_shard_once_and_are_bounded(sizes: list[int], workers: int, group_bytes: int) -> None:
    shards = [InputShard(f"/data/{number}.tfrecord", size) for number, size in enumerate(sizes)]
    groups = plan_groups(shards, workers=workers, group_bytes=group_bytes)
    assert [shard for group in groups for shard in group.shards] == shards
    assert all(group.shards for group in groups)
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        taken = [shard.size_bytes for shard in group.shards]
        assert sum(taken) <= max(group_bytes, SMALL_BYTES) + max(taken) + len(taken)


def test_every_worker_gets_a_group() -> None:
    shards = [InputShard(f"/data/{number}.tfrecord", 1 << 20) for number in range(100)]
    assert len(plan_groups(shards, workers=8, group_bytes=1 << 40)) == 8
    assert len(plan_groups(shards[:3], workers=8, group_bytes=1 << 40)) == 1
    assert plan_groups([], workers=8, group_bytes=1) == []


def test_equal_base_names_in_two_folders_do_not_meet() -> None:
    first, second = InputShard("/monday/a.tfrecord", 1), InputShard("/tuesday/a.tfrecord", 1)
    assert first.name != second.name
    assert first.name.startswith("a-")


@pytest.mark.parametrize(("one_thread", "preset", "found"), [(True, None, "1"), (True, "4", "4"), (False, None, None)])
def test_workers_of_a_cluster_multiply_matrices_by_one_thread(
    one_thread: bool, preset: str | None, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "LoadedModel", lambda path, class_count: os.environ.get("TF_NUM_INTRAOP_THREADS"))
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", preset or "")
    if preset is None:
        monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    assert handler.ExportedModelHandler(["m"], 3, one_thread=one_thread).load_model().models == (found,)
