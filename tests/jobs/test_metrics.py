"""`python -m vcls_model.metrics` on the three formats, and its errors."""

import json
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.vcls_model.metrics import oracles
from vcls_model.commands import JobError, UsageError
from vcls_model.metrics.__main__ import run
from vcls_model.metrics.binning import logit_of, probability_of

CLASSES = 30


@pytest.fixture(scope="module")
def case():
    logits, values, lengths, ids = oracles.random_case(np.random.default_rng(4), 50, CLASSES)
    # As a file of probabilities can hold them.
    probabilities = probability_of(logits)
    return logit_of(probabilities).astype(np.float32), probabilities, values, lengths, ids


@pytest.fixture(scope="module")
def truth(case):
    return oracles.dense_labels(case[2], case[3], CLASSES)


def rows_of(case):
    starts = np.concatenate([[0], np.cumsum(case[3])])
    return [case[2][starts[i] : starts[i + 1]].tolist() for i in range(len(case[4]))]


def write_npz(path, case):
    np.savez(path, logits=case[0], ids=np.array(case[4]), label_flat=case[2], label_lens=case[3])


def write_parquet(path, case, *, labels=True, top=CLASSES):
    order = np.argsort(-case[1], axis=1, kind="stable")[:, :top]
    columns = {
        "id": [video_id.decode() for video_id in case[4]],
        "class_index": pa.array(order.tolist(), pa.list_(pa.int32())),
        "probability": pa.array(np.take_along_axis(case[1], order, 1).tolist(), pa.list_(pa.float64())),
    }
    if labels:
        columns["labels"] = pa.array(rows_of(case), pa.list_(pa.int32()))
    pq.write_table(pa.table(columns), path)


def write_kaggle(path, case, top=20):
    lines = ["VideoId,LabelConfidencePairs"]
    for video_id, row in zip(case[4], case[1], strict=True):
        best = np.argsort(-row, kind="stable")[:top]
        lines.append(video_id.decode() + "," + " ".join(f"{c} {float(row[c])!r}" for c in best))
    path.write_text("\n".join(lines) + "\n")


def write_labels_csv(path, case):
    path.write_text(
        "VideoId,Labels\n"
        + "".join(
            f"{video_id.decode()},{' '.join(map(str, labels))}\n"
            for video_id, labels in zip(case[4], rows_of(case), strict=True)
        )
    )


def check(summary, case, truth, names):
    for name in names:
        assert summary[name] == pytest.approx(getattr(oracles, name)(case[0], truth), abs=1e-9)


TOP_20 = ("gap_at_20", "map_at_20", "hit_at_1")


@pytest.mark.parametrize("labels", [None, "csv", "npz", "parquet"])
@pytest.mark.parametrize("kind", ["npz", "parquet", "csv"])
def test_every_format_gives_the_same_metrics(tmp_path, case, truth, kind, labels):
    if kind == "csv" and labels is None:
        pytest.skip("the Kaggle CSV has no labels")
    predictions = tmp_path / f"predictions.{kind}"
    {"npz": write_npz, "parquet": write_parquet, "csv": write_kaggle}[kind](predictions, case)
    argv = [f"--predictions={predictions}", f"--output={tmp_path}/out/metrics.json", f"--class_count={CLASSES}"]
    if labels:
        path = tmp_path / f"labels.{labels}"
        {"csv": write_labels_csv, "npz": write_npz, "parquet": write_parquet}[labels](path, case)
        argv.append(f"--labels={path}")
    summary = run(argv)
    check(summary, case, truth, TOP_20 if kind == "csv" else (*TOP_20, "perr"))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == summary
    assert summary["videos"] == 50 and summary["videos_without_labels"] == 0


def test_what_a_top_k_file_leaves_out_widens_the_interval(tmp_path, case, truth):
    from sklearn.metrics import average_precision_score

    write_parquet(tmp_path / "all.parquet", case)
    write_parquet(tmp_path / "few.parquet", case, top=6)
    whole, few = (
        run([f"--predictions={tmp_path}/{name}.parquet", f"--output={tmp_path}/m.json"]) for name in ("all", "few")
    )
    map_ = average_precision_score(truth, case[0], average="macro")
    assert whole["map"] == pytest.approx(map_, abs=1e-9)
    assert few["map_lower"] < whole["map_lower"] and whole["map_upper"] < few["map_upper"]
    assert few["map_lower"] <= map_ <= few["map_upper"]


