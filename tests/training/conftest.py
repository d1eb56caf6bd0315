from collections.abc import Iterator

import numpy as np
import pytest

from caspi import audio, tracking
from caspi.corpus import Corpus, prepare
from caspi.recipe import Recipe, parse_recipe

WORDS = {"אחת": 300, "שתים": 600, "שלוש": 1200}  # each word is a tone


def tone(hertz: float, seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(16000 * seconds)) / 16000)).astype(np.float32)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Forty short recordings of tones, and the smallest toy: seconds to train."""
    folder = tmp_path_factory.mktemp("tones")
    random = np.random.default_rng(5)
    for number in range(40):
        words = random.choice(list(WORDS), size=random.integers(1, 4))
        samples = np.concatenate([tone(WORDS[word], random.uniform(0.25, 0.4)) for word in words])
        (folder / f"{number:02d}.flac").write_bytes(audio.encode_flac(samples))
        (folder / f"{number:02d}.txt").write_text(" ".join(words), encoding="utf-8")
    return parse_recipe(
        {
            "name": "tones",
            "data": {
                "sources": [{"kind": "folder", "path": str(folder)}],
                "splits": {"validation": 0.1, "test": 0.1},
                "filters": {"min_duration_s": 0.1},
            },
            "model": {
                "toy": {
                    "vocabulary": 320, "conv_channels": 4, "encoder_width": 32, "encoder_layers": 1, "encoder_heads": 2,
                    "decoder_width": 32, "decoder_layers": 1, "decoder_heads": 2,
                }
            },
            "training": {
                "epochs": 3,
                "batches": {"step_audio_s": 4},
                # At 2e-3, a weight whose gradient is as small as its rounding, which AdamW divides by itself, ends 2e-5
                # apart on other numbers of workers.
                "optimizer": {"learning_rate": 5e-4},
                "checkpoints": {"every_steps": 3},
                "augmentation": {
                    "speed": 0.05, "reverberation": {"share": 0.2}, "noise": {"share": 0.5, "snr_db": [20, 50]},
                    "band_limit": {"share": 0.2}, "codec": {"share": 0.3}, "frequency_masks": 1,
                },
                "mixture": {"silence_share": 0.05},
                "context": {"share": 0.3},
                "log_every_steps": 1,
                "record_utterances": True,
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def corpus(recipe: Recipe, ray_2_cpus: None, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare(recipe, tmp_path_factory.mktemp("prepared") / "corpus")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One MLflow server for all runs of a file."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CASPI_HOME", str(tmp_path_factory.mktemp("home")))
        with tracking.server() as address:
            yield address
