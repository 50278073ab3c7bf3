"""The training set of `bench/finetuning.py`: as many positives of each class as it says, exactly."""

import importlib.util
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT

BENCH = ROOT / "bench" / "finetuning.py"


@pytest.fixture(scope="module")
def finetuning():
    sys.path.insert(0, str(BENCH.parent))  # as when it is run as a script
    spec = importlib.util.spec_from_file_location("finetuning", BENCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(BENCH.parent))
    return module


def test_positives_by_hand(finetuning):
    labels = [[1, 2, 9], [1], [2], [1, 2], [2, 3], [3], [9]]
    # Class 1 takes videos 0 and 1; class 2 has one of them, passes over video 3, which is full for 1, after taking 2;
    # class 3 cannot take video 4, as 2 is full by then.
    assert finetuning.choose_positives(labels, [1, 2, 3], 2) == {0: [1, 2], 1: [1], 2: [2], 5: [3]}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), unique=True, max_size=4), max_size=40), st.integers(1, 5))
def test_no_class_gets_more_and_none_is_left_short_that_need_not_be(finetuning, labels, positives):
    candidates = [4, 0, 2, 5]
    chosen = finetuning.choose_positives(labels, candidates, positives)
    counts = Counter(label for video in chosen.values() for label in video)
    assert all(counts[label] <= positives for label in counts)
    for number, video in enumerate(labels):
        mine = [label for label in video if label in candidates]
        if number in chosen:
            assert chosen[number] == mine != []
        elif mine:  # it was passed over because it would have been one too many for some class
            assert any(counts[label] == positives for label in mine)


def test_chosen_classes_have_their_positives(finetuning):
    random = np.random.default_rng(0)
    odds = np.linspace(0.002, 0.02, 400)
    labels = [list(np.flatnonzero(row)) for row in random.random((8000, 400)) < odds]
    new, chosen = finetuning.choose_classes(labels, 20)
    counts = Counter(label for video in chosen.values() for label in video)
    assert new == sorted(set(new)) and len(new) == finetuning.NEW_CLASSES
    assert counts == dict.fromkeys(new, 20)
    for number, video in chosen.items():
        assert set(video) == set(labels[number]) & set(new)


def test_too_few_videos_are_refused(finetuning):
    with pytest.raises(SystemExit, match="only 0 classes have 20 positives"):
        finetuning.choose_classes([[1], [2]], 20)
