"""Fine-tuning: a plan of batches, an exact loss, a loop that can be killed anywhere, and its launch on Ray Train.

`caspi.training.plan` is plain numpy; Ray and torch are imported when `train` is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caspi.training.launch import TrainResult, train

__all__ = ["TrainResult", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from caspi.training import launch

        return getattr(launch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
