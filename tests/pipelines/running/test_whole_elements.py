"""An element reaches the runner whole, however long it takes to encode."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_an_element_that_takes_long_to_encode_arrives_whole(tmp_path: Path) -> None:
    # In a process with limits: halves of elements, read as elements, would fill its memory.
    subprocess.run([sys.executable, "-m", "tests.fixtures.slow_elements", tmp_path], cwd=ROOT, check=True, timeout=300)
    assert (tmp_path / "total").read_text() == "key 1234\n"
