"""API keys of the endpoint: made here, and kept in a file that knows their hashes, names, limits and last days.

    keys:
      - name: newsroom
        sha256: 6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090
        created: 2026-03-01T12:00:00Z
        requests_per_minute: 60

The file may be YAML or JSON. A key is 32 random bytes, so its plain SHA-256 is enough: nobody finds 256 bits by trying,
and a slow hash, which protects passwords that people choose, would cost every request a tenth of a second.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from caspi.errors import RequestError, describe_invalid

PREFIX = "caspi-"

MIN_KEY_CHARS = 10
"""Of a key that somebody chose. Ours have 49."""


class ApiKey(BaseModel):
    """What is known of a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Whose it is. Keys of one name are one caller: that is how a key is replaced without a gap."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: AwareDatetime | None = None

    expires: AwareDatetime | None = None
    """From when on it is refused. None: never."""

    requests_per_minute: int | None = Field(None, ge=1)
    audio_s_per_minute: float | None = Field(None, gt=0)
    concurrent_requests: int | None = Field(None, ge=1)

    @property
    def id(self) -> str:
        """What tells it from others in lists and logs, and gives nothing away."""
        return self.sha256[:8]

    def is_valid(self, now: datetime) -> bool:
        """Whether it may still be used."""
        return self.expires is None or now < self.expires


class KeyFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[ApiKey, ...] = ()


def hash_key(key: str) -> str:
    """API keys travel and rest as this."""
    return hashlib.sha256(key.encode()).hexdigest()


def check_chosen(keys: frozenset[str]) -> None:
    """Refuse keys that somebody chose too short.

    Raises:
        RequestError: one has fewer than `MIN_KEY_CHARS` characters.
    """
    shortest = min(map(len, keys), default=MIN_KEY_CHARS)
    if shortest < MIN_KEY_CHARS:
        raise RequestError(
            f"a key in CASPI_API_KEYS has {shortest} characters; expected at least {MIN_KEY_CHARS}: "
            "`caspi keys add NAME --file keys.yaml` makes one that nobody guesses"
        )


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file.

    Raises:
        RequestError: it is not there, or is not a key file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return KeyFile.model_validate(content or {}).keys
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}; expected a key file, which `caspi keys add` writes") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is neither YAML nor JSON: {error}") from error
    except ValidationError as invalid:
        raise RequestError(f"{path} is not a key file: {describe_invalid(invalid)}") from None


def add_key(
    path: Path,
    name: str,
    *,
    expires: datetime | None = None,
    requests_per_minute: int | None = None,
    audio_s_per_minute: float | None = None,
    concurrent_requests: int | None = None,
) -> str:
    """Make a key, return it, and add its hash to the file, which is created if need be. The key is kept nowhere.

    Raises:
        RequestError: the name or a limit is wrong, or the file is not a key file.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    try:
        added = ApiKey(
            name=name,
            sha256=hash_key(key),
            created=datetime.now(UTC).replace(microsecond=0),
            expires=expires,
            requests_per_minute=requests_per_minute,
            audio_s_per_minute=audio_s_per_minute,
            concurrent_requests=concurrent_requests,
        )
    except ValidationError as invalid:
        raise RequestError(f"no key was made: {describe_invalid(invalid)}") from None
    with _locked(path):
        _write(path, (*(read_keys(path) if path.exists() else ()), added))
    return key


def remove_keys(path: Path, which: str) -> tuple[ApiKey, ...]:
    """Take out the keys of that name, or the one of that id; returns those.

    Raises:
        RequestError: there is none, or the file is not a key file.
    """
    with _locked(path):
        keys = read_keys(path)
        removed = tuple(key for key in keys if which in (key.name, key.id))
        if not removed:
            known = ", ".join(f"{key.name} ({key.id})" for key in keys) or "none"
            raise RequestError(f"{path} has no key with the name or id {which}; it has: {known}")
        _write(path, tuple(key for key in keys if key not in removed))
    return removed


def describe(key: ApiKey) -> str:
    """A line for people."""
    limits = {
        "requests/min": key.requests_per_minute,
        "audio s/min": key.audio_s_per_minute,
        "at once": key.concurrent_requests,
    }
    told = [f"{limit:g} {unit}" for unit, limit in limits.items() if limit is not None]
    if key.expires is not None:
        is_valid = key.is_valid(datetime.now(UTC))
        told.append(f"{'expires' if is_valid else 'expired'} {key.expires:%Y-%m-%d %H:%M} UTC")
    return f"{key.name:<20} {key.id}  {', '.join(told) or 'no limits'}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time. On a file beside it, because the key file itself is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f"{path.name}.lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    """Replace the file in one step: an endpoint reads the old one or the new one, and never half of it."""
    content = KeyFile(keys=keys).model_dump(mode="json", exclude_none=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.touch(mode=0o600)
    temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    os.replace(temporary, path)
