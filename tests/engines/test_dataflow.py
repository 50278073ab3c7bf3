"""The Dataflow job of each pipeline, built offline by Beam's own runner (`dry_run`): what would be sent, nothing is."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import preprocess, score
from pipelines.running.runners import pipeline_options
from vcls_model.commands import UsageError

pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient", reason="apache-beam[gcp] is not installed")

# All shards of YouTube-8M's train partition, at the length that their names have on an object store.
SHARDS = 3844
MOST_GRAPH_BYTES = 1_000_000
FLAGS = [
    "--project=some-project",
    "--region=europe-west4",
    "--job_name=nightly",
    "--temp_location=gs://bucket/tmp",
    "--staging_location=gs://bucket/staging",
    "--sdk_container_image=registry.example/worker:1",
    "--machine_type=n2-highmem-4",
    "--disk_size_gb=100",
    "--num_workers=10",
    "--max_num_workers=200",
    "--flexrs_goal=COST_OPTIMIZED",
    "--experiments=use_runner_v2",
    "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver",
]


def dataflow_job(parser: Any, build: Callable[[Any], None], flags: list[str] | None = None) -> Any:
    """The job that Dataflow's runner makes of a pipeline; the flags pass through the project's own check first."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import TestOptions

    options = pipeline_options(parser, "Dataflow", FLAGS if flags is None else flags)
    options.view_as(TestOptions).dry_run = True
    pipeline = beam.Pipeline(options=options)
    build(pipeline)
    return pipeline.run().job


@pytest.fixture(scope="module")
def preprocess_job() -> Any:
    import tensorflow_transform.beam as tft_beam

    from pipelines.preprocessing.config import JobConfig, Shard, TransformConfig
    from vcls_model.records.schema import schema_by_name

    schema = dataclasses.replace(schema_by_name("yt8m-frame"), class_count=3862)
    shards = tuple(
        Shard(
            index, SHARDS, f"gs://some-bucket/yt8m/v3/frame/train{index:04d}.tfrecord", 400_000_000, 1795376648.030898
        )
        for index in range(SHARDS)
    )
    config = JobConfig("gs://some-bucket/transformed", shards, TransformConfig(schema, 3862), None, 0.01, {}, False)

    def build(pipeline: Any) -> None:
        with tft_beam.Context(temp_dir="gs://some-bucket/transformed/tmp"):
            preprocess.build_pipeline(pipeline, config)

    return dataflow_job(preprocess.make_parser(), build)


@pytest.fixture(scope="module")
def score_job() -> Any:
    from pipelines.scoring.config import ScoringConfig
    from pipelines.scoring.planning import FRAME_GROUP_BYTES, InputShard, plan_groups
    from vcls_model.records.schema import schema_by_name

    schema = dataclasses.replace(schema_by_name("yt8m-frame"), class_count=3862)
    shards = [
        InputShard(f"gs://some-bucket/yt8m/v3/frame/train{index:04d}.tfrecord", 400_000_000) for index in range(SHARDS)
    ]
    config = ScoringConfig(
        output="gs://some-bucket/scores",
        model_paths=("gs://some-bucket/model",),
        model_identities=("0123456789abcdef",),
        schema=schema,
        split=None,
        splits=None,
        top_k=20,
        threshold=0.5,
        class_thresholds=None,
        form="parquet",
        full_logits="none",
        batch_size=64,
        max_frames=300,
        missing_modality="reject",
        run_id="2026-11-22",
    )
    groups = plan_groups(shards, workers=200, group_bytes=FRAME_GROUP_BYTES)
    return dataflow_job(score.make_parser(), lambda pipeline: score.build_pipeline(pipeline, groups, config))


@pytest.fixture(params=["preprocess_job", "score_job"])
def job(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_the_graph_is_small_though_it_names_every_shard(job: Any) -> None:
    graph = job.proto_pipeline.SerializeToString()
    assert len(graph) < MOST_GRAPH_BYTES
    # Neither a model nor data: no single function or value in the graph comes near the size of either.
    payloads = {
        transform.unique_name: len(transform.spec.payload)
        for transform in job.proto_pipeline.components.transforms.values()
        if not re.search("(Shards|ListGroups)/", transform.unique_name)
    }
    largest = max(payloads, key=lambda name: payloads[name])
    assert payloads[largest] < 50_000, largest


def test_every_step_is_labelled(job: Any) -> None:
    """A step that nobody named is called after its code, which is no name to find it by (the root has none)."""
    top = {
        transform.unique_name.split("/", 1)[0]
        for transform in job.proto_pipeline.components.transforms.values()
        if transform.unique_name and not transform.unique_name.startswith("ref_AppliedPTransform")
    }
    assert top
    for name in top:
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", name), name


def test_workers_are_what_the_flags_say(job: Any) -> None:
    from apache_beam.runners.dataflow.internal import apiclient

    environment = apiclient.Environment(
        packages=[],
        options=job.options,
        environment_version="1",
        proto_pipeline=job.proto_pipeline,
        proto_pipeline_staged_url="gs://bucket/staging/pipeline.pb",
    ).proto
    (pool,) = environment.worker_pools
    assert pool.machine_type == "n2-highmem-4"
    assert pool.disk_size_gb == 100
    assert pool.num_workers == 10
    assert pool.autoscaling_settings.max_num_workers == 200
    assert {image.container_image for image in pool.sdk_harness_container_images} == {"registry.example/worker:1"}
    assert environment.flex_resource_scheduling_goal.name == "FLEXRS_COST_OPTIMIZED"
    assert "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver" in environment.service_options
    assert job.google_cloud_options.project == "some-project"
    assert job.google_cloud_options.region == "europe-west4"
    assert job.proto.name == "nightly"


def test_a_misspelt_worker_flag_is_an_error() -> None:
    with pytest.raises(UsageError, match="--machine_tpye=x.*did you mean --machine_type"):
        pipeline_options(preprocess.make_parser(), "Dataflow", ["--machine_tpye=x"])


@pytest.mark.parametrize("module", [preprocess, score])
def test_a_dry_run_refuses_what_the_job_would(module: Any, sample: Path, tmp_path: Path) -> None:
    flags = [f"--input={sample}/*.tfrecord", f"--output={tmp_path / 'out'}", "--runner=Dataflow", "--dry_run"]
    if module is score:
        from tests.fixtures.scoring import write_model

        flags.append(f"--model={write_model(tmp_path / 'model', classes=3862)}")
    with pytest.raises(UsageError, match="needs --project and --region and --temp_location"):
        module.run(flags)
    assert not (tmp_path / "out").exists()
