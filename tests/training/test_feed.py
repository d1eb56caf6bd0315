"""Feeding: batches in the plan's order, errors where they belong."""

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from caspi import audio
from caspi.corpus import Corpus
from caspi.errors import TrainingError
from caspi.model import Batch, Prompter, load_prompter
from caspi.model.loss import IGNORED
from caspi.recipe import Recipe
from caspi.recipe.augmentation import Augmentation, Noise
from caspi.recipe.sections import Batches, Collation, Context, Mixture
from caspi.training.context import ContextMaker
from caspi.training.feed import BatchMaker, Planned, ahead
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


def feeding() -> list[str]:
    """Threads of a feed that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_leaving_early_ends_the_thread():
    items = ahead(lambda: iter(range(1000)))
    next(items)
    items.close()
    assert not feeding()


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


def test_masks_hide_bands_and_spans_of_each_clip(maker: BatchMaker):
    """The same ones in every batch; hidden is zero, and the rest stays as it is."""
    settings = Augmentation(frequency_masks=2, frequency_mask_bins=30, time_masks=2, time_mask_share=0.3)
    masked = replace(maker, augmentation=settings)
    plain, hidden = (each.make(np.arange(6), epoch=3).features for each in (maker, masked))
    is_hidden = (hidden.values == 0) & (plain.values != 0)
    assert is_hidden.any(dim=(1, 2)).all()
    torch.testing.assert_close(hidden.values[~is_hidden], plain.values[~is_hidden])
    for row, frames in enumerate(plain.num_frames):
        places = is_hidden[row, :, :frames]
        bands, spans = places.all(1), places.all(0)
        assert bands.any() or spans.any()
        assert torch.equal(places, bands[:, None] | spans[None])
    alone = masked.make(np.array([4]), epoch=3).features
    torch.testing.assert_close(alone.values[0], hidden.values[4, :, : alone.values.shape[-1]])


# --- threads --------------------------------------------------------------------------------------------------------


def planned(*groups: list[int], audio_s: float = 1.0) -> Iterator[Planned]:
    """Each group is a step of one micro-batch."""
    return (Planned(0, [np.array(group)], audio_s) for group in groups)


@pytest.mark.parametrize("collation", ["packed", "bucketed"])
def test_shares_do_not_depend_on_which_thread_is_done_first(maker: BatchMaker, monkeypatch, collation: Collation):
    lively = replace(maker, augmentation=ALL, collation=collation)
    steps = [[3, 0, 7], [1], [5, 2, 4, 6], [8, *silence_items(0, 2)]]
    alone = [lively.make(np.array(step), epoch=0) for step in steps]
    decode, random = audio.decode, np.random.default_rng(0)

    def slowly(encoded: bytes, *, source: str) -> audio.Audio:
        time.sleep(random.uniform(0, 0.05))
        return decode(encoded, source=source)

    monkeypatch.setattr(audio, "decode", slowly)
    shares = list(lively.shares(planned(*steps), num_threads=4))
    assert [share.items.tolist() for share in shares] == steps
    for share, expected in zip(shares, alone, strict=True):
        (batch,) = share.batches
        assert torch.equal(batch.input_ids, expected.input_ids)
        assert torch.equal(batch.labels, expected.labels)
        assert torch.equal(batch.sound.signal, expected.sound.signal)


def test_a_share_may_be_empty(maker: BatchMaker):
    (share,) = maker.shares(iter([Planned(0, [], 0.0)]), num_threads=1)
    assert share.batches == []
    assert len(share.items) == 0


def test_what_is_read_ahead_is_bounded_by_its_audio(maker: BatchMaker):
    """Ten seconds a step, and 600 may wait; each share that is taken makes room for another."""
    begun: list[int] = []

    def endless() -> Iterator[Planned]:
        while True:
            begun.append(len(begun))
            yield Planned(0, [np.array([0])], 10.0)

    shares = maker.shares(endless(), num_threads=2)
    for taken in range(1, 6):
        next(shares)
        assert len(begun) == 60 + taken
    shares.close()
    assert not feeding()


def test_a_share_that_is_larger_than_the_bound_is_made_all_the_same(maker: BatchMaker):
    shares = maker.shares(planned([0], [1], [2], audio_s=5000.0), num_threads=2)
    assert [share.items.tolist() for share in shares] == [[0], [1], [2]]


@pytest.mark.parametrize("what", ["audio", "shard"])
def test_damage_is_an_error_at_its_own_step(maker: BatchMaker, monkeypatch, what: str):
    """Not before: the steps that come first are whole."""
    read = ShardReader.read

    def broken(reader: ShardReader, position: int):
        row = read(reader, position)
        if position == 5 and what == "shard":
            raise TrainingError("shard is gone")
        return replace(row, encoded=row.encoded[:100]) if position == 5 else row

    monkeypatch.setattr(ShardReader, "read", broken)
    shares = maker.shares(planned([0], [1, 2], [3, 5], [4]), num_threads=3)
    assert [next(shares).items.tolist() for _ in range(2)] == [[0], [1, 2]]
    with pytest.raises(TrainingError, match="damaged audio" if what == "audio" else "shard is gone"):
        next(shares)
    assert not feeding()
