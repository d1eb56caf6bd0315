"""The comparison with the official script compares what it says it does."""

import numpy as np
import pytest
import torch

from caspi.model import Example, Loaded, build_toy, collate, loss_sums, num_audio_tokens
from caspi.model.batch import IGNORED
from caspi.recipe.sections import Toy
from tests.benchmarks.official_script import micro_batches, official_loss, official_rows

PAD = 0


def test_a_shorter_row_keeps_as_many_prompt_tokens_as_it_is_padded_by():
    long = Example(prompt_ids=[1, 2, 3, 4, 5, 6], target_ids=[7, 8], text_ids=[])
    short = Example(prompt_ids=[1, 2, 3, 4], target_ids=[7], text_ids=[])
    rows = official_rows([long, short], PAD)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 1, 2, 3, 4, 7]]
    assert rows.labels.tolist() == [[IGNORED] * 6 + [7, 8], [IGNORED] * 4 + [2, 3, 4, 7]]
    assert (rows.num_supervised, rows.num_not_target) == (6, 3)


def test_alone_the_two_losses_are_one():
    sizes = Toy(
        encoder_width=32, encoder_layers=1, encoder_heads=2, decoder_width=32, decoder_layers=1, decoder_heads=2
    )
    toy = Loaded.wrap(*build_toy(sizes, texts=["שלום עולם"], language="Hebrew", seed=1))
    clip = (np.random.default_rng(0).standard_normal(20_000) * 0.1).astype(np.float32)
    example = toy.prompter.example("שלום", num_audio_tokens=num_audio_tokens(len(clip)), language="Hebrew")
    batch = collate([example], [clip], pad_id=toy.prompter.pad_id)
    ours = loss_sums(toy.model, batch).cross_entropy.item() / batch.num_supervised
    rows = official_rows([example], toy.prompter.pad_id)
    assert rows.num_not_target == 0
    assert official_loss(toy.model, rows, batch) == pytest.approx(ours, rel=1e-5)
    assert torch.is_grad_enabled()


def test_an_epoch_has_every_utterance_once_in_an_order_of_its_own():
    first, second = (micro_batches(7, batch_size=2, epoch=epoch) for epoch in (0, 1))
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(7))
    assert [len(each) for each in first] == [2, 2, 2, 1]
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
