"""The runners that the jobs know, one record for each, and Beam's options for them.

A new runner is one more `Runner` in `RUNNERS`: the help text, the errors, the checks before a job starts and the
explanations of its failures follow from it.
"""

import argparse
import dataclasses
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vcls_model.commands import (
    DEFAULT,
    JobError,
    Parser,
    UsageError,
    option_names,
    reject_unknown_flags,
    unknown_choice,
)

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# (regular expression for the text of an error, what it means and what to do)
Failure = tuple[str, str]


def _one(options: "PipelineOptions") -> int:
    return 1


def _reachable(options: "PipelineOptions") -> None:
    """There is nothing to check."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """A runner that `--runner` accepts.

    Attributes:
        name: what documentation and messages call it.
        description: a few words for `--help`; "" if the name says enough.
        aliases: other names, in lower case; the name itself is accepted in any case.
        beam_name: what Beam is given.
        default_flags: for this runner, unless the user gives the same flag.
        required_flags: Beam's flags without which it cannot start, without dashes; `=VALUE` is for messages.
        refused_options: (name, value, reason) of Beam options that the jobs do not support with it.
        needs_object_stores: its workers see no disk of this machine.
        shown_options: Beam's options, in addition to the required ones, that a plan names.
        workers: how many bundles it works on at once, as far as its options say; 1 if they do not.
        check: raises `JobError` if nothing answers where the options say, `UsageError` if they name what does not
            exist, before a job waits a minute in vain.
        failures: what the errors of this runner mean.
    """

    name: str
    description: str = ""
    aliases: tuple[str, ...] = ()
    beam_name: str = ""
    default_flags: tuple[str, ...] = ()
    required_flags: tuple[str, ...] = ()
    refused_options: tuple[tuple[str, str, str], ...] = ()
    needs_object_stores: bool = False
    shown_options: tuple[str, ...] = ()
    workers: Callable[["PipelineOptions"], int] = _one
    check: Callable[["PipelineOptions"], None] = _reachable
    failures: tuple[Failure, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether the pipeline runs in this process."""
        return self.beam_name == _FN_API_RUNNER


def _check_direct(options: "PipelineOptions") -> None:
    from apache_beam.options.pipeline_options import DirectOptions

    workers = options.view_as(DirectOptions).direct_num_workers
    if workers < 0:
        raise UsageError(f"--direct_num_workers must not be negative, got {workers}")


def _direct_workers(options: "PipelineOptions") -> int:
    from apache_beam.options.pipeline_options import DirectOptions

    return int(options.view_as(DirectOptions).direct_num_workers or 1)


def _dataflow_workers(options: "PipelineOptions") -> int:
    from apache_beam.options.pipeline_options import WorkerOptions

    workers = options.view_as(WorkerOptions)
    return max(workers.num_workers or 0, workers.max_num_workers or 0)


def _parallelism(options: "PipelineOptions") -> int:
    from apache_beam.options.pipeline_options import FlinkRunnerOptions

    return int(options.view_as(FlinkRunnerOptions).parallelism or 1)


def _check_dataflow(options: "PipelineOptions") -> None:
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    location = options.view_as(GoogleCloudOptions).temp_location
    if not location.startswith("gs://"):
        raise UsageError(f"--temp_location={location} must be on Google Cloud Storage, such as gs://bucket/tmp")


def _check_flink(options: "PipelineOptions") -> None:
    from apache_beam.options.pipeline_options import FlinkRunnerOptions, PortableOptions

    if options.view_as(PortableOptions).job_endpoint:
        _check_job_endpoint(options)
        return
    flink = options.view_as(FlinkRunnerOptions)
    jar = flink.flink_job_server_jar
    if jar and "://" not in jar and not os.path.exists(jar):
        raise UsageError(f"--flink_job_server_jar={jar} does not exist: make flink-install builds one")
    master = flink.flink_master.strip().removeprefix("http://").removeprefix("https://")
    if not master.startswith("[") and not _answers(master):  # [local] and [auto] are clusters of the job server's own
        raise JobError(f"no Flink JobManager answers at {master} (--flink_master)")


def _check_job_endpoint(options: "PipelineOptions") -> None:
    from apache_beam.options.pipeline_options import PortableOptions

    endpoint = options.view_as(PortableOptions).job_endpoint
    if endpoint != "embed" and not _answers(endpoint):
        raise JobError(
            f"no job server answers at {endpoint} (--job_endpoint): start it, or leave the flag out and "
            "name the cluster with --flink_master"
        )


def _answers(address: str) -> bool:
    host, _, port = address.rstrip("/").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            return True
    except (OSError, ValueError):
        return False


_FN_API_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"

