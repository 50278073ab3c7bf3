"""The ASGI application: which address does what."""

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from vcls_model.serving.http import metrics
from vcls_model.serving.http.bodies import RefusedError, json_response, refusal
from vcls_model.serving.http.kserve import KServeRoutes
from vcls_model.serving.http.label import LabelRoute
from vcls_model.serving.http.logs import log_fields
from vcls_model.serving.http.predict import PredictRoutes
from vcls_model.serving.http.safety import Guard
from vcls_model.serving.http.service import Service
from vcls_model.serving.http.sources import SourceRoutes
from vcls_model.serving.http.websocket import LiveRoute

_LOG = logging.getLogger(__name__)
PAGE = Path(__file__).resolve().parent.parent / "page"
Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(service: Service, sources: SourceRoutes | None = None) -> Starlette:
    """The application of one service.

    Args:
        service: engine, bounds and counters.
        sources: streams that the service pulls itself.
    """
    live = LiveRoute(service)
    sources = sources or SourceRoutes(service, ())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sources.start()
        service.ready = True
        yield
        service.ready = False
        await live.shut_down()
        sources.stop()

    return Starlette(
        routes=_routes(service, live, sources),
        middleware=[Middleware(Guard, settings=service.settings)],
        exception_handlers={RefusedError: _refused, HTTPException: _http_error, Exception: _failed},
        lifespan=lifespan,
    )


def _routes(service: Service, live: LiveRoute, sources: SourceRoutes) -> list[BaseRoute]:
    predict, kserve = PredictRoutes(service), KServeRoutes(service)

    async def labels(_: Request) -> Response:
        thresholds = service.engine.rules.thresholds
        return json_response(
            {
                "model": service.engine.model.name,
                "labels": [
                    {"index": each.index, "name": each.name, "verticals": each.verticals, "threshold": float(threshold)}
                    for each, threshold in zip(service.engine.model.classes, thresholds, strict=True)
                ],
            }
        )

    async def text_of_metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def page(_: Request) -> Response:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    model = "/v1/models/{name}"
    named: list[tuple[str, str, Endpoint]] = [
        ("GET", "/", page),
        ("GET", "/v1/labels", labels),
        ("GET", "/v1/streams", sources.listed),
        ("GET", "/v1/streams/{name}/picture", sources.picture),
        ("GET", "/metrics", text_of_metrics),
        ("POST", "/label", LabelRoute(service)),
        *(
            (method, prefix + suffix, endpoint)
            for prefix in (model, model + "/versions/{version}")
            for method, suffix, endpoint in (
                ("POST", ":predict", predict.predict),
                ("POST", ":classify", predict.classify),
                ("GET", "", predict.status),
                ("GET", "/metadata", predict.metadata),
            )
        ),
        ("GET", "/v2", kserve.server),
        ("GET", "/v2/health/live", kserve.live),
        ("GET", "/v2/health/ready", kserve.health_ready),
        *(
            (method, prefix + suffix, endpoint)
            for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
            for method, suffix, endpoint in (
                ("GET", "", kserve.metadata),
                ("GET", "/ready", kserve.ready),
                ("POST", "/infer", kserve.infer),
            )
        ),
    ]
    return [
        *(Route(path, _counted(service, path, endpoint), methods=[method]) for method, path, endpoint in named),
        WebSocketRoute("/live", live.endpoint),
        WebSocketRoute("/watch", sources.watch),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]


def _counted(service: Service, route: str, endpoint: Endpoint) -> Endpoint:
    """An endpoint whose requests are counted and timed."""

    async def answer(request: Request) -> Response:
        started = time.monotonic()
        status = 500
        try:
            response = await endpoint(request)
            status = response.status_code
            return response
        except RefusedError as error:
            status = error.status
            raise
        finally:
            service.metrics.count_request(route, status, time.monotonic() - started)

    return answer


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return refusal(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return json_response({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    number = request.scope.get("state", {}).get("request_id", "")
    _LOG.error("a request failed", exc_info=error, extra=log_fields({"request": number}))
    return json_response({"error": f"the service failed; its log says how under request {number}"}, 500)
