"""KServe's Open Inference Protocol, version 2, over REST, with the extension for binary tensors."""

import dataclasses
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from vcls_model import __version__
from vcls_model.metrics.binning import sigmoid
from vcls_model.records.schema import FRAMES, TEXT
from vcls_model.serving.http.bodies import RefusedError, json_response, number_array, parse_json
from vcls_model.serving.http.service import Service
from vcls_model.serving.live.stream import Features

VERSION = "1"
_TYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "UINT8": np.dtype("u1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
}
_HEADER = "Inference-Header-Content-Length"
_RECORDS, _LENGTHS = "serialized", "num_frames"
_OUTPUTS = ("logits", "probabilities")


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """An output that a client asks for, and whether as binary."""

    name: str
    binary: bool


class KServeRoutes:
    """`/v2…`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._model = service.engine.model

    async def server(self, request: Request) -> Response:
        """`GET /v2`."""
        return json_response({"name": "vcls", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """`GET /v2/health/live`."""
        return json_response({"live": True})

    async def health_ready(self, request: Request) -> Response:
        """`GET /v2/health/ready`: 503 while the service warms up or shuts down."""
        return json_response({"ready": self._service.ready}, 200 if self._service.ready else 503)

    async def ready(self, request: Request) -> Response:
        """`GET /v2/models/NAME/ready`."""
        self._check_name(request)
        answer = {"name": self._model.name, "ready": self._service.ready}
        return json_response(answer, 200 if self._service.ready else 503)

    async def metadata(self, request: Request) -> Response:
        """`GET /v2/models/NAME`."""
        self._check_name(request)
        inputs: list[dict[str, Any]] = []
        for each in self._model.modalities:
            if each.kind == TEXT:
                inputs.append({"name": each.name, "datatype": "BYTES", "shape": [-1]})
                continue
            frames = each.kind == FRAMES
            shape = [-1, -1, each.width] if frames else [-1, each.width]
            inputs.append({"name": each.name, "datatype": "UINT8" if frames else "FP32", "shape": shape})
        count = len(self._model.classes)
        outputs = [{"name": name, "datatype": "FP32", "shape": [-1, count]} for name in _OUTPUTS]
        return json_response(
            {"name": self._model.name, "versions": [VERSION], "platform": "vcls", "inputs": inputs, "outputs": outputs}
        )

    async def infer(self, request: Request) -> Response:
        """`POST /v2/models/NAME/infer`: logits and probabilities of features, or of records as `serialized` BYTES."""
        self._check_name(request)
        content = await self._service.read_body(request)
        head, binary = _split(content, request.headers.get(_HEADER))
        body = parse_json(head)
        videos = self._videos(_tensors(body, binary))
        wanted = _wanted(body)
        scored = await self._service.score(videos)
        values = {"logits": scored.logits, "probabilities": sigmoid(scored.logits)}
        return self._answer(body, wanted, {name: np.ascontiguousarray(each, "<f4") for name, each in values.items()})

    def _videos(self, tensors: dict[str, Any]) -> list[Features]:
        if _RECORDS in tensors:
            if len(tensors) > 1:
                raise RefusedError(400, f"{_RECORDS} stands alone: leave the other inputs out")
            return self._service.of_records(tensors[_RECORDS])
        lengths = tensors.pop(_LENGTHS, None)
        features = {}
        by_name = {each.name: each for each in self._model.modalities}
        for name, values in tensors.items():
            if name in by_name and by_name[name].kind == TEXT:
                if not isinstance(values, list):
                    raise RefusedError(400, f"input {name[:100]!r} must be BYTES")
                features[name] = np.empty(len(values), object)
                features[name][:] = values
                continue
            wanted = "u1" if name in by_name and by_name[name].kind == FRAMES else "f4"
            if not isinstance(values, np.ndarray) or (wanted == "u1" and values.dtype != np.uint8):
                raise RefusedError(400, f"input {name[:100]!r} must be {'UINT8' if wanted == 'u1' else 'FP32'}")
            features[name] = values.astype(wanted, copy=False)
        if lengths is not None:
            whole = isinstance(lengths, np.ndarray) and lengths.dtype.kind in "iu"
            records = [len(values) if values.ndim else 0 for values in features.values()]
            if not whole or np.size(lengths) != max(records, default=0):
                raise RefusedError(400, f"{_LENGTHS} must hold one whole number per record")
        return self._service.of_arrays(features, None if lengths is None else np.ravel(lengths))

    def _answer(self, body: dict[str, Any], wanted: Sequence[_Wanted], values: dict[str, np.ndarray]) -> Response:
        outputs, parts = [], []
        for each in wanted:
            array = values[each.name]
            output: dict[str, Any] = {"name": each.name, "datatype": "FP32", "shape": list(array.shape)}
            if each.binary:
                output["parameters"] = {"binary_data_size": array.nbytes}
                parts.append(array.tobytes())
            else:
                output["data"] = array.reshape(-1)
            outputs.append(output)
        answer: dict[str, Any] = {"model_name": self._model.name, "model_version": VERSION, "outputs": outputs}
        if "id" in body:
            answer["id"] = str(body["id"])[:200]
        if not parts:
            return json_response(answer)
        head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(b"".join([head, *parts]), 200, {_HEADER: str(len(head))}, "application/octet-stream")

    def _check_name(self, request: Request) -> None:
        name, version = request.path_params["name"], request.path_params.get("version", VERSION)
        if name != self._model.name or version != VERSION:
            raise RefusedError(404, f"there is no such model here; there is {self._model.name}, version {VERSION}")


def _split(content: bytes, length: str | None) -> tuple[bytes, memoryview]:
    """The JSON of a request and the binary tensors behind it."""
    if length is None:
        return content, memoryview(b"")
    if not (length.isascii() and length.isdigit()) or int(length) > len(content):
        raise RefusedError(400, f"{_HEADER} must be the length of the JSON at the body's start")
    return content[: int(length)], memoryview(content)[int(length) :]


def _tensors(body: dict[str, Any], binary: memoryview) -> dict[str, Any]:
    """The inputs of a request by name: arrays, or lists of byte strings."""
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not inputs or not all(isinstance(each, dict) for each in inputs):
        raise RefusedError(400, '"inputs" must be a list of tensors')
    tensors: dict[str, Any] = {}
    for each in inputs:
        name, datatype, shape = each.get("name"), each.get("datatype"), each.get("shape")
        sizes = isinstance(shape, list) and all(type(size) is int and 0 <= size <= 1 << 32 for size in shape)
        if not isinstance(name, str) or not sizes:
            raise RefusedError(400, "each input needs a name, a datatype and a shape")
        if datatype != "BYTES" and datatype not in _TYPES:
            raise RefusedError(400, f"input {name[:100]!r}: datatype must be BYTES, {', '.join(_TYPES)}")
        count = 1
        for size in shape:
            count *= size
        parameters = each.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(binary):
                raise RefusedError(400, f"input {name[:100]!r}: binary_data_size is more than there is")
            part, binary = binary[:size], binary[size:]
            values: Any = _strings(part) if datatype == "BYTES" else _numbers(part, _TYPES[datatype])
        else:
            values = _listed(each.get("data"), datatype)
        if len(values) != count:
            raise RefusedError(
                400, f"input {name[:100]!r}: the shape asks for {count:,} values, there are {len(values):,}"
            )
        try:
            tensors[name] = values if datatype == "BYTES" else values.reshape(shape)
        except ValueError:  # more dimensions than an array has, or, where one is 0, larger ones
            raise RefusedError(400, f"input {name[:100]!r}: there is no array of that shape") from None
    return tensors


def _numbers(part: memoryview, dtype: np.dtype) -> np.ndarray:
    if len(part) % dtype.itemsize:
        raise RefusedError(400, "a binary tensor ends within a value")
    return np.frombuffer(part, dtype)


def _strings(part: memoryview) -> list[bytes]:
    """Byte strings, each behind its length (4 bytes)."""
    strings, at = [], 0
    while at < len(part):
        if at + 4 > len(part):
            raise RefusedError(400, "a BYTES tensor ends within a length")
        length = struct.unpack_from("<I", part, at)[0]
        at += 4
        if at + length > len(part):
            raise RefusedError(400, "a BYTES tensor ends within a value")
        strings.append(bytes(part[at : at + length]))
        at += length
    return strings


def _listed(data: Any, datatype: str) -> Any:
    if datatype == "BYTES":
        if not isinstance(data, list) or not all(isinstance(each, str) for each in data):
            raise RefusedError(400, "the data of a BYTES tensor must be a list of strings")
        return [each.encode() for each in data]
    array, dtype = number_array(data), _TYPES[datatype]
    if array is None or (dtype.kind in "iu" and array.size and not _fits(array, dtype)):
        raise RefusedError(400, f"the data of a tensor must be numbers of {datatype}")
    with np.errstate(over="ignore"):  # infinity, which is refused in words
        return array.astype(dtype).reshape(-1)


def _fits(numbers: np.ndarray, dtype: np.dtype) -> bool:
    """Whether a type of whole numbers holds them all."""
    bounds = np.iinfo(dtype)
    whole = numbers.dtype.kind != "f" or bool((numbers == np.floor(numbers)).all())
    return whole and bounds.min <= numbers.min() and numbers.max() <= bounds.max


def _wanted(body: dict[str, Any]) -> list[_Wanted]:
    parameters = body.get("parameters")
    all_binary = bool(isinstance(parameters, dict) and parameters.get("binary_data_output"))
    asked = body.get("outputs")
    if asked is None:
        return [_Wanted(name, all_binary) for name in _OUTPUTS]
    wanted = []
    for each in asked if isinstance(asked, list) else [None]:
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(each, dict) or name not in _OUTPUTS:
            raise RefusedError(400, f"there is no output {str(name)[:100]!r}; there are {' and '.join(_OUTPUTS)}")
        own = each.get("parameters")
        wanted.append(_Wanted(name, bool(isinstance(own, dict) and own.get("binary_data", all_binary)) or all_binary))
    return wanted
