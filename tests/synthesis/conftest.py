from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from caspi.synthesis import synthesize
from caspi.synthesis.espeak import Engine

SMALL = 60


@pytest.fixture(scope="session")
def engine() -> Engine:
    pytest.importorskip("espeakng_loader")
    return Engine()


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of sixty utterances, seed 1."""
    pytest.importorskip("espeakng_loader")
    return synthesize(tmp_path_factory.mktemp("corpus"), num_utterances=SMALL, seed=1).output


@pytest.fixture(scope="session")
def truth(small_corpus: Path) -> list[dict[str, Any]]:
    """Its rows of words.parquet."""
    return pq.read_table(small_corpus / "words.parquet").to_pylist()


@pytest.fixture(scope="session")
def encoded(small_corpus: Path) -> dict[tuple[str, float], bytes]:
    """Its audio, by key and seek."""

    def recordings() -> Iterator[tuple[tuple[str, float], bytes]]:
        for row in pq.read_table(small_corpus / "crowd-transcribe-v5").to_pylist():
            yield (row["uuid"], 0.0), row["audio"]["bytes"]
        for row in pq.read_table(small_corpus / "crowd-recital-whisper-training").to_pylist():
            yield (row["metadata"]["entry_id"], round(row["metadata"]["seek"], 2)), row["audio"]["bytes"]

    return dict(recordings())
