"""Feeding: batches in the plan's order, errors where they belong."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caspi.corpus import Corpus
from caspi.errors import TrainingError
from caspi.model import Batch, Prompter, load_prompter
from caspi.model.loss import IGNORED
from caspi.recipe import Recipe
from caspi.recipe.augmentation import Augmentation, Noise
from caspi.recipe.sections import Batches, Context, Mixture
from caspi.training.context import ContextMaker
from caspi.training.feed import BatchMaker, ahead
from caspi.training.items import silence_items, utterance_items
from caspi.training.lengths import LengthIndex
from caspi.training.plan import plan_run
from caspi.training.reading import ShardReader

ALL = Augmentation(speed=0.1, gain_db=6, noise=Noise(share=0.5), max_shift_s=0.2)


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


# --- batches --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def prompter(toy_model: Path) -> Prompter:
    return load_prompter(toy_model)


@pytest.fixture
def maker(corpus: Corpus, prompter: Prompter) -> BatchMaker:
    return BatchMaker(
        reader=ShardReader.of_split(corpus, "train"),
        prompter=prompter,
        augmentation=Augmentation(),
        context=ContextMaker(Context(), prompter),
        seed=1,
    )


def prompts(batch: Batch, prompter: Prompter) -> list[str]:
    """What each row shows the model before the audio."""
    return [prompter.tokenizer.decode(ids).partition("<|im_end|>")[0] for ids in batch.input_ids]


def answers(batch: Batch, prompter: Prompter) -> list[str]:
    """What each row teaches."""
    return [prompter.tokenizer.decode(labels[labels != IGNORED]) for labels in batch.labels]


def test_a_batch_teaches_the_texts_of_its_utterances(maker: BatchMaker, corpus: Corpus, prompter: Prompter):
    positions = [3, 0, 7]
    batch = maker.make(np.array(positions), epoch=0)
    texts = corpus.read_table("train", ["text"])["text"].to_pylist()
    assert answers(batch, prompter) == [
        f"language Hebrew<asr_text>{texts[position]}<|im_end|>" for position in positions
    ]
    durations_s = corpus.read_table("train", ["duration_s"])["duration_s"].to_numpy()
    assert batch.audio_s == pytest.approx(durations_s[positions].sum())


def test_each_row_has_its_own_language(corpus: Corpus, maker: BatchMaker, prompter: Prompter, tmp_path: Path):
    shutil.copytree(corpus.path, tmp_path / "corpus")
    copy = Corpus.open(tmp_path / "corpus")
    (shard,) = copy.shards("train")
    rows = pq.read_table(shard)
    languages = ["he", "en", "yi", *["he"] * (len(rows) - 3)]
    place = rows.schema.get_field_index("language")
    pq.write_table(rows.set_column(place, "language", pa.array(languages)), shard)
    mixed = replace(maker, reader=ShardReader.of_split(copy, "train"))
    heads = [answer.partition("<asr_text>")[0] for answer in answers(mixed.make(np.arange(3), epoch=0), prompter)]
    assert heads == ["language Hebrew", "language English", "language Yiddish"]


def test_silence_is_answered_with_nothing(maker: BatchMaker, prompter: Prompter):
    batch = maker.make(np.array([0, *silence_items(0, 2)]), epoch=0)
    assert answers(batch, prompter)[1:] == ["language None<asr_text><|im_end|>"] * 2


def test_contexts_stand_in_the_system_turn_of_speech_and_silence(maker: BatchMaker, prompter: Prompter):
    told = replace(maker, context=ContextMaker(Context(share=1.0), prompter))
    items = np.array([0, 1, 2, *silence_items(0, 2)])
    assert all(len(prompt) > len("<|im_start|>system\n") for prompt in prompts(told.make(items, epoch=0), prompter))
    assert set(prompts(maker.make(items, epoch=0), prompter)) == {"<|im_start|>system\n"}


def test_a_context_changes_nothing_else(maker: BatchMaker, prompter: Prompter):
    plain = replace(maker, augmentation=ALL)
    told = replace(plain, context=ContextMaker(Context(share=1.0), prompter))
    one, other = (each.make(np.arange(4), epoch=0) for each in (plain, told))
    np.testing.assert_array_equal(one.features.values, other.features.values)
    assert answers(one, prompter) == answers(other, prompter)


def test_an_utterance_is_the_same_in_every_batch_and_another_in_every_copy(maker: BatchMaker):
    noisy = replace(maker, augmentation=Augmentation(noise=Noise(share=1, snr_db=(0, 20)), gain_db=9))
    alone = noisy.make(np.array([4]), epoch=1).features.values[0]
    together = noisy.make(np.array([4, 5]), epoch=1).features.values[0, :, : alone.shape[-1]]
    copy = noisy.make(utterance_items(np.array([4]), np.array([1])), epoch=1).features.values[0]
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert abs(alone - copy).max() > 0.01


def test_damaged_audio_is_an_error_that_names_shard_and_utterance(corpus: Corpus, maker: BatchMaker, tmp_path: Path):
    shutil.copytree(corpus.path, tmp_path / "corpus")
    copy = Corpus.open(tmp_path / "corpus")
    (shard,) = copy.shards("train")
    rows = pq.read_table(shard)
    sounds = rows["audio"].to_pylist()
    sounds[2] = sounds[2][: len(sounds[2]) // 2]
    pq.write_table(rows.set_column(rows.schema.get_field_index("audio"), "audio", pa.array(sounds)), shard)
    damaged = replace(maker, reader=ShardReader.of_split(copy, "train"))
    with pytest.raises(TrainingError, match=f"{shard.name}: damaged audio: {rows['utterance_id'][2]}"):
        damaged.make(np.array([2]), epoch=0)


def test_batches_stay_within_their_bounds_whatever_is_done_to_them(
    recipe: Recipe, corpus: Corpus, maker: BatchMaker, prompter: Prompter, tmp_path: Path
):
    """With the worst that augmentation and context may add, as they really come out."""
    training = recipe.training.model_copy(
        update={
            "augmentation": Augmentation(speed=0.4, max_shift_s=1.5),
            "context": Context(share=1.0, key_term_share=1.0, max_tokens=50),
            "mixture": Mixture(silence_share=0.1),
            "batches": Batches(step_audio_s=20),
        }
    )
    index = LengthIndex.build(corpus, prompter, tmp_path / "lengths")
    stretched = replace(
        maker, augmentation=training.augmentation, context=ContextMaker(training.context, prompter), seed=training.seed
    )
    sizes = []
    for plan in plan_run(index, training):
        for step in range(plan.num_steps):
            for items in plan.micro_batches(
                step, rank=0, world_size=1, max_micro_batch_s=12.0, max_micro_batch_tokens=600
            ):
                batch = stretched.make(items, epoch=plan.epoch)
                sizes.append(len(items))
                frames = batch.features.mask.sum(-1).max()
                assert len(items) == 1 or len(items) * frames / 100 <= 12.0
                assert len(items) == 1 or batch.input_ids.numel() <= 600
    assert max(sizes) > 2
