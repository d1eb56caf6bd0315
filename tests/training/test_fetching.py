"""Shards of an object store come before they are needed, once for all workers of a machine, and the run is the same."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caspi.corpus import Corpus
from caspi.corpus.sources import asking
from caspi.errors import TrainingError
from caspi.model import Prompter, build_toy
from caspi.recipe import Recipe, show
from caspi.recipe.augmentation import Augmentation
from caspi.recipe.sections import Context, Toy
from caspi.training.context import ContextMaker
from caspi.training.feed import BatchMaker, Planned, Share
from caspi.training.fetching import ShardFetcher, upcoming_shards
from caspi.training.lengths import LengthIndex, shard_sizes
from caspi.training.plan import EpochPlan, plan_epoch
from caspi.training.reading import ShardReader
from tests.corpus import spoken
from tests.object_store import Proxy, upload
from tests.training.whole_runs import changed, lines, start, wait_for

URL = "s3://speech/corpus"


@pytest.fixture
def stored(tmp_path: Path, s3_client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Eight shards, in a store."""
    monkeypatch.setenv("CASPI_HOME", str(tmp_path / "home"))
    upload(s3_client, spoken.write(tmp_path / "corpus", num_shards=8).path, below="corpus/")
    return Corpus.open(URL)


def plans_of(corpus: Corpus, num_epochs: int = 2) -> list[EpochPlan]:
    """In windows of two shards and two steps."""
    sizes = shard_sizes(corpus, "train")
    index = LengthIndex.of(np.full(sum(sizes.values()), 0.5), list(sizes.values()))
    return [
        plan_epoch(index, step_audio_s=0.25, seed=0, epoch=epoch, shards_per_window=2) for epoch in range(num_epochs)
    ]


def here(corpus: Corpus) -> set[str]:
    return {f"train/{path.name}" for path in corpus.path.glob("train/*.parquet")}


def windows(plans: list[EpochPlan]) -> list[set[str]]:
    return [{plan.index.shards[shard] for shard in window} for plan in plans for window in plan.windows]


def fetched(corpus: Corpus, plans: list[EpochPlan], epoch: int, step: int, expected: set[str]) -> None:
    """Follow the plan to a step, and wait until what should come has come."""
    with ShardFetcher(corpus) as fetcher:
        fetcher.follow(plans, epoch, step)
        wait_for(lambda: here(corpus) >= expected)


@pytest.fixture
def plans(stored: Corpus) -> list[EpochPlan]:
    found = plans_of(stored)
    shards = tuple(stored.shard_names("train"))
    for plan in found:
        object.__setattr__(plan.index, "shards", shards)
    assert len(found[0].windows) == 4
    return found


def test_the_window_of_a_step_comes_first_and_then_the_next(plans: list[EpochPlan]):
    all_windows = windows(plans)
    for number in range(8):
        epoch, window = divmod(number, 4)
        upcoming = upcoming_shards(plans, epoch, window)
        assert set(upcoming[:2]) == all_windows[number]
        if number + 1 < 8:
            assert set(upcoming) == all_windows[number] | all_windows[number + 1]


def test_a_step_finds_its_shards_here_and_the_next_window_is_on_its_way(stored: Corpus, plans: list[EpochPlan]):
    first, second, third, *_ = windows(plans)
    with ShardFetcher(stored) as fetcher:
        fetcher.follow(plans, 0, 0)
        wait_for(lambda: here(stored) == first | second)
        fetcher.follow(plans, 0, 1)  # of the same window
        fetcher.follow(plans, 0, int(plans[0].first_steps[1]))
        wait_for(lambda: here(stored) == first | second | third)


def test_what_a_reader_wants_was_fetched_in_one_range(stored: Corpus, plans: list[EpochPlan], proxy: Proxy):
    assert stored.mirror is not None
    first, second, *_ = windows(plans)
    fetched(stored, plans, 0, 0, first | second)
    reader, names, asked = ShardReader.of_split(stored, "train"), stored.shard_names("train"), len(proxy.asked)
    for shard in first | second:
        reader.read(4 * names.index(shard))
        assert proxy.ranges(f"corpus/{shard}") == [(0, stored.mirror.shards()[shard].num_bytes)]
    assert len(proxy.asked) == asked


