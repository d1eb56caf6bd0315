"""What is counted, in Prometheus' text format. No transcript or audio content comes near it.

Every series carries the `replica` that counts it. One scrape of any ingress shows those of all replicas: see
`serve.board`. Labels come from lists of ours, never from what strangers type, and of the models' versions only the
newest are kept: the number of series is bounded.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from serve import logs

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
STAGE_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
RTFX_BUCKETS = (0.5, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)
FILL_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1)

STAGES = ("upload", "decode", "queue", "compute")
"""The parts of a request's time. `queue` and `compute` are of a piece of audio, the others of a request."""

MAX_VERSIONS = 8
"""Versions of models that have series of their own. One more, and those of the oldest end."""

MAX_REASONS = 64
NO_VERSION = "none"

JobOutcome = Literal["completed", "failed", "retried", "left", "given_up"]
"""`retried`: by no fault of its own, to be tried again. `left`: cancelled, too late, or taken by another process.
`given_up`: too late, or its processes died too often."""

Siblings = Callable[[], Awaitable[Sequence[Metric]]]


class Metrics:
    """Counters of one ingress process. `siblings` tells those of the other replicas at a scrape."""

    def __init__(self, replica: str = "", *, siblings: Siblings | None = None) -> None:
        self.registry = CollectorRegistry()
        self._replica = replica
        self._siblings = siblings
        self._versions: OrderedDict[str, None] = OrderedDict()
        self._reasons: set[str] = set()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"caspi_{name}", what, ["replica", *labels], registry=self.registry)

        def histogram(name: str, what: str, *labels: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(
                f"caspi_{name}", what, ["replica", *labels], buckets=tuple(buckets), registry=self.registry
            )

        self._requests = counter(
            "requests",
            "Requests under /v1, by path, HTTP status and model",
            "path",
            "status",
            "version",
        )
        self._latency = histogram(
            "request_duration_seconds",
            "Time from a request's headers to the first byte of its answer",
            "path",
            "version",
            buckets=LATENCY_BUCKETS_S,
        )
        self._refusals = counter("refusals", "Answers that are not 2xx, by the code in their body", "reason")
        self._stages = histogram(
            "stage_duration_seconds", "Parts of a request's time", "stage", "version", buckets=STAGE_BUCKETS_S
        )
        self._audio = counter("audio_seconds", "Audio transcribed", "version")
        self._rtfx = histogram(
            "rtfx",
            "Seconds of audio per second that a request took",
            "version",
            buckets=RTFX_BUCKETS,
        )
        self._fill = histogram(
            "batch_fill", "How full a clip's forward passes were, of `max_batch_s`", "version", buckets=FILL_BUCKETS
        )
        self._retries = counter("retries", "Calls of the model that were repeated", "reason")
        self._fallbacks = counter("canary_fallbacks", "Clips that the canary failed and the stable model got", "reason")
        self._poisoned = counter("poisoned_clips", "Clips refused because they end the model's process").labels(replica)
        self._jobs = counter("jobs", "Attempts at jobs, by how they ended", "outcome")
        self._webhooks = counter("webhooks", "Attempts to deliver webhooks, by what became of them", "outcome")

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"caspi_{name}", what, ["replica"], registry=self.registry).labels(replica)

        self.in_flight = gauge("requests_in_flight", "Transcriptions being worked on")
        self.jobs_in_progress = gauge("jobs_in_progress", "Jobs being worked on")

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """One answered request. `path` must be one of the routes: what strangers type would make series without end."""
        record = logs.current()
        version = self._version(_latest(record))
        self._requests.labels(self._replica, path, str(status), version).inc()
        self._latency.labels(self._replica, path, version).observe(seconds)
        if record.upload_s is not None:
            self.observe_stage("upload", record.upload_s)
        if status >= 400:
            self._refusals.labels(self._replica, self._reason(record.refusal or "other")).inc()

    def count_audio(self, seconds: float) -> None:
        """A recording that was transcribed whole."""
        record = logs.current()
        version = self._version(_latest(record))
        self.observe_stage("decode", record.decode_s)
        self._audio.labels(self._replica, version).inc(seconds)
        self._rtfx.labels(self._replica, version).observe(seconds / max(1e-6, record.age_s()))

    def observe_stage(self, stage: str, seconds: float, version: str = NO_VERSION) -> None:
        """One of STAGES."""
        self._stages.labels(self._replica, stage, self._version(version)).observe(seconds)

    def observe_piece(self, version: str, *, queue_s: float, compute_s: float, fill: float) -> None:
        """What a model replica says of its work on one piece of audio."""
        self.observe_stage("queue", queue_s, version)
        self.observe_stage("compute", compute_s, version)
        self._fill.labels(self._replica, self._version(version)).observe(fill)

    def count_retry(self, reason: str) -> None:
        self._retries.labels(self._replica, reason).inc()

    def count_fallback(self, reason: str) -> None:
        self._fallbacks.labels(self._replica, reason).inc()

    def count_poisoned(self) -> None:
        self._poisoned.inc()

    def count_job(self, outcome: JobOutcome) -> None:
        """One attempt at a job."""
        self._jobs.labels(self._replica, outcome).inc()

    def count_webhook(self, outcome: str) -> None:
        """One attempt to deliver one: `delivered`, `pending` (will be tried again) or `failed`."""
        self._webhooks.labels(self._replica, outcome).inc()

    async def render(self) -> bytes:
        """All of it as text, and what the other replicas count."""
        others = await self._siblings() if self._siblings else ()
        return render([*self.registry.collect(), *others])

    def _version(self, version: str) -> str:
        """The label, after those of a version of long ago have made room for it."""
        self._versions[version] = None
        self._versions.move_to_end(version)
        if len(self._versions) > MAX_VERSIONS:
            oldest, _ = self._versions.popitem(last=False)
            for metric in _wrappers(self.registry):
                if "version" in metric._labelnames:
                    metric.remove_by_labels({"version": oldest})
        return version

    def _reason(self, reason: str) -> str:
        if len(self._reasons) < MAX_REASONS:
            self._reasons.add(reason)
        return reason if reason in self._reasons else "other"