def test_a_directory_of_kaggle_files(tmp_path, case, truth):
    parts = tmp_path / "predictions"
    parts.mkdir()
    write_labels_csv(tmp_path / "labels.csv", case)
    for name, chosen in (("a", slice(0, 20)), ("b", slice(20, 50))):
        write_kaggle(parts / f"{name}.csv", (None, case[1][chosen], None, None, case[4][chosen]))
    arguments = [f"--labels={tmp_path}/labels.csv", f"--output={tmp_path}/m.json", f"--class_count={CLASSES}"]
    summary = run([f"--predictions={parts}", *arguments])
    check(summary, case, truth, TOP_20)
    assert summary["videos"] == 50


def test_labels_by_name(tmp_path, case, truth):
    names = ["Arcade game", "Car", "7", "a;b", *(f"Thing {index}" for index in range(4, CLASSES))]
    (tmp_path / "vocabulary.csv").write_text(
        "Index,Name\n" + "".join(f"{index},{name}\n" for index, name in enumerate(names))
    )
    lines = ["id,labels"]
    for video_id, labels in zip(case[4], rows_of(case), strict=True):
        # Some by index, some by name in another case; a number is an index, a name with ";" cannot be written.
        texts = [str(label) if label % 3 == 2 or label == 3 else names[label].upper() for label in labels]
        lines.append(f"{video_id.decode()},{'; '.join(texts)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    write_npz(tmp_path / "p.npz", case)
    arguments = [f"--predictions={tmp_path}/p.npz", f"--labels={tmp_path}/labels.csv", f"--output={tmp_path}/m.json"]
    summary = run([*arguments, f"--vocabulary={tmp_path}/vocabulary.csv"])
    check(summary, case, truth, (*TOP_20, "perr"))
    with pytest.raises(JobError, match="expected class indices"):
        run(arguments)
    (tmp_path / "labels.csv").write_text("id,labels\nx,Carr\n")
    with pytest.raises(JobError, match="line 2: no class of the vocabulary is called 'Carr'"):
        run([*arguments, f"--vocabulary={tmp_path}/vocabulary.csv"])


def test_a_directory_of_parts_and_details(tmp_path, case):
    parts = tmp_path / "predictions"
    parts.mkdir()
    for name, chosen in (("a", slice(0, 20)), ("b", slice(20, 50))):
        starts = np.concatenate([[0], np.cumsum(case[3])])
        values = case[2][starts[chosen.start] : starts[chosen.stop]]
        write_parquet(parts / f"{name}.parquet", (None, case[1][chosen], values, case[3][chosen], case[4][chosen]))
    vocabulary = tmp_path / "vocabulary.csv"
    vocabulary.write_text("Index,Name,Vertical1\n" + "".join(f"{i},name {i},V{i % 2}\n" for i in range(CLASSES)))
    summary = run(
        [
            f"--predictions={parts}",
            f"--output={tmp_path}/m.json",
            f"--details={tmp_path}/details",
            f"--vocabulary={vocabulary}",
            "--threshold=0.3",
        ]
    )
    assert summary["videos"] == 50 and summary["threshold"] == 0.3
    assert set(summary["slices"]["vertical"]) == {"V0", "V1"}
    assert "name 7" in (tmp_path / "details" / "per_class.csv").read_text()


def test_unlabelled_videos_are_counted_and_left_out(tmp_path, case, truth):
    write_npz(tmp_path / "p.npz", case)
    labels = tmp_path / "labels.csv"
    write_labels_csv(labels, (case[0][:30], case[1][:30], case[2][: case[3][:30].sum()], case[3][:30], case[4][:30]))
    summary = run([f"--predictions={tmp_path}/p.npz", f"--labels={labels}", f"--output={tmp_path}/m.json"])
    assert summary["videos"] == 30 and summary["videos_without_labels"] == 20
    assert summary["gap_at_20"] == pytest.approx(oracles.gap_at_20(case[0][:30], truth[:30]), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "VideoId,LabelConfidencePairs\na,1 0.5 2\n", "line 2: an odd number"),
        (
            "p.csv",
            "VideoId,LabelConfidencePairs\na,1 0.5\nb,1 1.5\n",
            r"line 3: probabilities must .* \[0, 1\], got 1.5",
        ),
        ("p.csv", "VideoId,LabelConfidencePairs\na,1 nan\n", "probabilities must lie"),
        ("p.csv", "VideoId,LabelConfidencePairs\na,1 x\n", "line 2: expected pairs of class and confidence, got .x."),
        ("p.csv", "VideoId,LabelConfidencePairs\na\n", "1 cells in a table of 2 columns"),
        ("p.csv", "VideoId,LabelConfidencePairs\na,1 0.5 1 0.4\n", "twice"),
        ("p.csv", "VideoId,LabelConfidencePairs\na,40 0.5\n", "41 classes, but 30"),
        ("p.csv", "VideoId,LabelConfidencePairs\na,1 0.5\n", "none of the 1 predictions of .*p.csv has labels"),
        ("p.npz", "not one", "not an npz"),
        ("p.parquet", "not one", "Parquet"),
        ("p.txt", "", "must be .parquet"),
    ],
)
def test_bad_files_name_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(JobError, match=message):
        run([f"--predictions={tmp_path / name}", f"--output={tmp_path}/m.json", f"--class_count={CLASSES}"])
    assert not (tmp_path / "m.json").exists()


