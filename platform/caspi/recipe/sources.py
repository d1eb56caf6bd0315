"""Where speech comes from: one model for each kind of source."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from caspi import text
from caspi.errors import RequestError
from caspi.recipe.section import Section


def _known(code: str) -> str:
    try:
        text.language_name(code)
    except RequestError as error:
        raise ValueError(str(error)) from error
    return code


Language = Annotated[str, AfterValidator(_known)]
"""An ISO 639 code that `caspi.text` knows."""


class SourceSection(Section):
    """What every kind of source can say."""

    path_fields: ClassVar[tuple[str, ...]] = ("path",)
    """The fields that hold paths, which are relative to the recipe."""

    name: str | None = None
    """How rows of this source are called in the corpus and in reports. Default: the folder's or file's name."""

    split: Literal["train", "validation", "test"] | None = None
    """Put every recording of this source on one side. Default: by hash, see `data.splits`."""

    language: Language | None = None
    """ISO 639 code of what is spoken here. Default: `data.language`. Another one is for recordings of a language that
    the model knows already, so that it does not forget it."""


class HubParquetSource(SourceSection):
    """Parquet with an `Audio` column (`struct<bytes, path>`), as the Hugging Face hub stores it."""

    kind: Literal["hub_parquet"]

    path: str
    """A file, folder, glob or URL of parquet files. `hf://datasets/OWNER/NAME/...` reads the hub."""

    layout: Literal["auto", "crowd_transcribe", "whisper_training", "fleurs", "common_voice", "columns"] = "auto"
    """ivrit.ai's two schemas, FLEURS, Common Voice, or named columns. `auto` recognises the first four by theirs."""

    audio_column: str = "audio"
    """With layout `columns`: encoded bytes, or a struct with `bytes`."""

    text_column: str | None = None
    """The transcript. Default: `text` with layout `columns`, `raw_transcription` with FLEURS; `transcription` is that
    without capitals and punctuation. `a.b` is the field b of the struct a; so it is with the columns below."""

    id_column: str | None = None
    """With layout `columns`: a unique id of the row. Default: file name and row number."""

    recording_column: str | None = None
    """With layout `columns`: rows that share it stay on one side of a split. Default: each row is its own recording."""

    speaker_column: str | None = None
    """With layout `columns`: who speaks."""

    @model_validator(mode="after")
    def _text_is_a_choice_only_where_there_is_one(self) -> Self:
        if self.text_column and self.layout in ("crowd_transcribe", "whisper_training", "common_voice"):
            raise ValueError(f"layout {self.layout} has one transcript; leave text_column out, or say layout: columns")
        return self


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


class NemoSource(SourceSection):
    """NeMo manifests: JSON lines with `audio_filepath`, `duration`, `text` and, for spans of long files, `offset`."""

    kind: Literal["nemo"]

    path: str
    """The file, a glob of files, or a URL. Audio paths inside are relative to it."""

    tar_path: str | None = None
    """Where the tars of a tarred manifest are, relative to it: `audio_{shard_id}.tar`. Default: files, no tars."""

    text_key: str = "text"
    """The key of the transcript. `pred_text`, a model's words, is never read unless it is named here."""

    id_key: str | None = "id"
    """The key of a unique id; where a line has none, the file name and line number."""

    recording_key: str | None = "recording_id"
    """The key of the recording; lines that share it stay on one side of a split. Where a line has none: its file."""

    speaker_key: str | None = "speaker"
    """The key of the speaker's name."""


class CommonVoiceSource(SourceSection):
    """A Common Voice release as it is downloaded: tables (`train.tsv`, ...) and a folder `clips` beside them."""

    kind: Literal["common_voice"]

    path: str
    """The folder of a language, or a table, or a glob of tables."""

    tables: tuple[str, ...] = Field(("train", "dev", "test"), min_length=1)
    """Of a folder, which tables. `validated` holds what the other three hold and far more, with no split drawn."""

    @model_validator(mode="after")
    def _no_clip_is_read_twice(self) -> Self:
        if "validated" in self.tables and {"train", "dev", "test"} & set(self.tables):
            raise ValueError("tables: validated holds the clips of train, dev and test again; name it alone")
        return self


class KaldiSource(SourceSection):
    """A Kaldi data folder: `wav.scp` and `text`, perhaps `segments` and `utt2spk`."""

    path_fields: ClassVar[tuple[str, ...]] = ("path", "audio_root")

    kind: Literal["kaldi"]

    path: str
    """The folder."""

    audio_root: str | None = None
    """Where relative paths in `wav.scp` start. Default: the folder. Kaldi takes them from where a command was run."""


class WebdatasetSource(SourceSection):
    """WebDataset tars: files that share a name up to its first dot are one sample."""

    kind: Literal["webdataset"]

    path: str
    """A tar, folder, glob or URL; `shard-{000..127}.tar` stands for all of them."""

    text_key: str = "text"
    """The key of the transcript in a sample's `.json`. A sample with a `.txt` needs none."""

    id_key: str | None = "id"
    """The key of a unique id in the `.json`; where there is none, the name of the tar and of the sample."""

    recording_key: str | None = "recording_id"
    """The key of the recording; samples that share it stay on one side of a split."""

    speaker_key: str | None = "speaker"
    """The key of the speaker's name."""


class LhotseSource(SourceSection):
    """Lhotse's manifests: cuts, or recordings with supervisions. Needs `pip install 'caspi[lhotse]'`."""

    path_fields: ClassVar[tuple[str, ...]] = ("path", "supervisions", "audio_root")

    kind: Literal["lhotse"]

    path: str
    """Cuts, or recordings if `supervisions` are given: a `.jsonl` or `.jsonl.gz`, a glob of them, or a URL."""

    supervisions: str | None = None
    """The supervisions of the recordings in `path`. Cuts hold their own."""

    audio_root: str | None = None
    """Where relative audio paths start. Default: the folder of the manifest."""


Source = Annotated[
    HubParquetSource
    | JsonlSource
    | FolderSource
    | NemoSource
    | CommonVoiceSource
    | KaldiSource
    | WebdatasetSource
    | LhotseSource,
    Field(discriminator="kind"),
]
