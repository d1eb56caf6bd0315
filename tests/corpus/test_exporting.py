"""A corpus in other people's formats, and back: nothing may be lost on the way."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from caspi import audio, cli
from caspi.corpus.exporting import export
from caspi.corpus.exports import FORMATS, hf_parquet, rows
from caspi.corpus.format import INDEX_SCHEMA, SCHEMA_VERSION, SHARD_SCHEMA, Corpus
from caspi.errors import CorpusError, RequestError
from tests.corpus.conftest import recipe

NUM_UTTERANCES = {"train": 7, "validation": 2, "test": 3}

# Ids that no file could be called, and that WebDataset would cut at the dot.
IDS = ["a/b.c", "שלום עולם", "..", "x" * 300, "quote\"'", "new\nline", "plain"]

# By type, for columns that the fixture does not name: every column of the schema must survive, whichever there are.
VALUES = {
    pa.string(): "ערך {}",
    pa.float64(): 0.1,
    pa.float32(): 0.3,
    pa.int32(): 3,
    pa.bool_(): True,
    pa.binary(): b"\xff",
}


def samples(number: int) -> np.ndarray:
    """Noise over all sixteen bits, the two ends included, of a length of its own."""
    noise = np.random.default_rng(number).integers(-32768, 32768, 1600 + 37 * number, dtype=np.int16)
    noise[:2] = -32768, 32767
    return noise


def flac(samples: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, 16000, format="FLAC", subtype="PCM_16")
    return encoded.getvalue()


def shard_row(split: str, number: int) -> dict[str, Any]:
    known = {
        "utterance_id": f"{split}/{IDS[number]}",
        "audio": flac(samples(number)),
        "duration_s": len(samples(number)) / 16000,
        "text": f'אמר "צה"ל" {number}\\',
        "language": "he",
        "source": "crowd",
        "recording_id": f"recording {split} {number // 2}",
        "speaker_id": None if number == 1 else f"s{number}",
        "start_s": 0.1 * number,
        "end_s": 0.1 * number + len(samples(number)) / 16000,
        "split": split,
    }
    return {field.name: known.get(field.name, _any_value(field, number)) for field in SHARD_SCHEMA}


def _any_value(field: pa.Field, number: int) -> Any:
    if number == 2:
        return None
    value = VALUES[field.type]
    return value.format(number) if isinstance(value, str) else value


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """A corpus of three splits, written by hand; train has two shards."""
    folder, index = tmp_path / "corpus", []
    for split, count in NUM_UTTERANCES.items():
        made = [shard_row(split, number) for number in range(count)]
        for place, part in enumerate([made[:4], made[4:]]):
            if part:
                path = folder / split / f"shard-{place:05d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(pa.Table.from_pylist(part, SHARD_SCHEMA), path, row_group_size=3)
                light = {"shard": f"{split}/{path.name}", "num_text_bytes": 1}
                index += [row | light | {"row": number} for number, row in enumerate(part)]
    columns = [{name: row.get(name) for name in INDEX_SCHEMA.names} for row in index]
    pq.write_table(pa.Table.from_pylist(columns, INDEX_SCHEMA), folder / "utterances.parquet")
    manifest = {"schema_version": SCHEMA_VERSION, "fingerprint": "made by hand"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Corpus.open(folder)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tars and parquet files of about two utterances, and row groups of one."""
    size = len(flac(samples(0)))
    monkeypatch.setattr(rows, "MAX_SHARD_BYTES", size + 1)
    monkeypatch.setattr(hf_parquet, "_MAX_ROWS_PER_GROUP", 1)


def expected(corpus: Corpus) -> list[dict[str, Any]]:
    """Every column of every utterance, in order, with samples for the audio."""
    utterances = [utterance for split in NUM_UTTERANCES for utterance in corpus.iter_utterances(split)]
    assert len(utterances) == sum(NUM_UTTERANCES.values())
    return [
        {name: getattr(each, name) for name in rows.LIGHT_COLUMNS} | {"samples": pcm(each.audio)} for each in utterances
    ]


def pcm(encoded: bytes) -> list[int]:
    decoded, rate = soundfile.read(io.BytesIO(encoded), dtype="int16")
    assert rate == 16000 and decoded.ndim == 1
    return list(decoded)


def from_json(line: str | bytes, encoded: bytes, names: dict[str, str]) -> dict[str, Any]:
    """Back to our names and types."""
    values = json.loads(line)
    found = {name: values[names.get(name, name)] for name in rows.LIGHT_COLUMNS}
    for field in SHARD_SCHEMA:
        if field.type == pa.binary() and field.name in found and found[field.name] is not None:
            found[field.name] = bytes.fromhex(found[field.name])
    return found | {"samples": pcm(encoded)}


NAMES = {"utterance_id": "id", "speaker_id": "speaker"}


def read_qwen_jsonl(folder: Path) -> Iterator[dict[str, Any]]:
    for split in NUM_UTTERANCES:
        for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines():
            wav = (folder / json.loads(line)["audio"]).read_bytes()
            assert soundfile.info(io.BytesIO(wav)).subtype == "PCM_16"
            found = from_json(line, wav, NAMES)
            assert found["text"].startswith("language Hebrew<asr_text>")
            yield found | {"text": found["text"].removeprefix("language Hebrew<asr_text>")}


