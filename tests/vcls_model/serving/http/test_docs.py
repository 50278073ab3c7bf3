"""The curl examples of docs/LIVE.md are run, and its flags and files exist."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vcls_model import serve
from vcls_model.commands import option_names

TEXT = (ROOT / "docs" / "LIVE.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
EXPECTED = {
    "?name=clip.mp4": '"inputUri":"clip.mp4"',
    "format=vtt": "WEBVTT",
    "format=csv": "index,name,start_seconds",
    "progress=1": '{"progress":',
    '/v1/models/$MODEL"': "AVAILABLE",
    "/metadata": "signature_def",
    '/v2/models/$MODEL"': '"platform":"vcls"',
    "/v2/health/ready": '{"ready":true}',
    "/v1/labels": '"threshold":0.5',
    "/v1/streams": '"name":"film"',
    "/metrics": "vcls_requests_total",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_run(command: str, address: str, clip: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (words,) = [words for part, words in EXPECTED.items() if part in command]
    environment = os.environ | {"SERVICE": address, "MODEL": "colours", "CLIP": str(clip)}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_every_example_is_expected() -> None:
    assert len(COMMANDS) == len(EXPECTED)


def test_flags_exist() -> None:
    known = set(option_names(serve.make_parser()))
    named = set(re.findall(r"`(--[a-z_]+)`|(--[a-z_]+)=", TEXT))
    flags = {first or second for first, second in named}
    assert flags - known <= {"--entrypoint", "--env", "--publish", "--volume"}


def test_the_deployment_probes_what_is_there() -> None:
    yaml = pytest.importorskip("yaml")
    deployment, service = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "live.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    probes = {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"/v2/health/ready", "/v2/health/live"}
    flags = {argument.partition("=")[0] for argument in container["args"]}
    assert flags <= set(option_names(serve.make_parser()))
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
