"""What an ingress process counts, in Prometheus' text format. No transcript or audio content comes near it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one ingress process. `replica` tells the processes apart, since a scrape meets any one of them."""

    def __init__(self, replica: str = "") -> None:
        self._registry = CollectorRegistry()
        self._replica = replica
        self._requests = Counter(
            "caspi_requests",
            "Requests under /v1, by path and HTTP status",
            ["replica", "path", "status"],
            registry=self._registry,
        )
        self._latency = Histogram(
            "caspi_request_duration_seconds",
            "Time from a request's headers to its answer",
            ["replica", "path"],
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._audio = Counter("caspi_audio_seconds", "Audio transcribed", ["replica"], registry=self._registry).labels(
            replica
        )
        self._retries = Counter(
            "caspi_retries", "Calls repeated because a model replica died", ["replica"], registry=self._registry
        ).labels(replica)
        self.in_flight = Gauge(
            "caspi_requests_in_flight", "Transcriptions being worked on", ["replica"], registry=self._registry
        ).labels(replica)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """One answered request. `path` must be one of the routes: what strangers type would make series without end."""
        self._requests.labels(self._replica, path, str(status)).inc()
        self._latency.labels(self._replica, path).observe(seconds)

    def count_audio(self, seconds: float) -> None:
        self._audio.inc(seconds)

    def count_retry(self) -> None:
        self._retries.inc()

    def render(self) -> bytes:
        """All of it as text."""
        return generate_latest(self._registry)
