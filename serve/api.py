"""The HTTP contract, without Ray: a FastAPI application over something that transcribes."""

from collections.abc import Collection

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from serve import browsers, jobs, models, operations, reference, transcriptions
from serve.backend import Backend
from serve.errors import handle
from serve.gate import Gate
from serve.keys import Keyring
from serve.logs import RequestLog
from serve.metrics import Metrics
from serve.options import Options
from serve.schemas import ErrorBody

REFUSALS = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504)
"""What every operation may answer besides, in OpenAI's form."""


def http_app(
    backend: Backend,
    *,
    options: Options,
    key_hashes: Collection[str],
    page: str,
    metrics: Metrics,
    is_public: bool = False,
) -> FastAPI:
    """The application. State lives in its arguments, so a test calls it like a deployment does.

    `is_public`: others than this machine can reach it, so that its metrics want a key too.
    """
    keyring = Keyring(key_hashes, file=options.api_keys_file)
    asynchronous = jobs.open_jobs(backend, options, metrics)
    app = FastAPI(
        title="Caspi",
        summary="Speech to text by OpenAI's transcription contract.",
        lifespan=None if asynchronous is None else asynchronous.lifespan,
        docs_url=None,  # it would load scripts from the web; `reference` brings its own page
        redoc_url=None,
        responses={code: {"model": ErrorBody} for code in REFUSALS},
    )
    app.add_middleware(Gate, options=options, keyring=keyring, metrics=metrics, is_public=is_public)
    browsers.add_to(app, options)
    app.add_middleware(RequestLog)  # outermost: what is refused is logged too
    for kind in (HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, handle)
    transcriptions.add_to(app, backend, options, metrics)
    if asynchronous is not None:
        jobs.add_to(app, asynchronous, options)
    models.add_to(app, backend, options)
    operations.add_to(app, backend, page, metrics)
    reference.add_to(app)
    return app
