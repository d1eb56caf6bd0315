"""Which keys open the endpoint: those of the environment, and those of a file that is read again when it changes."""

import hmac
import logging
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from starlette.datastructures import Headers

from caspi.errors import RequestError
from caspi.inference.api_keys import ApiKey, hash_key, read_keys
from serve.errors import ApiError

logger = logging.getLogger(__name__)

# How soon a changed file counts. One `stat` a second costs nothing, one for every request might, on a network's disk.
LOOK_EVERY_S = 1.0

# (modified, size, inode): a file that was replaced has another inode, even within one tick of the clock.
Stamp = tuple[int, int, int]


class Keyring:
    """The keys of this moment.

    With a file, a key is always asked for, even if the file lists none: a list that became empty must not open the
    door to everyone. A file that became unreadable leaves the keys as they were.
    """

    def __init__(self, key_hashes: Collection[str] = (), *, file: Path | None = None) -> None:
        """
        Raises:
            RequestError: the file is not there or is not a key file.
        """
        self._fixed = tuple(ApiKey(name=f"env-{digest[:8]}", sha256=digest) for digest in key_hashes)
        self._file = file
        self._stamp = None if file is None else _stamp(file)
        self._from_file = () if file is None else read_keys(file)
        self._looked = time.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether everyone may come in."""
        return self._file is None and not self._fixed

    def authenticate(self, headers: Headers) -> ApiKey | None:
        """The key that a request shows; None where none is needed.

        Raises:
            ApiError: 401.
        """
        if self.is_open:
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "No API key: send `Authorization: Bearer KEY`.", code="missing_api_key")
        given = hash_key(key.strip())
        # Every key is compared, each in constant time, so that timing tells nothing about any of them.
        matching = [known for known in self._keys() if hmac.compare_digest(given, known.sha256)]
        if not matching:
            raise ApiError(401, "Incorrect API key.", code="invalid_api_key")
        if not matching[0].is_valid(datetime.now(UTC)):
            raise ApiError(401, "This API key has expired.", code="expired_api_key")
        return matching[0]

    def _keys(self) -> tuple[ApiKey, ...]:
        if self._file is not None and time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._read_again(self._file)
        return self._fixed + self._from_file

    def _read_again(self, file: Path) -> None:
        stamp = _stamp(file)
        if stamp == self._stamp:
            return
        self._stamp = stamp  # also of a bad one: it is complained of once, not every second
        try:
            self._from_file = read_keys(file)
            logger.info("read API keys file=%s keys=%d", file, len(self._from_file))
        except RequestError as error:
            logger.error("API keys stay as they were, because the file cannot be used: %s", error)


def _stamp(file: Path) -> Stamp | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