class ModelMetrics:
    """Gauges and counters of one model replica."""

    def __init__(self, replica: str) -> None:
        self.registry = CollectorRegistry()
        self._replica = replica
        self.backlog_s = Gauge(
            "caspi_model_backlog_seconds", "Audio waiting and running", ["replica"], registry=self.registry
        ).labels(replica)
        self._info = Gauge(
            "caspi_model_info",
            "The model that answers: always 1",
            ["replica", "name", "version", "sha"],
            registry=self.registry,
        )
        self._swaps = Counter(
            "caspi_model_swaps", "Exchanges of the model in place", ["replica", "outcome"], registry=self.registry
        )

    def show_model(self, *, name: str, version: str, sha: str) -> None:
        """The one that answers from now on."""
        self._info.clear()
        self._info.labels(self._replica, name, version, sha).set(1)

    def count_swap(self, outcome: str) -> None:
        """`done` or `failed`."""
        self._swaps.labels(self._replica, outcome).inc()


def _latest(record: logs.Record) -> str:
    """The version that a request counts for: where a model was exchanged in its middle, the newer one."""
    return record.versions[-1] if record.versions else NO_VERSION


def render(families: Iterable[Metric]) -> bytes:
    """Text of families, those of one name together, as the format wants it."""
    merged: dict[str, Metric] = {}
    for family in families:
        known = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        known.samples.extend(family.samples)

    class Merged(CollectorRegistry):
        def collect(self) -> Iterable[Metric]:
            return merged.values()

    return generate_latest(Merged())


def _wrappers(registry: CollectorRegistry) -> list[MetricWrapperBase]:
    return [each for each in registry._collector_to_names if isinstance(each, MetricWrapperBase)]
