"""Compiled loops: numba's `njit` with a cache that notices a change in any module of a package.

Numba keeps compiled code per file and looks at that file alone: a loop that calls one of another module, or uses its
constants, would go on running as it was when the other module changes. So each package keeps its code in a folder named
after the hash of all its sources.
"""

import atexit
import contextlib
import functools
import hashlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.misc.appdirs import AppDirs

_CONFIG: Any = numba.config  # its fields are set from the environment when numba is imported


def njit_of(package: str) -> Callable[..., Any]:
    """The decorator for the compiled loops of a package: `numba.njit` without the interpreter lock, cached.

    Example:
        >>> njit = njit_of("vcls_model.records.kernels")
        >>> @njit
        ... def double(values):
        ...     for index in range(values.shape[0]):
        ...         values[index] *= 2

    Args:
        package: dotted name of the package whose modules' sources decide whether compiled code is still good.
    """

    def njit(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        if function is None:
            return functools.partial(njit, **options)
        with _caching_in(_folder(package)):
            return numba.njit(nogil=True, cache=True, **options)(function)

    return njit


@contextlib.contextmanager
def _caching_in(folder: str) -> Iterator[None]:
    # Numba decides where a function's code goes when it is decorated.
    before = _CONFIG.CACHE_DIR
    _CONFIG.CACHE_DIR = folder
    try:
        yield
    finally:
        _CONFIG.CACHE_DIR = before


@functools.cache
def _folder(package: str) -> str:
    """The directory for compiled code of the package's present sources: the first writable one of numba's places."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{package} is not a package")
    directory = Path(spec.submodule_search_locations[0])
    own = directory / "__pycache__"
    name = package.rpartition(".")[2]
    folder = f"{name}-{_digest(directory)}"
    for place in (_CONFIG.CACHE_DIR, own, AppDirs("numba", appauthor=False).user_cache_dir):
        if place and _writable(Path(place) / folder):
            if place == own:
                _remove_others(own, name, folder)
            return str(Path(place) / folder)
    return _temporary()


def _digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*.py")):
        digest.update(f"{path.relative_to(directory)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _remove_others(place: Path, name: str, folder: str) -> None:
    """Removes the compiled code of earlier sources."""
    for other in place.glob(f"{name}-*"):
        if other.name != folder:
            shutil.rmtree(other, ignore_errors=True)


@functools.cache
def _temporary() -> str:
    print(
        "warning: neither the package nor the home directory can be written to, so loops are compiled at "
        "every start (about a minute); set NUMBA_CACHE_DIR to a writable directory to keep them",
        file=sys.stderr,
    )
    folder = tempfile.mkdtemp(prefix="vcls-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
