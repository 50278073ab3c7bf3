"""Beam counters, with the same names in every job."""

from apache_beam.metrics import Metrics


def inc_counter(counting: object, name: str, amount: int = 1) -> None:
    """Adds `amount` to the counter `name` whose namespace is the class of `counting`, the step that counts."""
    Metrics.counter(type(counting), name).inc(amount)
