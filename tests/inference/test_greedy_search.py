"""Our greedy search gives the tokens that transformers' `generate` gives, whoever decodes beside whom."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from caspi.errors import RequestError
from caspi.inference.engine import Clip, Engine, drain
from caspi.inference.greedy_search import Continuation
from caspi.inference.slot_cache import SlotCache
from caspi.inference.transformers_engine import TransformersEngine, num_cache_positions
from caspi.model import Loaded, log_mel, num_audio_tokens
from caspi.recipe.sections import Inference
from tests.inference.conftest import noise

DURATIONS = (1.0, 0.4, 2.3, 5.0, 3.0, 1.7)
CLIPS = [noise(seconds, seed=number) for number, seconds in enumerate(DURATIONS)]


class Ids:
    """An engine that keeps the tokens of each answer, by the samples that they are of."""

    def __init__(self, loaded: Loaded, *, max_batch_s: float = 20) -> None:
        self.found: dict[int, Continuation] = {}
        self.engine = TransformersEngine(loaded, limits=Inference(max_batch_s=max_batch_s))
        answer = self.engine._transcription

        def keep(inside, found):
            self.found[id(inside.clip.samples)] = found
            return answer(inside, found)

        self.engine._transcription = keep  # type: ignore[method-assign]

    def of(self, clips: Sequence[np.ndarray]) -> list[list[int]]:
        return [self.found[id(clip)].ids for clip in clips]


def generate(loaded: Loaded, clip: np.ndarray, *, language: str | None = None, context: str = "") -> list[int]:
    """What transformers writes for one clip alone, without the end."""
    prompt = loaded.prompter.prompt(num_audio_tokens(len(clip)), context=context, language=language)
    features = log_mel([clip])
    with torch.inference_mode():
        generated = loaded.model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            input_features=features.values,
            input_features_mask=features.mask,
            max_new_tokens=16 + math.ceil(len(clip) / 16000 * 12),
            do_sample=False,
        )
    ids = generated[0, len(prompt) :].tolist()
    return [token for token in ids if token not in loaded.model.generation_config.eos_token_id]


@pytest.mark.usefixtures("without_guard")
@pytest.mark.parametrize(("language", "context"), [(None, ""), ("Hebrew", ""), ("Hebrew", "תל אביב, ירושלים")])
def test_mixed_lengths_together_get_the_tokens_of_each_alone(
    loaded: Loaded, language: str | None, context: str
) -> None:
    ids = Ids(loaded)
    clips = [Clip.of(clip, language=language, prompt=context) for clip in CLIPS]
    drain(ids.engine, clips)
    expected = [generate(loaded, clip, language=language, context=context) for clip in CLIPS]
    assert ids.of(CLIPS) == expected
    assert len({tuple(answer[:16]) for answer in expected}) == len(CLIPS)  # the model does not say the same to all


@pytest.mark.usefixtures("without_guard")
def test_a_clip_that_starts_while_others_are_decoded_changes_nothing(loaded: Loaded) -> None:
    ids = Ids(loaded, max_batch_s=200)
    for number, clip in enumerate(CLIPS):  # each beside all before it, with another prompt
        ids.engine.start([Clip.of(clip, language="he" if number % 2 else None, prompt="שלום " * number)])
        for _ in range(3):
            ids.engine.step()
    while ids.engine.fill:
        ids.engine.step()
    assert ids.of(CLIPS) == [
        generate(loaded, clip, language="Hebrew" if number % 2 else None, context="שלום " * number)
        for number, clip in enumerate(CLIPS)
    ]


@pytest.mark.usefixtures("without_guard")
def test_a_clip_that_is_dropped_leaves_the_others_as_they_were(loaded: Loaded) -> None:
    ids = Ids(loaded)
    numbers = ids.engine.start([Clip.of(clip) for clip in CLIPS[:4]])
    ids.engine.step()
    ids.engine.drop([numbers[0], numbers[2], 999])
    rest = dict(finish_all(ids.engine))
    assert sorted(rest) == [numbers[1], numbers[3]]
    assert ids.of([CLIPS[1], CLIPS[3]]) == [generate(loaded, CLIPS[1]), generate(loaded, CLIPS[3])]


def finish_all(engine: Engine) -> list:
    finished = []
    while engine.fill:
        finished += engine.step()
    return finished


def test_short_answers_leave_before_long_ones(loaded: Loaded) -> None:
    engine = TransformersEngine(loaded, limits=Inference())
    long, short = engine.start([Clip.of(CLIPS[3]), Clip.of(CLIPS[1])])
    order = [number for number, _ in finish_all(engine)]
    assert order == [short, long]


def test_the_cache_is_what_max_batch_s_allows_and_what_goes_alone_needs(loaded: Loaded) -> None:
    limits = Inference(max_batch_s=12)
    engine = TransformersEngine(loaded, limits=limits)
    config = loaded.model.config.text_config
    allowed = num_cache_positions(limits)
    assert allowed == 12 * (13 + 12 + 8.5)
    clips = [Clip.of(noise(4.0, seed=seed)) for seed in range(4)]
    assert engine.fits(clips[:3]) and not engine.fits(clips)
    engine.start(clips[:3])
    assert 0.9 < engine.fill <= 1
    assert cache_bytes(engine) == allowed * SlotCache.bytes_per_position(config, torch.float32)
    assert not engine.fits(clips[3:])
    finish_all(engine)
    long = Clip.of(noise(40.0))
    assert engine.fits([long]) and not engine.fits([long, clips[0]])
    numbers = engine.start([long])
    assert engine.fill > 1
    assert cache_bytes(engine) > allowed * SlotCache.bytes_per_position(config, torch.float32)
    engine.drop(numbers)
    engine.start(clips[:1])
    assert cache_bytes(engine) == allowed * SlotCache.bytes_per_position(config, torch.float32)


def cache_bytes(engine: TransformersEngine) -> int:
    cache = engine._search._decoder._cache
    assert cache is not None
    return sum(buffer.numel() * buffer.itemsize for buffer in cache._buffers)


def test_log_probs_are_those_of_the_model_and_only_for_who_asks(loaded: Loaded) -> None:
    asks = Clip(CLIPS[0], 1.0, language="he", with_log_probs=True)
    ids = Ids(loaded)
    told, untold = drain(ids.engine, [asks, Clip.of(CLIPS[2], language="he")])
    assert untold.log_probs is None
    assert told.log_probs is not None
    (answer,) = ids.of([CLIPS[0]])
    prompt = loaded.prompter.prompt(num_audio_tokens(len(CLIPS[0])), language="Hebrew")
    features = log_mel([CLIPS[0]])
    with torch.inference_mode():
        logits = loaded.model(
            input_ids=torch.tensor([prompt + answer]),
            input_features=features.values,
            input_features_mask=features.mask,
        ).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
    assert [token.log_prob for token in told.log_probs] == pytest.approx(expected.tolist(), abs=1e-4)
    written = b"".join(token.token for token in told.log_probs).decode(errors="replace")
    assert written.strip() == told.text


def test_half_precision_decodes_too(loaded: Loaded) -> None:
    clips = [Clip.of(clip, language="he") for clip in CLIPS[:3]]
    with torch.autocast("cpu", torch.bfloat16):  # as the validation of a run does
        mixed = TransformersEngine(loaded, limits=Inference())
        assert len(drain(mixed, clips)) == 3
    half = Loaded(copy.deepcopy(loaded.model).bfloat16(), loaded.processor, loaded.prompter)
    engine = TransformersEngine(half, limits=Inference())
    assert len(drain(engine, clips)) == 3
    positions = num_cache_positions(Inference())
    for each in (mixed, engine):
        assert cache_bytes(each) == positions * SlotCache.bytes_per_position(
            loaded.model.config.text_config, torch.float32
        )


@pytest.mark.usefixtures("without_guard")
def test_the_kernel_that_gpus_have_gives_the_same_tokens(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("row_attention", "decoder"):
        monkeypatch.setattr(f"caspi.inference.{module}.keys_lie_across", lambda device: False)
    ids = Ids(loaded)
    drain(ids.engine, [Clip.of(clip) for clip in CLIPS])
    assert ids.of(CLIPS) == [generate(loaded, clip) for clip in CLIPS]


def test_an_unknown_language_is_refused_and_leaves_nothing_inside(loaded: Loaded) -> None:
    engine = TransformersEngine(loaded, limits=Inference())
    clips = [Clip.of(CLIPS[0]), Clip.of(CLIPS[1], language="klingon")]
    assert engine.fits(clips)
    with pytest.raises(RequestError, match="klingon"):
        engine.start(clips)
    assert engine.fill == 0
