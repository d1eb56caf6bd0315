"""FLOPs by formula against those that PyTorch counts while it computes."""

import copy
import dataclasses

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from caspi.model import Batch, Loaded, build_toy, collate, log_mel, loss_sums, num_audio_tokens
from caspi.model.flops import (
    ALL_LAYERS,
    Parts,
    Workload,
    forward_flops,
    num_parameters,
    trained_shares,
    training_flops,
)
from caspi.recipe.sections import Toy

TEXTS = ["שלום", "ילד הולך הביתה עכשיו", "כן", "הם גרים בעיר גדולה ליד הים"]
WIDE = Toy(
    vocabulary=2000, conv_channels=32, encoder_width=64, encoder_layers=2, decoder_width=192, decoder_layers=4,
    decoder_heads=6,
)  # fmt: skip


@pytest.fixture(scope="module", params=[Toy(), WIDE], ids=["toy", "wide"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    loaded = Loaded.wrap(*build_toy(request.param, texts=TEXTS * 20, language="Hebrew", seed=1))
    # The counter does not know the CPU's fused attention; written out, it is two matrix products.
    loaded.model.set_attn_implementation("eager")
    return loaded


def batch_of(loaded: Loaded, *lengths_s: float) -> Batch:
    clips = [np.random.default_rng(0).standard_normal(int(16000 * s)).astype(np.float32) for s in lengths_s]
    examples = [
        loaded.prompter.example(text, num_audio_tokens=num_audio_tokens(len(clip)), language="Hebrew")
        for text, clip in zip(TEXTS, clips, strict=False)
    ]
    return collate(examples, log_mel(clips), pad_id=loaded.prompter.pad_id, audio_s=sum(lengths_s))


def workload(loaded: Loaded, batch: Batch, *, with_alignment: bool = False) -> Workload:
    """With the decoder's padding, which it computes like everything else."""
    work = Workload.of_batch(loaded.model.config, batch, with_alignment=with_alignment)
    rows, width = batch.input_ids.shape
    return dataclasses.replace(work, tokens=rows * width, token_pairs=rows * width**2)


def counted(loaded: Loaded, batch: Batch, *, with_alignment: bool = False, backward: bool = True) -> int:
    with FlopCounterMode(display=False) as counter:
        losses = loss_sums(loaded.model, batch, with_alignment=with_alignment)
        if backward:
            (losses.objective + losses.alignment).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("with_alignment", [False, True])
def test_a_forward_pass_is_counted_exactly(loaded: Loaded, with_alignment: bool):
    """Clips of one window and of several, with whole and broken seconds."""
    batch = batch_of(loaded, 0.3, 2.0, 11.1, 19.5)
    expected = counted(loaded, batch, with_alignment=with_alignment, backward=False)
    work = workload(loaded, batch, with_alignment=with_alignment)
    assert sum(forward_flops(loaded.model.config, work)) == expected


def test_training_is_three_forward_passes(loaded: Loaded):
    """But for the first convolution: nobody asks for the gradient of the audio."""
    batch = batch_of(loaded, 0.3, 2.0, 11.1, 19.5)
    ours = training_flops(loaded.model.config, workload(loaded, batch))
    assert ours == pytest.approx(counted(loaded, batch), rel=0.01)
    assert ours == 3 * sum(forward_flops(loaded.model.config, workload(loaded, batch)))


def test_checkpointing_computes_layers_again(loaded: Loaded):
    """PyTorch ends the second pass before the last product of a layer, whose output nobody needs: 5% of the whole."""
    batch = batch_of(loaded, 0.3, 2.0, 11.1, 19.5)
    recomputing = dataclasses.replace(loaded, model=copy.deepcopy(loaded.model))  # it cannot be undone wholly
    recomputing.model.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    expected = counted(recomputing, batch)
    ours = training_flops(loaded.model.config, workload(loaded, batch), recomputed=ALL_LAYERS)
    assert expected < ours < 1.07 * expected


@pytest.mark.parametrize("frozen", ["audio_tower", "language_model"])
def test_what_is_frozen_costs_less(loaded: Loaded, frozen: str):
    """A frozen encoder has no backward pass; a frozen decoder passes gradients through and has none of its own."""
    batch = batch_of(loaded, 0.3, 2.0, 4.1, 6.5)
    partly = dataclasses.replace(loaded, model=copy.deepcopy(loaded.model))
    for name, weight in partly.model.named_parameters():
        weight.requires_grad_(frozen not in name)
    expected, trained = counted(partly, batch), trained_shares(partly.model)
    assert trained == (Parts(0, 0, 1, 1, 1) if frozen == "audio_tower" else Parts(1, 1, 1, 0, 0))
    ours = training_flops(loaded.model.config, workload(loaded, batch), trained=trained)
    # Attention has no weights, so its backward pass is whole whatever is frozen.
    assert ours == pytest.approx(expected, rel=0.05)
    assert ours < training_flops(loaded.model.config, workload(loaded, batch))


def test_weights_are_counted_without_building_them(loaded: Loaded):
    counts = num_parameters(loaded.model.config)
    assert sum(counts) == sum(weight.numel() for weight in loaded.model.parameters())
    assert counts.lm_head == loaded.model.lm_head.weight.numel()


def test_workloads_add_up(loaded: Loaded):
    config, lengths_s = loaded.model.config, (0.3, 9.0)
    both = Workload.of_batch(config, batch_of(loaded, *lengths_s), with_alignment=False)
    assert both.chunks == 1 + 9  # half a second is the least, and a second that is begun is computed whole
    assert both.audio_pairs == 7**2 + 104**2 + 13**2
    assert Workload() + both == both
    assert training_flops(config, both + both) == pytest.approx(2 * training_flops(config, both))
