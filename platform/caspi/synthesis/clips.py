"""Crowd-transcribe's layout: a row is one short clip, with what a volunteer wrote and ticked."""

import random
from typing import Any

import numpy as np
import pyarrow as pa

from caspi.synthesis import encoding
from caspi.synthesis.dressing import dress
from caspi.synthesis.espeak import SAMPLE_RATE, Speech
from caspi.synthesis.plan import CLIP_FLAWS, Clip, Part
from caspi.synthesis.scene import add_noise, place, word_times
from caspi.synthesis.truth import truth_row

CLIP_SCHEMA = pa.schema(
    [
        ("uuid", pa.string()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("orig_sentence", pa.string()),
        ("sentence", pa.string()),
        ("is_retranscribe", pa.bool_()),
        ("transcriber", pa.int64()),
        (
            "extra_data",
            pa.struct(
                [
                    ("attributes", pa.struct([("retranscribe", pa.bool_())])),
                    ("duration", pa.float64()),
                    ("foreign_language", pa.bool_()),
                    ("max_logprob", pa.float64()),
                    ("multiple_speakers", pa.bool_()),
                    ("noisy", pa.bool_()),
                    ("orig_text", pa.string()),
                    ("skipped", pa.bool_()),
                    (
                        "stats",
                        pa.struct(
                            [
                                ("numFullPlays", pa.int64()),
                                ("numPauseClicks", pa.int64()),
                                ("numPlayClicks", pa.int64()),
                                ("referer", pa.string()),
                                ("time", pa.float64()),
                                ("user_agent", pa.string()),
                            ]
                        ),
                    ),
                    ("text", pa.string()),
                    ("too_long", pa.bool_()),
                    ("unintelligible", pa.bool_()),
                ]
            ),
        ),
    ]
)

_FLAGS = ("foreign_language", "multiple_speakers", "noisy", "skipped", "too_long", "unintelligible")
_TRUNCATABLE = ("flac", "ogg")  # libsndfile notices when these stop in the middle; half an MP3 is a shorter MP3


def clip_row(clip: Clip, speech: Speech, part: Part, rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row of the dataset and the row of the truth."""
    lead_s, tail_s = rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.3)
    samples = place([(lead_s, speech)], lead_s + len(speech.samples) / SAMPLE_RATE + tail_s)
    if clip.flaw == "far_too_short":
        samples = samples[: SAMPLE_RATE // 10]
    if clip.flaw == "no_samples":
        samples = samples[:0]
    snr_db = 0.0 if clip.flaw == "noisy" else rng.uniform(25, 45)
    samples = add_noise(samples * 10 ** (-rng.uniform(1, 18) / 20), snr_db, seed=rng.getrandbits(64))
    duration_s = len(samples) / SAMPLE_RATE

    written = _written(clip, rng)
    encoded, extension = _encoded(clip, samples, rng)
    is_old = rng.random() < 0.2  # early rows of the real set lack what the form did not ask yet
    row = {
        "uuid": clip.key,
        "audio": {"bytes": encoded, "path": None if rng.random() < 0.1 else f"{clip.key}.{extension}"},
        "orig_sentence": _machine_guess(clip, rng),
        "sentence": written,
        "is_retranscribe": rng.random() < 0.05,
        "transcriber": rng.randint(1, 60),
        "extra_data": _extra_data(clip, written, duration_s, is_old, rng),
    }
    is_heard = clip.flaw not in ("garbage", "truncated", "no_samples", "far_too_short")
    truth = truth_row(
        dataset=part.dataset,
        split=part.split,
        key=clip.key,
        seek_s=0.0,
        start_s=0.0,
        end_s=duration_s,
        sentence=clip.sentence,
        word_times=word_times(speech, lead_s) if is_heard else [],
        written=written,
        voice=clip.voice,
        bad=CLIP_FLAWS[clip.flaw] if clip.flaw else None,
    )
    return row, truth


def _written(clip: Clip, rng: random.Random) -> str:
    if clip.flaw in ("no_text", "skipped"):
        return ""
    if clip.flaw == "only_marks":
        return rng.choice(("?!", "...", "\u05b0\u05b7", "\u200f"))
    if clip.flaw == "too_much_text":
        return " ".join([clip.sentence.plain] * 20)
    return dress(clip.sentence, rng)


def _encoded(clip: Clip, samples: np.ndarray, rng: random.Random) -> tuple[bytes, str]:
    chosen = encoding.draw(rng)
    if clip.flaw == "garbage":
        return encoding.GARBAGE, chosen.extension
    if clip.flaw == "no_samples":
        chosen = encoding.Encoding("wav", 16000, 1)
    if clip.flaw == "truncated" and chosen.extension not in _TRUNCATABLE:
        chosen = encoding.Encoding(rng.choice(_TRUNCATABLE), 16000, 1)
    encoded = encoding.encode(samples, SAMPLE_RATE, chosen)
    if clip.flaw == "truncated":
        encoded = encoded[: len(encoded) // 2]
    return encoded, chosen.extension


def _machine_guess(clip: Clip, rng: random.Random) -> str:
    """What the volunteer was shown: plain words, with one missing now and then. Nothing may learn from it."""
    words = [word.plain for word in clip.sentence.words]
    if rng.random() < 0.3:
        words.pop(rng.randrange(len(words)))
    return " ".join(words)


def _extra_data(clip: Clip, written: str, duration_s: float, is_old: bool, rng: random.Random) -> dict[str, Any]:
    return {
        "attributes": None if is_old else {"retranscribe": False},
        "duration": duration_s,
        "max_logprob": None if is_old else rng.uniform(-0.8, -0.1),
        "orig_text": clip.sentence.plain,
        "stats": {
            "numFullPlays": rng.randint(1, 4),
            "numPauseClicks": rng.randint(0, 3),
            "numPlayClicks": rng.randint(1, 5),
            "referer": "",
            "time": round(rng.uniform(5, 60), 3),
            "user_agent": "synthetic",
        },
        "text": written,
        **{flag: True if clip.flaw == flag else (None if is_old else False) for flag in _FLAGS},
    }
