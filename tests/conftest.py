"""Fixtures shared by all tests."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = [
    "tests.fixtures.every_command",
    "tests.fixtures.reporting",
    "tests.fixtures.scoring",
    "tests.fixtures.training",
]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The larger real data beside a developer's checkout; users do not have it."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the developers' shared data is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def sample() -> Path:
    """The real data that the project ships."""
    return ROOT / "sample"
