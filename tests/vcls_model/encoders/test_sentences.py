"""Text encoders: golden values, texts of all kinds, and models of the user's own."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from vcls_model import storage
from vcls_model.commands import JobError, UsageError
from vcls_model.encoders import Encoder, load_text_encoder, text_encoder_info
from vcls_model.encoders.sentences import VOCABULARY, WEIGHTS

pytestmark = pytest.mark.skipif(
    not (WEIGHTS.installed() and VOCABULARY.installed()), reason="the weights of minilm are not installed"
)
GUITAR = "A man plays the guitar on stage"


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return load_text_encoder("minilm")


def test_golden_values(minilm: Encoder) -> None:
    """Of the first values; processors round products of int8 differently."""
    golden = [0.0206, 0.0384, -0.0105, -0.0744, -0.1212, 0.0001]
    vectors = minilm.encode(np.array([GUITAR, "Live rock concert with guitar solo", "How to bake bread"], object))
    assert (vectors.shape, vectors.dtype) == ((3, 384), np.float32)
    np.testing.assert_allclose(vectors[0, :6], golden, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors[0] @ vectors[1] > 0.35 > 0.25 > vectors[0] @ vectors[2]


def test_a_text_does_not_depend_on_the_others(minilm: Encoder) -> None:
    texts = ["", "\0nul", "\u202eשלום\u202c", "😀" * 50, "x" * 100_000, "word " * 5000, GUITAR]
    together = minilm.encode(np.array(texts, object))
    assert np.isfinite(together).all()
    np.testing.assert_array_equal(together[6], minilm.encode(np.array([GUITAR], object))[0])
    assert minilm.encode(np.array([], object)).shape == (0, 384)
    with pytest.raises(ValueError, match="expected texts"):
        minilm.encode(np.array([1.0]))


def test_identity_names_the_weights(minilm: Encoder) -> None:
    described = minilm.info.as_json()
    assert described["input"] == {"tokens": 256} and described["licence"] == "Apache-2.0"
    assert described["weights_sha256"] == WEIGHTS.weights_sha256
    with pytest.raises(JobError, match="their version differ"):
        minilm.info.check_same({**described, "version": "0"}, "the data")


def test_a_model_of_ones_own(minilm: Encoder, tmp_path: Path) -> None:
    shutil.copy(WEIGHTS.path(WEIGHTS.main), tmp_path / "own.onnx")
    shutil.copy(VOCABULARY.path(VOCABULARY.main), tmp_path / "pieces.json")
    described = {
        "name": "own",
        "version": "7",
        "licence": "none",
        "tokenizer": "pieces.json",
        "width": 384,
        "tokens": 64,
    }
    storage.write_json(str(tmp_path / "own.json"), described)
    own = load_text_encoder(str(tmp_path / "own.onnx"))
    assert (own.info.name, own.info.modality, own.info.input.tokens) == ("own", "text", 64)
    text = np.array([GUITAR], object)
    np.testing.assert_array_equal(own.encode(text), minilm.encode(text))
    storage.write_json(str(tmp_path / "own.json"), {**described, "width": 5})
    with pytest.raises(JobError, match=r"gives \(1, 9, 384\) where \(1, T, 5\) is expected"):
        load_text_encoder(str(tmp_path / "own.onnx")).encode(text)
    storage.write_json(str(tmp_path / "own.json"), {**described, "tokens": 0})
    with pytest.raises(UsageError, match="tokens must be a positive integer"):
        text_encoder_info(str(tmp_path / "own.onnx"))
    storage.write_json(str(tmp_path / "own.json"), {**described, "tokenizer": "none.json"})
    with pytest.raises(UsageError, match="there is no tokenizer"):
        text_encoder_info(str(tmp_path / "own.onnx"))
    (tmp_path / "own.onnx").write_bytes(b"no model")
    storage.write_json(str(tmp_path / "own.json"), described)
    with pytest.raises(JobError, match="cannot be loaded"):
        load_text_encoder(str(tmp_path / "own.onnx"))


def test_unknown_encoder() -> None:
    with pytest.raises(UsageError, match="unknown text encoder 'minilmm'"):
        text_encoder_info("minilmm")
    with pytest.raises(UsageError, match=r"there is no .*absent\.onnx"):
        text_encoder_info("/absent.onnx")
