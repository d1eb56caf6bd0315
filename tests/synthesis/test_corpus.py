import hashlib
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from caspi import audio
from caspi.errors import AudioDecodeError, EmptyAudioError, RequestError
from caspi.synthesis import synthesize
from caspi.synthesis.clips import CLIP_SCHEMA
from caspi.synthesis.espeak import SpeechEngineError
from caspi.synthesis.slices import SLICE_SCHEMA
from caspi.text import normalizer
from tests.synthesis.conftest import SMALL


def tree_hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_gives_the_same_bytes(small_corpus, tmp_path):
    again = synthesize(tmp_path, num_utterances=SMALL, seed=1).output
    assert tree_hashes(again) == tree_hashes(small_corpus)


def test_another_seed_gives_another_corpus_and_replaces_the_first(small_corpus, tmp_path):
    synthesize(tmp_path, num_utterances=SMALL + 20, seed=1)
    other = synthesize(tmp_path, num_utterances=SMALL, seed=2).output
    first, second = tree_hashes(small_corpus), tree_hashes(other)
    assert first.keys() == second.keys()
    assert all(first[file] != second[file] for file in first if file.endswith(".parquet"))


def test_files_are_named_and_typed_as_on_the_hub(small_corpus):
    crowd, recital = small_corpus / "crowd-transcribe-v5/data", small_corpus / "crowd-recital-whisper-training/data"
    assert sorted(path.name for path in crowd.iterdir()) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]
    assert [path.name for path in recital.iterdir()] == ["train-00000-of-00001.parquet"]
    assert all(pq.read_schema(path).equals(CLIP_SCHEMA) for path in crowd.iterdir())
    assert all(pq.read_schema(path).equals(SLICE_SCHEMA) for path in recital.iterdir())
    assert sorted(path.name for path in small_corpus.iterdir()) == [
        "README.md",
        "crowd-recital-whisper-training",
        "crowd-transcribe-v5",
        "words.parquet",
    ]


def test_crowd_transcribe_columns_are_those_of_the_released_set():
    assert CLIP_SCHEMA.names == [
        "uuid",
        "audio",
        "orig_sentence",
        "sentence",
        "is_retranscribe",
        "transcriber",
        "extra_data",
    ]
    extra = CLIP_SCHEMA.field("extra_data").type
    assert {field.name: str(field.type) for field in extra} == {
        "attributes": "struct<retranscribe: bool>",
        "duration": "double",
        "foreign_language": "bool",
        "max_logprob": "double",
        "multiple_speakers": "bool",
        "noisy": "bool",
        "orig_text": "string",
        "skipped": "bool",
        "stats": "struct<numFullPlays: int64, numPauseClicks: int64, numPlayClicks: int64, referer: string, "
        "time: double, user_agent: string>",
        "text": "string",
        "too_long": "bool",
        "unintelligible": "bool",
    }


def test_every_asked_utterance_is_in_the_truth(truth):
    assert len(truth) == SMALL
    assert sum(row["split"] == "test" for row in truth) == round(SMALL * 0.12)
    assert any(row["bad"] for row in truth)


def test_neither_sentences_nor_voices_of_the_test_occur_in_training(truth):
    train = [row for row in truth if row["split"] == "train"]
    test = [row for row in truth if row["split"] == "test"]
    assert not {row["text"] for row in train} & {row["text"] for row in test}
    assert not {row["voice"] for row in train} & {row["voice"] for row in test}
    assert len({row["text"] for row in truth}) == len(truth)


def test_a_right_normalizer_turns_every_spelling_into_the_plain_one(truth):
    hebrew = normalizer("he")
    good = [row for row in truth if row["bad"] is None]
    assert [hebrew.transcript(row["written"]) for row in good] == [row["text"] for row in good]
    assert [hebrew.transcript(row["text"]) for row in good] == [row["text"] for row in good]


def test_word_times_rise_and_stay_inside_the_audio(truth, encoded):
    for row in truth:
        times = [time for word in row["words"] for time in (word["start_s"], word["end_s"])]
        assert times == sorted(times)
        if row["bad"] is None:
            assert [word["word"] for word in row["words"]] == row["text"].rstrip("?!").split()
            assert row["start_s"] <= times[0] and times[-1] <= row["end_s"]
            decoded = audio.decode(encoded[row["key"], round(row["seek_s"], 2)], source=row["key"])
            assert row["end_s"] <= decoded.duration_s + 0.01


def test_words_are_heard_where_the_truth_says_and_not_before_or_after(truth, encoded):
    for row in truth:
        if row["bad"] is not None:
            continue
        decoded = audio.decode(encoded[row["key"], round(row["seek_s"], 2)], source=row["key"])

        def level(start_s: float, end_s: float, decoded: audio.Audio = decoded) -> float:
            span = decoded.samples[round(start_s * decoded.sample_rate) : round(end_s * decoded.sample_rate)]
            return float(np.sqrt(np.mean(span**2)))

        start_s, end_s = row["words"][0]["start_s"], row["words"][-1]["end_s"]
        speech = level(start_s, end_s)
        assert level(row["start_s"], start_s - 0.02) < 0.2 * speech
        assert level(end_s + 0.02, row["end_s"]) < 0.2 * speech


def test_all_audio_decodes_except_what_is_declared_broken(truth, encoded):
    broken = {row["key"] for row in truth if row["bad"] in ("undecodable_audio", "truncated_audio", "empty_audio")}
    for (key, _), recording in encoded.items():
        if key in broken:
            with pytest.raises((AudioDecodeError, EmptyAudioError)):
                audio.decode(recording, source=key)
        else:
            assert audio.decode(recording, source=key).duration_s > 0


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RequestError, match=r"thesis\.txt"):
        synthesize(tmp_path, num_utterances=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_too_few_utterances_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RequestError, match="at least 40"):
        synthesize(tmp_path / "corpus", num_utterances=3)
    assert not (tmp_path / "corpus").exists()


def test_without_espeak_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SpeechEngineError, match=r"caspi\[synthesis\]"):
        synthesize(tmp_path / "corpus")


def test_progress_counts_the_parts(tmp_path):
    seen = []
    synthesis = synthesize(tmp_path, num_utterances=SMALL, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert synthesis.num_utterances == SMALL and synthesis.hours["train"] > synthesis.hours["test"] > 0
    assert synthesis.rtfx > 0
