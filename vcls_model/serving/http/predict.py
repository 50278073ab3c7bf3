"""TensorFlow Serving's REST addresses: predict, classify, status and metadata of the model."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from vcls_model.metrics.binning import sigmoid
from vcls_model.records.schema import FRAMES, TEXT, Modality
from vcls_model.serving.http.bodies import RefusedError, json_response, number_array, parse_json
from vcls_model.serving.http.service import Service
from vcls_model.serving.live.stream import Features

VERSION = "1"
_RECORDS = "serialized"


class PredictRoutes:
    """`/v1/models/NAME…`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._model = service.engine.model

    async def status(self, request: Request) -> Response:
        """`GET /v1/models/NAME`."""
        self._check_name(request)
        state = "AVAILABLE" if self._service.ready else "LOADING"
        status = {"error_code": "OK", "error_message": ""}
        return json_response({"model_version_status": [{"version": VERSION, "state": state, "status": status}]})

    async def metadata(self, request: Request) -> Response:
        """`GET /v1/models/NAME/metadata`: the signatures, as TensorFlow Serving prints them."""
        self._check_name(request)
        count = len(self._model.classes)
        outputs = {"logits": _tensor("DT_FLOAT", [-1, count], "logits")}
        features = {each.name: _tensor(*_type_and_shape(each), each.name) for each in self._model.modalities}
        signatures = {"features": _signature(features, outputs)}
        if self._model.schema is not None and self._model.schema.container != "csv":
            signatures["serving_default"] = _signature({_RECORDS: _tensor("DT_STRING", [-1], _RECORDS)}, outputs)
        return json_response(
            {
                "model_spec": {"name": self._model.name, "signature_name": "", "version": VERSION},
                "metadata": {"signature_def": {"signature_def": signatures}},
            }
        )

    async def predict(self, request: Request) -> Response:
        """`POST /v1/models/NAME:predict`: logits of `instances` (rows) or `inputs` (columns)."""
        body = await self._body(request)
        if ("instances" in body) == ("inputs" in body):
            raise RefusedError(400, 'the body must hold either "instances" or "inputs"')
        rows = "instances" in body
        videos = self._of_instances(body["instances"]) if rows else self._of_columns(body["inputs"])
        scored = await self._service.score(videos)
        return json_response({"predictions" if rows else "outputs": np.ascontiguousarray(scored.logits)})

    async def classify(self, request: Request) -> Response:
        """`POST /v1/models/NAME:classify`: [class, probability] pairs of each of the `examples`, best first."""
        body = await self._body(request)
        examples = body.get("examples")
        if not isinstance(examples, list):
            raise RefusedError(400, 'the body must hold a list of "examples"')
        context = body.get("context", {})
        if not isinstance(context, dict) or not all(isinstance(example, dict) for example in examples):
            raise RefusedError(400, "the examples and their context must be JSON objects of features")
        top = body.get("top", len(self._model.classes))
        if not isinstance(top, int) or top < 1:
            raise RefusedError(400, f'"top" must be a positive integer, got {top!r}')
        scored = await self._service.score(self._of_instances([{**context, **example} for example in examples]))
        results = []
        for probabilities in sigmoid(scored.logits):
            order = np.argsort(-probabilities, kind="stable")[:top]
            results.append([[self._model.classes[index].name, float(probabilities[index])] for index in order])
        return json_response({"results": results})

    async def _body(self, request: Request) -> dict[str, Any]:
        self._check_name(request)
        body = parse_json(await self._service.read_body(request))
        name = body.get("signature_name", "")
        if name not in ("", "serving_default", "features"):
            raise RefusedError(
                400, f"there is no signature {str(name)[:100]!r}; there are serving_default and features"
            )
        return body

    def _check_name(self, request: Request) -> None:
        name, version = request.path_params["name"], request.path_params.get("version", VERSION)
        if name != self._model.name or version != VERSION:
            raise RefusedError(404, f"there is no such model here; there is {self._model.name}, version {VERSION}")

    def _of_instances(self, instances: Any) -> list[Features]:
        if not isinstance(instances, list):
            raise RefusedError(400, '"instances" must be a list')
        self._service.check_count(len(instances))
        instances = [
            each[_RECORDS] if isinstance(each, dict) and each.keys() == {_RECORDS} else each for each in instances
        ]
        if all(_is_binary(each) for each in instances):
            return self._service.of_records([_decoded(each) for each in instances])
        modalities = self._model.modalities
        if len(modalities) == 1 and not any(isinstance(each, dict) for each in instances):
            instances = [{modalities[0].name: each} for each in instances]
        if not all(isinstance(each, dict) for each in instances):
            raise RefusedError(400, 'each instance must be {"b64": RECORD}, or an object with a list per feature')
        videos: list[Features] = []
        for each in instances:
            columns = {name: [values] for name, values in each.items()}
            videos += self._service.of_arrays(self._arrays(columns))
        return videos

    def _of_columns(self, inputs: Any) -> list[Features]:
        if isinstance(inputs, dict) and inputs.keys() == {_RECORDS}:
            inputs = inputs[_RECORDS]
        if isinstance(inputs, list) and inputs and all(_is_binary(each) for each in inputs):
            return self._service.of_records([_decoded(each) for each in inputs])
        if isinstance(inputs, list) and len(self._model.modalities) == 1:
            inputs = {self._model.modalities[0].name: inputs}
        if not isinstance(inputs, dict):
            raise RefusedError(400, '"inputs" must be an object with a list of records per feature')
        return self._service.of_arrays(self._arrays(inputs))

    def _arrays(self, columns: dict[str, Any]) -> dict[str, np.ndarray]:
        """Nested lists as arrays; frames are lists of codes, or one string of all codes of a video."""
        arrays = {}
        by_name = {each.name: each for each in self._model.modalities}
        for name, values in columns.items():
            if name not in by_name:
                names = ", ".join(by_name)
                raise RefusedError(400, f"the model takes {names}, the request holds {name[:100]!r}")
            arrays[name] = _array(by_name[name], values)
        return arrays


