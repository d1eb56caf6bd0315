"""Every error that a user of Caspi can meet.

    CaspiError
    ├── RequestError            what was asked for cannot be done as asked; nothing was started (exit code 2)
    │   ├── RecipeError         a key, a value or a combination in a recipe
    │   ├── SourceError         a data source that is not there, or is not what its `kind` says
    │   ├── CorpusError         a folder that is not a corpus, or a corpus without what was asked of it
    │   ├── ModelError          a folder, alias or Hub id that is not a model Caspi can use
    │   ├── RunError            a run folder that is taken, or has nothing to resume
    │   └── ResultsError        a folder without the evaluation that was asked for, or with another one
    ├── AudioError              one recording that cannot be used; `prepare` turns it into a rejected row
    │   ├── AudioDecodeError    bytes that are not audio, are damaged, or of a codec that we cannot read
    │   │   ├── TruncatedAudioError   they stop in the middle
    │   │   └── InvalidSamplesError   NaN or infinity among the samples
    │   ├── EmptyAudioError     audio without bytes, channels or samples
    │   ├── AudioTooLongError   longer than the caller allows
    │   ├── AudioTooLargeError  more memory than the caller allows
    │   ├── DecoderCrashedError the decoder's process died of it
    │   └── DecoderTimeoutError the decoder did not come to an end
    ├── StorageError            a disk without room, or storage that is gone
    ├── TrainingError           training started and could not finish
    ├── TrackingError           the MLflow server does not answer, or refuses
    ├── GateError               a model is not good enough to take the champion's place
    ├── EngineError             what decodes did not start, ended, or computes something else than it should
    └── ServingError            the endpoint did not come up, or stopped

The command line prints the message of a CaspiError and nothing else; any other exception is our bug and shows its
traceback.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class CaspiError(Exception):
    """Base of every error that a user can meet. Its message says what was found, what was expected and what to do."""

    exit_code = 1


class RequestError(CaspiError):
    """What was asked for cannot be done as asked; nothing was started."""

    exit_code = 2


class RecipeError(RequestError):
    """A key, a value or a combination in a recipe is wrong. The message names the dotted key."""


class SourceError(RequestError):
    """A data source is not there, or is not what its `kind` says."""


class CorpusError(RequestError):
    """A folder is not a corpus, or the corpus lacks what was asked of it."""


class ModelError(RequestError):
    """A folder, alias or Hub id is not a model that Caspi can use."""


class RunError(RequestError):
    """A run folder is taken, or holds nothing to resume."""


class ResultsError(RequestError):
    """A folder holds no finished evaluation, or another one than was asked for."""


class AudioError(CaspiError):
    """One recording cannot be used. `reason` is the code under which `prepare` counts it."""

    reason = "unusable_audio"


class AudioDecodeError(AudioError):
    """The bytes are not audio, are damaged, or of a codec that we cannot read."""

    reason = "undecodable_audio"


class TruncatedAudioError(AudioDecodeError):
    """The recording stops in the middle."""

    reason = "truncated_audio"


class InvalidSamplesError(AudioDecodeError):
    """Samples that are NaN or infinite."""

    reason = "invalid_samples"


class EmptyAudioError(AudioError):
    """The audio holds no bytes, no channels or no samples."""

    reason = "empty_audio"


class AudioTooLongError(AudioError):
    """The audio is longer than the caller allows."""

    reason = "audio_too_long"


class AudioTooLargeError(AudioError):
    """Decoding it would take more memory than the caller allows."""

    reason = "audio_too_large"


class DecoderCrashedError(AudioError):
    """The decoder's process died of this recording."""

    reason = "decoder_crashed"


class DecoderTimeoutError(AudioError):
    """The decoder did not come to an end with this recording."""

    reason = "decoder_timeout"


class StorageError(CaspiError):
    """A disk is full, or storage is gone. What was written before is kept."""


class TrainingError(CaspiError):
    """Training started and could not finish."""


class TrackingError(CaspiError):
    """The MLflow server does not answer, or refuses what we send."""


class GateError(CaspiError):
    """A model is not good enough to take the champion's place, which stays as it is. The message says by how much."""


class EngineError(CaspiError):
    """What decodes did not start, ended, or computes something else than it should. It is of no use any more."""


class ServingError(CaspiError):
    """The endpoint did not come up, or stopped."""


def describe_invalid(invalid: "ValidationError") -> str:
    """What is wrong with values that a pydantic model refused: `keys.0.sha256: Field required; ...`."""
    return "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in invalid.errors())