def test_nan_and_wrong_class_count_in_npz(tmp_path, case):
    logits = case[0].copy()
    logits[7, 3] = np.nan
    write_npz(tmp_path / "nan.npz", (logits, *case[1:]))
    with pytest.raises(JobError, match="row 7 .* class 3: the logit is NaN"):
        run([f"--predictions={tmp_path}/nan.npz", f"--output={tmp_path}/m.json"])
    write_npz(tmp_path / "p.npz", case)
    with pytest.raises(JobError, match="30 classes, but 31"):
        run([f"--predictions={tmp_path}/p.npz", f"--output={tmp_path}/m.json", "--class_count=31"])


def test_missing_files_and_bad_flags(tmp_path):
    with pytest.raises(JobError, match="--predictions: "):
        run([f"--predictions={tmp_path}/none.npz", f"--output={tmp_path}/m.json"])
    with pytest.raises(UsageError, match="--threshold"):
        run(["--predictions=x.npz", "--output=m.json", "--threshold=2"])
    with pytest.raises(UsageError, match="did you mean --output"):
        run(["--predictions=x.npz", "--output=m.json", "--outputs=n"])
    with pytest.raises(UsageError, match="--vocabulary"):
        run(["--predictions=x.npz", "--output=m.json", f"--vocabulary={tmp_path}/none.csv"])


def test_help_answers_at_once():
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vcls_model.metrics", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--predictions" in done.stdout
    assert "numba" not in done.stderr and "numpy" not in done.stderr
    assert time.monotonic() - start < 10


