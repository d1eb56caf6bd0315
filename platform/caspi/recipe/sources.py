"""Where speech comes from: one model for each kind of source."""

from typing import Annotated, Literal

from pydantic import Field

from caspi.recipe.section import Section


class SourceSection(Section):
    """What every kind of source can say."""

    name: str | None = None
    """How rows of this source are called in the corpus and in reports. Default: the folder's or file's name."""

    split: Literal["train", "validation", "test"] | None = None
    """Put every recording of this source on one side. Default: by hash, see `data.splits`."""


class HubParquetSource(SourceSection):
    """Parquet with an `Audio` column (`struct<bytes, path>`), as the Hugging Face hub stores it."""

    kind: Literal["hub_parquet"]

    path: str
    """A file, folder, glob or URL of parquet files. `hf://datasets/OWNER/NAME/...` reads the hub."""

    layout: Literal["auto", "crowd_transcribe", "whisper_training", "columns"] = "auto"
    """ivrit.ai's two schemas, or named columns. `auto` recognises the first two by their columns."""

    audio_column: str = "audio"
    """With layout `columns`: the struct of encoded bytes."""

    text_column: str = "text"
    """With layout `columns`: the transcript."""

    id_column: str | None = None
    """With layout `columns`: a unique id of the row. Default: file name and row number."""

    recording_column: str | None = None
    """With layout `columns`: rows that share it stay on one side of a split. Default: each row is its own recording."""

    speaker_column: str | None = None
    """With layout `columns`: who speaks."""


class JsonlSource(SourceSection):
    """JSON lines, one recording a line, audio in files beside it."""

    kind: Literal["jsonl"]

    path: str
    """The file, a glob of files, or a URL. Audio paths inside are relative to it."""

    audio_key: str = "audio"
    """The key of the audio path."""

    text_key: str = "text"
    """The key of the transcript. A transcript in Qwen's form, `language X<asr_text>...`, loses that prefix."""

    id_key: str | None = "id"
    """The key of a unique id; where a line has none, the file name and line number."""

    recording_key: str | None = "recording_id"
    """The key of the recording; lines that share it stay on one side of a split. Where a line has none: its id."""

    speaker_key: str | None = "speaker"
    """The key of the speaker's name."""

    split_key: str | None = None
    """The key of the split (`train`, `validation`, `test`), for corpora that bring their own."""


class FolderSource(SourceSection):
    """A folder of audio files, each with its transcript in a `.txt` beside it."""

    kind: Literal["folder"]

    path: str
    """The folder. Sub-folders are read too. Each audio file is a recording."""


Source = Annotated[HubParquetSource | JsonlSource | FolderSource, Field(discriminator="kind")]
