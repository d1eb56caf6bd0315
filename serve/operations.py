"""What operators and browsers ask: health, readiness, metrics, the page."""

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from serve.backend import Backend
from serve.errors import ApiError
from serve.metrics import CONTENT_TYPE, Metrics

# The page brings everything with it; a browser is to hold it to that.
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:; connect-src 'self'; "
    "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_to(app: FastAPI, backend: Backend, page: str, metrics: Metrics) -> None:
    """Add the routes."""

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/healthz", response_class=PlainTextResponse)
    async def health() -> PlainTextResponse:
        """200 while this process answers at all."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz", response_class=PlainTextResponse)
    async def readiness() -> PlainTextResponse:
        """200 while a model would answer, 503 otherwise. Says which: name, version and digest, the canary below."""
        if models := [state.model for state in await backend.describe()]:
            lines = ["ready", *(f"{model.name} version={model.version} sha={model.sha}" for model in models)]
            return PlainTextResponse("".join(f"{line}\n" for line in lines))
        raise ApiError(503, "The model is not answering (yet).", code="not_ready", retry_after_s=2)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Counters of all replicas in Prometheus' text format."""
        return Response(await metrics.render(), media_type=CONTENT_TYPE)
