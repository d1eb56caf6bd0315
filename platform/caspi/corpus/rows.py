"""What travels through preparation: a chunk of a source, the rows read from it, and what becomes of them."""

from dataclasses import dataclass, field


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


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row, or a segment of one, that was not kept."""

    utterance_id: str
    reason: str
    detail: str
    start_s: float | None = None  # None: the whole recording
    end_s: float | None = None