def read_nemo(folder: Path) -> Iterator[dict[str, Any]]:
    for split in NUM_UTTERANCES:
        for line in (folder / f"{split}_manifest.json").read_text("utf-8").splitlines():
            content = (folder / json.loads(line)["audio_filepath"]).read_bytes()
            yield from_json(line, content, {**NAMES, "duration_s": "duration", "language": "lang"})


def read_webdataset(folder: Path) -> Iterator[dict[str, Any]]:
    for split in NUM_UTTERANCES:
        for path in sorted(folder.glob(f"{split}-*.tar")):
            with tarfile.open(path) as tar:
                contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
            for key in dict.fromkeys(name.partition(".")[0] for name in contents):
                found = from_json(contents[f"{key}.json"], contents[f"{key}.flac"], NAMES)
                assert contents[f"{key}.txt"].decode() == found["text"]
                yield found


def read_hf_parquet(folder: Path) -> Iterator[dict[str, Any]]:
    for split in NUM_UTTERANCES:
        for path in sorted((folder / "data").glob(f"{split}-*.parquet")):
            for row in pq.read_table(path).to_pylist():
                yield {name: row[name] for name in rows.LIGHT_COLUMNS} | {"samples": pcm(row["audio"]["bytes"])}


READERS = {
    "qwen_jsonl": read_qwen_jsonl,
    "nemo": read_nemo,
    "webdataset": read_webdataset,
    "hf_parquet": read_hf_parquet,
}

each_format = pytest.mark.parametrize("format", FORMATS)


@each_format
def test_every_column_and_every_bit_of_sound_comes_back(format: str, corpus: Corpus, tmp_path: Path):
    exported = export(corpus.path, tmp_path / "out", format=format)
    assert exported.num_utterances == NUM_UTTERANCES
    assert list(READERS[format](tmp_path / "out")) == expected(corpus)


@each_format
@pytest.mark.usefixtures("small_shards")
def test_many_shards_hold_the_same_as_one(format: str, corpus: Corpus, tmp_path: Path):
    export(corpus.path, tmp_path / "out", format=format)
    assert list(READERS[format](tmp_path / "out")) == expected(corpus)
    if format == "webdataset":
        assert len(list((tmp_path / "out").glob("train-*.tar"))) > 2
    if format == "hf_parquet":
        names = sorted(path.name for path in (tmp_path / "out" / "data").glob("train-*"))
        assert names == [f"train-{number:05d}-of-{len(names):05d}.parquet" for number in range(len(names))]
        assert len(names) > 2


SOURCES: dict[str, list[dict[str, Any]]] = {
    "qwen_jsonl": [{"kind": "jsonl", "path": "*.jsonl", "split_key": "split"}],
    "nemo": [{"kind": "nemo", "path": f"{split}_manifest.json", "split": split} for split in NUM_UTTERANCES],
    "webdataset": [{"kind": "webdataset", "path": f"{split}-*.tar", "split": split} for split in NUM_UTTERANCES],
    "hf_parquet": [
        {
            "kind": "hub_parquet",
            "path": f"data/{split}-*.parquet",
            "layout": "columns",
            "id_column": "utterance_id",
            "recording_column": "recording_id",
            "speaker_column": "speaker_id",
            "split": split,
        }
        for split in NUM_UTTERANCES
    ],
}


@each_format
def test_its_own_kind_of_source_reads_the_same_rows(format: str, corpus: Corpus, tmp_path: Path):
    from caspi.corpus.sources import plan_chunks, read_rows

    out = tmp_path / "out"
    export(corpus.path, out, format=format)
    data = recipe(*({**source, "path": out / source["path"]} for source in SOURCES[format])).data
    found = [row for chunk in plan_chunks(data) for row in read_rows(chunk, data)]
    wanted = {each["utterance_id"]: each for each in expected(corpus)}
    assert [row.problem for row in found if row.problem] == []
    assert sorted(row.row_id for row in found) == sorted(wanted)
    for row in found:
        utterance = wanted[row.row_id]
        assert (row.transcript, row.split, row.speaker_id) == (
            utterance["text"], utterance["split"], utterance["speaker_id"],
        )  # fmt: skip
        assert row.recording_id == utterance["recording_id"]
        assert row.encoded is not None
        decoded = audio.decode(row.encoded, source=row.row_id)
        assert list(np.rint(decoded.samples * 32768).astype(np.int16)) == utterance["samples"]


@each_format
def test_two_exports_are_byte_identical(format: str, corpus: Corpus, tmp_path: Path):
    digests = []
    for name in ("one", "two"):
        export(corpus.path, tmp_path / name, format=format)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        digests.append({str(path.relative_to(tmp_path / name)): _digest(path) for path in files})
    assert digests[0] == digests[1]
    assert not [name for name in digests[0] if Path(name).name.startswith(".")]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_keys_of_a_tar_hold_neither_dots_nor_slashes(corpus: Corpus, tmp_path: Path):
    export(corpus.path, tmp_path / "out", format="webdataset")
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                assert name.count(".") == 1 and "/" not in name


