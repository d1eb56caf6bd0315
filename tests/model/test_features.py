"""Log-mel features: the released extractor's numbers, whatever the neighbours."""

import numpy as np
import pytest
import torch
from transformers import Qwen3ASRFeatureExtractor

from caspi.model import Loaded, log_mel, num_audio_tokens
from caspi.model.forward import encode

LENGTHS = (100, 5_000, 8_000, 15_999, 16_000, 16_161, 40_321, 16_000 * 9 + 777, 16_000 * 17)


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [(random.standard_normal(length) * random.uniform(0.001, 0.5)).astype(np.float32) for length in LENGTHS]


def test_each_clip_gets_the_features_it_would_get_alone_from_transformers(clips):
    batch = log_mel(clips)
    extractor = Qwen3ASRFeatureExtractor()
    for row, samples in enumerate(clips):
        alone = extractor(samples, sampling_rate=16000, padding=True, return_attention_mask=True)
        frames = int(alone["attention_mask"].sum())
        assert int(batch.mask[row].sum()) == frames
        torch.testing.assert_close(
            batch.values[row, :, :frames], alone["input_features"][0, :, :frames], atol=1e-5, rtol=0
        )
        assert not batch.values[row, :, frames:].any()


def test_audio_tokens_are_counted_as_the_encoder_makes_them(clips, toy: Loaded):
    for samples in clips:
        assert len(encode(toy.model, log_mel([samples]))) == num_audio_tokens(len(samples))


def test_packing_changes_no_embedding(clips, toy: Loaded):
    features = log_mel(clips)
    native = toy.model.model.get_audio_features(features.values, features.mask, return_dict=True).pooler_output
    torch.testing.assert_close(encode(toy.model, features), native, atol=1e-6, rtol=0)


def test_embeddings_do_not_depend_on_the_neighbours(clips, toy: Loaded):
    together = encode(toy.model, log_mel(clips))
    alone = torch.cat([encode(toy.model, log_mel([samples])) for samples in clips])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_ten_seconds_are_130_tokens():
    assert num_audio_tokens(160_000) == 130
