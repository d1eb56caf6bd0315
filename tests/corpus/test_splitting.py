"""Which side of the split a recording falls on."""

from pathlib import Path

import numpy as np
import pytest

from caspi import audio
from caspi.corpus import prepare
from caspi.corpus.splitting import draw_split
from caspi.recipe import parse_recipe
from caspi.recipe.data import Splits


def test_shares_are_about_those_asked_for():
    splits = Splits(validation=0.1, test=0.2)
    drawn = [draw_split(f"recording-{i}", splits) for i in range(5000)]
    assert drawn.count("test") / 5000 == pytest.approx(0.2, abs=0.02)
    assert drawn.count("validation") / 5000 == pytest.approx(0.1, abs=0.02)


def test_a_recording_stays_where_it_is_when_others_come():
    splits = Splits(validation=0.1, test=0.2)
    assert draw_split("mine", splits) == draw_split("mine", splits)
    assert {draw_split("mine", Splits(validation=0.3, test=0.3, seed=seed)) for seed in range(20)} > {"train"}


def test_a_test_speaker_is_never_trained_on(tmp_path: Path, ray_2_cpus: None):
    import json

    random = np.random.default_rng(0)
    with (tmp_path / "speech.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(30):
            clip = (random.standard_normal(16000) * 0.1).astype(np.float32)
            (tmp_path / f"{number}.flac").write_bytes(audio.encode_flac(clip))
            speaker = "theo" if number % 3 == 0 else "george"
            lines.write(
                json.dumps({"id": f"u{number}", "audio": f"{number}.flac", "text": "one", "speaker": speaker}) + "\n"
            )
    recipe = parse_recipe(
        {
            "name": "speakers",
            "data": {
                "language": "en",
                "sources": [{"kind": "jsonl", "path": str(tmp_path / "speech.jsonl")}],
                "splits": {"test_speakers": ["theo"]},
            },
        }
    )
    rows = prepare(recipe, tmp_path / "corpus").utterances.to_pylist()
    assert len(rows) == 30
    assert {row["split"] for row in rows if row["speaker_id"] == "theo"} == {"test"}
    assert "test" not in {row["split"] for row in rows if row["speaker_id"] == "george"}
