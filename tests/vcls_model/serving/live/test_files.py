"""Files labelled by the command and from Python, as the score job labels them."""

from pathlib import Path

import numpy as np
import pytest

import vcls_model
from tests.fixtures.media import COLOURS, Encoders, tone
from vcls_model import label
from vcls_model.commands import JobError, UsageError
from vcls_model.serving.live.facade import Model


@pytest.fixture(scope="module")
def loaded(media_model: Path, small_encoders: Encoders) -> Model:
    return vcls_model.load(
        str(media_model), image_encoder=str(small_encoders.colours), audio_encoder=str(small_encoders.loudness)
    )


def test_importing_the_package_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, vcls_model; print(sorted({'numpy', 'tensorflow', 'starlette', 'av'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'save'"):
        vcls_model.save  # noqa: B018


def test_a_command_prints_a_table_and_writes_all_formats(
    media_model: Path, small_encoders: Encoders, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--model={media_model}", *small_encoders.flags, "--window=1", "--hold=0", f"--output={tmp_path}"]
    labelled = label.run([str(clip), *flags, "--format=json,vtt,csv"])
    spans = [(span.index, span.start, span.end) for span in labelled[str(clip)].spans]
    assert [span for span in spans if span[0] < 4] == [(second % 4, float(second), second + 1.0) for second in range(8)]
    assert [span for span in spans if span[0] == 4] == [(4, 0.0, 8.0)]
    printed = capsys.readouterr().out
    assert f"{clip}: 8.0 s" in printed
    (red,) = [line for line in printed.splitlines() if line.strip().startswith("red")]
    assert red.endswith("██████" + "·" * 18 + "██████" + "·" * 18)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"colours.mp4.{form}" for form in ("csv", "json", "vtt")
    ]


def test_more_pictures_per_second(media_model: Path, small_encoders: Encoders, clip: Path) -> None:
    flags = [f"--model={media_model}", *small_encoders.flags]
    moments = label.run([str(clip), *flags, "--fps=4"])[str(clip)].moments
    assert [moment.seconds for moment in moments] == [number / 4 for number in range(32)]
    with pytest.raises(UsageError, match="--fps must lie between 0 and 30, got 31"):
        label.run([str(clip), *flags, "--fps=31"])


def test_the_command_says_what_is_wrong(media_model: Path, small_encoders: Encoders, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"no film" * 100)
    flags = [f"--model={media_model}", *small_encoders.flags]
    with pytest.raises(JobError, match="1 of 1 files could not be labelled"):
        label.run([str(tmp_path / "x.mp4"), *flags])
    with pytest.raises(UsageError, match="unknown xml"):
        label.run([str(tmp_path / "x.mp4"), *flags, "--format=xml"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.mp4").write_bytes(b"no film")
    same = [str(tmp_path / "x.mp4"), str(tmp_path / "other" / "x.mp4"), f"--output={tmp_path}"]
    with pytest.raises(UsageError, match="2 files are called x.mp4"):
        label.run([*same, *flags])
    with pytest.raises(UsageError, match="--window must be positive"):
        label.run([str(tmp_path / "x.mp4"), *flags, "--window=0"])


@pytest.mark.slow
def test_a_file_s_whole_equals_the_score_job(
    loaded: Model, media_model: Path, small_encoders: Encoders, clip: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as parquet

    from pipelines.score import run

    output = tmp_path / "scores"
    common = [f"--input={clip}", f"--model={media_model}", f"--output={output}", "--direct_num_workers=1"]
    run([*common, *small_encoders.flags])
    scored = parquet.read_table(output / "predictions").to_pydict()
    whole = loaded.label(str(clip)).whole
    assert [index for index, _ in whole] == scored["class_index"][0]
    np.testing.assert_allclose([value for _, value in whole], scored["probability"][0], atol=1e-5)


def test_a_stream_takes_pictures_sound_and_rows(loaded: Model) -> None:
    with loaded.stream() as stream:
        first = stream.push(picture=np.full((90, 160, 3), COLOURS[0], np.uint8), sound=tone(0.975))
        assert first.now.argmax() == 0 and first.events == ()
        codes = (np.array(COLOURS[0]) / 255 * 256).astype(np.uint8)
        for _ in range(2):
            last = stream.push(row={"rgb": codes, "audio": np.zeros(64, np.uint8)})
        assert [event.kind for event in last.events] == ["new"]
        with pytest.raises(ValueError, match="nothing that the model takes"):
            stream.push()
    assert loaded.classes[0] == "red"


def test_everyday_classes_need_no_training(sample: Path) -> None:
    """1,521 classes, what is seen and what is heard; a clip of an aeroplane is something that flies."""
    from vcls_model.serving.live.everyday import EverydayModel

    try:
        everyday = Model(EverydayModel.load())
    except JobError as error:
        pytest.skip(str(error))
    labels = everyday.label(str(sample / "video" / "V_AIRPLANE_005.mp4"))
    assert len(everyday.classes) == 1521 == len(set(everyday.classes))
    assert {each.verticals for each in everyday.live.classes} == {("seen",), ("heard",)}
    best = [everyday.classes[index] for index, _ in labels.whole]
    assert {"airliner", "warplane", "wing", "kite", "airship"} & set(best), best
