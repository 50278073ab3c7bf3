"""What can be known of a job before its input is looked at: its runner, and whether every address it names answers."""

import argparse
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pipelines.running.runners import check_runner, runner_of
from vcls_model import storage
from vcls_model.commands import JobError, UsageError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

# Clients of clouds retry for minutes what a person sees in a moment.
_ANSWER_SECONDS = 5.0
# Flags with paths that the workers read or write, as well as this process.
_WORKERS_PATHS = ("input", "train_input", "validate_input", "test_input", "output", "model")


def check_job(options: "PipelineOptions", args: argparse.Namespace) -> None:
    """Checks the runner, the addresses and the credentials that a job needs, within seconds.

    Args:
        options: Beam's.
        args: the job's own flags.

    Raises:
        UsageError: a flag is missing, or names what the workers cannot reach.
        JobError: nothing answers where the flags say.
    """
    runner = runner_of(options)
    check_runner(options)
    paths = dict(_paths(args))
    if runner.needs_object_stores:
        local = [f"--{name}={path}" for path, name in paths.items() if not storage.is_object_store(path)]
        if local:
            raise UsageError(
                f"--runner={runner.name} runs on machines that do not see this machine's disks: {', '.join(local)} "
                "must be on an object store, such as gs://bucket/directory"
            )
        _answered(_google_credentials, "Google's servers")
    for bucket in dict.fromkeys("/".join(path.split("/")[:3]) for path in paths if storage.is_object_store(path)):
        _answered(functools.partial(storage.reach, bucket), bucket)


def runner_text(options: "PipelineOptions") -> str:
    """The runner, for plans: `runner: Dataflow, project p, region r`."""
    runner = runner_of(options)
    values = options.get_all_options()
    shown = [*(name.split("=")[0] for name in runner.required_flags), *runner.shown_options]
    return ", ".join([f"runner: {runner.name}", *(f"{name} {values[name]}" for name in shown if values.get(name))])


def _paths(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for name in _WORKERS_PATHS:
        value = getattr(args, name, None) or []
        for path in value if isinstance(value, list) else [value]:
            yield path, name


def _google_credentials() -> None:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        google.auth.default()
    except DefaultCredentialsError:
        raise JobError(
            "there are no Google credentials: run gcloud auth application-default login, or name a service account's "
            "key file in GOOGLE_APPLICATION_CREDENTIALS"
        ) from None


def _answered(ask: Callable[[], None], who: str) -> None:
    """Runs `ask` for a few seconds at most; raises what it raises, or `JobError` when it does not end."""
    outcome: queue.Queue[Any] = queue.Queue()

    def run() -> None:
        try:
            ask()
            outcome.put(None)
        except Exception as error:  # handed to the caller
            outcome.put(error)

    threading.Thread(target=run, name="reach", daemon=True).start()
    try:
        error = outcome.get(timeout=_ANSWER_SECONDS)
    except queue.Empty:
        raise JobError(
            f"{who} does not answer within {_ANSWER_SECONDS:g} s: check the network, the name and the credentials"
        ) from None
    if error is not None:
        raise error
