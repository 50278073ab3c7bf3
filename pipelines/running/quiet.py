"""Keeps irrelevant log output off the screen while a pipeline runs."""

import contextlib
import logging
from collections.abc import Iterator


def _is_critical(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL


@contextlib.contextmanager
def quiet_runner() -> Iterator[None]:
    """Silences Beam's and TensorFlow's loggers below `CRITICAL`, and the tracebacks that Beam's local worker prints.

    What they report is raised anyway, and `explained_failures` turns it into one line.
    """
    # Imported here: this module is imported for --help too, and Beam takes two seconds.
    from apache_beam.runners.worker import sdk_worker

    loggers = [logging.getLogger(name) for name in ("apache_beam", "tensorflow", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
        logger.addFilter(_is_critical)  # importing TensorFlow meanwhile resets the level of absl's logger
    vars(sdk_worker)["print"] = lambda *_, **__: None  # it prints past any logger; there is no setting for that
    try:
        yield
    finally:
        del vars(sdk_worker)["print"]
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeFilter(_is_critical)
