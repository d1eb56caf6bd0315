"""Neighbours of a recording as one clip: which are joined, that none is lost, and what the model hears and writes."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caspi import audio
from caspi.corpus import Corpus, prepare
from caspi.errors import RecipeError
from caspi.model import Prompter, load_prompter
from caspi.recipe import Recipe, parse_recipe
from caspi.recipe.augmentation import Augmentation, Joining
from caspi.recipe.sections import Context, Mixture
from caspi.training import seen, train
from caspi.training.context import ContextMaker
from caspi.training.draws import draw
from caspi.training.feed import BatchMaker
from caspi.training.items import count_of, is_silence, parts_of, position_of, utterance_items
from caspi.training.joining import join, joined_samples
from caspi.training.lengths import LengthIndex
from caspi.training.neighbours import PAUSE_S, gaps_s
from caspi.training.plan import EpochPlan, plan_epoch, plan_run
from caspi.training.reading import ShardReader
from tests.training.conftest import WORDS, tone
from tests.training.test_augment import ALL
from tests.training.test_feed import answers
from tests.training.whole_runs import changed

# --- which rows are neighbours --------------------------------------------------------------------------------------


def rows(*values: tuple[str, float, float, str]) -> pa.Table:
    """Recording, start, end, text."""
    recordings, starts, ends, texts = zip(*values, strict=True)
    return pa.table(
        {
            "recording_id": recordings,
            "start_s": starts,
            "end_s": ends,
            "text": texts,
            "source": ["talks"] * len(values),
            "language": ["he"] * len(values),
        }
    )


def test_neighbours_follow_each_other_in_one_recording():
    table = rows(("a", 0, 2, "x"), ("a", 2.5, 4, "y"), ("a", 3.99, 6, "z"), ("b", 7, 8, "x"), ("b", 9, 10, "y"))
    np.testing.assert_allclose(gaps_s(table), [np.nan, 0.5, 0, np.nan, 1])


def test_overlapping_speech_and_clips_without_text_are_no_neighbours():
    table = rows(("a", 0, 3, "x"), ("a", 2, 4, "y"), ("a", 4, 5, ""), ("a", 5, 6, "z"))
    assert np.isnan(gaps_s(table)).all()


def test_files_of_one_recording_follow_in_their_order_after_a_short_pause():
    table = rows(("a", 0, 3, "x"), ("a", 0, 4, "y"), ("a", 0, 5, "z"))
    np.testing.assert_allclose(gaps_s(table), [np.nan, PAUSE_S, PAUSE_S])


@pytest.mark.parametrize("column", ["source", "language"])
def test_another_source_or_language_is_no_neighbour(column: str):
    table = rows(("a", 0, 2, "x"), ("a", 2, 4, "y"))
    other = table.set_column(table.schema.get_field_index(column), column, pa.array(["one", "two"]))
    assert np.isnan(gaps_s(other)).all()


@pytest.mark.parametrize("num_rows", [0, 1])
def test_one_row_has_no_neighbour(num_rows: int):
    assert np.isnan(gaps_s(rows(("a", 0, 2, "x")).slice(0, num_rows))).all()


# --- which are joined -----------------------------------------------------------------------------------------------


def talks(num_talks: int = 40, utterances: int = 25, *, shard_size: int = 250) -> LengthIndex:
    """Talks of utterances of 2 to 8 s with pauses of up to a second."""
    random = np.random.default_rng(0)
    num_utterances = num_talks * utterances
    gaps = random.uniform(0, 1, num_utterances)
    gaps[::utterances] = np.nan
    gaps[::shard_size] = np.nan
    return LengthIndex.of(
        random.uniform(2, 8, num_utterances),
        np.diff([*range(0, num_utterances, shard_size), num_utterances]),
        gaps_s=gaps,
        following_tokens=random.integers(5, 30, num_utterances),
    )


def joined(index: LengthIndex, settings: Joining, *, shard: int = 0, seed: int = 1) -> np.ndarray:
    items = np.arange(index.starts[shard], index.starts[shard + 1])
    return join(items, index, settings, draw(seed, 0, "joining", shard))


def test_clips_are_as_long_as_was_drawn_or_end_with_their_recording():
    index = talks()
    items = joined(index, Joining(share=1, target_s=(30, 40)))
    durations_s, _ = index.lengths(position_of(items), count_of(items))
    ends_a_talk = (position_of(items) + count_of(items)) % 25 == 0
    assert durations_s.max() <= 40
    assert (durations_s[~ends_a_talk] > 30 - 8 - 1).all()
    assert np.median(durations_s) > 25
    assert sorted(parts_of(items).tolist()) == list(range(250))


def test_a_clip_holds_neighbours_of_one_recording_only():
    items = joined(talks(), Joining(share=1, target_s=(30, 120)))
    firsts, lasts = position_of(items), position_of(items) + count_of(items) - 1
    assert (firsts // 25 == lasts // 25).all()


def test_far_neighbours_are_not_joined():
    index = talks()
    items = joined(index, Joining(share=1, max_gap_s=0.5))
    for first, count in zip(position_of(items), count_of(items), strict=True):
        assert (index.gaps_s[first + 1 : first + count] <= 0.5).all()
    assert len(items) > len(joined(index, Joining(share=1)))


def test_share_is_that_of_the_clips_which_stay_joined():
    index = talks(400, shard_size=10_000)
    items = joined(index, Joining(share=0.3))
    durations_s, _ = index.lengths(position_of(items), count_of(items))
    assert durations_s[count_of(items) > 1].sum() / durations_s.sum() == pytest.approx(0.3, abs=0.05)


def test_other_seeds_join_others():
    assert joined(talks(), Joining(share=0.5)).tolist() != joined(talks(), Joining(share=0.5), seed=2).tolist()


def test_copies_are_joined_with_copies_alike():
    index = talks(2)
    twice = utterance_items(np.repeat(np.arange(50), 2), np.tile([0, 1], 50))
    items = join(twice, index, Joining(share=1), draw(1, 0, "joining"))
    assert Counter(parts_of(items).tolist()) == Counter(twice.tolist())
    assert len(items) < 20


def test_an_item_says_what_is_in_it():
    items = utterance_items(np.array([3, 2**40 - 9]), np.array([1000, 0]), np.array([2048, 1]))
    assert position_of(items).tolist() == [3, 2**40 - 9]
    assert count_of(items).tolist() == [2048, 1]
    assert (items > 0).all() and len(parts_of(items)) == 2049


@st.composite
def indexes(draw: st.DrawFn) -> LengthIndex:
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    total = sum(sizes)
    durations_s = draw(st.lists(st.floats(0.125, 30, width=32), min_size=total, max_size=total))
    gap = st.floats(0, 3, width=32) | st.just(float("nan"))
    gaps = np.array(draw(st.lists(gap, min_size=total, max_size=total)))
    gaps[np.cumsum([0, *sizes[:-1]])] = np.nan
    return LengthIndex.of(np.array(durations_s), sizes, gaps_s=gaps, following_tokens=np.full(total, 7))


def items_of(plan: EpochPlan, world_size: int) -> list[int]:
    bounds = {"max_micro_batch_s": 130.0}
    groups = [
        plan.micro_batches(step, rank=rank, world_size=world_size, **bounds)
        for step in range(plan.num_steps)
        for rank in range(world_size)
    ]
    return [item for group in groups for batch in group for item in batch.tolist()]


@settings(max_examples=80, deadline=None)
@given(
    index=indexes(),
    step_audio_s=st.floats(1, 300),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 5),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    weight=st.sampled_from([0.5, 1.0, 2.5]),
    worlds=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_every_utterance_is_computed_exactly_once_joined_or_not(
    index, step_audio_s, seed, epoch, share, weight, worlds
):
    """As often as without joining, at any number of workers, and no step is empty."""
    mixture = Mixture(weights={"speech": weight}, silence_share=0.1)
    arguments = {"step_audio_s": step_audio_s, "seed": seed, "epoch": epoch, "mixture": mixture}
    try:
        alone = plan_epoch(index, **arguments)
    except RecipeError:  # half of one utterance
        return
    plan = plan_epoch(index, joining=Joining(share=share), **arguments)
    assert plan.num_steps == alone.num_steps
    assert all(len(plan.utterances(step)) for step in range(plan.num_steps))
    first, other = (np.array(items_of(plan, world_size)) for world_size in worlds)
    assert sorted(first.tolist()) == sorted(other.tolist())
    assert Counter(parts_of(first).tolist()) == Counter(items_of(alone, 1))


def test_steps_do_not_depend_on_what_was_asked_before():
    def plan() -> EpochPlan:
        return plan_epoch(talks(), step_audio_s=240, seed=3, epoch=1, joining=Joining(share=0.5))

    unbroken, resumed = plan(), plan()
    for step in reversed(range(resumed.num_steps)):
        assert resumed.utterances(step).tolist() == plan().utterances(step).tolist()
    assert [unbroken.utterances(step).tolist() for step in range(unbroken.num_steps)] == [
        resumed.utterances(step).tolist() for step in range(resumed.num_steps)
    ]


def test_micro_batches_with_long_clips_stay_within_their_bounds():
    plan = plan_epoch(talks(), step_audio_s=600, seed=0, epoch=0, joining=Joining(share=0.5))
    longest = 0
    for step in range(plan.num_steps):
        for batch in plan.micro_batches(step, rank=0, world_size=2, max_micro_batch_s=130.0):
            durations_s, _ = plan.lengths(batch)
            assert len(batch) == 1 or durations_s.max() * len(batch) <= 130
            longest = max(longest, count_of(batch).max())
    assert longest > 8


# --- what is heard --------------------------------------------------------------------------------------------------


def test_pauses_are_kept_and_as_quiet_as_the_speech_before_them():
    random = np.random.default_rng(0)
    quiet = 0.001 * random.standard_normal(8000)
    clips = [np.concatenate([tone(440, 1.0), quiet]).astype(np.float32), tone(880, 0.5)]
    samples = joined_samples(clips, [0.25], draw(1, 0, "a"))
    pause = samples[24000:28000]
    assert len(samples) == 24000 + 4000 + 8000 and samples.dtype == np.float32
    np.testing.assert_array_equal(samples[:24000], clips[0])
    np.testing.assert_array_equal(samples[28000:], clips[1])
    assert np.sqrt(np.mean(pause**2)) == pytest.approx(0.001, rel=0.2)


@pytest.fixture(scope="module")
def talk_recipe(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Twelve recordings of eight utterances each, of one or two words, with pauses between them."""
    folder = tmp_path_factory.mktemp("talks")
    random = np.random.default_rng(7)
    tables: dict[str, list[str]] = {"wav.scp": [], "segments": [], "text": []}
    for talk in range(12):
        pieces, end = [], 0
        for place in range(8):
            words = random.choice(list(WORDS), size=random.integers(1, 3))
            sound = np.concatenate([tone(WORDS[word], random.uniform(0.25, 0.4)) for word in words])
            pause = np.zeros(int(random.integers(1, 6)) * 1600, np.float32)
            pieces += [sound, pause]
            name = f"talk{talk:02d}-{place}"
            tables["segments"].append(f"{name} talk{talk:02d} {end / 16000:.4f} {(end + len(sound)) / 16000:.4f}")
            tables["text"].append(f"{name} {' '.join(words)}")
            end += len(sound) + len(pause)
        (folder / f"talk{talk:02d}.flac").write_bytes(audio.encode_flac(np.concatenate(pieces)))
        tables["wav.scp"].append(f"talk{talk:02d} talk{talk:02d}.flac")
    for name, lines in tables.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    values = recipe.model_dump(mode="json")
    values["data"] |= {"sources": [{"kind": "kaldi", "path": str(folder)}], "shards": {"by": "recording"}}
    values["data"]["splits"] |= {"validation": 0.2, "test": 0.1}
    values["training"] |= {
        "epochs": 2,
        "joining": {"share": 0.6, "target_s": [2, 4], "max_gap_s": 1},
        "batches": {"step_audio_s": 6},
    }
    return parse_recipe(values)


