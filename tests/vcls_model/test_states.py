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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("videos", -5),
        ("videos", 10**400),
        ("gap_at_20", 2.0),
        ("gap_at_20_ci_low", "0.1"),
        ("map_at_20_upper", []),
        ("perr", -0.5),
        ("slices", {"vertical": {"Games": {"map": "high"}}}),
        ("segments", {"map_at_k": 10**400}),
    ],
)
def test_no_figure_is_read_that_is_none(key: str, value: object) -> None:
    """Nor an interval: a report would show it, or end with a traceback."""
    sound = {"videos": 2, "gap_at_20": 1.0000000000000002, "map": None, "hit_at_1": 0.5, "segments": {"k": 100_000}}
    assert states.checked(sound, "metrics.json", states.StoredMetrics) == sound
    with pytest.raises(JobError, match=rf"metrics.json is damaged, or not a file of this kind: {key}"):
        states.checked({**sound, key: value}, "metrics.json", states.StoredMetrics)


def test_other_keys_pass_through() -> None:
    value = {"group": "a", "run_id": "", "aggregates": 1, "shards": [], "of_a_later_version": [1, {"x": 2}]}
    assert states.checked(value, "file", states.GroupManifest) == value
