"""Shards of a corpus in an object store, brought to this machine before they are read.

A plan says which windows of shards come next. While one is trained on, the next one is on its way: after the first, no
step waits for a whole download. Of a corpus in a folder nothing is fetched, and no thread is started.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from types import TracebackType
from typing import Self

from caspi import settings
from caspi.corpus import Corpus
from caspi.corpus.mirror import Mirror
from caspi.errors import CaspiError
from caspi.training.plan import EpochPlan

logger = logging.getLogger(__name__)

_SHARDS_AT_ONCE = 2  # each in ranges of which several are under way


class ShardFetcher:
    """Threads that fetch what a run will read, within a `with` block."""

    def __init__(self, corpus: Corpus) -> None:
        self._mirror = corpus.mirror
        self._threads = ThreadPoolExecutor(_SHARDS_AT_ONCE, "fetch-shards")
        self._begun: list[Future[None]] = []
        self._place = (-1, -1)  # epoch and window
        self._is_narrow = False

    def follow(self, plans: Sequence[EpochPlan], epoch: int, step: int) -> None:
        """Have what is missing of this step's window fetched, and then the next window; what waited before does not."""
        place = epoch, plans[epoch].window_of(step)
        if self._mirror is None or place == self._place:
            return
        self._place = place
        for future in self._begun:
            future.cancel()
        fitting = self._fitting(self._mirror, upcoming_shards(plans, *place))
        self._begun = [self._threads.submit(self._fetch, self._mirror, shard) for shard in fitting]

    def _fitting(self, mirror: Mirror, shards: Sequence[str]) -> Sequence[str]:
        """The first ones that the machine has room for. More would drive out each other."""
        stored, max_bytes = mirror.shards(), settings.read().corpus_cache_bytes
        totals = list(accumulate(stored[shard].num_bytes for shard in shards))
        fitting = shards[: sum(total <= max_bytes for total in totals)]
        if len(fitting) < len(shards) and not self._is_narrow:
            self._is_narrow = True
            logger.warning(
                "steps will wait for downloads: two windows have %.2f GB of shards, CASPI_CORPUS_CACHE_GB=%.2f",
                totals[-1] / 1e9, max_bytes / 1e9,
            )  # fmt: skip
        return fitting

    def _fetch(self, mirror: Mirror, shard: str) -> None:
        try:
            mirror.ensure(shard)
        except CaspiError as error:  # whoever reads it tries again, and meets the error itself
            logger.warning("not fetched ahead: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def upcoming_shards(plans: Sequence[EpochPlan], epoch: int, window: int) -> list[str]:
    """The shards of a window, and behind them those of the one that comes next, be it in the next epoch."""
    here, after = plans[epoch], plans[epoch + 1 : epoch + 2]
    windows = [*here.windows[window:], *(each for plan in after for each in plan.windows)][:2]
    return list(dict.fromkeys(here.index.shards[shard] for shards in windows for shard in shards))
