"""The metrics of predictions that lie on an object store, and are written there: as on a disk."""

from pathlib import Path

import pytest

from vcls_model import storage
from vcls_model.commands import JobError
from vcls_model.metrics.__main__ import run as metrics


@pytest.mark.slow
@pytest.mark.parametrize("store", ["gs", "s3"])
def test_metrics_read_and_write_object_stores(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root = f"{request.getfixturevalue(store)}/{tmp_path.name} [x]"
    for name, text in {
        "predictions/a.csv": "VideoId,LabelConfidencePairs\na,0 0.9 1 0.1\n",
        "predictions/b.csv": "VideoId,LabelConfidencePairs\nb,0 0.2 1 0.8\n",
        "predictions/._a.csv": "\0\5\x16\7",
        "labels.csv": "id,labels\na,0\nb,1\n",
    }.items():
        storage.write_text(storage.join(root, name), text)
    labels, output = f"--labels={root}/labels.csv", f"--output={root}/out/metrics.json"
    for predictions, videos in (("predictions", 2), ("predictions/*.csv", 2), ("predictions/[a].csv", 1)):
        found = metrics([f"--predictions={root}/{predictions}", labels, output, f"--details={root}/details"])
        assert (found["videos"], found["hit_at_1"]) == (videos, 1)
        assert storage.read_json(f"{root}/out/metrics.json") == found
    assert "per_class.csv" in storage.list_names(f"{root}/details")
    with pytest.raises(JobError, match="--predictions: .*no file matches"):
        metrics([f"--predictions={root}/none", labels, output])
    with pytest.raises(JobError, match="no labels at"):
        metrics([f"--predictions={root}/predictions", f"--labels={root}/none.csv", output])
