"""Labels of a file as JSON, WebVTT and CSV."""

import csv
import io

from vcls_model.records.vocabulary import ClassInfo
from vcls_model.serving.live.formats import to_csv, to_video_intelligence, to_webvtt
from vcls_model.serving.live.labelling import LabelSpan, MediaLabels, Moment, Shot

CLASSES = (ClassInfo(0, "Dog", ("Pets", "Animals")), ClassInfo(1, "<b>&\nCat -->"), ClassInfo(2, "=HYPERLINK(1)"))
LABELS = MediaLabels(
    seconds=3725.5,
    classes=CLASSES,
    whole=[(0, 0.9), (1, 0.25), (2, 0.1)],
    spans=[
        LabelSpan(0, 0.0, 4.0, 0.95, 2.0),
        LabelSpan(1, 2.0, 3725.5, 0.5, 3.0),
        LabelSpan(2, 3700.0, 3701.5, 0.6, 3700.0),
    ],
    shots=[Shot(0.0, 3.0, [(0, 0.8)]), Shot(3.0, 3725.5, [])],
    moments=[Moment(0.0, [(0, 0.7), (2, 0.6)]), Moment(1.5, [(0, 0.75)])],
    message="12.0 of the 99.0 s in its header could be read",
)


def test_video_intelligence_names() -> None:
    (result,) = to_video_intelligence(LABELS, "clip.mp4")["annotationResults"]
    assert result["inputUri"] == "clip.mp4"
    assert result["segment"] == {"startTimeOffset": "0s", "endTimeOffset": "3725.5s"}
    first = result["segmentLabelAnnotations"][0]
    assert first["entity"] == {"entityId": "0", "description": "Dog", "languageCode": "en"}
    assert [each["description"] for each in first["categoryEntities"]] == ["Pets", "Animals"]
    assert first["segments"] == [{"segment": result["segment"], "confidence": 0.9}]
    (shot,) = result["shotLabelAnnotations"]
    assert shot["segments"] == [{"segment": {"startTimeOffset": "0s", "endTimeOffset": "3s"}, "confidence": 0.8}]
    dog, cat, link = result["frameLabelAnnotations"]
    assert dog["frames"] == [{"timeOffset": "0s", "confidence": 0.7}, {"timeOffset": "1.5s", "confidence": 0.75}]
    assert cat["frames"] == [] and link["frames"] == [{"timeOffset": "0s", "confidence": 0.6}]
    assert len(result["shotAnnotations"]) == 2
    assert result["error"]["message"].startswith("12.0 of")


def test_google_s_own_message_takes_them() -> None:
    """The names and types of google-cloud-videointelligence's AnnotateVideoResponse."""
    import pytest

    types = pytest.importorskip("google.cloud.videointelligence_v1.types")
    content = to_video_intelligence(LABELS, "clip.mp4")
    del content["annotationResults"][0]["labelTimeline"]
    import json

    parsed = types.AnnotateVideoResponse.from_json(json.dumps(content))
    result = parsed.annotation_results[0]
    assert result.segment_label_annotations[0].entity.description == "Dog"
    assert result.frame_label_annotations[0].frames[1].time_offset.total_seconds() == 1.5
    assert result.shot_annotations[1].end_time_offset.total_seconds() == 3725.5


def test_webvtt_has_a_cue_for_each_set_of_labels_and_no_markup() -> None:
    lines = to_webvtt(LABELS).split("\n")
    assert lines[:2] == ["WEBVTT", ""]
    assert lines[2:7] == [
        "00:00:00.000 --> 00:00:02.000",
        "Dog",
        "",
        "00:00:02.000 --> 00:00:04.000",
        "Dog, &lt;b&gt;&amp; Cat --&gt;",
    ]
    assert "01:01:40.000 --> 01:01:41.500" in lines


def test_csv_holds_no_formulas() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(LABELS))))
    assert rows[0] == {
        "index": "0",
        "name": "Dog",
        "start_seconds": "0.000",
        "end_seconds": "4.000",
        "confidence": "0.950000",
        "best_at_seconds": "2.000",
    }
    assert rows[1]["name"] == "<b>&\nCat -->" and rows[2]["name"] == "'=HYPERLINK(1)"
