"""TensorFlow Serving's and KServe's addresses, with a model that needs no TensorFlow."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.fixtures.live import PlainModel
from vcls_model.records.examples import bytes_feature, float_feature, write_example
from vcls_model.serving.http.app import make_app
from vcls_model.serving.http.bodies import RefusedError, body_chunks, parse_json
from vcls_model.serving.http.metrics import Metrics
from vcls_model.serving.http.service import Service
from vcls_model.serving.http.settings import ServiceSettings
from vcls_model.serving.live.engine import Engine

SETTINGS = ServiceSettings(most_body_bytes=1 << 20, most_records=8)
ROWS = [[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    metrics = Metrics()
    engine = Engine(PlainModel(), observe_frame=metrics.observe_frame, observe_batch=metrics.observe_batch)
    metrics.watch(engine)
    with TestClient(make_app(Service(engine, SETTINGS, metrics)), raise_server_exceptions=False) as made:
        yield made
    engine.shut_down()


def record(values: list[float]) -> bytes:
    return write_example({"id": bytes_feature(b"v"), "three": float_feature(np.array(values))})


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"instances": ROWS}, "predictions"),
        ({"instances": [{"three": row} for row in ROWS]}, "predictions"),
        ({"instances": [b64(record(row)) for row in ROWS]}, "predictions"),
        ({"instances": [{"serialized": b64(record(row))} for row in ROWS]}, "predictions"),
        ({"signature_name": "features", "inputs": {"three": ROWS}}, "outputs"),
        ({"signature_name": "serving_default", "inputs": [b64(record(row)) for row in ROWS]}, "outputs"),
        ({"inputs": {"serialized": [b64(record(row)) for row in ROWS]}}, "outputs"),
    ],
)
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_predict_takes_rows_columns_and_records(client: TestClient, body: dict, key: str, version: str) -> None:
    answer = client.post(f"/v1/models/plain{version}:predict", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {key: ROWS}


def test_classify_gives_names_and_probabilities_best_first(client: TestClient) -> None:
    examples = [{"three": row} for row in ROWS]
    results = client.post("/v1/models/plain:classify", json={"examples": examples}).json()["results"]
    assert [name for name, _ in results[0]] == ["a", "=c", "b <i>"]
    assert results[1][0] == ["b <i>", pytest.approx(1 / (1 + np.exp(-3)))]
    top = client.post("/v1/models/plain:classify", json={"examples": [{}], "context": examples[0], "top": 1})
    assert len(top.json()["results"][0]) == 1


def test_status_and_metadata(client: TestClient) -> None:
    status = client.get("/v1/models/plain").json()["model_version_status"]
    assert status == [{"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}]
    answer = client.get("/v1/models/plain/metadata").json()
    assert answer["model_spec"] == {"name": "plain", "signature_name": "", "version": "1"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"features", "serving_default"}
    dimensions = signatures["features"]["inputs"]["three"]["tensor_shape"]["dim"]
    assert [each["size"] for each in dimensions] == ["-1", "3"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("{", 400, "not JSON"),
        ("[1]", 400, "one JSON object"),
        ('{"instances": ' + "[" * 50_000 + "]" * 50_000 + "}", 400, "not JSON"),
        ({}, 400, 'either "instances" or "inputs"'),
        ({"instances": []}, 400, "no record"),
        ({"instances": ROWS * 5}, 413, "at most 8"),
        ({"instances": [[1, 2]]}, 400, "must have the shape [records, 3]"),
        ({"instances": [["x", 1, 2]]}, 400, "lists of numbers"),
        ({"instances": [[None, 1, 2]]}, 400, "lists of numbers"),
        ({"instances": [["1", "2", "NaN"]]}, 400, "lists of numbers"),
        ({"instances": [[True, False, True]]}, 400, "lists of numbers"),
        ({"instances": [[1, 2], [1, 2, 3]]}, 400, "must have the shape [records, 3]"),
        ({"inputs": {"three": [[1, 2], [1, 2, 3]]}}, 400, "all of the same length"),
        ('{"instances": [[NaN, 1, 2]]}', 400, "not JSON"),
        ('{"instances": [[Infinity, 1, 2]]}', 400, "not JSON"),
        ({"instances": [{"b64": "AAAAA"}]}, 400, "base64"),
        ({"instances": [{"b64": [1]}]}, 400, "base64"),
        (
            {"instances": [b64(write_example({"id": bytes_feature(b"v"), "three": bytes_feature(b"x")}))]},
            400,
            "record 0",
        ),
        ({"instances": [[1e39, 1, 2]]}, 400, "not finite"),
        ({"instances": [{"four": [1]}]}, 400, "the model takes three"),
        ({"instances": [{"b64": "?"}]}, 400, "base64"),
        ({"instances": [b64(b"\xff\xff\xff")]}, 400, "record 0"),
        ({"instances": [b64(record(ROWS[0])), b64(write_example({"id": bytes_feature(b"v")}))]}, 400, "record 1"),
        ({"instances": ROWS, "signature_name": "x"}, 400, "no signature"),
        ({"inputs": 3}, 400, "object with a list"),
        ({"inputs": {"three": 3}}, 400, "no record"),
        ({"inputs": {"three": None}}, 400, "lists of numbers"),
    ],
)
def test_what_cannot_be_predicted_is_said_in_words(client: TestClient, body: Any, status: int, words: str) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    answer = client.post("/v1/models/plain:predict", content=content)
    assert answer.status_code == status
    assert words in answer.json()["error"] and "/work" not in answer.text and "Traceback" not in answer.text


def test_large_bodies_are_refused_by_what_they_announce_and_by_what_they_are(client: TestClient) -> None:
    assert client.post("/v1/models/plain:predict", content=b" " * (2 << 20)).status_code == 413

    def parts() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 16)

    assert client.post("/v1/models/plain:predict", content=parts()).status_code == 413


def test_bodies_that_come_too_slowly_or_hold_too_many_values_are_refused() -> None:
    class Slow:
        headers: dict[str, str] = {}

        async def stream(self) -> AsyncIterator[bytes]:
            for _ in range(20):
                await asyncio.sleep(0.03)
                yield b"x"

    async def read() -> None:
        async for _ in body_chunks(Slow(), 100, 0.2):  # type: ignore[arg-type]
            pass

    with pytest.raises(RefusedError, match="too slowly") as slow:
        asyncio.run(read())
    assert slow.value.status == 408
    with pytest.raises(RefusedError, match="more than 4,194,304 values") as many:
        parse_json(b"," * (1 << 22))
    assert many.value.status == 413


def test_only_so_much_is_read_at_once() -> None:
    engine = Engine(PlainModel())
    service = Service(engine, ServiceSettings(most_bodies_bytes=1000), Metrics())
    with TestClient(make_app(service)) as client:
        answer = client.post("/v1/models/plain:predict", content=b" " * 2000)
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
        assert service.body_bytes == 0
        assert client.post("/v1/models/plain:predict", json={"instances": ROWS}).status_code == 200
    engine.shut_down()


def test_other_models_and_addresses(client: TestClient) -> None:
    assert client.post("/v1/models/other:predict", json={}).status_code == 404
    assert client.get("/v1/models/plain/versions/2").status_code == 404
    assert client.get("/nothing").json() == {"error": "Not Found"}
    assert client.get("/v1/models/plain:predict").status_code == 404
    assert client.put("/label").status_code == 405
    assert client.get("/page/../../app.py").status_code == 404
    assert client.get("/page/%2e%2e/http/app.py").status_code == 404


def tensor(**more: Any) -> dict[str, Any]:
    return {"name": "three", "datatype": "FP32", "shape": [2, 3], **more}


def test_kserve_by_json(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").status_code == 200
    assert client.get("/v2/models/plain/ready").json() == {"name": "plain", "ready": True}
    metadata = client.get("/v2/models/plain").json()
    assert metadata["inputs"] == [{"name": "three", "datatype": "FP32", "shape": [-1, 3]}]
    body = {"id": "42", "inputs": [tensor(data=[*ROWS[0], *ROWS[1]])], "outputs": [{"name": "logits"}]}
    answer = client.post("/v2/models/plain/infer", json=body).json()
    (output,) = answer.pop("outputs")
    assert answer == {"model_name": "plain", "model_version": "1", "id": "42"}
    assert output == {"name": "logits", "datatype": "FP32", "shape": [2, 3], "data": [*ROWS[0], *ROWS[1]]}


LENGTHS = {"name": "num_frames", "shape": [2]}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "list of tensors"),
        ([tensor(data=[1, 2])], "asks for 6 values, there are 2"),
        ([tensor(shape=[1 << 32, 1 << 32], data=[1])], "values"),
        ([tensor(datatype="FP8", data=[])], "datatype must be"),
        ([tensor(parameters={"binary_data_size": 10**9})], "more than there is"),
        ([tensor(name="four", data=[0] * 6)], "the model takes three"),
        ([{"name": "serialized", "datatype": "BYTES", "shape": [1], "data": ["x"]}], "record 0"),
        ([tensor(shape=[-1], data=[])], "a name, a datatype and a shape"),
        ([tensor(shape=[0, 1 << 32, 1 << 32, 1 << 32], data=[])], "there is no array of that shape"),
        ([tensor(shape=[1] * 100, data=[1])], "there is no array of that shape"),
        ([tensor(shape=[], data=[1])], "the request holds no record"),
        ([tensor(data=["1"] * 6)], "must be numbers of FP32"),
        ([tensor(data=[1e39] * 6)], "not finite"),
        ([tensor(data=[0] * 6), LENGTHS | {"datatype": "INT32", "data": [1.5, 1]}], "must be numbers of INT32"),
        ([tensor(data=[0] * 6), LENGTHS | {"datatype": "INT32", "data": [1 << 40, 1]}], "must be numbers of INT32"),
        ([tensor(name="x", datatype="UINT8", data=[256] * 6)], "must be numbers of UINT8"),
        ([tensor(data=[0] * 6), LENGTHS | {"datatype": "FP32", "data": [1e38, 1]}], "one whole number per record"),
        ([tensor(data=[0] * 6), LENGTHS | {"datatype": "BYTES", "data": ["a", "b"]}], "one whole number per record"),
    ],
)
def test_kserve_refuses_in_words(client: TestClient, inputs: list, words: str) -> None:
    answer = client.post("/v2/models/plain/infer", json={"inputs": inputs})
    assert answer.status_code == 400 and words in answer.json()["error"]


def test_metrics_count_requests_and_batches(client: TestClient) -> None:
    client.post("/v1/models/plain:predict", json={"instances": ROWS})
    client.post("/v1/models/plain:predict", json={})
    text = client.get("/metrics").text
    assert 'vcls_requests_total{route="/v1/models/{name}:predict",status="200"}' in text
    assert 'vcls_requests_total{route="/v1/models/{name}:predict",status="400"}' in text
    for name in (
        "vcls_queue_seconds_bucket",
        "vcls_compute_seconds_bucket",
        "vcls_batch_size_bucket",
        "vcls_streams 0.0",
    ):
        assert name in text


def test_the_page_and_its_files(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "Live labels" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("app.js", "stream.js", "capture.js", "socket.js", "timeline.js", "sound.js", "style.css", "icon.svg"):
        assert client.get(f"/page/{name}").status_code == 200
    assert "Leon Sorokin" in client.get("/page/vendor/uPlot.LICENSE").text
    labels = client.get("/v1/labels").json()
    assert labels["labels"][1] == {"index": 1, "name": "b <i>", "verticals": ["Topic"], "threshold": 0.5}
    assert client.get("/v1/streams").json() == {"streams": []}
    assert client.post("/label", content=b"x").status_code == 400
