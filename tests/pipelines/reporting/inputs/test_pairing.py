"""Two runs paired video by video: counts against a loop over dictionaries, and what is said where they do not pair."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from scipy.stats import binomtest, false_discovery_control

from pipelines.report import run
from pipelines.reporting.findings.comparison import changes, class_changes, estimates
from pipelines.reporting.findings.intervals import discoveries, mcnemar, paired_fraction_interval
from pipelines.reporting.findings.verdict import check_pairing
from pipelines.reporting.inputs.outcomes import pair_runs
from pipelines.reporting.inputs.pairing import Pairing
from pipelines.reporting.inputs.scores import read_scores
from tests.fixtures.scores import (
    labels_and_logits,
    vocabulary,
    write_info,
    write_predictions,
    write_state,
)
from vcls_model.commands import JobError
from vcls_model.metrics.accumulator import MetricAccumulator
from vcls_model.metrics.result import compute_result
from vcls_model.records.vocabulary import write_labels_csv


def _write(directory: Path, logits: np.ndarray, labels: list[np.ndarray]) -> Path:
    """A Scores directory of these logits, by the project's own metrics."""
    (directory / "predictions").mkdir(parents=True)
    accumulator = MetricAccumulator(logits.shape[1])
    ids = [f"v{row:03d}".encode() for row in range(len(logits))]
    accumulator.update(logits, np.concatenate(labels), np.array([len(row) for row in labels]), ids)
    classes = vocabulary(logits.shape[1])
    for name, data in compute_result(accumulator).to_files(classes).items():
        (directory / name).write_bytes(data)
    write_state(directory, accumulator)
    write_predictions(directory, logits, labels)
    (directory / "labels.csv").write_text(write_labels_csv(classes), "utf-8")
    write_info(directory, videos=len(logits), labelled=len(logits), class_count=logits.shape[1])
    return directory


def _hits(directory: Path) -> dict[str, bool]:
    found = {}
    for part in sorted((directory / "predictions").glob("*.parquet")):
        for row in parquet.read_table(part).to_pylist():
            found[row["id"]] = row["class_index"][0] in row["labels"]
    return found


def _pairing(now: Path, before: Path) -> Pairing:
    return pair_runs(read_scores(str(now)), read_scores(str(before)))


def _close_runs(tmp_path: Path, videos: int = 2844) -> tuple[Path, Path]:
    """Two models whose best class differs for few videos, the second a little better."""
    labels, logits = labels_and_logits(videos, 30, 4, skill=4.0)
    generator = np.random.default_rng(9)
    worse = logits.copy()
    for place, row in enumerate(generator.choice(videos, 600, replace=False)):
        worse[row, labels[row]] += np.float32(-2.5 if place < 150 else 2.5 if place > 500 else 0)
    return _write(tmp_path / "now", worse, labels), _write(tmp_path / "before", logits, labels)


def test_a_difference_that_independent_runs_would_hide_is_real_over_the_same_videos(tmp_path: Path):
    now, before = _close_runs(tmp_path)
    pairing = _pairing(now, before)
    ours, theirs = _hits(now), _hits(before)
    lost = sum(theirs[video] and not ours[video] for video in ours)
    won = sum(ours[video] and not theirs[video] for video in ours)
    assert (pairing.shared, pairing.lost, pairing.won) == (2844, lost, won)
    assert pairing.same_videos and lost > won
    scores, baseline = read_scores(str(now)), read_scores(str(before))
    paired = {each.now.metric.key: each for each in changes(estimates(scores), estimates(baseline), pairing)}
    apart = {each.now.metric.key: each for each in changes(estimates(scores), estimates(baseline))}
    hit = paired["hit_at_1"]
    assert hit.delta == pytest.approx((won - lost) / 2844)
    assert hit.p == pytest.approx(binomtest(lost, lost + won).pvalue)
    assert hit.exceeds and hit.high < 0 and not apart["hit_at_1"].exceeds
    for key in ("gap_at_20", "map"):
        assert paired[key].exceeds and paired[key].high < 0
        assert paired[key].high - paired[key].low < 0.6 * (apart[key].high - apart[key].low)


def test_the_report_says_how_many_videos_were_lost_and_won(tmp_path: Path, undrawn: None):
    now, before = _close_runs(tmp_path)
    info = run([f"--scores={now}", f"--baseline={before}", f"--output={tmp_path / 'report'}"])
    assert info["verdict"]["title"] == "Worse than the baseline, beyond chance"
    pairing = info["pairing"]
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"was right in the baseline alone, that of {pairing['won']} in this run alone" in page
    assert "Both runs scored the same 2,844 videos, paired by id" in page and "exact test: p &lt; 0.0001" in page
    assert pairing["paired"] and pairing["lost"] > pairing["won"] > 0
    with (tmp_path / "report" / "tables" / "headline.csv").open() as stream:
        rows = {row["metric"]: row for row in csv.DictReader(stream)}
    assert float(rows["hit_at_1"]["change_p"]) == pytest.approx(mcnemar(pairing["lost"], pairing["won"]))
    assert rows["perr"]["change_p"] == ""  # nothing is known of its spread