@pytest.fixture(scope="module")
def talk_corpus(talk_recipe: Recipe, ray_2_cpus: None, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare(talk_recipe, tmp_path_factory.mktemp("prepared") / "corpus")


@pytest.fixture(scope="module")
def prompter(toy_model: Path) -> Prompter:
    return load_prompter(toy_model)


def test_a_corpus_by_recording_keeps_them_together_in_their_order(talk_corpus: Corpus, corpus: Corpus):
    table = talk_corpus.read_table("train", ["recording_id", "start_s"]).to_pydict()
    recordings = table["recording_id"]
    borders = sum(before != after for before, after in pairwise(recordings))
    assert borders == len(set(recordings)) - 1 and borders > 4
    assert recordings != sorted(recordings), "recordings are shuffled all the same"
    pairs = zip(recordings, table["start_s"], strict=True)
    by_recording = {name: [start for each, start in pairs if each == name] for name in recordings[:1]}
    assert all(starts == sorted(starts) for starts in by_recording.values())
    judged = talk_corpus.read_table("validation", ["recording_id"])["recording_id"].to_pylist()
    assert sum(before != after for before, after in pairwise(judged)) > len(set(judged)) - 1


def batch_maker(
    corpus: Corpus, index: LengthIndex, prompter: Prompter, augmentation: Augmentation, context_share: float = 0.0
) -> BatchMaker:
    return BatchMaker(
        reader=ShardReader.of_index(corpus, index, max_open_shards=8),
        prompter=prompter,
        augmentation=augmentation,
        context=ContextMaker(Context(share=context_share), prompter),
        seed=1,
    )


def test_what_was_heard_before_changes_nothing(
    talk_recipe: Recipe, talk_corpus: Corpus, prompter: Prompter, tmp_path: Path
):
    """A run that is killed and resumed hears the same, with all augmentation and joined clips."""
    index = LengthIndex.build(talk_corpus, prompter, tmp_path / "lengths")
    plan = plan_run(index, talk_recipe.training)[1]
    unbroken, resumed = (batch_maker(talk_corpus, index, prompter, ALL, 0.5) for _ in range(2))
    for step in range(plan.num_steps):
        ours = unbroken.make(plan.utterances(step), epoch=1)
        if step >= plan.num_steps // 2:
            theirs = resumed.make(plan.utterances(step), epoch=1)
            np.testing.assert_array_equal(ours.features.values, theirs.features.values)
            np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)


