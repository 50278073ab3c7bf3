"""The page as text: self-contained, escaped, small, with an alternative for every picture."""

import base64
import csv
import dataclasses
import hashlib
import html.parser
import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.report import run
from pipelines.reporting.inputs.scores import read_scores
from pipelines.reporting.page import figures
from pipelines.reporting.page.approach import Manifests, steps
from pipelines.reporting.page.explorer import explorer_data, to_json
from pipelines.reporting.tables import at_least, at_most
from tests.fixtures.scores import EVIL, add_segments, make_scores, write_predictions, write_scores
from tests.fixtures.scores import write_info as write_score_info
from vcls_model.commands import JobError
from vcls_model.metrics.catalogue import IN_HISTORY, METRICS, history_column


class _Page(html.parser.HTMLParser):
    """Collects elements, their attributes and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.visible: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif not self._inside:
            self.visible.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(report_directory: Path) -> _Page:
    return _Page((report_directory / "report.html").read_text("utf-8"))


def test_nothing_is_fetched(page: _Page):
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (name, value)
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "http" not in policy


def test_the_policy_admits_this_script_and_no_other(page: _Page):
    assert len(page.scripts) == 2  # the data, which is never run, and the script
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and f"script-src 'sha256-{digest}';" in policy


def test_a_class_name_cannot_become_markup(page: _Page, report_directory: Path):
    text = (report_directory / "report.html").read_text("utf-8")
    assert "<script>document" not in text
    assert "</script>" not in page.scripts[0]
    data = json.loads(page.scripts[0])
    assert data["names"][3] == EVIL.strip()
    assert "".join(page.visible).count("<script>document.title") >= 1


def test_json_for_a_script_element_survives_and_escapes():
    value = {"name": "</script><!--\u2028&é"}
    text = to_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_every_picture_has_words(page: _Page):
    images = page.all("img")
    assert len(images) >= 10
    for image in images:
        assert image["alt"] and len(image["alt"]) > 30
        assert image["src"] and image["src"].startswith("data:image/svg+xml;base64,")


def test_every_metric_of_the_catalogue_is_shown(page: _Page, report_directory: Path):
    with (report_directory / "tables" / "headline.csv").open(encoding="utf-8", newline="") as table:
        assert [row["metric"] for row in csv.DictReader(table)] == [metric.key for metric in METRICS]
    assert [metric.title for metric in METRICS if metric.title not in page.visible] == []
    assert [metric.meaning for metric in METRICS if metric.meaning not in page.visible] == []


def test_every_metric_of_the_history_is_drawn(scores_directory: Path):
    history = {history_column(metric.key): np.array([0.25, 0.5]) for metric in IN_HISTORY}
    scores = dataclasses.replace(read_scores(str(scores_directory)), history=history)
    (figure,) = figures.training_figures(scores)
    assert list(figure.numbers.columns) == ["epoch", *history]


def test_sections_come_in_the_order_of_a_decision(page: _Page):
    order = [section["id"] for section in page.all("section")]
    assert order == [
        "verdict",
        "changes",
        "classes",
        "curves",
        "confusion",
        "thresholds",
        "calibration",
        "examples",
        "approach",
        "data",
        "rejected",
        "recommendations",
    ]
    anchors = {link["href"][1:] for link in page.all("a") if link["href"] and not link["href"].startswith("#class-")}
    assert set(order) <= anchors


def test_the_approach_is_read_from_the_manifests(page: _Page):
    words = " ".join(page.visible)
    for fact in (
        "dense",
        "5,139,222",
        "hidden units",
        "1,024 values per video, float32",
        "by a hash of the video id",
        "0.7, 0.2, 0.1",
        "bad_checksum",
        "the <b>checksum</b> of the data is wrong",
    ):
        assert fact in words, fact


def _training_facts(optimizer: str, **options: object) -> dict[str, str]:
    """What the approach says of training, with every option that 0.1.0 and later store."""
    loss = {"name": "bce", "label_smoothing": 0.0, "gamma": 2.0, "gamma_negative": 4.0, "alpha": 0.5, "margin": 0.05}
    schedule = {
        "learning_rate": 0.001,
        "decay": "constant",
        "warmup_examples": 0,
        "total_examples": 1,
        "decay_rate": 0.95,
        "decay_examples": 4_000_000,
        "floor": 0.0,
    }
    stored = {
        "read": {"batch_size": 64, "frames": "all", "max_frames": 300, "seed": 0},
        "loss": {**loss, **options.pop("loss", {})},  # type: ignore[dict-item]
        "schedule": {**schedule, **options.pop("schedule", {})},  # type: ignore[dict-item]
        "optimizer": optimizer,
        "weight_decay": 0.01,
        "clip_norm": 0.0,
        "ema": 0.0,
        "mixup": 0.0,
        "teacher_weight": 0.5,
        "patience": 3,
        **options,
    }
    training = {"options": stored, "epochs": 5, "best_epoch": 4, "seed": 0, "teachers": [], "class_prior": False}
    (step,) = [
        step
        for step in steps(make_scores(support=[3], ap=[0.5]), Manifests({"training": training}, {}))
        if step.title == "Training"
    ]
    return dict(step.facts)


def test_the_approach_lists_only_what_had_an_effect():
    plain = _training_facts("adam")
    assert plain == {
        "Loss": "bce",
        "Optimizer": "adam",
        "Learning rate": "0.001",
        "Batch size": "64",
        "Patience, epochs": "3",
        "Epochs": "5",
        "Best epoch": "4",
        "Seed": "0",
    }
    more = _training_facts(
        "adamw",
        loss={"name": "focal"},
        schedule={"decay": "cosine", "floor": 0.1, "warmup_examples": 500},
        mixup=0.4,
        ema=0.999,
    )
    added = {name: text for name, text in more.items() if plain.get(name) != text}
    assert added == {
        "Loss": "focal",
        "Focusing exponent": "2",
        "Weight of positives": "0.5",
        "Optimizer": "adamw",
        "Weight decay": "0.01",
        "Warm-up, examples": "500",
        "Decay": "cosine",
        "Final fraction of the rate": "0.1",
        "Mixup": "0.4",
        "Moving average, decay": "0.999",
    }


def test_hyperparameters_without_effect_are_left_out():
    hyperparameters = {
        "fusion": "early",
        "input_norm": "data",
        "modality_norm": "none",
        "input_dropout": 0.0,
        "linear_skip": False,
        "label_projection": 0.0,
        "head": "none",
        "neighbours": 0,
        "neighbour_weight": 0.35,
        "hidden_units": [1024],
        "dropout": 0.0,
        "mixtures": 1,
    }
    modality = {"name": "mean_rgb", "width": 1024, "level": "video", "encoding": "float32"}

    def facts(values: dict, modalities: int) -> dict[str, str]:
        model = {"model": {"name": "dense", "hyperparameters": values}, "transformed": [modality] * modalities}
        (step,) = [
            step
            for step in steps(make_scores(support=[3], ap=[0.5]), Manifests(model, {}))
            if step.title == "Algorithm"
        ]
        return dict(step.facts)

    assert facts(hyperparameters, 1) == {"Model": "dense", "hidden units": "1,024"}
    assert facts(hyperparameters, 2) == {"Model": "dense", "fusion": "early", "hidden units": "1,024"}
    assert facts({**hyperparameters, "neighbours": 60}, 1)["neighbour weight"] == "0.35"


def test_certain_bounds_are_rounded_outward():
    assert (at_least(0.123456789), at_most(0.123451)) == ("0.12345", "0.12346")
    assert (at_least(0.0), at_most(1.0), at_most(0.9999999)) == ("0.00000", "1.00000", "1.00000")


def test_curves_survive_their_compact_form(scores_directory: Path):
    scores = read_scores(str(scores_directory))
    data = explorer_data(scores, None, None)
    curves = np.frombuffer(base64.b64decode(data["pr"]), np.uint8).reshape(-1, data["points"]) / 255
    for index in (0, 5, 20):
        np.testing.assert_allclose(curves[data["curveRow"][index]], scores.curves["pr_class"][index], atol=1 / 255)
    assert data["ap"][0] == round(1000 * scores.columns["ap"][0])


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_4800_classes_stay_under_five_megabytes(tmp_path: Path, report_directory: Path):
    """As many classes as any edition has, each with curves and confusions."""
    count = 4800
    generator = np.random.default_rng(0)
    scores = tmp_path / "scores"
    scores.mkdir()
    columns = (
        "ap",
        "ap_lower",
        "ap_upper",
        "ap_ci_low",
        "ap_ci_high",
        "roc_auc",
        "precision",
        "recall",
        "f1",
        "best_threshold",
        "precision_best",
        "recall_best",
        "f1_best",
        "mean_probability",
    )
    values = generator.random((count, len(columns)))
    rows = [
        f"{index},Some class called {index},Games,100,{','.join(f'{x:.6g}' for x in values[index])},40,30,60,9870"
        for index in range(count)
    ]
    (scores / "per_class.csv").write_text(
        "\n".join(["index,name,vertical,support," + ",".join(columns) + ",tp,fp,fn,tn", *rows])
    )
    (scores / "metrics.json").write_text(json.dumps({"videos": 10000, "map": 0.5, "gap_at_20": 0.6, "hit_at_1": 0.5}))
    grid = np.linspace(0, 1, 101)
    curve = np.sort(generator.random((count, 101)).astype(np.float16))
    macro = {f"{kind}_{part}": grid for kind in ("pr", "roc") for part in ("micro", "macro", "band_low", "band_high")}
    np.savez_compressed(
        scores / "curves.npz", recall_grid=grid, fpr_grid=grid, pr_class=curve, roc_class=curve, **macro
    )
    pairs = generator.integers(0, count, (100_000, 2))
    (scores / "confusion.csv").write_text(
        "true_index,predicted_index,count\n"
        + "\n".join(f"{true},{predicted},1{true % 100}" for true, predicted in pairs)
    )
    write_predictions(scores, generator.normal(size=(10, count)), [np.array([1, 2])] * 10)
    write_score_info(scores, videos=10000, labelled=10000, class_count=count)
    run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
    pictures = sum(path.stat().st_size for path in (report_directory / "figures").glob("*.svg"))
    size = (tmp_path / "out" / "report.html").stat().st_size + 4 / 3 * pictures
    assert 1_000_000 < size < 4_500_000
    page = _Page((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert len(json.loads(page.scripts[0])["names"]) == count


def test_scores_of_rated_segments_have_a_section_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(figures, "draw", lambda plot, data, size: (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b""))
    scores = write_scores(tmp_path / "scores", videos=60, class_count=30)
    before = write_scores(tmp_path / "before", videos=60, class_count=30)
    # Class 3: ranked hit, miss, hit; class 5: miss, hit; class 7 was rated, but never found.
    pairs = ([3, 3, 3, 5, 5, 7], [4.0, 2.0, 1.0, 0.5, -1.0, 3.0], [1, 0, 1, 0, 1, 0])
    add_segments(scores, 30, *pairs)
    add_segments(before, 30, pairs[0], [-value for value in pairs[1]], pairs[2])
    run([f"--scores={scores}", f"--baseline={before}", f"--output={tmp_path / 'out'}"])
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    page = _Page(text)
    assert [section["id"] for section in page.all("section")][:4] == ["verdict", "segments", "changes", "classes"]
    section = text[text.index('<section id="segments">') : text.index('<section id="changes">')]
    assert "6 pairs of segment and class and confirmed 3 of them" in section and "MAP@100,000" in section
    # (1 + 2/3) / 2 and 1/2 now; before, in the opposite order, (1 + 2/3) / 2 and 1.
    assert '<p class="figure">0.667</p>' in section and '<p class="figure">\u22120.250</p>' in section
    rows = (tmp_path / "out" / "tables" / "segments.csv").read_text().splitlines()
    assert rows[0] == "index,Class,Rated,Positives,AP@K" and len(rows) == 3
    assert float(rows[1].rsplit(",", 1)[1]) == pytest.approx((1 + 2 / 3) / 2, abs=1e-5)
    assert rows[2] == "5,Thing 5,2,1,0.5"
    cards = text[text.index('<div class="cards">') : text.index('<ul class="checks">')]
    assert cards.index("MAP@100,000") < cards.index("GAP@20") and '<p class="figure">0.667</p>' in cards
    assert "every other figure counts a class that nobody was asked about as absent" in " ".join(text.split())


def test_scores_without_segments_have_no_such_section(page: _Page):
    assert "segments" not in [section["id"] for section in page.all("section")]


def test_segments_without_their_table_are_incomplete(tmp_path: Path):
    scores = write_scores(tmp_path / "scores", videos=60, class_count=30)
    add_segments(scores, 30, [3], [1.0], [1])
    (scores / "segment_per_class.csv").unlink()
    with pytest.raises(JobError, match="segment_per_class.csv must have"):
        run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
