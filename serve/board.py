"""What the replicas of an application tell each other, and nothing that a request could not do without.

An actor without a CPU of its own holds three things: the counters that each replica published last, so that one scrape
of any ingress sees them all; which suspect clip a model replica is at, so that a death can be laid at its door; and the
hashes of clips that were found to end the model's process. It outlives every replica, or the death that it is to judge
would be its own, and ends a minute after the last of them. Whoever misses it starts another one. Each ingress keeps its
own copy of the hashes and tells a new board, so its death costs a few seconds of other replicas' counters.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ray
from prometheus_client import CollectorRegistry, Metric
from ray.exceptions import RayError

logger = logging.getLogger("ray.serve.caspi")

NAMESPACE = "caspi"
PUBLISH_EVERY_S = 2.0
FORGET_REPLICA_AFTER_S = 30.0
FORGET_POISON_AFTER_S = 3600.0
FORGET_SUSPECT_AFTER_S = 600.0
FORGET_DEATH_AFTER_S = 60.0
MAX_POISON = 1000
END_AFTER_S = 60.0

# Long enough for a first call, which waits until the actor has started. No request waits for the board but suspects.
TIMEOUT_S = 10.0


class Expiring:
    """Keys that are forgotten after a while, and the oldest as well when there are too many. Times are Unix times."""

    def __init__(self, after_s: float, *, at_most: int) -> None:
        self._after_s = after_s
        self._at_most = at_most
        self._values: dict[str, tuple[float, Any]] = {}

    def put(self, key: str, value: Any = None, *, since: float | None = None) -> None:
        """`since`: when it began, if not now."""
        self._values[key] = (time.time() if since is None else since, value)
        while len(self._values) > self._at_most:
            del self._values[min(self._values, key=lambda known: self._values[known][0])]

    def discard(self, key: str) -> None:
        self._values.pop(key, None)

    def items(self) -> dict[str, Any]:
        """What is not forgotten yet."""
        oldest = time.time() - self._after_s
        self._values = {key: kept for key, kept in self._values.items() if kept[0] > oldest}
        return {key: value for key, (_, value) in self._values.items()}

    def times(self) -> dict[str, float]:
        """When each began."""
        return {key: self._values[key][0] for key in self.items()}

    def learn(self, times: Mapping[str, float]) -> None:
        """Add what others know, which is forgotten when they forget it."""
        for key, since in times.items():
            if key not in self._values:
                self.put(key, since=since)

    def __contains__(self, key: str) -> bool:
        return key in self.items()


class Board:
    """The actor's side."""

    def __init__(self) -> None:
        self._families = Expiring(FORGET_REPLICA_AFTER_S, at_most=1000)
        self._suspects = Expiring(FORGET_SUSPECT_AFTER_S, at_most=10_000)
        self._poison = Expiring(FORGET_POISON_AFTER_S, at_most=MAX_POISON)
        self._deaths = Expiring(FORGET_DEATH_AFTER_S, at_most=1000)
        self._last_news = time.monotonic()
        self._is_watched = False

    async def publish(self, replica: str, families: Sequence[Metric]) -> None:
        self._families.put(replica, families)
        self._last_news = time.monotonic()

    async def end_when_forgotten(self) -> None:
        """Ends the actor when no replica has published for a while."""
        if self._is_watched:
            return
        self._is_watched = True
        while time.monotonic() < self._last_news + END_AFTER_S:
            await asyncio.sleep(1)
        ray.actor.exit_actor()

    async def collect(self, asking: str) -> list[Metric]:
        """The counters of every replica but the one that asks."""
        others = [families for replica, families in self._families.items().items() if replica != asking]
        return [family for families in others for family in families]

    async def begin(self, attempt: str) -> None:
        """A model replica starts on a suspect clip, alone."""
        self._suspects.put(attempt)

    async def end(self, attempt: str) -> None:
        """It came to an end."""
        self._suspects.discard(attempt)

    async def note_death(self, actor: str) -> None:
        """A model replica is gone. Everybody who was with it says so."""
        self._deaths.put(actor)

    async def examine(self, attempt: str, actors: Collection[str]) -> int | None:
        """None unless a replica began on this attempt and did not end; else how many died lately beside these."""
        return len(set(self._deaths.items()) - set(actors)) if attempt in self._suspects else None

    async def share_poison(self, known: Mapping[str, float]) -> dict[str, float]:
        """Add these hashes and the times when they were found; returns all of them."""
        self._poison.learn(known)
        return self._poison.times()


class BoardClient:
    """A replica's side. No call outlasts its timeout or raises: what the board cannot say is None."""

    def __init__(self, application: str, replica: str) -> None:
        self._name = f"{application}.board"
        self.replica = replica
        self._board: Any = None

    async def ask(self, method: str, *args: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """What the board answers, or None."""
        try:
            board = self._board or await asyncio.to_thread(self._connect)
            return await asyncio.wait_for(getattr(board, method).remote(*args), timeout_s)
        except (RayError, TimeoutError, ValueError) as problem:
            logger.warning("board away error=%s", type(problem).__name__)
            self._board = None
            return None

    async def keep_publishing(self, registry: CollectorRegistry) -> None:
        """Publish a registry every other second, until cancelled."""
        while True:
            await self.ask("publish", self.replica, list(registry.collect()))
            await asyncio.sleep(PUBLISH_EVERY_S)

    def _connect(self) -> Any:
        named = {"name": self._name, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached"}
        self._board = ray.remote(Board).options(**named, num_cpus=0, max_concurrency=1000).remote()
        self._board.end_when_forgotten.remote()
        return self._board
