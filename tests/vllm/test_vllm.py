"""vLLM's CPU build decodes a toy as transformers does, through Caspi's engine.

python -m tests.vllm.environment /somewhere/vllm
pytest -m vllm --vllm-python /somewhere/vllm/bin/python
"""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest

from caspi.errors import EngineError, RequestError
from caspi.inference import parity
from caspi.inference.engine import Clip, drain, open_engine
from caspi.inference.transcription import Transcription
from caspi.inference.vllm_engine import VllmEngine, open_vllm
from caspi.recipe.sections import Inference

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

LIMITS = Inference(max_tokens_per_s=3)


@pytest.fixture(scope="module")
def engine(vllm_environment: Mapping[str, str], toy_model: Path) -> Iterator[VllmEngine]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in vllm_environment.items():
            patch.setenv(name, value)
        engine = open_vllm(toy_model, limits=LIMITS)
        yield engine
        engine.close()


def clip(seconds: float, **asked: str) -> Clip:
    random = np.random.default_rng(int(10 * seconds))
    return Clip.of((0.1 * random.standard_normal(int(16_000 * seconds))).astype(np.float32), **asked)


def test_answers_are_those_of_transformers(engine: VllmEngine, toy_model: Path):
    clips = [
        clip(seconds, **asked)
        for seconds in (1, 1.25, 2.3, 6.4, 12)
        for asked in ({}, {"language": "he"}, {"prompt": "שלום"})
    ]
    ours = drain(open_engine(toy_model, limits=LIMITS), clips)
    theirs = drain(engine, clips)
    assert [without_latency(answer) for answer in theirs] == [without_latency(answer) for answer in ours]


def test_clips_start_and_are_dropped_while_others_run(engine: VllmEngine):
    (expected,) = drain(engine, [clip(6.4)])
    first, dropped = engine.start([clip(6.4), clip(20)])
    engine.step()
    (late,) = engine.start([clip(6.4)])
    engine.drop([dropped])
    answers = {}
    while {first, late} - answers.keys():
        answers |= engine.step()
    assert answers.keys() == {first, late}
    assert answers[first].text == answers[late].text == expected.text
    assert engine.fill == 0


def test_a_clip_longer_than_vllms_memory_is_refused(engine: VllmEngine):
    with pytest.raises(RequestError, match="send shorter pieces"):
        engine.start([clip(1, prompt="מה " * 20_000)])
    assert drain(engine, [clip(1)])


def test_another_models_answers_are_refused(
    engine: VllmEngine, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As if vLLM had read one weight wrong."""
    right = parity.load(toy_model)
    with parity.torch.no_grad():
        right.model.model.audio_tower.layers[0].fc2.weight.mul_(1.5)
    monkeypatch.setattr(parity, "load", lambda _: right)
    with pytest.raises(EngineError, match="does not compute what transformers does"):
        engine.prove(toy_model, dtype="float32", cache=tmp_path)


def test_a_killed_vllm_is_an_error_and_leaves_nothing_behind(
    vllm_environment: Mapping[str, str], toy_model: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in vllm_environment.items():
        monkeypatch.setenv(name, value)
    engine = open_vllm(toy_model, limits=LIMITS)
    worker = psutil.Process(engine._process._process.pid)
    family = [worker, *worker.children(recursive=True)]
    engine.start([clip(6.4)])
    worker.kill()
    with pytest.raises(EngineError, match="exit code -9"):
        while True:
            engine.step()
    assert not psutil.wait_procs(family, timeout=30)[1], "and nobody closed it"
    engine.close()


def test_vllm_ends_when_its_owner_is_killed(vllm_environment: Mapping[str, str], toy_model: Path):
    code = f"""
        from pathlib import Path
        from caspi.inference.vllm_engine import open_vllm
        from caspi.recipe.sections import Inference
        engine = open_vllm(Path({str(toy_model)!r}), limits=Inference())
        print("open", flush=True)
        input()
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **vllm_environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert owner.stdout is not None
        assert any(line.strip() == b"open" for line in owner.stdout)
        family = psutil.Process(owner.pid).children(recursive=True)
        assert any("vllm_worker" in " ".join(child.cmdline()) for child in family)
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert not psutil.wait_procs(family, timeout=30)[1]


def without_latency(answer: Transcription) -> Transcription:
    return dataclasses.replace(answer, latency_s=None)
