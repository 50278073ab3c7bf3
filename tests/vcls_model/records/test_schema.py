"""What a schema may say, how it is kept in JSON, and what its codes stand for."""

import dataclasses
import json

import numpy as np
import pytest

from tests.fixtures.records import FRAME, MIXED, VIDEO
from vcls_model.commands import UsageError
from vcls_model.records.schema import (
    BUILT_IN,
    DEQUANTISE,
    Modality,
    Quantisation,
    RecordSchema,
    schema_by_name,
    schema_from_dict,
    schema_from_json,
)
from vcls_model.records.transformed import TransformedModality, modality_from_dict


@pytest.mark.parametrize("schema", [VIDEO, FRAME, MIXED, *BUILT_IN.values()], ids=lambda schema: schema.name)
def test_a_schema_survives_json(schema: RecordSchema) -> None:
    assert schema_from_json(json.dumps(schema.to_dict()), "schema.json") == schema
    assert schema_from_dict(schema.settings()) == schema


def test_the_settings_are_those_of_the_first_manifests() -> None:
    assert FRAME.settings()["modalities"] == [
        {"name": "rgb", "width": 6, "level": "frame", "encoding": "uint8"},
        {"name": "audio", "width": 3, "level": "frame", "encoding": "uint8"},
    ]


def test_codes_stand_for_what_youtube_8m_says_unless_a_range_is_given() -> None:
    assert FRAME.modalities[0].quantisation == DEQUANTISE == Quantisation(4 / 255, 4 / 512 - 2)
    modality = Modality("rgb", 6, "frames", "uint8", range=(0, 6))
    codes = np.arange(256, dtype=np.float32)
    np.testing.assert_allclose(modality.quantisation.values(codes), 0 + (codes + 0.5) * (6 - 0) / 256, rtol=1e-6)
    assert (modality.fill_code, FRAME.modalities[0].fill_code) == (0, 128)
    assert Modality("x", 1, "frames", "uint8", range=(-8, -4)).fill_code == 255
    assert TransformedModality("rgb", 6, "frames", "uint8", 0.5, -1.0).quantisation.values(4.0) == 1.0


def test_a_range_is_kept() -> None:
    schema = dataclasses.replace(FRAME, modalities=(Modality("rgb", 6, "frames", "uint8", range=(0.0, 6.0)),))
    assert schema_from_json(json.dumps(schema.to_dict()), "schema.json") == schema
    assert schema.settings()["modalities"][0]["range"] == [0.0, 6.0]
    entry = TransformedModality("rgb", 6, "frames", "uint8", 0.5, -1.0).to_dict()
    assert modality_from_dict(entry).quantisation == Quantisation(0.5, -1.0)


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (1,), (0, float("nan")), ("a", "b"), 3, (True, 2)])
def test_an_impossible_range_is_refused(ends: object) -> None:
    with pytest.raises(UsageError, match="'rgb': range must be two numbers"):
        Modality("rgb", 6, "frames", "uint8", range=ends)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="only codes have a range"):
        Modality("rgb", 6, "vector", "float32", range=(0, 1))


def test_what_a_graph_takes() -> None:
    assert MIXED.elements() == {"rgb": ("string", ()), "audio": ("string", ()), "title": ("float32", (4,))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": ()}, "has no modality"),
        ({"modalities": FRAME.modalities * 2}, "names a modality twice"),
        ({"container": "tar"}, "container must be"),
        ({"container": "csv"}, "a CSV holds vectors, not frames"),
        (
            {"modalities": (FRAME.modalities[0], Modality("other", 6, "frames", "uint8", feature="rgb"))},
            "reads a feature twice",
        ),
        ({"id_feature": ""}, "id_feature must be text"),
        ({"labels_feature": 7}, "labels_feature must be text"),
        ({"class_count": 0}, "class_count must be a positive integer"),
        ({"class_count": True}, "class_count must be a positive integer"),
        ({"class_count": 10**12}, "class_count must be at most 1,000,000"),
        ({"segments": "yes"}, "segments must be true or false"),
        ({"encoders": []}, "encoders must be a JSON object"),
    ],
)
def test_an_impossible_schema_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(FRAME, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "speech"}, "kind must be"),
        ({"kind": "text"}, "encoding must be"),
        ({"level": "clip"}, "level must be"),
        ({"kind": "vector", "level": "frame"}, "contradicts"),
        ({"width": 0}, "width must be"),
        ({"width": 10**12}, "width must be at most 4,194,304"),
        ({"encoding": "int4"}, "encoding must be"),
        ({"depth": 3}, "depth"),
    ],
)
def test_an_impossible_modality_is_refused(change: dict, message: str) -> None:
    described = VIDEO.to_dict()
    described["modalities"][0] = {"name": "rgb", "width": 6, "kind": "vector", "encoding": "float32", **change}
    with pytest.raises(UsageError, match=message):
        schema_from_dict(described)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="yt8m-frame"):
        schema_by_name("yt8m-frames")
