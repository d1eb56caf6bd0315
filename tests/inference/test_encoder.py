"""What the encoder hears when it transcribes is what it hears in training, which is what transformers hears."""

import copy

import pytest
import torch

from caspi.inference.encoder import encode
from caspi.inference.packing import pack
from caspi.model import Loaded, forward, log_mel
from tests.inference.conftest import noise

DURATIONS = (0.1, 0.5, 1.0, 1.37, 3.0, 8.0, 9.3, 17.0)  # more seconds than go through the convolutions at once


@pytest.mark.parametrize("is_packed", [False, True])
@torch.inference_mode()
def test_embeddings_are_those_of_training(loaded: Loaded, is_packed: bool) -> None:
    features = log_mel([noise(seconds, seed=number) for number, seconds in enumerate(DURATIONS)])
    expected = forward.encode(loaded.model, features)
    model = copy.deepcopy(loaded.model)
    if is_packed:
        pack(model)
    torch.testing.assert_close(encode(model, features), expected, atol=1e-5, rtol=1e-4)
