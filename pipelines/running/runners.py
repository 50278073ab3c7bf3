"""Beam options of the command lines: runner names, defaults for one machine, unknown flags."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vcls_model.commands import JobError, Parser, UsageError, option_names, reject_unknown_flags

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_FN_API_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
# What a user may write -> what Beam is given. DirectRunner names FnApiRunner, because Beam's own DirectRunner first
# tries to download another runner.
_RUNNERS = {
    "direct": _FN_API_RUNNER,
    "directrunner": _FN_API_RUNNER,
    "fnapirunner": _FN_API_RUNNER,
    "dataflow": "DataflowRunner",
    "dataflowrunner": "DataflowRunner",
    "flink": "FlinkRunner",
    "flinkrunner": "FlinkRunner",
    "portable": "PortableRunner",
    "portablerunner": "PortableRunner",
    "sparkrunner": "SparkRunner",
}


def add_runner_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--runner`; all other Beam options pass through to Beam."""
    parser.add_argument(
        "--runner",
        default="DirectRunner",
        help="DirectRunner (this machine, all its cores; --direct_num_workers=N changes that), FlinkRunner, Dataflow, "
        "PortableRunner; their own options follow as they are (default: %(default)s)",
    )


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """Parses the job's flags; returns them and what is left for Beam. `--help` answers without importing Beam."""
    parser.allow_abbrev = False
    return parser.parse_known_args(sys.argv[1:] if argv is None else list(argv))


def is_local(options: "PipelineOptions") -> bool:
    """Whether the pipeline runs in this process and its children."""
    return options.get_all_options()["runner"] == _FN_API_RUNNER


def pipeline_options(parser: argparse.ArgumentParser, runner: str, beam_argv: Sequence[str]) -> "PipelineOptions":
    """Beam's options for `runner`.

    Raises:
        UsageError: the runner is unknown, or a flag is known neither to `parser` nor to Beam.
    """
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    if runner.lower() not in _RUNNERS:
        from vcls_model.commands import unknown_choice

        raise unknown_choice("runner", runner, ["DirectRunner", "Dataflow", "FlinkRunner", "PortableRunner"])
    known = Parser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        if "_add_argparse_args" in vars(options):
            try:
                options._add_argparse_args(known)  # type: ignore[arg-type]
            except argparse.ArgumentError:  # two classes of Beam add the same flag
                continue
    try:
        _, rest = known.parse_known_args(list(beam_argv))
    except UsageError:
        raise UsageError(f"Beam does not accept {' '.join(beam_argv)}") from None
    reject_unknown_flags(rest, [*option_names(parser), *option_names(known)])
    name = _RUNNERS[runner.lower()]
    argv = [f"--runner={name}", *beam_argv]
    if name == _FN_API_RUNNER and not any(flag.startswith("--direct_num_workers") for flag in beam_argv):
        argv.append(f"--direct_num_workers={os.cpu_count() or 1}")
    if name == _FN_API_RUNNER and not any(flag.startswith("--direct_running_mode") for flag in beam_argv):
        argv.append("--direct_running_mode=multi_threading")
    beam_options = PipelineOptions(argv)
    # Files are looked at before a pipeline exists: an object store must know its endpoint and keys by then.
    FileSystems.set_options(beam_options)
    return beam_options


def worker_count(options: "PipelineOptions") -> int:
    """How many bundles the runner will work on at once, as far as its flags say; 1 when they do not."""
    from apache_beam.options.pipeline_options import DirectOptions, FlinkRunnerOptions, StandardOptions, WorkerOptions

    runner = options.view_as(StandardOptions).runner
    if runner == _FN_API_RUNNER:
        return max(1, int(options.view_as(DirectOptions).direct_num_workers or 1))
    if runner == "DataflowRunner":
        workers = options.view_as(WorkerOptions)
        return max(1, workers.num_workers or 0, workers.max_num_workers or 0)
    return max(1, int(options.view_as(FlinkRunnerOptions).parallelism or 1))


def check_runner(options: "PipelineOptions") -> None:
    """Looks whether the runner that `options` name is there, before a job waits a minute for it in vain.

    Raises:
        UsageError: a flag that the runner needs is missing or names what does not exist.
        JobError: nothing answers where the flags say.
    """
    from apache_beam.options.pipeline_options import (
        FlinkRunnerOptions,
        GoogleCloudOptions,
        PortableOptions,
        StandardOptions,
    )

    runner = options.view_as(StandardOptions).runner
    if runner == "DataflowRunner":
        google = options.view_as(GoogleCloudOptions)
        missing = [f"--{name}" for name in ("project", "region", "temp_location") if not getattr(google, name)]
        if missing:
            raise UsageError(f"--runner=Dataflow needs {' and '.join(missing)}")
    if runner not in ("FlinkRunner", "PortableRunner", "SparkRunner"):
        return
    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint:
        if endpoint != "embed" and not _answers(endpoint):
            raise JobError(
                f"no job server answers at {endpoint} (--job_endpoint): start it, or leave the flag out and "
                "name the cluster with --flink_master"
            )
        return
    if runner == "PortableRunner":
        raise UsageError("--runner=PortableRunner needs --job_endpoint=HOST:PORT of a job server")
    if runner == "FlinkRunner":
        flink = options.view_as(FlinkRunnerOptions)
        jar = flink.flink_job_server_jar
        if jar and "://" not in jar and not os.path.exists(jar):
            raise UsageError(f"--flink_job_server_jar={jar} does not exist: make flink-install builds one")
        master = flink.flink_master.strip().removeprefix("http://").removeprefix("https://")
        if not master.startswith("[") and not _answers(master):
            raise JobError(f"no Flink JobManager answers at {master} (--flink_master)")


def _answers(address: str) -> bool:
    host, _, port = address.rstrip("/").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            return True
    except (OSError, ValueError):
        return False