def test_a_joined_clip_teaches_its_texts_and_is_as_long_as_planned(
    talk_recipe: Recipe, talk_corpus: Corpus, prompter: Prompter, tmp_path: Path
):
    index = LengthIndex.build(talk_corpus, prompter, tmp_path / "lengths")
    maker = batch_maker(talk_corpus, index, prompter, Augmentation())
    texts = talk_corpus.read_table("train", ["text"])["text"].to_pylist()
    num_joined = 0
    for plan in plan_run(index, talk_recipe.training):
        for step in range(plan.num_steps):
            items = plan.utterances(step)
            items = items[~is_silence(items)]
            batch = maker.make(items, epoch=plan.epoch)
            durations_s, num_tokens = plan.lengths(items)
            assert batch.audio_s == pytest.approx(durations_s.sum(), abs=1e-6)
            assert list(batch.lengths) == num_tokens.tolist()
            for answer, first, count in zip(answers(batch, prompter), position_of(items), count_of(items), strict=True):
                text = " ".join(texts[first : first + count])
                assert answer == f"language Hebrew<asr_text>{text}<|im_end|>"
                num_joined += int(count > 1)
    assert num_joined > 10


def test_a_run_hears_each_utterance_once_in_clips_of_several(
    talk_recipe: Recipe, talk_corpus: Corpus, uri: str, tmp_path: Path
):
    output = tmp_path / "run"
    train(changed(talk_recipe, mixture={"silence_share": 0}), corpus=talk_corpus.path, output=output)
    items = np.array([item for step in seen.read(output / "seen").values() for item in step])
    assert Counter(parts_of(items).tolist()) == dict.fromkeys(range(len(talk_corpus.index("train"))), 2)
    assert count_of(items).max() > 2


def test_joining_what_has_no_neighbours_is_refused(recipe: Recipe, corpus: Corpus, prompter: Prompter, tmp_path: Path):
    index = LengthIndex.build(corpus, prompter, tmp_path / "lengths")
    with pytest.raises(RecipeError, match=r"data\.shards\.by=recording"):
        plan_run(index, changed(recipe, joining={"share": 0.5}, batches={"max_micro_batch_s": 150}).training)


def test_clips_that_fit_into_no_batch_are_refused(recipe: Recipe):
    with pytest.raises(RecipeError, match=r"training\.joining\.target_s=\[30.0, 120.0\] .* does not fit"):
        changed(recipe, joining={"share": 0.5})
