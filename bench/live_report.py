"""What `bench/live.py` measured: a line of JSON per run, and the table of docs/BENCHMARKS.md that they make."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Values = dict[str, Any]


class Runs:
    """The runs of a file; those that are there are not measured again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: dict[str, Values] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                run = json.loads(line)
                self._runs[run["run"]] = run

    def get(self, run: str) -> Values:
        """What a run measured; nothing where it was not run."""
        return self._runs.get(run, {})

    def measure(self, run: str, seconds: float, how: Callable[[], Values]) -> Values:
        """What a run measures, printed and kept, or what it measured before.

        Args:
            run: its name.
            seconds: its length; one of another length is measured again.
            how: measures it.
        """
        before = self.get(run)
        if before and before["seconds"] == seconds:
            return before
        load = os.getloadavg()[0]
        values = {"run": run, "seconds": seconds, "load": round(load, 1), **how()}
        self._runs[run] = values
        with open(self._path, "a") as file:
            file.write(json.dumps(values) + "\n")
        print(json.dumps(values), flush=True)
        return values


def table(runs: Runs) -> str:
    """The rows that were measured, as Markdown."""
    rows = [
        "| figure | service | peer | seconds, load average before: service; peer | target |",
        "|---|---|---|---|---|",
    ]

    def length(run: Values) -> str:
        return f"{run['seconds']:g}" if run["seconds"] else "–"

    def add(figure: str, run: str, peer: str, text: Callable[[Values], str], target: Callable[[Values, Values], str]):
        own, other = runs.get(run), runs.get(peer)
        if own:
            conditions = "; ".join(f"{length(run)}, {run['load']}" for run in (own, other) if run)
            cells = [figure, text(own), text(other) if other else "", conditions, target(own, other)]
            rows.append("| " + " | ".join(cells) + " |")

    def met(words: str, holds: bool) -> str:
        return f"{words}: {'met' if holds else '**missed**'}"

    for streams, p50, p99 in ((1, 60, 150), (8, math.inf, 300), (16, math.inf, 600)):
        words = f"{f'{p50} / ' if p50 < math.inf else 'p99 '}{p99} ms, none dropped"
        add(
            f"{streams} stream{'s' * (streams > 1)}, a picture a second: p50 / p99 / longest ms; labelled of those due",
            f"service {streams}",
            f"peer {streams}",
            lambda run: (
                f"{run['p50']:,.0f} / {run['p99']:,.0f} / {run['longest']:,.0f}; {run['labelled']} of {run['due']}"
            ),
            lambda run, _, words=words, p50=p50, p99=p99: met(
                words, run["p50"] <= p50 and run["p99"] <= p99 and run["labelled"] == run["due"]
            ),
        )
    add(
        "processor time per picture with its sound, 8 streams, all processes of the server",
        "service 8",
        "peer 8",
        lambda run: f"{run['processor_ms']:.0f} ms",
        lambda *_: "",
    )
    add(
        "most streams with p99 ≤ 1 s and every picture labelled",
        "service most",
        "peer most",
        lambda run: f"{run['streams']} (p99 {run['p99']:,.0f} ms)",
        lambda run, peer: met("3×", run["streams"] >= 3 * peer["streams"]) if peer else "3×",
    )
    add(
        "120 pictures a second: sent = labelled + dropped; p50 / p99 / longest lag s",
        "overload",
        "",
        lambda run: (
            f"{run['sent']:,} = {run['labelled']:,} + {run['dropped']:,}; "
            + " / ".join(f"{run[key] / 1000:.2f}" for key in ("p50", "p99", "longest"))
        ),
        lambda run, _: met("exactly; 2 s", run["lost"] == 0 and run["longest"] <= 2000),
    )
    add(
        "the same, memory after a quarter of the run, and the most after that",
        "overload",
        "",
        lambda run: f"{run['quarter_mib']:,.0f} MiB, {run['growth']:+.1%}",
        lambda run, _: met("5 %", run["growth"] <= 0.05),
    )
    add(
        "`:predict` of 8 clients that ask without a pause, requests/s",
        "service predict",
        "peer predict",
        lambda run: f"{run['rate']:,.0f}",
        lambda run, peer: met("3×", run["rate"] >= 3 * peer["rate"]) if peer else "3×",
    )
    add(
        "the same, processor time per request",
        "service predict",
        "peer predict",
        lambda run: f"{run['processor_ms']:.1f} ms",
        lambda *_: "",
    )
    add(
        "`:predict` at 50 requests/s: p50 / p99 / longest ms",
        "service predict at 50/s",
        "",
        lambda run: f"{run['p50']:.1f} / {run['p99']:.1f} / {run['longest']:.1f}",
        lambda run, _: met("p99 20 ms", run["p99"] <= 20),
    )
    add(
        "memory after 1,000 streams that came and went",
        "memory",
        "",
        lambda run: f"{run['growth']:+.1%} of {run['first_mib']:,.0f} MiB",
        lambda run, _: met("5 %", run["growth"] <= 0.05),
    )
    add(
        "memory of 8 streams whose rings are full, with the working memory of larger calls",
        "stream",
        "",
        lambda run: f"{run['grown_mib']:+.0f} MiB",
        lambda *_: "",
    )
    add(
        "cold start to ready, three starts (processor time)",
        "cold",
        "",
        lambda run: ", ".join(f"{each['ready']:.1f} s ({each['processor']:.1f})" for each in run["starts"]),
        lambda run, _: met("12 s", max(each["ready"] for each in run["starts"]) <= 12),
    )
    add(
        "first answer / the 90th to the hundredth, ms",
        "cold",
        "",
        lambda run: ", ".join(f"{each['first']:.0f} / {each['later']:.0f}" for each in run["starts"]),
        lambda run, _: met("2×", all(each["first"] <= 2 * each["later"] for each in run["starts"])),
    )
    add(
        "from SIGTERM to the end",
        "cold",
        "",
        lambda run: ", ".join(f"{each['end']:.1f}" for each in run["starts"]) + " s",
        lambda *_: "",
    )
    return "\n".join(rows)
