"""What people reported of the surroundings of a job: replaced files, terminals, caches, backends, fonts, locales."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.fixtures.media import colour_clip, write_encoders
from tests.fixtures.scores import vocabulary, write_scores
from tests.fixtures.scoring import Video, make_videos, serialise, write_shard
from vcls_model import storage
from vcls_model.commands import JobError, UsageError

COMMANDS = [
    "pipelines.extract",
    "pipelines.preprocess",
    "pipelines.score",
    "pipelines.report",
    "vcls_model.train",
    "vcls_model.tune",
    "vcls_model.ensemble",
    "vcls_model.metrics",
    "vcls_model.everyday",
    "vcls_model.encoders",
    "vcls_model.label",
    "vcls_model.serve",
]
BACKEND = {"MPLBACKEND": "module://no_such_notebook.backend_inline"}


def command(module: str, *flags: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", module, *flags],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=900,
    )


# -- case 03: principal components far from zero ----------------------------------------------------------------------


def whitened(name: str, dims: int, data: Path, output: Path) -> np.ndarray:
    import tensorflow as tf

    from pipelines.preprocess import run

    run(
        [
            f"--train_input={data}/03/{name}.csv",
            f"--vocabulary={data}/v.csv",
            f"--output={output}",
            f"--pca_dims={dims}",
            "--direct_num_workers=1",
        ]
    )
    (shard,) = (output / "train").iterdir()
    rows = []
    for record in tf.data.TFRecordDataset(str(shard)):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        (feature,) = set(features) - {"id", "labels"}
        rows.append(features[feature].float_list.value[:])
    return np.array(rows, np.float64)


@pytest.fixture(scope="module")
def reports(shared_data: Path) -> Path:
    if not (shared_data / "reports").is_dir():
        pytest.skip("the developers' public reports are not beside this checkout")
    return shared_data / "reports"


@pytest.mark.slow
@pytest.mark.parametrize("offset", ["10000", *(pytest.param(each, marks=pytest.mark.long) for each in ("0", "100000"))])
def test_two_points_far_from_zero_differ_in_one_component(offset: str, reports: Path, tmp_path: Path) -> None:
    values = whitened(f"p{offset}", 2, reports, tmp_path / "out")
    np.testing.assert_allclose(np.abs(values[:, 0]), 1, atol=0.1)
    np.testing.assert_allclose(values[:, 1], 0, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("offset", ["10000", *(pytest.param(each, marks=pytest.mark.long) for each in ("100", "1000"))])
def test_the_whitened_covariance_is_the_identity_far_from_zero(offset: str, reports: Path, tmp_path: Path) -> None:
    values = whitened(f"g{offset}", 3, reports, tmp_path / "out")
    np.testing.assert_allclose(np.cov(values.T, bias=True), np.eye(3), atol=0.01)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.01)


# -- case 04: files of the file manager -------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["*.tfrecord", "*", "**"])
def test_hidden_files_are_no_shards_of_any_job(pattern: str, shards: Path, model: Path, tmp_path: Path) -> None:
    from pipelines import preprocess, score

    folder = Path(shutil.copytree(shards, tmp_path / "folder"))
    for name in ("._part00.tfrecord", ".DS_Store", "_SUCCESS", ".part00.tfrecord.crc", "part00.tfrecord.crc"):
        (folder / name).write_bytes(bytes.fromhex("00051607") + bytes(4092))
    assert len(storage.list_files(f"{folder}/{pattern}")) == 5
    scored = score.run([f"--input={folder}/{pattern}", f"--model={model}", f"--output={tmp_path}/s", "--dry_run"])
    assert scored["shards"] == 5
    for flag in ("input", "train_input"):
        preprocess.run([f"--{flag}={folder}/{pattern}", f"--output={tmp_path}/o", "--dry_run"])
    with pytest.raises(UsageError, match="no file matches"):
        preprocess.run([f"--input={folder}/.nothing*", f"--output={tmp_path}/o", "--dry_run"])


# -- case 12: a file replaced by one of the same size -----------------------------------------------------------------


def replace_labels(shard: Path, videos: list[Video], *, modified: int | None = None) -> None:
    """Other labels in the same number of bytes; the time of modification stays if it is given."""
    changed = [
        Video(each.id, [(label + 1) % 30 for label in each.labels or ()], each.mean_rgb, each.mean_audio)
        for each in videos
    ]
    size = shard.stat().st_size
    write_shard(shard, [serialise(video) for video in changed])
    assert shard.stat().st_size == size
    if modified is not None:
        os.utime(shard, ns=(modified, modified))


@pytest.mark.parametrize("flag", ["--run_id=n", "--resume"])
def test_scoring_notices_a_shard_replaced_by_one_of_its_size(
    flag: str, score: Callable[..., dict], tmp_path: Path
) -> None:
    videos = make_videos(20, 3)
    shard = write_shard(tmp_path / "in" / "a.tfrecord", [serialise(video) for video in videos])
    before = shard.stat().st_mtime_ns
    first = score(shard, *([flag] if "run_id" in flag else []))
    again = score(shard, flag)
    assert again["records_written"] == first["records_written"] == 20
    replace_labels(shard, videos, modified=before)
    with pytest.raises(UsageError, match="a.tfrecord holds other bytes than when it was scored"):
        score(shard, flag)


def test_scoring_notices_a_large_shard_that_was_written_again(
    score: Callable[..., dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "DIGESTED_BYTES", 4096)
    videos = make_videos(20, 3)
    shard = write_shard(tmp_path / "in" / "a.tfrecord", [serialise(video) for video in videos])
    score(shard)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UsageError, match="was written again"):
        score(shard, "--resume")
    manifest = next((tmp_path / "scores" / "state").glob("*.manifest.json"))
    value = json.loads(manifest.read_text())
    del value["shards"][0]["digest"], value["shards"][0]["modified_seconds"]  # as 0.1 wrote it
    manifest.write_text(json.dumps(value))
    assert score(shard, "--resume")["records_written"] == 20


@pytest.mark.slow
def test_preprocess_resumes_with_the_shard_that_is_there(tmp_path: Path) -> None:
    from pipelines.preprocess import run

    videos = [make_videos(30, seed) for seed in range(2)]
    paths = [
        write_shard(tmp_path / "in" / f"{number}.tfrecord", [serialise(video) for video in content])
        for number, content in enumerate(videos)
    ]
    flags = [f"--input={tmp_path}/in/*", f"--output={tmp_path}/out", "--direct_num_workers=1"]
    first = run(flags)
    untouched = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*-00001-of-00002.tfrecord")}
    replace_labels(paths[0], videos[0], modified=paths[0].stat().st_mtime_ns)
    second = run([*flags, "--resume"])
    fresh = run([flags[0], f"--output={tmp_path}/fresh", flags[2]])
    assert second["statistics"]["class_counts"] == fresh["statistics"]["class_counts"]
    assert second["statistics"]["class_counts"] != first["statistics"]["class_counts"]
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched


def test_manifests_of_0_1_without_a_digest_still_hold(tmp_path: Path) -> None:
    from pipelines.preprocess import run

    write_shard(tmp_path / "in" / "a.tfrecord", [serialise(video) for video in make_videos(30, 1)])
    flags = [f"--input={tmp_path}/in/*", f"--output={tmp_path}/out", "--direct_num_workers=1"]
    run(flags)
    for path in (tmp_path / "out" / "manifests").glob("00000*"):
        head, _, rest = path.read_bytes().partition(b"\n")
        value = json.loads(head)
        assert value.pop("digest")
        path.write_bytes(json.dumps(value).encode() + b"\n" + rest)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.tfrecord")}
    run([*flags, "--resume"])
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_digest_covers_both_ends_and_takes_nothing_from_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = bytearray(np.random.default_rng(0).bytes(3 * storage.DIGESTED_BYTES))
    path.write_bytes(data)
    whole = storage.content_digest(str(path))
    for place, seen in ((0, True), (storage.DIGESTED_BYTES - 1, True), (len(data) // 2, False), (len(data) - 1, True)):
        data[place] ^= 1
        path.write_bytes(data)
        assert (storage.content_digest(str(path)) != whole) == seen
        data[place] ^= 1
    reading, writing = os.pipe()
    os.write(writing, b"records")
    os.close(writing)
    storage.content_digest(f"/dev/fd/{reading}")
    assert os.read(reading, 100) == b"records"
    os.close(reading)


# -- first wave: what --overwrite costs when the runner cannot be reached ---------------------------------------------


@pytest.mark.parametrize("job", ["preprocess", "score"])
def test_an_unreachable_cluster_does_not_cost_the_old_output(
    job: str, shards: Path, model: Path, tmp_path: Path
) -> None:
    from pipelines import preprocess, score

    old = tmp_path / "out" / "old"
    old.parent.mkdir()
    old.write_text("old")
    flags = [f"--input={shards}/*", f"--output={old.parent}", "--overwrite", "--runner=PortableRunner"]
    run, more = (preprocess.run, []) if job == "preprocess" else (score.run, [f"--model={model}"])
    with pytest.raises(JobError, match="no job server answers at localhost:1"):
        run([*flags, *more, "--job_endpoint=localhost:1"])
    assert old.read_text() == "old"


# -- case 14: no place for compiled code ------------------------------------------------------------------------------


@pytest.mark.long
def test_jobs_run_where_neither_package_nor_home_can_be_written(video_data: Path, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for package in ("pipelines", "vcls_model"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [path.parent for path in copy.rglob("__init__.py")]:
        (folder / "__pycache__").write_text("nothing can be created below a file, not even by root")
    environment = {"PYTHONPATH": str(copy), "HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "NUMBA_CACHE_DIR": ""}
    write_shard(tmp_path / "in.tfrecord", [serialise(video) for video in make_videos(30, 1)])
    (tmp_path / "p.csv").write_text("VideoId,LabelConfidencePairs\na,1 0.9\nb,0 0.8\n")
    (tmp_path / "l.csv").write_text("id,labels\na,1\nb,1\n")
    for module, flags in {
        "pipelines.preprocess": [f"--input={tmp_path}/in.tfrecord", f"--output={tmp_path}/data"],
        "vcls_model.train": [f"--data={video_data}", f"--output={tmp_path}/model", "--epochs=1", "--quiet"],
        "pipelines.score": [f"--input={tmp_path}/in.tfrecord", f"--model={model}", f"--output={tmp_path}/scores"],
        "vcls_model.metrics": [
            f"--predictions={tmp_path}/p.csv",
            f"--labels={tmp_path}/l.csv",
            f"--output={tmp_path}/metrics.json",
        ],
    }.items():
        done = command(module, *flags, cwd=tmp_path, **environment)
        errors = done.stderr.decode()
        assert done.returncode == 0, errors
        assert errors.count("set NUMBA_CACHE_DIR") == 1, errors


# -- cases 27 and 37, and the rest of kind 4 --------------------------------------------------------------------------


@pytest.mark.parametrize("module", COMMANDS)
def test_help_can_be_read_on_a_terminal_of_ascii_and_without_docstrings(module: str) -> None:
    done = command(module, "--help", PYTHONIOENCODING="ascii", PYTHONOPTIMIZE="2")
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.startswith(b"usage: ")
    assert b"\x1b" not in done.stdout


def test_a_path_that_ascii_cannot_write_ends_no_job(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("VideoId,LabelConfidencePairs\na,1 0.9\n")
    done = command(
        "vcls_model.metrics",
        f"--predictions={tmp_path}/p.csv",
        f"--labels={tmp_path}/ä",
        f"--output={tmp_path}/m.json",
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode in (1, 2) and b"Traceback" not in done.stderr and b"\\xe4" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("optimize", ["", "2"])
def test_a_report_ignores_the_plotting_backend_of_its_surroundings(
    optimize: str, scores_directory: Path, tmp_path: Path
) -> None:
    output = tmp_path / "ä"
    done = command(
        "pipelines.report",
        f"--scores={scores_directory}",
        f"--output={output}",
        PYTHONIOENCODING="ascii",
        PYTHONOPTIMIZE=optimize,
        **BACKEND,
    )
    assert done.returncode == 0, done.stderr
    assert (output / "report.html").exists() and b"\\xe4" in done.stdout


def test_encoders_say_nothing_where_home_cannot_be_written() -> None:
    """ONNX Runtime wrote a warning in colours; that it is not asked to report its use is tested by this, too."""
    script = """
