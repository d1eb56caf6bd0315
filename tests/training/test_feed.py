"""Feeding: repeatable augmentation, batches in the plan's order, errors where they belong."""

import numpy as np
import pytest

from caspi.recipe.sections import Augmentation
from caspi.training.augment import augment_samples
from caspi.training.draws import draw
from caspi.training.feed import ahead

ALL = Augmentation(speed=0.1, gain_db=6, noise_db=10, max_shift_s=0.2)


def samples() -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(16000) * 0.2).astype(np.float32)


def test_augmentation_is_the_same_for_the_same_utterance_and_epoch():
    one, same = (augment_samples(samples(), ALL, draw(1, 2, "a")) for _ in range(2))
    np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("other", [(9, 2, "a"), (1, 3, "a"), (1, 2, "b")])
def test_augmentation_differs_with_seed_epoch_and_utterance(other):
    one, another = augment_samples(samples(), ALL, draw(1, 2, "a")), augment_samples(samples(), ALL, draw(*other))
    assert len(one) != len(another) or not np.array_equal(one, another)


def test_without_augmentation_samples_stay_as_they_are():
    np.testing.assert_array_equal(augment_samples(samples(), Augmentation(), draw(1, 1, "a")), samples())


def test_speed_changes_the_length_by_at_most_its_bound():
    lengths = [len(augment_samples(samples(), Augmentation(speed=0.1), draw(1, 1, str(i)))) for i in range(50)]
    assert 16000 / 1.1 - 2 <= min(lengths) < max(lengths) <= 16000 / 0.9 + 2


def test_items_come_in_order():
    assert list(ahead(lambda: iter(range(20)))) == list(range(20))


def test_an_error_is_raised_at_its_item():
    def produce():
        yield 1
        raise ValueError("broken shard")

    items = ahead(produce)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken shard"):
        next(items)


def test_leaving_early_ends_the_thread():
    import threading

    items = ahead(lambda: iter(range(1000)))
    next(items)
    items.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "feed"]
