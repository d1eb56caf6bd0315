"""What a corpus can become: one file for each format.

A format is a function that writes one split into a folder, from utterances that come one at a time.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from caspi.corpus.exports import hf_parquet, nemo, qwen_jsonl, webdataset
from caspi.corpus.format import Utterance

FORMATS: dict[str, Callable[[Path, str, Iterable[Utterance]], None]] = {
    "qwen_jsonl": qwen_jsonl.write_split,
    "nemo": nemo.write_split,
    "webdataset": webdataset.write_split,
    "hf_parquet": hf_parquet.write_split,
}
