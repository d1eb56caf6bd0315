"""A NeMo manifest and FLAC files.

train_manifest.json            {"audio_filepath": "train/00000/00000000.flac", "duration": 2.4, "text": "...", ...}
train/00000/00000000.flac      16 kHz, mono

NeMo reads WAV and FLAC alike. FLAC is what our shards hold, so the bytes are copied, and half the size.
"""

from collections.abc import Iterable
from pathlib import Path

from caspi.corpus.exports.rows import NAMES, audio_path, light_columns, to_json, write_audio
from caspi.corpus.format import Utterance

# No `offset`: a file holds its utterance and nothing else. `start_s` says where it was in the recording.
_NAMES = {**NAMES, "duration_s": "duration", "language": "lang"}


def write_split(folder: Path, split: str, utterances: Iterable[Utterance]) -> None:
    """Write `split`_manifest.json and its FLAC files. NeMo looks for relative paths beside the manifest."""
    with open(folder / f"{split}_manifest.json", "w", encoding="utf-8") as lines:
        for number, utterance in enumerate(utterances):
            audio = audio_path(split, number, ".flac")
            write_audio(folder / audio, utterance.audio)
            lines.write(to_json({"audio_filepath": audio, **light_columns(utterance, _NAMES)}) + "\n")