def _array(modality: Modality, values: Any) -> np.ndarray:
    if modality.kind == TEXT:
        return _texts(modality, values)
    if modality.kind == FRAMES and isinstance(values, list) and values and all(_is_binary(each) for each in values):
        strings = [_decoded(each) for each in values]
        if len({len(each) for each in strings}) > 1 or len(strings[0]) % modality.width:
            raise RefusedError(400, f"{modality.name}: strings of codes must hold whole frames of {modality.width}")
        return np.frombuffer(b"".join(strings), np.uint8).reshape(len(strings), -1, modality.width)
    array = number_array(values)
    if array is None:
        raise RefusedError(400, f"{modality.name} must be lists of numbers, all of the same length")
    if modality.kind != FRAMES:
        with np.errstate(over="ignore"):  # infinity, which is refused in words
            return array.astype(np.float32)
    if not ((array >= 0) & (array <= 255) & (array == np.floor(array))).all():
        raise RefusedError(400, f"{modality.name} must hold codes: whole numbers from 0 to 255")
    return array.astype(np.uint8)


def _texts(modality: Modality, values: Any) -> np.ndarray:
    """Strings, or bytes as base64: object (B,) of bytes."""
    if not isinstance(values, list) or not all(isinstance(each, str) or _is_binary(each) for each in values):
        raise RefusedError(400, f"{modality.name} must be strings, one per record")
    texts = np.empty(len(values), object)
    texts[:] = [each.encode(errors="replace") if isinstance(each, str) else _decoded(each) for each in values]
    return texts


def _is_binary(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _decoded(value: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise RefusedError(400, '"b64" must hold base64') from None


def _type_and_shape(modality: Modality) -> tuple[str, Sequence[int]]:
    return ("DT_STRING", [-1]) if modality.kind in (FRAMES, TEXT) else ("DT_FLOAT", [-1, modality.width])


def _tensor(dtype: str, shape: Sequence[int], name: str) -> dict[str, Any]:
    dimensions = [{"size": str(size), "name": ""} for size in shape]
    return {"dtype": dtype, "tensor_shape": {"dim": dimensions, "unknown_rank": False}, "name": f"{name}:0"}


def _signature(inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}
