"""Whether another engine computes what transformers does, asked with one fixed clip before the first request.

A layout that is read a little wrong, another rotary embedding, other mel filters: such a model still writes fluent
text, only worse, and nobody would know. Two computations of the same model agree token by token, but for rounding: in
bfloat16 the log probabilities move a little, and where two tokens are about equally likely the answers may part. So the
engines agree if, at each step up to there, the likeliest tokens have the same log probabilities within a tolerance, and
if the reference finds the two tokens at which they part equally likely within it.

The reference is computed once for each model and kept; the other engine is asked at every start.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

from caspi import audio
from caspi.errors import EngineError
from caspi.model import load, log_mel
from caspi.model.weights import digest

logger = logging.getLogger(__name__)

TOLERANCES: Mapping[str, float] = {"float32": 0.01, "bfloat16": 0.4, "float16": 0.4}
"""Largest difference of log probabilities, by the other engine's dtype. What was seen is in docs/benchmarks.md."""

MAX_NEW_TOKENS = 24
NUM_SCORES = 20  # log probabilities that are kept of each step, the likeliest
_NUM_COMPARED = 5

_CLIP_S = 2.3  # what is left of a whole second takes a way of its own through the encoder


@dataclass(frozen=True, slots=True)
class Answer:
    """Greedy tokens, and at each step the log probabilities of the likeliest ones."""

    ids: list[int]
    scores: list[dict[int, float]]


def clip() -> np.ndarray:
    """The fixed clip: a voice-like sound of syllables with a falling pitch, (num_samples,) float32 at 16 kHz."""
    time_s = np.arange(int(_CLIP_S * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE
    phase = 2 * np.pi * (180 * time_s - 15 * time_s**2)
    voice = sum(np.sin(number * phase) / number for number in range(1, 20))
    return (0.1 * voice * np.clip(np.sin(2 * np.pi * 3 * time_s), 0, 1)).astype(np.float32)


def reference(folder: Path, prompt_ids: Sequence[int], end_ids: Sequence[int], *, cache: Path) -> Answer:
    """transformers' answer, in float32 on the CPU.

    Args:
        prompt_ids: with all placeholders of the clip's audio.
        cache: a folder with the answers of earlier calls. The same model, prompt and transformers are not asked again.
    """
    asked = [digest(folder), (folder / "config.json").read_text(encoding="utf-8"), transformers.__version__]
    key = hashlib.sha256(json.dumps([*asked, list(prompt_ids), list(end_ids)]).encode()).hexdigest()
    path = cache / f"{key[:32]}.json"
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        answer = _generate(folder, prompt_ids, end_ids)
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged, and made again: %s", path, error)
        answer = _generate(folder, prompt_ids, end_ids)
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")  # replicas start at the same time
    unfinished.write_text(json.dumps(asdict(answer)), encoding="utf-8")
    unfinished.replace(path)
    return answer


def check(answer: Answer, expected: Answer, *, engine: str, dtype: str) -> None:
    """Compare an engine's answer to the reference.

    Raises:
        EngineError: they differ by more than rounding in `dtype`. The message says where.
    """
    tolerance = TOLERANCES.get(dtype, TOLERANCES["bfloat16"])
    if found := difference(answer, expected, tolerance=tolerance):
        raise EngineError(
            f"the engine `{engine}` in {dtype} does not compute what transformers does: {found}; tolerated: "
            f"{tolerance}. Its text would be wrong: use the engine `transformers`, or another release"
        )


def difference(answer: Answer, expected: Answer, *, tolerance: float) -> str | None:
    """Where two answers differ by more than `tolerance`, in words. None: nowhere."""
    for step, (scores, expected_scores) in enumerate(zip(answer.scores, expected.scores, strict=False)):
        for token in sorted(expected_scores, key=lambda token: -expected_scores[token])[:_NUM_COMPARED]:
            found = scores.get(token)
            if found is None or abs(found - expected_scores[token]) > tolerance:
                said = "not among its likeliest" if found is None else f"{found:.4f}"
                return f"at step {step} the log probability of token {token} is {said} for {expected_scores[token]:.4f}"
        chosen, expected_token = answer.ids[step], expected.ids[step]
        if chosen != expected_token:
            # Equally likely within the tolerance, or the scores above would differ too, unless it is far down the list.
            behind = expected_scores[expected_token] - expected_scores.get(chosen, -np.inf)
            return None if behind <= tolerance else f"at step {step} it writes token {chosen} for {expected_token}"
    if len(answer.ids) != len(expected.ids):
        return f"it writes {len(answer.ids)} tokens for {len(expected.ids)}"
    return None


@torch.inference_mode()
def _generate(folder: Path, prompt_ids: Sequence[int], end_ids: Sequence[int]) -> Answer:
    loaded = load(folder)
    features = log_mel([clip()])
    ids = torch.tensor([list(prompt_ids)])
    generated = loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_features=features.values,
        input_features_mask=features.mask,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=list(end_ids),
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    likeliest = [torch.log_softmax(logits[0], -1).topk(NUM_SCORES) for logits in generated.logits]
    scores = [dict(zip(top.indices.tolist(), top.values.tolist(), strict=True)) for top in likeliest]
    return Answer(generated.sequences[0, len(prompt_ids) :].tolist(), scores)


def _parse(written: str) -> Answer:
    fields = json.loads(written)
    return Answer(fields["ids"], [{int(token): score for token, score in step.items()} for step in fields["scores"]])
