"""One update: the same loss, gradient and weights for every split of the batch."""

import copy

import numpy as np
import pytest
import torch

from caspi.model import Batch, Loaded, build_toy, collate, log_mel, loss_sums, num_audio_tokens
from caspi.recipe.sections import Optimizer, Toy
from caspi.training.step import DoesNotFit, Objective, Stop, build_optimizer, learning_rate, train_step

TEXTS = ["שלום", "ילד הולך הביתה עכשיו", "כן", "הם גרים בעיר גדולה ליד הים"]


@pytest.fixture(scope="module")
def toy() -> Loaded:
    sizes = Toy(
        encoder_width=32, encoder_layers=2, encoder_heads=2, decoder_width=32, decoder_layers=2, decoder_heads=2
    )
    return Loaded.wrap(*build_toy(sizes, texts=TEXTS * 20, language="Hebrew", seed=1))


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [(random.standard_normal(int(16000 * s)) * 0.1).astype(np.float32) for s in (0.3, 2.2, 1.0, 4.7)]


def batch_of(toy: Loaded, clips: list[np.ndarray], rows: list[int]) -> Batch:
    examples = [
        toy.prompter.example(TEXTS[row], num_audio_tokens=num_audio_tokens(len(clips[row])), language="Hebrew")
        for row in rows
    ]
    return collate(examples, log_mel([clips[row] for row in rows]), pad_id=toy.prompter.pad_id, audio_s=1.0)


def update(toy: Loaded, clips: list[np.ndarray], split: list[list[int]], *, stop: Stop = Stop.NO, **settings):
    model = copy.deepcopy(toy.model)
    # Where a gradient is as small as its rounding, AdamW makes a share of the rate of it: bounds go with the rate.
    optimizer = build_optimizer(model, Optimizer(learning_rate=5e-4))
    objective = Objective(torch.device("cpu"), autocast=None, max_grad_norm=1.0, **settings)
    result = train_step(model, optimizer, [batch_of(toy, clips, rows) for rows in split], objective, stop=stop)
    return result, model


@pytest.mark.parametrize("split", [[[0], [1], [2], [3]], [[0, 1], [2, 3]], [[3], [0, 2, 1]]])
def test_the_update_does_not_depend_on_the_micro_batches(toy, clips, split):
    whole, expected = update(toy, clips, [[0, 1, 2, 3]])
    result, model = update(toy, clips, split)
    assert result.num_tokens == whole.num_tokens
    assert result.loss == pytest.approx(whole.loss, abs=1e-5)
    assert result.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


def test_the_loss_is_the_mean_over_supervised_tokens(toy, clips):
    """Against transformers' own loss with the same labels, which is a mean over the unmasked positions."""
    batch = batch_of(toy, clips, [0, 1, 2, 3])
    native = toy.model(
        input_ids=batch.input_ids,
        input_features=batch.features.values,
        input_features_mask=batch.features.mask,
        labels=batch.labels,
    ).loss
    ours = loss_sums(toy.model, batch).cross_entropy / batch.num_supervised
    torch.testing.assert_close(ours, native, atol=1e-5, rtol=0)


def test_an_utterance_weighs_by_its_tokens_and_not_by_its_batch(toy, clips):
    sums = [loss_sums(toy.model, batch_of(toy, clips, [row])).cross_entropy.item() for row in range(4)]
    assert loss_sums(toy.model, batch_of(toy, clips, [0, 1, 2, 3])).cross_entropy.item() == pytest.approx(
        sum(sums), rel=1e-5
    )


def test_every_weight_gets_a_gradient(toy, clips):
    model = copy.deepcopy(toy.model)
    loss_sums(model, batch_of(toy, clips, [0, 1, 2, 3])).cross_entropy.backward()
    untouched = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A key's bias shifts all scores of a query alike, which softmax does not see.
    assert [name for name in untouched if "k_proj.bias" not in name] == []


def test_weights_without_any_effect_are_left_alone(toy, clips):
    """The gradient of a key's bias is rounding noise; Adam would make full steps of it."""
    _, model = update(toy, clips, [[0, 1, 2, 3]])
    before = dict(toy.model.named_parameters())
    unchanged = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    assert unchanged == {name for name in before if name.endswith("k_proj.bias")}


def test_the_learning_rate_rises_falls_and_ends_at_its_floor():
    settings = Optimizer(learning_rate=1.0, warmup_share=0.1, final_share=0.05)
    rates = [learning_rate(settings, step=step, num_steps=100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = Optimizer(learning_rate=1.0, schedule="constant", warmup_share=0.0)
    assert {learning_rate(constant, step=step, num_steps=9) for step in range(9)} == {1.0}


class SmallMemory:
    """Runs out above so much audio at once, after it has let some batches through."""

    def __init__(self, max_padded_s: float, error: Exception) -> None:
        self.max_padded_s, self.error, self.num_failures = max_padded_s, error, 0

    def __call__(self, batch: Batch) -> None:
        if batch.padded_s > self.max_padded_s:
            self.num_failures += 1
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.06 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_a_step_that_ran_out_of_memory_is_done_again_and_comes_out_the_same(toy, clips, error):
    _, expected = update(toy, clips, [[1], [0, 2, 3]])
    memory = SmallMemory(6.0, error)
    result, model = update(toy, clips, [[1], [0, 2, 3]], before_forward=memory)
    assert memory.num_failures == result.num_halvings == 2  # 3 x 4.7 s, then 2 x 4.7 s
    assert result.num_tokens == update(toy, clips, [[0, 1, 2, 3]])[0].num_tokens
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_memory_that_really_runs_out_is_recognised(toy, clips):
    def ask_for_too_much(batch: Batch) -> None:
        if batch.num_utterances > 2:
            torch.empty(2**50)

    result, _ = update(toy, clips, [[0, 1, 2, 3]], before_forward=ask_for_too_much)
    assert result.num_halvings == 1


def test_an_utterance_that_does_not_fit_alone_ends_the_run_with_a_reason(toy, clips):
    memory = SmallMemory(4.0, torch.OutOfMemoryError("out of memory"))
    with pytest.raises(DoesNotFit, match="max_duration_s"):
        update(toy, clips, [[0, 1], [2, 3]], before_forward=memory)


def test_an_error_that_is_not_about_memory_is_not_tried_again(toy, clips):
    memory = SmallMemory(0.0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        update(toy, clips, [[0]], before_forward=memory)
    assert memory.num_failures == 1


def test_the_wish_to_stop_comes_back_with_the_result(toy, clips):
    assert update(toy, clips, [[0]])[0].stop is Stop.NO
    assert update(toy, clips, [[0]], stop=Stop.PREEMPTED)[0].stop is Stop.PREEMPTED


def test_label_smoothing_changes_the_update_and_not_the_reported_loss(toy, clips):
    plain, expected = update(toy, clips, [[0, 1, 2, 3]])
    smoothed, model = update(toy, clips, [[0, 1, 2, 3]], label_smoothing=0.1)
    assert smoothed.loss == pytest.approx(plain.loss, abs=1e-6)
    assert any(
        not torch.equal(one, other) for one, other in zip(model.parameters(), expected.parameters(), strict=True)
    )