from vcls_model.encoders.onnx_network import open_session
try:
    open_session(b"no model")
except Exception as error:
    print(type(error).__name__)
"""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**environment, "HOME": "/proc", "XDG_CACHE_HOME": "/proc"},
        capture_output=True,
        timeout=300,
    )
    assert done.stdout.strip() and done.stderr == b"", done.stderr


@pytest.mark.slow
def test_keras_can_be_imported_whatever_the_plotting_backend() -> None:
    script = "from vcls_model.quiet import start_tensorflow; start_tensorflow(); import keras; print(keras.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, **BACKEND}, capture_output=True, timeout=300
    )
    assert done.stdout == b"keras\n", done.stderr


def chain(
    place: Path, records: Path, clips: Path, encoders: Sequence[str], *, umask: int = 0o022, **environment: str
) -> dict[str, bytes]:
    """Every job and the metrics as programs; returns what they printed, by program."""
    wanted = {**os.environ, **environment}
    printed = {}
    for module, flags in {
        "pipelines.preprocess": [f"--input={records}/*.tfrecord", f"--output={place}/data"],
        "vcls_model.train": [f"--data={place}/data", f"--output={place}/model", "--model=logistic", "--epochs=2"],
        "pipelines.score": [f"--input={records}/*.tfrecord", f"--model={place}/model", f"--output={place}/scores"],
        "pipelines.report": [f"--scores={place}/scores", f"--data={place}/data", f"--output={place}/report"],
        "vcls_model.metrics": [f"--predictions={place}/scores/predictions", f"--output={place}/metrics.json"],
        "pipelines.extract": [f"--input={clips}/*.mp4", "--labels=folders", f"--output={place}/clips", *encoders],
    }.items():
        done = subprocess.run(
            [sys.executable, "-m", module, *flags],
            cwd=ROOT,
            env={name: value for name, value in wanted.items() if value != "-"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=900,
            umask=umask,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        printed[module] = done.stdout + done.stderr
    return printed


@pytest.mark.long
def test_the_surroundings_change_nothing(shards: Path, tmp_path: Path) -> None:
    """Backend, ASCII, no home, time zone, decimal commas, -OO, umask 077, and a path of 200 characters."""
    usual, unusual = tmp_path / "usual", tmp_path / ("ä" * 50 + "x" * 100)
    encoders = write_encoders(tmp_path / "encoders").flags
    (tmp_path / "clips").mkdir()
    for number in range(2):
        colour_clip(tmp_path / "clips" / f"{number}.mp4", 2, first=number)
    chain(usual, shards, tmp_path / "clips", encoders)
    printed = chain(
        unusual,
        shards,
        tmp_path / "clips",
        encoders,
        umask=0o077,
        PYTHONIOENCODING="ascii",
        HOME="-",
        TZ="Asia/Kathmandu",
        LC_ALL="de_DE.UTF-8",
        LANG="de_DE.UTF-8",
        PYTHONOPTIMIZE="2",
        **BACKEND,
    )
    for module, text in printed.items():
        assert b"\x1b" not in text and b"\r" not in text and b"\b" not in text, module
    for name in ("metrics.json", "per_class.csv", "confusion.csv", "thresholds.csv"):
        assert (unusual / "scores" / name).read_bytes() == (usual / "scores" / name).read_bytes(), name
    assert (unusual / "metrics.json").read_bytes() == (usual / "metrics.json").read_bytes()
    written = [*sorted((usual / "data").glob("*/*.tfrecord")), *(usual / "clips").glob("*.tfrecord")]
    assert len(written) > 5
    for one in written:
        assert (unusual / one.relative_to(usual)).read_bytes() == one.read_bytes()


def test_without_a_terminal_progress_comes_in_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    from vcls_model.training import loop

    lines = loop._ProgressLines(400)
    lines.update(100, 0.5)
    assert capsys.readouterr().err == ""  # too early
    lines._shown = time.monotonic() - loop._LINE_SECONDS
    lines.update(200, 0.25)
    lines.end()
    assert capsys.readouterr() == ("", "  step 200/400 - loss: 0.2500\n")


# -- kind 5: names in any script ---------------------------------------------------------------------------------------

SCRIPTS = {
    "CJK": "音楽",
    "Hebrew": "מוזיקה",
    "Devanagari": "संगीत",
    "emoji": "🎵",
    "formula": "A$AP \\frac{ $ign",
    "control": "a\x07b",
}


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.pages import fonts

    monkeypatch.setattr(fonts, "_reported", set())


@pytest.mark.parametrize("script", SCRIPTS)
def test_class_names_of_any_script_appear_without_a_warning(
    script: str, unreported: None, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.reporting.page import figures

    def plot(name: str, ax: object) -> None:
        ax.plot([1, 2], [1, 2], label=name)  # type: ignore[attr-defined]
        ax.legend()  # type: ignore[attr-defined]

    svg, png = figures.draw(plot, SCRIPTS[script], (3, 3))
    if script not in ("formula", "control"):
        assert SCRIPTS[script] in svg.decode()
    assert png.startswith(b"\x89PNG")
    assert not recwarn.list
    figures.draw(plot, SCRIPTS[script], (3, 3))
    assert capsys.readouterr().err.count("\n") <= 1  # said once, where no font has them


def test_a_font_that_has_the_characters_is_used(
    unreported: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen
    from matplotlib import font_manager

    from pipelines.pages import fonts
    from pipelines.reporting.page import figures

    pen = TTGlyphPen(None)
    for place, move in (((0, 0), pen.moveTo), ((0, 700), pen.lineTo), ((700, 700), pen.lineTo)):
        move(place)
    pen.closePath()
    triangle = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "music"])
    builder.setupCharacterMap({ord("音"): "music"})
    builder.setupGlyf({".notdef": triangle, "music": triangle})
    builder.setupHorizontalMetrics({".notdef": (800, 0), "music": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Only Music", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "music.ttf")
    manager = font_manager.fontManager
    manager.addfont(tmp_path / "music.ttf")
    fonts._installed.cache_clear()
    try:
        assert fonts.families_with({"音"}) == ["Only Music"]
        svg, _ = figures.draw(lambda name, ax: ax.set_title(name), "音 a", (3, 3))
        assert "Only Music" in svg.decode() and capsys.readouterr().err == ""
    finally:
        manager.ttflist[:] = [font for font in manager.ttflist if font.name != "Only Music"]
        fonts._installed.cache_clear()


def test_a_report_over_classes_of_any_script(
    unreported: None, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    from pipelines.report import run

    classes = vocabulary(8)
    names = [*SCRIPTS.values(), "Flash", "d"]
    classes = [dataclasses.replace(each, name=name) for each, name in zip(classes, names, strict=True)]
    scores = write_scores(tmp_path / "scores", videos=80, classes=classes)
    run([f"--scores={scores}", f"--output={tmp_path}/report"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert all(name in page for name in ("音楽", "מוזיקה", "संगीत", "🎵"))
    assert not [warning for warning in recwarn.list if "Glyph" in str(warning.message)]


def test_bounds_of_perfect_predictions_stay_in_the_unit_interval() -> None:
    from vcls_model.metrics.accumulator import MetricAccumulator
    from vcls_model.metrics.result import compute_result

    classes, videos = 7, 500
    labels = np.random.default_rng(0).integers(0, classes, videos)
    accumulator = MetricAccumulator(classes)
    logits = np.where(np.arange(classes) == labels[:, None], 9, -9).astype(np.float32)
    accumulator.update(logits, labels, np.ones(videos, np.int64), [b"%d" % number for number in range(videos)])
    summary = compute_result(accumulator).summary
    bounds = {key: value for key, value in summary.items() if key.endswith(("_lower", "_upper", "_ci_low", "_ci_high"))}
    assert len(bounds) >= 10 and all(0 <= value <= 1 for value in bounds.values()), bounds
    assert bounds["map_upper"] == 1


def test_paths_that_are_not_utf_8_are_written_as_json_has_them(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / "info.json"), {"path": os.fsdecode(b"a\xff")})
    assert os.fsencode(json.loads((tmp_path / "info.json").read_text())["path"]) == b"a\xff"
