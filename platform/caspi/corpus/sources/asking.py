"""Asking a store again when it stumbles.

A store that is busy, restarts or drops a connection is asked again, less and less often, until `DEADLINE_S`. What is
not there and what may not be read is said at once.
"""

import errno
import logging
import re
from collections.abc import Callable
from typing import TypeVar

import tenacity

from caspi.errors import SourceError

logger = logging.getLogger(__name__)

DEADLINE_S = 120.0
"""How long one request is tried. A store that is away for longer is down, and the command can be given again."""

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 20.0

Answer = TypeVar("Answer")


def ask(path: str, request: Callable[[], Answer]) -> Answer:
    """The answer to a request, asked again while the store stumbles.

    Raises:
        SourceError: it stumbled for `DEADLINE_S`, or it refuses.
    """
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_passing),
        wait=tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE_S, max=_LONGEST_PAUSE_S),
        stop=tenacity.stop_before_delay(DEADLINE_S),
        before_sleep=lambda state: _log_failure(path, state),
        reraise=True,
    )
    try:
        return attempts(request)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, SourceError):
        raise
    except Exception as error:
        if _is_passing(error):
            raise SourceError(
                f"{path}: no answer within {DEADLINE_S:g} s; the last was: {_first_line(error)}"
            ) from error
        if _is_refusal(error):
            raise SourceError(
                f"{path}: may not be read: {_first_line(error)}; check the credentials, and that they allow listing: "
                "stores deny what is missing to those who may not list"
            ) from error
        raise


def _log_failure(path: str, state: tenacity.RetryCallState) -> None:
    assert state.outcome is not None and state.next_action is not None
    logger.warning(
        "asking again in %.1f s attempt=%d path=%s: %s",
        state.next_action.sleep, state.attempt_number, path, _first_line(state.outcome.exception()),
    )  # fmt: skip


_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_PASSING_ERRNO = {errno.EAGAIN, errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.ENETUNREACH, errno.EHOSTUNREACH}

# Arrow's stores say what happened in words only.
_STATUS = re.compile(r"HTTP (?:status|response code:?) (\d{3})", re.IGNORECASE)
_PASSING_WORDS = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING|curlCode"
    r"|Status\((?:UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|RESOURCE_EXHAUSTED)"
    r"|Expected \d+ bytes|unexpected end of stream",
    re.IGNORECASE,
)
_REFUSAL_WORDS = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|INVALID_SIGNATURE|EXPIRED_TOKEN|INVALID_CLIENT_TOKEN"
    r"|Status\((?:PERMISSION_DENIED|UNAUTHENTICATED)|credentials"
)


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error, from whichever client it comes."""
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    if status is None and isinstance(error, OSError):
        said = _STATUS.search(str(error))
        status = said and said[1]
    try:
        return None if status is None else int(status)
    except (TypeError, ValueError):
        return None


def _is_passing(error: BaseException) -> bool:
    """Whether the same request may well succeed later."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError | SourceError):
        return False
    status = _status(error)
    if status is not None:
        return status in _PASSING_STATUS
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError):
        return error.errno in _PASSING_ERRNO or bool(_PASSING_WORDS.search(str(error)))
    # What the HTTP clients of fsspec's other stores raise when a connection breaks; none of them is ours to import.
    return type(error).__module__.partition(".")[0] in ("aiohttp", "httpx", "httpcore", "urllib3", "requests")


def _is_refusal(error: BaseException) -> bool:
    return (
        isinstance(error, PermissionError)
        or _status(error) in (401, 403)
        or (isinstance(error, OSError) and bool(_REFUSAL_WORDS.search(str(error))))
    )


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