_CLUSTER_FAILURES: tuple[Failure, ...] = (
    (
        r"Unable to fetch remote job server jar|HTTP Error 404.*job-server",
        "Beam could not download this runner's job server: name one with --flink_job_server_jar (make flink-"
        "install builds it)",
    ),
    (
        r"java\.net\.ConnectException|StatusCode\.UNAVAILABLE|FlinkJobNotFound|FutureTimeoutError",
        "the cluster that ran the job cannot be reached any more, or no longer knows the job: its JobManager or"
        " its job server was lost",
    ),
    (
        r"NoResourceAvailableException|Could not acquire the minimum required resources",
        "the cluster has fewer free slots than --parallelism asks for: start more TaskManagers or lower it",
    ),
    (
        r"No such file or directory: 'java'",
        "the job server needs Java and there is none on the path",
    ),
    # All that Flink sees of a Python process that the system has killed.
    (
        r"CANCELLED: client cancelled|SDK harness .* disconnected",
        "Python workers died one after the other, most often because the system killed them for their memory "
        "(see dmesg or the state of their containers): give each worker more, or let fewer tasks share one "
        "(--sdk_worker_parallelism)",
    ),
)

RUNNERS = (
    Runner(
        "DirectRunner",
        description="this machine, all its cores; --direct_num_workers=N changes that",
        aliases=("direct", "fnapirunner"),
        # Not Beam's own DirectRunner, which first tries to download another runner.
        beam_name=_FN_API_RUNNER,
        default_flags=(f"--direct_num_workers={os.cpu_count() or 1}", "--direct_running_mode=multi_threading"),
        refused_options=(
            (
                "direct_running_mode",
                "multi_processing",
                "threads already use all cores (--direct_num_workers=N sets their number)",
            ),
        ),
        shown_options=("direct_num_workers",),
        workers=_direct_workers,
        check=_check_direct,
    ),
    Runner(
        "FlinkRunner",
        aliases=("flink",),
        beam_name="FlinkRunner",
        shown_options=("flink_master", "job_endpoint", "parallelism"),
        workers=_parallelism,
        check=_check_flink,
        failures=_CLUSTER_FAILURES,
    ),
    Runner(
        "Dataflow",
        aliases=("dataflowrunner",),
        beam_name="DataflowRunner",
        required_flags=("project", "region", "temp_location"),
        needs_object_stores=True,
        workers=_dataflow_workers,
        check=_check_dataflow,
    ),
    Runner(
        "PortableRunner",
        description="any job server",
        aliases=("portable",),
        beam_name="PortableRunner",
        required_flags=("job_endpoint=HOST:PORT",),
        workers=_parallelism,
        check=_check_job_endpoint,
        failures=_CLUSTER_FAILURES,
    ),
)


def add_runner_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--runner`; all other Beam options pass through to Beam."""
    names = ", ".join(
        f"{runner.name} ({runner.description})" if runner.description else runner.name for runner in RUNNERS
    )
    parser.add_argument(
        "--runner",
        default=RUNNERS[0].name,
        metavar="NAME",
        help=f"{names}; Beam's own options for it may follow {DEFAULT}",
    )


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """Parses the job's flags; returns them and what is left for Beam. `--help` answers without importing Beam."""
    parser.allow_abbrev = False
    return parser.parse_known_args(sys.argv[1:] if argv is None else list(argv))


def find_runner(name: str) -> Runner:
    """The runner that `--runner` names.

    Raises:
        UsageError: there is no such runner.
    """
    for runner in RUNNERS:
        if name.lower() in (runner.name.lower(), *runner.aliases):
            return runner
    raise unknown_choice("runner", name, [runner.name for runner in RUNNERS])


def runner_of(options: "PipelineOptions") -> Runner:
    """The runner that `pipeline_options` made `options` for."""
    beam_name = options.get_all_options()["runner"]
    return next(runner for runner in RUNNERS if runner.beam_name == beam_name)


def pipeline_options(parser: argparse.ArgumentParser, name: str, beam_argv: Sequence[str]) -> "PipelineOptions":
    """Beam's options for the runner called `name`.

    Raises:
        UsageError: the runner is unknown, a flag is known neither to `parser` nor to Beam, or the jobs do not support
            it.
    """
    runner = find_runner(name)
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

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
    given = {flag.split("=", 1)[0] for flag in beam_argv}
    defaults = [flag for flag in runner.default_flags if flag.split("=", 1)[0] not in given]
    beam_options = PipelineOptions([f"--runner={runner.beam_name}", *beam_argv, *defaults])
    values = beam_options.get_all_options()
    for option, value, reason in runner.refused_options:
        if values.get(option) == value:
            raise UsageError(f"--{option}={value} is not supported: {reason}")
    # Files are looked at before a pipeline exists: an object store must know its endpoint and keys by then.
    FileSystems.set_options(beam_options)
    return beam_options


def is_local(options: "PipelineOptions") -> bool:
    """Whether the pipeline runs in this process."""
    return runner_of(options).is_local


def worker_count(options: "PipelineOptions") -> int:
    """How many bundles the runner will work on at once, as far as its options say; 1 if they do not."""
    return max(1, runner_of(options).workers(options))


def check_runner(options: "PipelineOptions") -> None:
    """Fails fast if the runner that `options` name cannot be used.

    Raises:
        UsageError: a flag that the runner needs is missing or names what does not exist.
        JobError: nothing answers where the flags say.
    """
    runner = runner_of(options)
    values = options.get_all_options()
    missing = [f"--{name}" for name in runner.required_flags if not values.get(name.split("=")[0])]
    if missing:
        raise UsageError(f"--runner={runner.name} needs {' and '.join(missing)}")
    runner.check(options)