def test_the_hub_sees_an_audio_column(corpus: Corpus, tmp_path: Path):
    export(corpus.path, tmp_path / "out", format="hf_parquet")
    schema = pq.read_schema(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    assert schema.field("audio").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["audio"] == {"sampling_rate": 16000, "_type": "Audio"}
    assert features["duration_s"] == {"dtype": "float64", "_type": "Value"}
    assert set(features) == set(SHARD_SCHEMA.names) == set(schema.names)


def test_files_lie_in_folders_of_a_thousand():
    assert rows.audio_path("train", 999, ".wav") == "train/00000/00000999.wav"
    assert rows.audio_path("train", 1000, ".wav") == "train/00001/00001000.wav"


@each_format
def test_one_split_alone(format: str, corpus: Corpus, tmp_path: Path):
    exported = export(corpus.path, tmp_path / "out", format=format, split="test")
    assert exported.num_utterances == {"test": 3}
    names = [path.name for path in (tmp_path / "out").rglob("*")]
    assert not [name for name in names if name.startswith(("train", "validation"))]


def test_progress_ends_at_the_last_utterance(corpus: Corpus, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    export(corpus.path, tmp_path / "out", format="nemo", on_progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (12, 12)


@each_format
def test_a_folder_that_holds_something_is_left_alone(format: str, corpus: Corpus, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("keep me")
    with pytest.raises(CorpusError, match="already there and not empty"):
        export(corpus.path, tmp_path / "out", format=format)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.txt"]
    assert not (tmp_path / "out.partial").exists()


def test_an_empty_folder_is_filled(corpus: Corpus, tmp_path: Path):
    (tmp_path / "out").mkdir()
    export(corpus.path, tmp_path / "out", format="nemo", split="test")
    assert (tmp_path / "out" / "test_manifest.json").exists()


def damage(corpus: Corpus) -> None:
    """The last utterance of the test split loses its sound."""
    shard = corpus.shards("test")[-1]
    table = pq.read_table(shard).to_pylist()
    table[-1]["audio"] = b"no sound"
    pq.write_table(pa.Table.from_pylist(table, SHARD_SCHEMA), shard)


def test_an_export_that_fails_leaves_no_folder_and_the_next_one_starts_anew(corpus: Corpus, tmp_path: Path):
    whole = corpus.shards("test")[-1].read_bytes()
    damage(corpus)
    with pytest.raises(CorpusError, match=r"test/\.\.: its audio in the corpus is damaged"):
        export(corpus.path, tmp_path / "out", format="qwen_jsonl")
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial" / "train.jsonl").exists()
    corpus.shards("test")[-1].write_bytes(whole)
    export(corpus.path, tmp_path / "out", format="nemo")
    assert list(read_nemo(tmp_path / "out")) == expected(corpus)
    assert not list((tmp_path / "out").glob("*.jsonl"))
    assert not (tmp_path / "out.partial").exists()


def test_a_partial_folder_of_somebody_else_is_not_deleted(corpus: Corpus, tmp_path: Path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "plan.json").write_text("a preparation's work")
    with pytest.raises(CorpusError, match="no export left this"):
        export(corpus.path, tmp_path / "out", format="nemo")
    assert (tmp_path / "out.partial" / "plan.json").exists()


def test_two_exports_into_one_folder_do_not_mix(corpus: Corpus, tmp_path: Path):
    def meddle(done: int, total: int) -> None:
        with pytest.raises(CorpusError, match="another export is at work here"):
            export(corpus.path, tmp_path / "out", format="webdataset")

    export(corpus.path, tmp_path / "out", format="nemo", on_progress=meddle)
    assert list(read_nemo(tmp_path / "out")) == expected(corpus)


@pytest.mark.parametrize(("words", "message"), [({"format": "mp3"}, "'mp3' is unknown"), ({"split": "dev"}, "'dev'")])
def test_an_unknown_word_is_refused_with_those_that_are_known(
    words: dict[str, str], message: str, corpus: Corpus, tmp_path: Path
):
    with pytest.raises(RequestError, match=rf"{message}; expected one of \w+, "):
        export(corpus.path, tmp_path / "out", **{"format": "nemo", **words})  # type: ignore[arg-type]
    assert not (tmp_path / "out.partial").exists()


def test_the_command_exports_and_says_so(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["export", "--corpus", str(corpus.path), "--output", str(tmp_path / "out"), "--format", "nemo"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "exported 12/12 utterances" in said
    assert f"nemo: {tmp_path / 'out'} (train 7, validation 2, test 3)" in said
    assert cli.main(words) == 2
    assert "already there" in capsys.readouterr().err


def test_the_command_knows_every_format(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["export", "--corpus", "c", "--output", "o", "--format", "mp3"])
    message = capsys.readouterr().err
    assert all(format in message for format in FORMATS)
