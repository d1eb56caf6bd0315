"""Batches to the device on which they are computed, each copied while the one before it is computed."""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch

from caspi.model import Batch


def transferred(batches: Sequence[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on a device, in their order. Of a GPU's memory two of them have a place at once.

    From pinned memory, a GPU copies beside its arithmetic and nothing waits.
    """
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    stream = _stream(device)
    coming: deque[tuple[Batch, torch.cuda.Event]] = deque()
    for batch in batches:
        with torch.cuda.stream(stream):
            coming.append((batch.to(device), stream.record_event()))
        if len(coming) == 2:
            yield _arrived(*coming.popleft(), device)
    while coming:
        yield _arrived(*coming.popleft(), device)


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all steps: the allocator keeps what was freed for each stream apart."""
    return torch.cuda.Stream(device)


def _arrived(batch: Batch, event: torch.cuda.Event, device: torch.device) -> Batch:
    computing = torch.cuda.current_stream(device)
    computing.wait_event(event)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(computing)  # the memory is another stream's, which would give it away too early
        return tensor

    return batch.map(keep)
