"""What travels through preparation: a chunk of a source, the rows read from it, and what becomes of them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from caspi.audio.measures import Measures


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a source that one task reads: small enough for memory, and the same however many tasks there are."""

    source: int  # place among `data.sources`
    path: str  # file, or folder for a list of files
    num_rows: int
    first_row: int = 0  # number of the chunk's first row in `path`
    start: int = 0  # what the kind of source needs to find its rows: a byte, a row of a row group
    stop: int = 0
    row_group: int = 0
    files: list[str] = field(default_factory=list)
    split: str | None = None  # where the source itself puts these rows
    drawn_splits: list[str] = field(default_factory=lambda: ["validation", "test"])  # which splits the hash may draw
    version: str = ""  # size and time of what the chunk reads: when it changes, the chunk is prepared again


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of a recording and what is said in it."""

    start_s: float
    end_s: float | None  # None: never closed; infinity: the end of the audio
    text: str
    segment_id: str | None = None  # the source's own id; default: the row's id and a number
    speaker_id: str | None = None  # default: the row's


@dataclass(frozen=True, slots=True)
class Row:
    """One input row, the same for every kind of source. Personal fields of the source are not among these."""

    row_id: str
    recording_id: str
    transcript: str | None
    encoded: bytes | None = None
    path: str = ""  # for messages
    speaker_id: str | None = None
    split: str | None = None  # None: by hash
    is_timed: bool = False  # the transcript holds Whisper's timestamp tokens
    segments: tuple[Segment, ...] | None = None  # a recording with segments of its own, in order; no `transcript` then
    previous_text: str | None = None  # what was said just before this row, where the source knows
    flags: tuple[str, ...] = ()  # the source's own warnings that are set
    quality_score: float | None = None
    problem: tuple[str, str] | None = None  # reason and detail, when reading the row already failed


@dataclass(frozen=True, slots=True)
class Prepared:
    """A row, or a segment of one, that was kept."""

    utterance_id: str
    audio: bytes  # FLAC, 16 kHz, mono
    duration_s: float
    text: str
    start_s: float  # within the recording
    end_s: float
    speaker_id: str | None
    previous_text: str | None
    measures: Measures
    audio_digest: bytes  # 16 bytes over the samples: equal sound, equal digest
    speech_s: float | None  # None: not looked for
    native_sample_rate: int  # Hz, of the file that it came from
    codec: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row, or a segment of one, that was not kept."""

    utterance_id: str
    reason: str
    detail: str
    start_s: float | None = None  # None: the whole recording
    end_s: float | None = None
    text: str | None = None  # the transcript, where there is one
    example: Callable[[], bytes | None] | None = None  # makes an MP3 to listen to, where there is sound
