"""Runs the project's own commands for benchmarks of quality, as a user would."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def run_command(*arguments: str) -> None:
    """Prints and runs `python -m` with these arguments.

    Raises:
        SystemExit: it failed; what it printed is the message.
    """
    print("python -m " + " ".join(arguments), file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(done.stdout)


def score(records: str, model: Path, output: Path, *flags: str) -> dict[str, Any]:
    """Metrics of a model on raw records, by `pipelines.score` with further flags."""
    run_command(
        "pipelines.score", f"--input={records}", f"--model={model}", f"--output={output}", "--overwrite", *flags
    )
    metrics: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return metrics


def train(model: Path, *flags: str) -> None:
    """Trains a model with `vcls_model.train`, unless its directory holds a finished one from an earlier run."""
    if not (model / "info.json").exists():
        run_command("vcls_model.train", f"--output={model}", "--overwrite", "--quiet", *flags)
