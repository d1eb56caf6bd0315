"""An actor that outlives those who transcribe, and tells what they cannot: what they died of, and why they gave up."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from caspi.errors import CaspiError

_TIMEOUT_S = 300.0


class Witness:
    """The actor. Use it through `start`, `deaths`, `telling` and `told`."""

    def __init__(self) -> None:
        self._under_way: set[str] = set()
        self._deaths: Counter[str] = Counter()
        self._failure: CaspiError | None = None

    def begin(self, name: str) -> int:
        """How many began it and never came to its end."""
        self._deaths[name] += name in self._under_way
        self._under_way.add(name)
        return self._deaths[name]

    def end(self, name: str) -> None:
        self._under_way.discard(name)

    def keep(self, failure: CaspiError) -> None:
        self._failure = failure

    def failure(self) -> CaspiError | None:
        return self._failure


def start() -> Any:
    """The handle of a witness, which goes when nobody holds it any more."""
    import ray

    return ray.remote(Witness).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()


def deaths(witness: Any, name: str) -> int:
    """Begin what goes by this name; how many began it before and died. Say `witness.end.remote(name)` at its end."""
    import ray

    return int(ray.get(witness.begin.remote(name), timeout=_TIMEOUT_S))


@contextlib.contextmanager
def telling(witness: Any) -> Iterator[None]:
    """In an actor: what a user should know is kept before Ray Data makes a page of text of it."""
    import ray

    try:
        yield
    except CaspiError as error:
        ray.get(witness.keep.remote(error), timeout=_TIMEOUT_S)
        raise


@contextlib.contextmanager
def told(witness: Any) -> Iterator[None]:
    """In the driver: what an actor gave up for is raised as what it was.

    Raises:
        CaspiError: an actor met it.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        failure = ray.get(witness.failure.remote(), timeout=_TIMEOUT_S)
        if failure is not None:
            raise failure from error
        raise
