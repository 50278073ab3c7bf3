"""Brings Flink and Beam's Flink job server into `.flink/` of the checkout. Again and again without harm.

Flink's jars come from PyPI (`apache-flink-libraries`), the job server from Maven Central. Versions: Flink 1.19 is
what the newest published Beam runner that resolves completely is built for; the runner speaks Beam's portability
protocol, which is stable across Beam versions, to the Python SDK that the project pins.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from vcls_model.commands import JobError

FLINK_VERSION = "1.19.0"
BEAM_RUNNER_VERSION = "2.62.0"
ROOT = Path(__file__).resolve().parent.parent.parent
DEFAULT_HOME = ROOT / ".flink"
# Of the distribution only what runs jobs: the table planners and connectors are another 100 MB.
_NEEDED_JARS = ("flink-dist-", "flink-connector-files-", "log4j-")


def lib_directory(home: Path = DEFAULT_HOME) -> Path:
    """Where Flink's own jars lie."""
    return home / f"flink-{FLINK_VERSION}"


def job_server_jar(home: Path = DEFAULT_HOME) -> Path:
    """Beam's job server, one jar that `java -jar` runs and `--flink_job_server_jar` takes.

    As an agent (`java -javaagent:`, needless with `java -jar`) it keeps Beam's ports to the loopback interface.
    """
    return home / f"beam-{BEAM_RUNNER_VERSION}-flink-{FLINK_VERSION}-loopback-job-server.jar"


def is_installed(home: Path = DEFAULT_HOME) -> bool:
    """Whether `install` has nothing left to do."""
    return lib_directory(home).is_dir() and job_server_jar(home).is_file()


def install(home: Path = DEFAULT_HOME) -> None:
    """Downloads and builds what is missing; each part appears under its final name only when it is whole.

    Raises:
        JobError: Java or Maven is not there, or a download failed; the message ends with the tool's own last words.
    """
    java()
    home.mkdir(parents=True, exist_ok=True)
    if not lib_directory(home).is_dir():
        _install_flink(home)
    if not job_server_jar(home).is_file():
        _build_job_server(home)


def java() -> str:
    """The Java program: of `JAVA_HOME` if set, else the one on the path.

    Raises:
        JobError: there is none, or it is older than Flink needs.
    """
    home = os.environ.get("JAVA_HOME")
    candidate = Path(home) / "bin" / "java" if home else None
    found = str(candidate) if candidate and candidate.is_file() else shutil.which("java")
    if not found:
        raise JobError("Flink needs Java 11 or 17 and there is no java on the path: install it or set JAVA_HOME")
    said = subprocess.run([found, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    version = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    if not version or int(version.group(1)) < 11:
        what = f"is Java {version.group(1)}" if version else f"does not tell its version: {said.stderr.strip()[:200]}"
        raise JobError(f"Flink needs Java 11 or 17, and {found} {what}: install one or set JAVA_HOME")
    return found


def _install_flink(home: Path) -> None:
    print(f"bringing Flink {FLINK_VERSION} (230 MB) ...", flush=True)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        # A source archive is all there is; --no-build-isolation keeps pip from fetching build tools only to read its
        # name.
        _command(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--no-build-isolation",
                f"apache-flink-libraries=={FLINK_VERSION}",
                "--dest",
                scratch,
            ],
            "pip could not bring Flink",
        )
        (archive,) = Path(scratch).glob("*.tar.gz")
        jars = Path(scratch) / "jars"
        jars.mkdir()
        with tarfile.open(archive) as tar:
            for member in tar:
                name = os.path.basename(member.name)
                if "/deps/lib/" in member.name and name.startswith(_NEEDED_JARS):
                    source = tar.extractfile(member)
                    if source is not None:
                        with source, open(jars / name, "wb") as target:
                            shutil.copyfileobj(source, target)
        if not list(jars.glob("flink-dist-*.jar")):
            raise JobError(f"{archive.name} holds no flink-dist jar: its layout is not the one known here")
        os.replace(jars, lib_directory(home))


def _build_job_server(home: Path) -> None:
    if not shutil.which("mvn"):
        raise JobError("Beam's Flink job server is built by Maven and there is no mvn on the path: install Maven")
    print(f"building Beam's job server for Flink {FLINK_VERSION} (about a minute) ...", flush=True)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        shutil.copy(Path(__file__).with_name("pom.xml"), scratch)
        shutil.copytree(Path(__file__).with_name("src"), Path(scratch) / "src")
        _command(
            [
                "mvn",
                "-q",
                "-B",
                "-f",
                str(Path(scratch) / "pom.xml"),
                "package",
                f"-Dflink.series={FLINK_VERSION.rsplit('.', 1)[0]}",
                f"-Dbeam.version={BEAM_RUNNER_VERSION}",
            ],
            "Maven could not build Beam's job server",
        )
        os.replace(Path(scratch) / "target" / "flink-job-server.jar", job_server_jar(home))


def _command(command: list[str], complaint: str) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        tail = "\n".join(line for line in done.stdout.splitlines() if "ERROR" in line)[:2000] or done.stdout[-2000:]
        raise JobError(f"{complaint} (exit {done.returncode}):\n{tail}")
