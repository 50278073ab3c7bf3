"""Files of state are read through declared shapes."""

from pathlib import Path

import pytest

from vcls_model import states
from vcls_model.commands import JobError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "group: field required"),
        ("[]", "the whole: .*valid dictionary"),
        ("junk", "is not JSON"),
        ('{"group": 1, "run_id": "", "aggregates": 1, "shards": []}', "group: .*valid string"),
        ('{"group": "a", "run_id": "", "aggregates": "1", "shards": []}', "aggregates: .*valid integer"),
        ('{"group": "a", "run_id": "", "aggregates": 1, "shards": [{"path": 3}]}', r"shards\.0\.path"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.manifest.json"
    path.write_text(content)
    with pytest.raises(JobError, match=rf"a\.manifest\.json.*{message}") as raised:
        states.read_state(str(path), states.GroupManifest)
    assert "\n" not in str(raised.value)


def test_other_keys_pass_through() -> None:
    value = {"group": "a", "run_id": "", "aggregates": 1, "shards": [], "of_a_later_version": [1, {"x": 2}]}
    assert states.checked(value, "file", states.GroupManifest) == value
