"""What the flags of the service may say."""

from pathlib import Path

import pytest

from vcls_model.commands import UsageError
from vcls_model.serve import ServeConfig, make_parser


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port=65536"], "--port must lie between 0 and 65535"),
        (["--streams=0"], "--streams must be at least 1, got 0"),
        (["--encoder_threads=-1"], "--encoder_threads must be at least 0"),
        (["--media_mb=0"], "--media_mb must be at least 1"),
        (["--media_seconds=nan"], "--media_seconds must be positive, got nan"),
        (["--name=../x"], "--name=../x: expected letters"),
        (["--allow_origin=*"], "expected an origin such as"),
        (["--allow_origin=https://example.org/"], "without a path"),
        (["--webhook=hooks.example/labels"], "--webhook=hooks.example/labels: expected"),
        (["--webhook=file:///etc/passwd"], "--webhook"),
        (["--webhook=http://"], "--webhook"),
        (["--streams=1", "--source=a={film}", "--source=b={film}"], "2 sources are more than the --streams=1"),
        (["--source=a={film}", "--source=a={film}"], "two sources have the same name"),
    ],
)
def test_what_cannot_be_served_is_said_at_the_start(flags: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "film").touch()
    with pytest.raises(UsageError) as error:
        ServeConfig.of(make_parser().parse_args([flag.format(film=tmp_path / "film") for flag in flags]))
    assert words in str(error.value)


def test_names_and_origins_that_are_meant() -> None:
    config = ServeConfig.of(make_parser().parse_args(["--name=birds-2.1", "--allow_origin=http://localhost:3000"]))
    assert config.settings.origins == ("http://localhost:3000",)
