"""JSON lines and WAV files, as Qwen's own fine-tuning script and most others read them.

train.jsonl                    {"audio": "train/00000/00000000.wav", "text": "language Hebrew<asr_text>...", "id": ...}
train/00000/00000000.wav       16-bit PCM, 16 kHz, mono
"""

from collections.abc import Iterable
from pathlib import Path

from caspi.audio import SAMPLE_RATE, memory_file
from caspi.corpus.exports.rows import audio_path, decode_pcm, light_columns, to_json, write_audio
from caspi.corpus.format import Utterance
from caspi.text import language_name


def write_split(folder: Path, split: str, utterances: Iterable[Utterance]) -> None:
    """Write `split`.jsonl and its WAV files. Paths are relative to the JSONL."""
    with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as lines:
        for number, utterance in enumerate(utterances):
            audio = audio_path(split, number, ".wav")
            write_audio(folder / audio, _encode_wav(utterance))
            text = f"language {language_name(utterance.language)}<asr_text>{utterance.text}"
            lines.write(to_json({"audio": audio, **light_columns(utterance), "text": text}) + "\n")


def _encode_wav(utterance: Utterance) -> bytes:
    return memory_file.written(decode_pcm(utterance), SAMPLE_RATE, format="WAV", subtype="PCM_16")
