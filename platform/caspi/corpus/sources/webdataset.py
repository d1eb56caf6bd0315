"""WebDataset tars: files whose names are equal up to the first dot are one sample, and follow one another."""

import posixpath
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from caspi.corpus.rows import Chunk, Row
from caspi.corpus.sources import files, lines, tars
from caspi.corpus.sources.files import File
from caspi.corpus.sources.folder import AUDIO_SUFFIXES
from caspi.corpus.sources.lines import MalformedLine
from caspi.corpus.sources.tars import Damage, Member
from caspi.errors import SourceError
from caspi.recipe.sources import WebdatasetSource

# A chunk is read whole, so it is bounded both ways; one sample may be larger.
_ROWS_PER_CHUNK = 64
_BYTES_PER_CHUNK = 2**26

_AUDIO_HEAD = re.compile(
    rb"RIFF|RF64|fLaC|OggS|ID3|\xff[\xe0-\xff]|\x1aE\xdf\xa3|\.snd|NIST_1A|FORM|....ftyp", re.DOTALL
)


@dataclass(slots=True)
class _Sample:
    """Files of one name."""

    key: str
    members: list[Member] = field(default_factory=list)

    @property
    def start(self) -> int:
        return self.members[0].start

    @property
    def stop(self) -> int:
        return self.members[-1].data_stop


def plan(source: WebdatasetSource, number: int) -> list[Chunk]:
    """Ranges of bytes that hold whole samples, found by the headers. What follows a tar's damage is one more row."""
    found = files.find_files(source.path, ".tar")
    with ThreadPoolExecutor(16) as pool:
        planned = list(pool.map(partial(_plan_tar, source=source, number=number), found))
    if not any(has_audio for _, has_audio, _ in planned):
        raise SourceError(f"{source.path}: no audio in {len(found)} tars; {planned[0][2]}")
    return [chunk for chunks, _, _ in planned for chunk in chunks]


def _plan_tar(file: File, source: WebdatasetSource, number: int) -> tuple[list[Chunk], bool, str]:
    """The chunks of a tar, whether it holds audio, and in words what else it holds."""
    chunks: list[Chunk] = []
    common = Chunk(number, file.path, 0, split=source.split, version=file.version)
    num_rows = first_row = start = stop = 0
    has_audio, seen = False, "the first is empty"
    for found in _samples(file.path):
        if isinstance(found, Damage):
            if num_rows:
                chunks.append(replace(common, num_rows=num_rows, first_row=first_row, start=start, stop=stop))
            # `stop` at its own start tells the reader that there is nothing to read.
            chunks.append(
                replace(
                    common, num_rows=1, first_row=first_row + num_rows, start=found.start, stop=found.start,
                    files=[found.detail],
                )
            )  # fmt: skip
            return chunks, has_audio, found.detail if first_row + num_rows == 0 else seen
        has_audio = has_audio or _holds_audio(file.path, found)
        seen = f"the last sample of the first has {', '.join(member.name for member in found.members)}"
        if num_rows == _ROWS_PER_CHUNK or (num_rows and found.stop - start > _BYTES_PER_CHUNK):
            chunks.append(replace(common, num_rows=num_rows, first_row=first_row, start=start, stop=stop))
            first_row, num_rows = first_row + num_rows, 0
        if num_rows == 0:
            start = found.start
        num_rows, stop = num_rows + 1, found.stop
    if num_rows:
        chunks.append(replace(common, num_rows=num_rows, first_row=first_row, start=start, stop=stop))
    return chunks, has_audio, seen


def _samples(path: str) -> Iterator[_Sample | Damage]:
    sample: _Sample | None = None
    for found in tars.scan(path):
        if isinstance(found, Damage):
            key = _key(found.name) if found.name else None
            if sample and sample.key == key:  # the file that is cut short belongs to it
                found = replace(found, start=sample.start)
            elif sample:
                yield sample
            yield found
            return
        key = _key(found.name)
        if key is None:
            continue
        if sample is None or key != sample.key:
            if sample:
                yield sample
            sample = _Sample(key)
        sample.members.append(found)
    if sample:
        yield sample


def _key(name: str) -> str | None:
    """`a/b` of `a/b.seg.wav`; None for names without an extension, and for hidden ones."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, dot, _ = base.partition(".")
    return posixpath.join(folder, stem) if stem and dot else None


def _holds_audio(path: str, sample: _Sample) -> bool:
    if any(_is_audio_name(member.name) for member in sample.members):
        return True
    others = [member for member in sample.members if not member.name.endswith((".txt", ".json"))]
    return any(_AUDIO_HEAD.match(files.read_bytes(path, other.data_start, other.data_start + 12)) for other in others)


def _is_audio_name(name: str) -> bool:
    return name.lower().endswith(AUDIO_SUFFIXES)


def read(chunk: Chunk, source: WebdatasetSource, name: str, refused_flags: frozenset[str]) -> Iterator[Row]:
    """One row for each sample, and one for what lies behind damage."""
    within = files.name_within(chunk.path, source.path)
    if chunk.start == chunk.stop:
        row_id = f"{name}/{within}@{chunk.start}"
        yield Row(row_id, row_id, None, path=chunk.path, split=chunk.split, problem=("malformed_row", chunk.files[0]))
        return
    content = files.read_bytes(chunk.path, chunk.start, chunk.stop)
    for sample in tars.members_of(content, chunk.path, _key):
        yield _row(sample, chunk, source, name, within)


def _row(
    sample: tuple[str, Sequence[tuple[str, bytes]]], chunk: Chunk, source: WebdatasetSource, name: str, within: str
) -> Row:
    key, contents = sample
    metadata: dict[str, Any] = {}
    transcript, problem = None, None
    try:
        metadata = _metadata(contents)
        transcript = _transcript(contents, metadata, source)
    except MalformedLine as error:
        problem = "malformed_row", str(error)
    encoded = _audio(contents)
    if encoded is None:
        problem = problem or ("missing_audio", f"the sample has only {', '.join(file for file, _ in contents)}")
    return Row(
        lines.text_of(metadata, source.id_key) or f"{name}/{within}/{key}",
        lines.text_of(metadata, source.recording_key) or f"{within}/{key}",
        transcript,
        encoded,
        path=f"{chunk.path}#{key}",
        speaker_id=lines.text_of(metadata, source.speaker_key),
        split=chunk.split,
        problem=problem,
    )


def _audio(contents: Sequence[tuple[str, bytes]]) -> bytes | None:
    """By name; where no name says so, by content."""
    named = [content for file, content in contents if _is_audio_name(file)]
    others = [content for file, content in contents if not file.endswith((".txt", ".json"))]
    return next((content for content in [*named, *(other for other in others if _AUDIO_HEAD.match(other))]), None)


def _metadata(contents: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
    found = next((content for file, content in contents if file.endswith(".json")), None)
    return {} if found is None else lines.parse_json(found)


def _transcript(
    contents: Sequence[tuple[str, bytes]], metadata: dict[str, Any], source: WebdatasetSource
) -> str | None:
    found = next((content for file, content in contents if file.endswith(".txt")), None)
    if found is None:
        return lines.transcript_of(metadata, source.text_key)
    try:
        return found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedLine(f"the .txt is not UTF-8: {error}") from error
