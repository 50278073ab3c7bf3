"""Names, numbers and encodings in schema files and headings that would spoil a dataset without a word."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import extract, preprocess, score
from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.records.csv_rows import csv_schema
from vcls_model.records.schema import RecordSchema, schema_from_json

VECTOR = {"name": "clip", "width": 4, "kind": "vector", "encoding": "float32"}
SCHEMA = {
    "name": "mine",
    "container": "example",
    "id_feature": "id",
    "labels_feature": "labels",
    "class_count": 2,
    "modalities": [VECTOR],
}


def load_schema(path: str) -> RecordSchema:
    return schema_from_json(storage.read_bytes(path), path)


def written(path: Path, encoding: str = "utf-8", **changes: Any) -> str:
    path.write_bytes(json.dumps({**SCHEMA, **changes}).encode(encoding))
    return str(path)


@pytest.mark.parametrize("name", ["id", "labels", "num_frames"])
def test_a_modality_does_not_take_the_name_of_what_every_record_has(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "s.json", modalities=[{**VECTOR, "name": name}])
    with pytest.raises(UsageError, match=f"s.json: modality '{name}': transformed records have a feature of this"):
        load_schema(path)
    kept = load_schema(written(tmp_path / "s.json", modalities=[{**VECTOR, "name": f"my_{name}", "feature": name}]))
    assert kept.modalities[0].source == name
    (tmp_path / "a.csv").write_text(f"id,labels,{name}_0,{name}_1\na,0,1,2\n")
    with pytest.raises(UsageError, match="Name the columns otherwise"):
        csv_schema(str(tmp_path / "a.csv"))


def test_a_modality_does_not_take_the_name_of_the_presence_of_another(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,labels,rgb_0,has_rgb_0\na,0,1,2\n")
    with pytest.raises(UsageError, match="'has_rgb' has the name of the feature that says whether a record has 'rgb'"):
        csv_schema(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text("id,labels,has_rgb_0\na,0,1\n")
    assert csv_schema(str(tmp_path / "a.csv")).modalities[0].name == "has_rgb"


def test_whole_numbers_of_a_schema_may_be_written_as_floats(tmp_path: Path) -> None:
    schema = load_schema(written(tmp_path / "s.json", class_count=2.0, modalities=[{**VECTOR, "width": 4.0}]))
    assert (schema.class_count, schema.modalities[0].width) == (2, 4)
    assert type(schema.class_count) is type(schema.modalities[0].width) is int
    with pytest.raises(UsageError, match="width must be a positive integer, got 4.5"):
        load_schema(written(tmp_path / "s.json", modalities=[{**VECTOR, "width": 4.5}]))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_may_be_in_any_unicode(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(json.dumps({"name": "häuser"}, ensure_ascii=False).encode(encoding))
    assert storage.read_json(str(path)) == {"name": "häuser"}
    path.write_bytes('{"name": "häuser"}'.encode("latin-1"))
    with pytest.raises(JobError, match="s.json is not JSON: 'utf-8' codec can't decode byte 0xe4"):
        storage.read_json(str(path))


@pytest.mark.parametrize("job", [preprocess, score, extract])
def test_a_negative_number_of_workers_is_refused_before_anything_is_done(job: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    flags = [f"--input={tmp_path}/a", f"--output={tmp_path}/o", "--direct_num_workers=-3", "--dry_run"]
    if job is score:
        flags.append(f"--model={tmp_path}/m")
    with pytest.raises(UsageError, match="--direct_num_workers must not be negative, got -3"):
        job.run(flags)


@pytest.mark.parametrize("pattern", ["{0},", ",{0}", "{0},,{0}"])
def test_a_comma_too_many_is_told(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UsageError, match="a list of files has an empty part: is there a comma too many"):
        storage.list_files(pattern.format(tmp_path / "a.csv"))


def test_a_text_that_no_record_has_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v.csv").write_text("index,name\n0,no\n1,yes\n")
    (tmp_path / "a.csv").write_text("id,labels,red\na,0,1\nb,1,2\n")
    preprocess.run(
        [f"--train_input={tmp_path}/a.csv", f"--vocabulary={tmp_path}/v.csv", f"--output={tmp_path}/o"]
        + ["--text=title", "--direct_num_workers=1"]
    )
    assert "warning: no training record has a text 'title': is --text right?" in capsys.readouterr().err