def test_mcnemar_and_its_interval_of_the_reported_case():
    assert mcnemar(79, 15) == pytest.approx(binomtest(15, 94).pvalue)
    assert mcnemar(15, 79) == mcnemar(79, 15) < 1e-10
    assert mcnemar(0, 0) == 1 and mcnemar(3, 3) == 1
    low, high = paired_fraction_interval(79, 15, 2844)
    generator = np.random.default_rng(1)
    drawn = generator.multinomial(2844, [79 / 2844, 15 / 2844, 1 - 94 / 2844], size=20_000)
    expected = np.quantile((drawn[:, 1] - drawn[:, 0]) / 2844, [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=4e-4)
    assert -0.0301 < low < high < -0.0155


def test_false_discovery_rate_is_that_of_scipy():
    generator = np.random.default_rng(2)
    p = np.concatenate([generator.random(200), generator.random(20) * 1e-3])
    expected = false_discovery_control(p) <= 0.05
    assert discoveries(p).tolist() == expected.tolist() and 10 < expected.sum() < 30
    assert discoveries(np.array([np.nan, 0.001, np.nan, 0.04])).tolist() == [False, True, False, True]
    assert not discoveries(np.array([0.03, 0.5, 0.6])).any() and discoveries(np.array([])).tolist() == []


def test_two_models_that_are_equally_good_rarely_differ_by_class(tmp_path: Path):
    findings = tested = 0
    for seed in range(8):
        labels, logits = labels_and_logits(600, 30, seed)
        generator = np.random.default_rng(seed)
        runs = [
            _write(
                tmp_path / f"{seed}{name}", logits + generator.normal(0, 0.8, logits.shape).astype(np.float32), labels
            )
            for name in "ab"
        ]
        scores, baseline = (read_scores(str(path)) for path in runs)
        found = class_changes(scores, baseline, pair_runs(scores, baseline))
        findings, tested = findings + int(found.exceeds.sum()), tested + int(found.tested.sum())
        assert (scores.columns["support"][found.tested] >= 10).all()
    assert tested > 150 and findings <= 2


def test_a_baseline_of_other_videos_is_not_paired(tmp_path: Path):
    labels, logits = labels_and_logits(400, 10, 1)
    now = _write(tmp_path / "now", logits[:300], labels[:300])
    before = _write(tmp_path / "before", logits[:200], labels[:200])
    pairing = _pairing(now, before)
    assert (pairing.now, pairing.before, pairing.shared) == (300, 200, 200)
    assert not pairing.same_videos and pairing.shift is None
    assert "measured on other videos: 200 of its 200 are among the 300" in check_pairing(pairing).text
    scores, baseline = read_scores(str(now)), read_scores(str(before))
    apart = changes(estimates(scores), estimates(baseline))
    assert str(changes(estimates(scores), estimates(baseline), pairing)) == str(apart)


def test_other_labels_of_the_same_videos_are_not_paired(tmp_path: Path):
    labels, logits = labels_and_logits(100, 10, 1)
    now = _write(tmp_path / "now", logits, labels)
    changed = [np.array([(int(labels[0][0]) + 1) % 10]), *labels[1:]]
    pairing = _pairing(now, _write(tmp_path / "before", logits, changed))
    assert (pairing.shared, pairing.relabelled) == (100, 1) and not pairing.same_videos
    assert "other labels for 1 video of 100" in check_pairing(pairing).text


def test_without_labels_in_the_predictions_nothing_is_pretended(tmp_path: Path):
    labels, logits = labels_and_logits(100, 10, 1)
    now, before = _write(tmp_path / "now", logits, labels), _write(tmp_path / "before", logits, labels)
    write_predictions(before, logits, None)
    check = check_pairing(_pairing(now, before))
    assert check.state == "attention" and "cannot be paired by id" in check.text and str(before) in check.text


def test_without_stored_counts_only_the_best_classes_are_paired(tmp_path: Path):
    now, before = _close_runs(tmp_path)
    shutil.rmtree(before / "state")
    pairing = _pairing(now, before)
    assert pairing.same_videos and pairing.shift is None and "the baseline (state/)" in pairing.obstacle
    scores, baseline = read_scores(str(now)), read_scores(str(before))
    found = {each.now.metric.key: each for each in changes(estimates(scores), estimates(baseline), pairing)}
    apart = {each.now.metric.key: each for each in changes(estimates(scores), estimates(baseline))}
    assert found["hit_at_1"].p == mcnemar(pairing.lost, pairing.won) and str(found["map"]) == str(apart["map"])
    assert "as if the videos differed" in check_pairing(pairing).text


def test_ids_that_come_twice_pair_in_their_order(tmp_path: Path):
    labels, logits = labels_and_logits(60, 10, 1)
    runs = [_write(tmp_path / name, logits, labels) for name in ("now", "before")]
    for path in runs:
        (part,) = (path / "predictions").glob("*.parquet")
        table = parquet.read_table(part)
        ids = table.column("id").to_pylist()
        parquet.write_table(table.set_column(0, "id", [[ids[0], ids[0], *ids[2:]]]), part)
    pairing = _pairing(*runs)
    assert pairing.same_videos and (pairing.shared, pairing.lost, pairing.won) == (60, 0, 0)


def test_counts_of_another_run_are_refused(tmp_path: Path):
    labels, logits = labels_and_logits(60, 10, 1)
    now, other = _write(tmp_path / "now", logits, labels), _write(tmp_path / "other", logits[:30], labels[:30])
    shutil.copytree(other / "state", now / "state", dirs_exist_ok=True)
    with pytest.raises(JobError, match="state counts 30 videos, metrics.json 60"):
        _pairing(now, now)


def test_a_run_does_not_differ_from_itself(tmp_path: Path):
    labels, logits = labels_and_logits(60, 10, 1)
    path = _write(tmp_path / "now", logits, labels)
    found = class_changes(read_scores(str(path)), read_scores(str(path)), _pairing(path, path))
    assert (found.delta[found.compared] == 0).all() and not found.exceeds.any()
