"""Versions of what a result depends on, for the `info.json` beside it."""

import platform
from importlib.metadata import version

import vcls_model


def versions_of(*packages: str) -> dict[str, str]:
    """Versions by name: of this project, of Python and of the installed `packages`.

    Raises:
        importlib.metadata.PackageNotFoundError: a package is not installed.
    """
    return {
        "video-classification": vcls_model.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
