"""A language that transformers does not list needs no patch: nothing outside our own model is changed."""

import copy
from pathlib import Path

import pytest
import torch
from transformers.models.qwen3_asr import processing_qwen3_asr as upstream

from caspi.inference.transcriber import Transcriber
from caspi.model import Loaded, load, loss_sums
from tests.model.making import batch_of, noise


def test_hebrew_is_loaded_trained_and_transcribed_with_nothing_patched(toy: Loaded, tmp_path: Path):
    listed = copy.deepcopy(upstream.LANGUAGE_CODE_TO_NAME), copy.deepcopy(upstream.FORCED_ALIGNER_LANGUAGES)
    toy.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    loaded.model.train()
    losses = loss_sums(loaded.model, batch_of(loaded.prompter, [noise(1)], ["שלום עולם"]))
    losses.objective.backward()
    torch.optim.SGD(loaded.model.parameters(), lr=1e-3).step()
    (answer,) = Transcriber(loaded).transcribe_batch([noise(1)], languages=["he"])
    assert answer.language == "Hebrew"
    assert listed == (upstream.LANGUAGE_CODE_TO_NAME, upstream.FORCED_ALIGNER_LANGUAGES)
    assert "Hebrew" not in upstream.LANGUAGE_CODE_TO_NAME.values()
    with pytest.raises(ValueError, match="Hebrew"):
        loaded.processor.apply_transcription_request([noise(1)], language="Hebrew")
