"""The records of runners, and what follows from them."""

import argparse
import dataclasses
import sys

import pytest

from pipelines.running import failures, runners
from pipelines.running.quiet import quiet_runner
from vcls_model.commands import JobError, UsageError


def options(runner: str, *flags: str) -> object:
    return runners.pipeline_options(argparse.ArgumentParser(), runner, flags)


def test_no_name_or_alias_is_used_twice() -> None:
    names = [name for runner in runners.RUNNERS for name in (runner.name.lower(), *runner.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)
    # Options know Beam's name alone: `runner_of` could not tell two runners of one name apart.
    assert len({runner.beam_name for runner in runners.RUNNERS}) == len(runners.RUNNERS)


@pytest.mark.parametrize("name", ["DirectRunner", "direct", "FLINK", "flinkrunner", "dataflow", "portable"])
def test_names_in_any_case_and_aliases_are_accepted(name: str) -> None:
    assert runners.find_runner(name).name.lower().removesuffix("runner") == name.lower().removesuffix("runner")


@pytest.mark.parametrize("name", ["spark", "SparkRunner", "InteractiveRunner"])
def test_other_runners_are_refused_with_those_that_there_are(name: str) -> None:
    known = ", ".join(sorted(runner.name for runner in runners.RUNNERS))
    with pytest.raises(UsageError, match=rf"unknown runner '{name}'.*known: {known}"):
        options(name)


def test_help_names_every_runner() -> None:
    parser = argparse.ArgumentParser()
    runners.add_runner_argument(parser)
    text = parser.format_help()
    assert all(runner.name in text for runner in runners.RUNNERS)


def test_defaults_give_way_to_what_the_user_says() -> None:
    values = options("direct").get_all_options()  # type: ignore[attr-defined]
    assert values["direct_running_mode"] == "multi_threading" and values["direct_num_workers"] >= 1
    values = options("direct", "--direct_num_workers=3").get_all_options()  # type: ignore[attr-defined]
    assert (values["direct_running_mode"], values["direct_num_workers"]) == ("multi_threading", 3)
    assert options("flink").get_all_options()["direct_num_workers"] == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "flags", [["--direct_running_mode=multi_processing"], ["--direct_running_mode", "multi_processing"]]
)
def test_worker_processes_are_refused_with_the_reason(flags: list[str]) -> None:
    with pytest.raises(
        UsageError,
        match=r"^--direct_running_mode=multi_processing is not supported: threads already use all cores",
    ):
        options("direct", *flags)


def test_a_new_runner_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by its name and alias, checked, counted and explained, with nothing else changed."""

    def unreachable(options: object) -> None:
        raise JobError("no master answers")

    added = runners.Runner(
        "NewRunner",
        description="a cluster of its own",
        aliases=("new",),
        beam_name="PrismRunner",
        required_flags=("job_endpoint",),
        workers=lambda options: 7,
        check=unreachable,
        failures=(("NewMasterLost", "the master was lost"),),
    )
    monkeypatch.setattr(runners, "RUNNERS", (added, *runners.RUNNERS))
    parser = argparse.ArgumentParser()
    runners.add_runner_argument(parser)
    assert "NewRunner (a cluster of its own)" in " ".join(parser.format_help().split())
    chosen = options("new", "--job_endpoint=localhost:1")
    assert runners.worker_count(chosen) == 7 and not runners.is_local(chosen)  # type: ignore[arg-type]
    with pytest.raises(JobError, match="no master answers"):
        runners.check_runner(chosen)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--runner=NewRunner needs --job_endpoint"):
        runners.check_runner(options("NewRunner"))  # type: ignore[arg-type]


def test_failures_of_each_runner_are_explained_once() -> None:
    patterns = [pattern for pattern, _ in failures._FAILURES]
    assert len(patterns) == len(set(patterns))
    assert {pattern for runner in runners.RUNNERS for pattern, _ in runner.failures} <= set(patterns)


def test_runner_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        runners.RUNNERS[0].name = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), r"the disk is full: .*What is done is kept in out: .*--resume"),
        (RuntimeError("in a worker: [Errno 13] Permission denied: '/x'"), "permission denied: .*/x"),
        (RuntimeError("Traceback ...\nvcls_model.commands.JobError: too many [while running 'Write']"), "^too many$"),
    ],
)
def test_errors_that_a_user_can_mend_are_one_line(error: Exception, message: str) -> None:
    with pytest.raises(JobError, match=message) as raised, failures.explained_failures("out"):
        raise error
    assert "\n" not in str(raised.value)


def test_what_beam_and_tensorflow_print_is_held_back(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    from apache_beam.runners.worker import sdk_worker

    logger = logging.getLogger("apache_beam")
    before = logger.level
    with quiet_runner():
        logger.error("chatter")
        sdk_worker.print("a traceback", file=sys.stderr)
    assert capsys.readouterr().err == ""
    assert logger.level == before and "print" not in vars(sdk_worker) and logger.filters == []