def test_no_more_is_fetched_than_there_is_room_for(
    stored: Corpus, plans: list[EpochPlan], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    assert stored.mirror is not None
    first, second = upcoming_shards(plans, 0, 0)[:2], upcoming_shards(plans, 0, 0)[2:]
    sizes = stored.mirror.shards()
    room = sum(sizes[shard].num_bytes for shard in [*first, second[0]])
    monkeypatch.setenv("CASPI_CORPUS_CACHE_GB", str(room / 1e9))
    fetched(stored, plans, 0, 0, {*first, second[0]})
    time.sleep(0.2)
    assert here(stored) == {*first, second[0]}
    assert "steps will wait for downloads" in caplog.text


def test_of_a_folder_nothing_is_fetched(tmp_path: Path):
    corpus = spoken.write(tmp_path / "corpus", num_shards=8)
    with ShardFetcher(corpus) as fetcher:
        fetcher.follow(plans_of(corpus), 0, 0)
        assert fetcher._begun == [] and not fetcher._threads._threads


def test_readers_give_the_same_rows_from_a_store(stored: Corpus, tmp_path: Path):
    there, local = (ShardReader.of_split(each, "train") for each in (stored, Corpus.open(tmp_path / "corpus")))
    assert [there.read(position) for position in range(32)] == [local.read(position) for position in range(32)]


def test_shards_that_are_read_no_more_go_when_room_is_needed(stored: Corpus, monkeypatch: pytest.MonkeyPatch):
    assert stored.mirror is not None
    size = max(shard.num_bytes for shard in stored.mirror.shards().values())
    monkeypatch.setenv("CASPI_CORPUS_CACHE_GB", str(3.5 * size / 1e9))
    names = stored.shard_names("train")
    reader = ShardReader(stored, names, np.arange(0, 36, 4), max_open_shards=2)
    for position in range(32):
        reader.read(position)
        assert len(here(stored)) <= 3
    assert {*names[-2:]} <= here(stored)


def test_a_store_that_is_gone_ends_the_training_and_says_what_to_do(
    stored: Corpus, plans: list[EpochPlan], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(asking, "DEADLINE_S", 0.3)
    proxy.failures, proxy.how = 10**9, "hang up"
    with ShardFetcher(stored) as fetcher:
        fetcher.follow(plans, 0, 0)  # what is fetched ahead fails without a word to the run
        message = rf"{URL}/train/shard-00000\.parquet: no answer within .*Checkpoints are kept: go on with --resume"
        with pytest.raises(TrainingError, match=re.compile(message, re.DOTALL)):
            ShardReader.of_split(stored, "train").read(0)


def test_steps_before_an_outage_are_done_and_the_others_once_it_is_over(
    stored: Corpus, plans: list[EpochPlan], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(asking, "DEADLINE_S", 0.3)
    plan, lost = plans[0], min(windows(plans)[1])
    _, processor = build_toy(Toy(), texts=["שלום עולם"] * 20, language="Hebrew", seed=0)
    prompter = Prompter(processor.tokenizer)
    maker = BatchMaker(
        reader=ShardReader.of_index(stored, plan.index, max_open_shards=2),
        prompter=prompter,
        augmentation=Augmentation(),
        context=ContextMaker(Context(), prompter),
        seed=0,
    )

    def from_step(first: int) -> Iterator[Share]:
        def planned() -> Iterator[Planned]:
            with ShardFetcher(stored) as fetcher:
                for step in range(first, plan.num_steps):
                    fetcher.follow(plans, 0, step)
                    yield Planned(0, plan.micro_batches(step, rank=0, world_size=1, max_micro_batch_s=60), 0.5)

        return maker.shares(planned(), num_threads=1)

    proxy.only, proxy.how, proxy.failures = f"corpus/{lost}", "hang up", 10**9
    done: list[Share] = []
    with pytest.raises(TrainingError, match=lost):
        for share in from_step(0):
            done.append(share)
    assert plan.first_steps[1] <= len(done) < plan.first_steps[2]
    proxy.failures = 0
    done += from_step(len(done))
    assert [sorted(share.items) for share in done] == [sorted(plan.utterances(step)) for step in range(plan.num_steps)]


def finished(recipe: Path, corpus: str | Path, output: Path, home: Path) -> list[dict[str, Any]]:
    """What each step of a whole run said."""
    process = start(recipe, corpus, output, home)  # type: ignore[arg-type]
    said, _ = process.communicate(timeout=250)
    assert process.returncode == 0, said
    return lines(output)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_from_a_store_is_the_run_from_the_folder(
    recipe: Recipe, corpus: Corpus, s3_client, proxy: Proxy, tmp_path: Path
):
    """On two workers. A store that stumbles makes no difference, and each shard comes once for both of them."""
    upload(s3_client, corpus.path, below="corpus/")
    short = tmp_path / "short.yaml"
    short.write_text(show(changed(recipe, epochs=2)), encoding="utf-8")
    proxy.only, proxy.failures = "corpus/train", 2

    there = finished(short, URL, tmp_path / "there", tmp_path / "home")
    local = finished(short, corpus.path, tmp_path / "local", tmp_path / "home")

    assert [line["train/loss"] for line in there] == [line["train/loss"] for line in local]
    assert proxy.failures < 0
    for shard in [*corpus.shard_names("train"), *corpus.shard_names("validation")]:
        size = (corpus.path / shard).stat().st_size
        whole = [each for each in proxy.ranges(f"corpus/{shard}") if each == (0, size)]
        assert len(whole) == 1, proxy.ranges(f"corpus/{shard}")