@pytest.fixture
def rated_segments(tmp_path):
    """Scores of 60 segments and ratings of some of their classes, the latter also as a file."""
    rng = np.random.default_rng(9)
    ids = [b"v%d:%d" % (row // 3, 5 * (row % 3)) for row in range(60)]
    logits = rng.normal(-1, 2, (60, 8)).astype(np.float32)
    ratings = [(row, int(index), int(rng.integers(2))) for row in range(60) for index in rng.choice(6, 2, False)]
    path = tmp_path / "ratings.csv"
    path.write_text(
        "segment,class,rating\n" + "".join(f"{ids[row].decode()},{index},{found}\n" for row, index, found in ratings)
    )
    return ids, logits, ratings, path


def segment_map(logits, ratings, listed=lambda row, index: True):
    """MAP@K pair by pair; a pair that is not listed earns nothing."""
    precisions = []
    for index in range(logits.shape[1]):
        pairs = sorted(
            ((logits[row, c], found) for row, c, found in ratings if c == index and listed(row, c)), reverse=True
        )
        found = np.array([hit for _, hit in pairs])
        total = sum(hit for _, c, hit in ratings if c == index)
        if total:
            precisions.append((found * np.cumsum(found) / np.arange(1, len(found) + 1)).sum() / total)
    return np.mean(precisions)


def test_the_segment_task(tmp_path, rated_segments):
    ids, logits, ratings, path = rated_segments
    np.savez(tmp_path / "scores.npz", logits=logits, ids=np.array(ids))
    arguments = [f"--ratings={path}", f"--output={tmp_path / 'metrics.json'}", f"--details={tmp_path / 'details'}"]
    found = run([f"--predictions={tmp_path / 'scores.npz'}", "--class_count=8", *arguments])["segments"]
    assert found == json.loads((tmp_path / "metrics.json").read_text())["segments"]
    assert found["map_at_k"] == pytest.approx(segment_map(logits, ratings), abs=1e-9)
    assert found["rated_pairs"] == 120 and found["pairs_left_out"] == 0
    rows = (tmp_path / "details" / "segment_per_class.csv").read_text().splitlines()
    assert len(rows) == 9 and rows[0] == "index,name,rated,positives,ap_at_k" and rows[8].endswith(",0,0,")

    lines = ["Class,Segments"]  # a submission to the challenge: the best 30 segments of each class
    best = {index: np.argsort(-logits[:, index])[:30].tolist() for index in range(8)}
    lines += [f"{index},{' '.join(ids[row].decode() for row in rows)}" for index, rows in best.items()]
    (tmp_path / "ranking.csv").write_text("\n".join(lines) + "\n")
    found = run([f"--predictions={tmp_path / 'ranking.csv'}", *arguments])["segments"]
    listed = [(row, index) for row, index, _ in ratings if row in best[index]]
    assert found["map_at_k"] == pytest.approx(segment_map(logits, ratings, lambda *pair: pair in listed), abs=1e-9)
    assert found["pairs_left_out"] == 120 - len(listed) > 0


def test_what_predictions_cut_off_is_bounded_and_said(tmp_path, rated_segments, capsys):
    ids, logits, ratings, path = rated_segments
    top = np.argsort(-logits, axis=1)[:, :3]
    probabilities = np.take_along_axis(probability_of(logits), top, 1)
    columns = {
        "id": [name.decode() for name in ids],
        "class_index": pa.array(top.tolist(), pa.list_(pa.int32())),
        "probability": pa.array(probabilities.tolist(), pa.list_(pa.float64())),
    }
    pq.write_table(pa.table(columns), tmp_path / "top3.parquet")
    found = run(
        [
            f"--predictions={tmp_path / 'top3.parquet'}",
            f"--ratings={path}",
            "--class_count=8",
            f"--output={tmp_path / 'metrics.json'}",
        ]
    )["segments"]
    named = [(row, index) for row in range(60) for index in top[row]]
    cut = [(row, index, hit) for row, index, hit in ratings if (row, index) not in named]
    assert found["pairs_below_the_cut"] == len(cut) > 40
    extremes = []
    for raised in (0, 1):  # negatives, then positives, as high as they can be; the others below everything
        guess = logits.astype(np.float64)
        for row, index, hit in cut:
            guess[row, index] = logits[row, top[row, -1]] if hit == raised else -1e9 - row
        extremes.append(guess)
    lowest = segment_map(extremes[0], [*ratings], lambda *pair: extremes[0][pair] > -1e8)
    highest = segment_map(extremes[1], ratings)
    assert found["map_at_k_lower"] == pytest.approx(lowest, abs=1e-6)
    assert found["map_at_k_upper"] == pytest.approx(highest, abs=1e-6)
    assert found["map_at_k_lower"] < segment_map(logits, ratings) < found["map_at_k_upper"]
    assert found["map_at_k_lower"] <= found["map_at_k"] <= found["map_at_k_upper"]
    printed = capsys.readouterr()
    assert f"map_at_k is certain to lie between {lowest:.4f} and {highest:.4f}" in printed.err
    assert f"map_at_k_lower: {found['map_at_k_lower']}" in printed.out


@pytest.mark.parametrize(
    ("ratings", "ranking", "message"),
    [
        ("v0:0,3,2\n", "3,v0:0", "0 or 1"),
        ("v0:0,3,1\nv0:0,3,0\n", "3,v0:0", "rated twice"),
        ("v0:0,3\n", "3,v0:0", "2 cells in a table of 3 columns"),
        ("", "3,v0:0", "holds no rating"),
        ("v0:0,3,1\n", "4,v0:0", "ranks none of the pairs"),
        ("v0:0,3,1\n", "3,v0:0 v0:0", "named twice"),
        ("v0:0,3,1\n", "3,v0:0\n3,v0:5", "no earlier line has"),
        ("v0:0,9,1\n", "3,v0:0", "rates class 9, but 5 classes"),
    ],
)
def test_what_is_wrong_with_segments_is_said(tmp_path, ratings, ranking, message):
    (tmp_path / "ratings.csv").write_text("segment,class,rating\n" + ratings)
    (tmp_path / "ranking.csv").write_text("Class,Segments\n" + ranking + "\n")
    with pytest.raises(JobError, match=message):
        run(
            [
                f"--predictions={tmp_path / 'ranking.csv'}",
                f"--ratings={tmp_path / 'ratings.csv'}",
                "--class_count=5",
                f"--output={tmp_path / 'metrics.json'}",
            ]
        )
    assert not (tmp_path / "metrics.json").exists()


def test_labels_and_ratings_exclude_each_other(tmp_path):
    with pytest.raises(UsageError, match="pass one kind"):
        run(["--predictions=p.csv", "--labels=l.csv", "--ratings=r.csv", f"--output={tmp_path / 'metrics.json'}"])


def test_metrics_by_a_feature_of_the_videos(tmp_path, case, truth):
    write_npz(tmp_path / "scores.npz", case)
    values = ["2015" if row % 3 else "2016" for row in range(len(case[4]))]
    lines = ["id,year", *(f"{case[4][row].decode()},{values[row]}" for row in range(len(values)) if row != 1)]
    (tmp_path / "years.csv").write_text("\n".join(lines) + "\n")
    found = run(
        [
            f"--predictions={tmp_path / 'scores.npz'}",
            f"--slices={tmp_path / 'years.csv'}",
            f"--output={tmp_path / 'metrics.json'}",
        ]
    )["slices"]["year"]
    values[1] = "(none)"
    assert sorted(found) == ["(none)", "2015", "2016"]
    for value in found:
        rows = np.array([row for row, each in enumerate(values) if each == value])
        assert found[value]["videos"] == rows.size
        assert found[value]["gap_at_20"] == pytest.approx(oracles.gap_at_20(case[0][rows], truth[rows]), abs=1e-9)


@pytest.mark.parametrize("flag", ["predictions", "labels"])
def test_no_input_is_replaced(case, tmp_path, flag):
    paths = {"predictions": tmp_path / "p.csv", "labels": tmp_path / "l.csv"}
    write_kaggle(paths["predictions"], case)
    write_labels_csv(paths["labels"], case)
    before = paths[flag].read_bytes()
    arguments = [f"--{name}={path}" for name, path in paths.items()]
    with pytest.raises(UsageError, match="is also an input"):
        run([*arguments, f"--output={paths[flag]}"])
    with pytest.raises(UsageError, match="--details=.* holds the input"):
        run([*arguments, f"--output={tmp_path / 'm.json'}", f"--details={tmp_path}"])
    with pytest.raises(UsageError, match="is a directory: name a file"):
        run([*arguments, f"--output={tmp_path}"])
    assert paths[flag].read_bytes() == before and sorted(tmp_path.iterdir()) == sorted(paths.values())


def test_what_makes_metrics_other_than_they_seem_is_told(case, tmp_path, capsys):
    write_parquet(tmp_path / "all.parquet", case)
    run([f"--predictions={tmp_path / 'all.parquet'}", f"--output={tmp_path / 'm.json'}"])
    assert capsys.readouterr().err == ""
    write_parquet(tmp_path / "top.parquet", case, top=20)
    (tmp_path / "slices.csv").write_text("id,year\nnobody,2015\n")
    run(
        [
            f"--predictions={tmp_path / 'top.parquet'}",
            f"--output={tmp_path / 'm.json'}",
            f"--slices={tmp_path / 'slices.csv'}",
        ]
    )
    printed = capsys.readouterr().err
    assert "predictions name at most 20 of 30 classes" in printed and "0 of them are" in printed
    table = pq.read_table(tmp_path / "all.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 3)]), tmp_path / "twice.parquet")
    run([f"--predictions={tmp_path / 'twice.parquet'}", f"--output={tmp_path / 'm.json'}"])
    assert "3 of 53 predictions repeat the id of an earlier one" in capsys.readouterr().err
