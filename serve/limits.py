"""How much each API key may ask for: requests and seconds of audio a minute, and requests at once.

Each ingress process counts for itself and grants its share, a limit divided by the number of processes, since Serve
spreads requests evenly. So a key gets at most its limits, a little less when chance sends more to one process, and
after a restart a full minute anew.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from caspi.inference.api_keys import ApiKey
from serve.errors import ApiError


class Bucket:
    """A minute's allowance that refills steadily. It may be overdrawn: audio is charged once its length is known."""

    def __init__(self, per_minute: float, *, share: float) -> None:
        self.limit = per_minute
        self._capacity = max(1.0, per_minute * share)
        self._per_second = per_minute * share / 60
        self._left = self._capacity
        self._since = time.monotonic()

    @property
    def left(self) -> float:
        """What may be taken now; below 0 when overdrawn."""
        now = time.monotonic()
        self._left = min(self._capacity, self._left + (now - self._since) * self._per_second)
        self._since = now
        return self._left

    def take(self, amount: float) -> None:
        """Take it, whether it is there or not."""
        self._left = self.left - amount

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` is there."""
        return max(0.0, (amount - self.left) / self._per_second)

    @property
    def full_after_s(self) -> float:
        """Seconds until it is as if nothing had been taken."""
        return self.wait_s(self._capacity)


class Allowance:
    """What is left of one key's limits."""

    def __init__(self, key: ApiKey, *, share: float) -> None:
        self.key = key
        self._requests = key.requests_per_minute and Bucket(key.requests_per_minute, share=share)
        self._audio_s = key.audio_s_per_minute and Bucket(key.audio_s_per_minute, share=share)
        self._max_concurrent = key.concurrent_requests and math.ceil(key.concurrent_requests * share)
        self._num_concurrent = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request, for as long as it lasts.

        Raises:
            ApiError: 429, a limit is reached; says which, and when to come back.
        """
        if self._requests and self._requests.left < 1:
            raise self._refusal("requests a minute", self._requests.limit, self._requests.wait_s(1))
        if self._audio_s and self._audio_s.left <= 0:
            raise self._refusal("seconds of audio a minute", self._audio_s.limit, self._audio_s.wait_s(0))
        if self._max_concurrent and self._num_concurrent >= self._max_concurrent:
            raise self._refusal("requests at once", self.key.concurrent_requests or 0, 1)
        if self._requests:
            self._requests.take(1)
        self._num_concurrent += 1
        try:
            yield
        finally:
            self._num_concurrent -= 1

    def charge_audio(self, seconds: float) -> None:
        """Count audio, which is known only after decoding. What is too much delays the next request."""
        if self._audio_s:
            self._audio_s.take(seconds)

    def headers(self) -> dict[str, str]:
        """As OpenAI tells them. Its `tokens` are seconds of audio here."""
        told = {}
        for name, bucket in (("requests", self._requests), ("audio-seconds", self._audio_s)):
            if bucket:
                told[f"x-ratelimit-limit-{name}"] = f"{bucket.limit:g}"
                told[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.left)))
                told[f"x-ratelimit-reset-{name}"] = _span(bucket.full_after_s)
        return told

    def _refusal(self, what: str, limit: float, wait_s: float) -> ApiError:
        message = f"The API key {self.key.name!r} has reached its limit of {limit:g} {what}."
        return ApiError(429, message, code="rate_limit_exceeded", retry_after_s=max(1, math.ceil(wait_s)))


class Allowances:
    """Of all keys that have been seen. There are never more than keys, and those come from a file of ours."""

    def __init__(self, *, num_processes: int) -> None:
        self._share = 1 / num_processes
        self._by_hash: dict[str, Allowance] = {}

    def of(self, key: ApiKey) -> Allowance:
        """The key's, begun anew when its limits were changed."""
        known = self._by_hash.get(key.sha256)
        if known is None or known.key != key:
            known = self._by_hash[key.sha256] = Allowance(key, share=self._share)
        return known


def _span(seconds: float) -> str:
    """`6m0s`, `1s`, `20ms`, as OpenAI writes them."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, seconds_left = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{seconds_left}s" if minutes else f"{seconds_left}s"
