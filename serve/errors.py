"""Failures as OpenAI clients expect them: a status, and `{"error": {message, type, param, code}}`."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from caspi.errors import AudioError, CaspiError, RequestError
from serve import logs

logger = logging.getLogger(__name__)

SUPPORTED_AUDIO = "WAV, FLAC, MP3, Ogg Vorbis, Opus, M4A, MP4, WebM"


class ApiError(HTTPException):
    """A refusal with everything that a client's exception shows.

    An HTTPException, because that is the one kind that FastAPI lets pass while it reads a form.
    """

    def __init__(
        self,
        status_code: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        headers = dict(headers or {})
        if retry_after_s is not None:
            headers["Retry-After"] = str(retry_after_s)
        if status_code == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status_code, detail=message, headers=headers)
        self.param = param
        self.code = code

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse(self.body(), status_code=self.status_code, headers=self.headers)

    def body(self) -> dict[str, Any]:
        """What the answer says."""
        logs.current().refusal = self.code
        error = {"message": self.detail, "type": _kind(self.status_code), "param": self.param, "code": self.code}
        return {"error": error}


def translate(error: Exception) -> ApiError:
    """What a client is told about an exception. Our own bugs stay vague here; the log has them whole."""
    match error:
        case ApiError():
            return error
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), code=_code(error.status_code), headers=error.headers)
        case RequestValidationError():
            return invalid_field(error.errors()[0])
        case AudioError():
            return ApiError(400, f"{error} Supported: {SUPPORTED_AUDIO}.", param="file", code=error.reason)
        case RequestError():
            return ApiError(400, str(error), code="invalid_request")
        case CaspiError():
            return ApiError(500, str(error), code="server_error")
    return ApiError(500, "The server failed on this request; its log says why.", code="server_error")


async def handle(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's exception handler for everything."""
    answer = translate(error)
    if answer.status_code >= 500 and not isinstance(error, ApiError):
        logger.error("request failed path=%s", request.url.path, exc_info=error)
    return answer.response()


def invalid_field(problem: Mapping[str, Any]) -> ApiError:
    """One of the problems that pydantic found with a request."""
    # Names, without places in a list: `chunking_strategy.threshold`, `include`.
    param = ".".join(part for part in problem["loc"] if isinstance(part, str) and part != "body") or None
    match problem["type"]:
        case "missing":
            message = f"Missing required parameter: {param!r}."
            return ApiError(400, message, param=param, code="missing_required_parameter")
        case "extra_forbidden":
            return ApiError(400, f"Unknown parameter: {param!r}.", param=param, code="unknown_parameter")
    return ApiError(400, f"Invalid value for {param!r}: {problem['msg']}.", param=param, code="invalid_value")


def _kind(status_code: int) -> str:
    if status_code == 429:
        return "rate_limit_error"
    return "server_error" if status_code >= 500 else "invalid_request_error"


def _code(status_code: int) -> str | None:
    return {404: "unknown_url", 405: "method_not_allowed", 503: "unavailable"}.get(status_code)
