"""Platt's line: its two numbers against those that made the scores, and what an exported model does with them."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from vcls_model import storage, train
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.result import compute_result
from vcls_model.training.calibration import UNCALIBRATED, fit_platt

CLASSES = 20


def accumulated(logits: np.ndarray, truth: np.ndarray) -> MetricAccumulator:
    accumulator = MetricAccumulator(CLASSES)
    lengths = truth.sum(axis=1)
    ids = [b"%d" % number for number in range(len(logits))]
    accumulator.update(logits.astype(np.float32), np.nonzero(truth)[1].astype(np.int32), lengths, ids)
    return accumulator


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right, and labels drawn from them."""
    random = np.random.default_rng(0)
    logits = random.normal(-1.5, 2.0, (5_000, CLASSES))
    return logits, random.random(logits.shape) < 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(("scale", "shift"), [(0.7, 0.4), (1.5, -1.0), (1.0, 0.0)])
def test_the_line_that_made_scores_wrong_is_found(
    drawn: tuple[np.ndarray, np.ndarray], scale: float, shift: float
) -> None:
    logits, truth = drawn
    found = fit_platt(accumulated((logits - shift) / scale, truth))
    assert found.scale == pytest.approx(scale, abs=0.03)
    assert found.shift == pytest.approx(shift, abs=0.05)


def test_it_lowers_the_error_and_changes_no_ranking(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    logits, truth = drawn
    wrong = logits / 0.6 + 0.5
    line = fit_platt(accumulated(wrong, truth))
    before = compute_result(accumulated(wrong, truth)).summary
    after = compute_result(accumulated(wrong * line.scale + line.shift, truth)).summary
    assert before["expected_calibration_error_at_20"] > 0.05
    assert after["expected_calibration_error_at_20"] < 0.01
    assert after["gap_at_20"] == pytest.approx(before["gap_at_20"], abs=1e-3)  # up to the width of a bin
    assert after["hit_at_1"] == before["hit_at_1"]


def test_few_pairs_and_scores_that_rank_backwards_say_nothing(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    logits, truth = drawn
    assert fit_platt(accumulated(logits[:10], truth[:10])) == UNCALIBRATED
    assert fit_platt(accumulated(-logits, truth)) == UNCALIBRATED
    assert fit_platt(accumulated(logits, np.zeros_like(truth))) == UNCALIBRATED
    apart = np.where(truth, 0.5, -0.5)  # the likelihood grows with the scale for ever
    assert fit_platt(accumulated(apart, truth)) == UNCALIBRATED


@pytest.mark.slow
def test_an_exported_model_is_calibrated(video_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vcls_model.training.calibration._FEWEST_PAIRS", 5)
    flags = [f"--data={video_data}", "--model=logistic", "--recipe=none", "--epochs=4", "--learning_rate=0.05"]
    plain = train.run([*flags, f"--output={tmp_path / 'plain'}"])
    fitted = train.run([*flags, f"--output={tmp_path / 'fitted'}", "--calibration=platt"])
    line = fitted["training"]["calibration"]
    assert plain["training"]["calibration"] == {"scale": 1.0, "shift": 0.0}
    assert line != {"scale": 1.0, "shift": 0.0}
    name = "expected_calibration_error_at_20"
    assert fitted["training"]["validation"][name] < plain["training"]["validation"][name]
    features = {
        modality["name"]: tf.constant(np.random.default_rng(1).normal(size=(3, modality["width"])), tf.float32)
        for modality in fitted["transformed"]
    }
    said = [
        tf.saved_model.load(str(tmp_path / each / "saved_model"))
        .signatures["transformed"](**features)["logits"]
        .numpy()
        for each in ("plain", "fitted")
    ]
    np.testing.assert_allclose(said[1], said[0] * line["scale"] + line["shift"], atol=1e-4)
    assert storage.read_json(str(tmp_path / "fitted" / "info.json"))["training"]["calibration"] == line
