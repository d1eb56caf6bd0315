"""What was really said, by whom and when: the answers that a synthetic corpus can give and a recorded one cannot."""

from typing import Any

import pyarrow as pa

from caspi.synthesis.grammar import Sentence
from caspi.synthesis.voices import Voice

# Times are seconds within the audio of the row that `dataset`, `key` and `seek_s` name.
TRUTH_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("key", pa.string()),  # crowd-transcribe: uuid; recital: entry_id
        ("seek_s", pa.float64()),  # recital: where the row's slice begins in its entry, `metadata.seek`; else 0
        ("start_s", pa.float64()),  # the utterance: a whole clip, or from opening to closing time token
        ("end_s", pa.float64()),
        ("duration_s", pa.float64()),  # end_s - start_s
        ("text", pa.string()),  # the one plain spelling
        ("written", pa.string()),  # as the row has it, without time tokens
        ("voice", pa.string()),
        (
            "words",
            pa.list_(pa.struct([("word", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())])),
        ),
        ("bad", pa.string()),  # why the row cannot be used; null for a good one
    ]
)


def truth_row(
    *,
    dataset: str,
    split: str,
    key: str,
    seek_s: float,
    start_s: float,
    end_s: float,
    sentence: Sentence,
    word_times: list[tuple[float, float]],
    written: str,
    voice: Voice,
    bad: str | None,
) -> dict[str, Any]:
    """A row of TRUTH_SCHEMA. `word_times` is empty where nothing can be heard."""
    return {
        "dataset": dataset,
        "split": split,
        "key": key,
        "seek_s": seek_s,
        "start_s": start_s,
        "end_s": end_s,
        "duration_s": end_s - start_s,
        "text": sentence.plain,
        "written": written,
        "voice": voice.name,
        "words": [
            {"word": word.plain, "start_s": start, "end_s": end}
            for word, (start, end) in zip(sentence.words, word_times, strict=False)
        ],
        "bad": bad,
    }
