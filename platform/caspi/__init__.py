"""Teach Qwen3-ASR a language it does not know, and serve it.

The stages are packages that can be used alone: `caspi.audio`, `caspi.text`, `caspi.corpus`, `caspi.model`,
`caspi.training`, `caspi.evaluation`, `caspi.inference`. Importing `caspi` loads none of them.
"""

from typing import TYPE_CHECKING, Any

from caspi.errors import CaspiError

if TYPE_CHECKING:
    from caspi.inference.transcriber import Transcriber
    from caspi.inference.transcription import Transcription

__all__ = ["CaspiError", "Transcriber", "Transcription"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`caspi.Transcriber` imports torch when it is first asked for, and not before."""
    if name == "Transcriber":
        from caspi.inference.transcriber import Transcriber

        return Transcriber
    if name == "Transcription":
        from caspi.inference.transcription import Transcription

        return Transcription
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
