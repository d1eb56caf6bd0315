"""The engine `transformers`: the model's own modules in this process, with a greedy search of our own.

Legend: T tokens of all prompts, H hidden size.
"""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from caspi.allocation import keep_freed_memory_of_any_size
from caspi.errors import RequestError
from caspi.inference.answer import EXTRA_TOKENS, language_name, max_new_tokens, transcription
from caspi.inference.encoder import encode
from caspi.inference.engine import Clip
from caspi.inference.greedy_search import Continuation, GreedySearch, Prompt
from caspi.inference.packing import pack
from caspi.inference.precision import weight_type
from caspi.inference.transcription import Transcription
from caspi.model import Loaded, Prompter, load, log_mel, num_audio_tokens
from caspi.model.audio_tokens import TOKENS_PER_CHUNK
from caspi.recipe.sections import Inference, Precision

# What a clip of this length takes beside its audio and its answer (the frame of the prompt, the head of the answer) is
# accounted for in the cache. Shorter clips fill it before they are `max_batch_s` seconds, longer ones never do.
_TYPICAL_CLIP_S = 4.0
_FRAME_TOKENS = 18 + EXTRA_TOKENS  # with the head forced, in the released tokenizer


def num_cache_positions(limits: Inference) -> int:
    """How many positions the cache has: so many tokens that clips of `max_batch_s` seconds fit, answers included."""
    per_second = TOKENS_PER_CHUNK + limits.max_tokens_per_s + _FRAME_TOKENS / _TYPICAL_CLIP_S
    return math.ceil(limits.max_batch_s * per_second)


@dataclass(frozen=True, slots=True)
class _Inside:
    clip: Clip
    language: str | None  # English name
    began: float


class TransformersEngine:
    """An `Engine` over a loaded model."""

    def __init__(self, loaded: Loaded, *, limits: Inference) -> None:
        self._loaded = loaded
        self._limits = limits
        self._num_positions = num_cache_positions(limits)
        self._search = GreedySearch(loaded.model, num_positions=self._num_positions)
        self._inside: dict[int, _Inside] = {}
        # Many requests have the same prompt, most none, and each is asked about several times before it starts.
        self._num_text_tokens = functools.lru_cache(maxsize=256)(functools.partial(_num_text_tokens, loaded.prompter))

    @property
    def fill(self) -> float:
        return _padded(self._search.num_positions) / self._num_positions

    def fits(self, clips: Sequence[Clip]) -> bool:
        if not self._inside and len(clips) <= 1:
            return True
        return _padded([*self._search.num_positions, *map(self._most_positions, clips)]) <= self._num_positions

    @torch.inference_mode()
    def start(self, clips: Sequence[Clip]) -> list[int]:
        if not clips:
            return []
        began = time.perf_counter()
        names = [language_name(clip.language) for clip in clips]
        prompts = [
            Prompt(embeddings, max_new_tokens(clip, self._limits), clip.with_log_probs)
            for clip, embeddings in zip(clips, self._embed(clips, names), strict=True)
        ]
        numbers = self._search.start(prompts)
        self._inside |= {
            number: _Inside(clip, name, began) for number, clip, name in zip(numbers, clips, names, strict=True)
        }
        return numbers

    def step(self) -> list[tuple[int, Transcription]]:
        return [
            (number, self._transcription(self._inside.pop(number), continuation))
            for number, continuation in self._search.step()
        ]

    def drop(self, numbers: Collection[int]) -> None:
        self._search.drop(numbers)
        self._inside = {number: inside for number, inside in self._inside.items() if number not in numbers}

    def _embed(self, clips: Sequence[Clip], languages: Sequence[str | None]) -> Sequence[torch.Tensor]:
        """What the decoder reads of each clip, (tokens, H): its prompt with the sound in it."""
        model, prompter = self._loaded.model, self._loaded.prompter
        prompts = [
            prompter.prompt(num_audio_tokens(len(clip.samples)), context=clip.prompt, language=language)
            for clip, language in zip(clips, languages, strict=True)
        ]
        embedding = model.get_input_embeddings()
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=embedding.weight.device)
        features = log_mel([clip.samples for clip in clips], device=ids.device)
        features = dataclasses.replace(features, seconds=features.seconds.to(model.dtype))
        sound = encode(model, features)  # (audio tokens of all clips, H)
        embeddings = embedding(ids)  # (T, H)
        is_sound = (ids == prompter.audio_id).unsqueeze(-1)
        return embeddings.masked_scatter(is_sound, sound.to(embeddings.dtype)).split([len(each) for each in prompts])

    def _most_positions(self, clip: Clip) -> int:
        """What a clip takes in the cache at most, prompt and answer."""
        num_text_tokens = self._num_text_tokens(clip.prompt, clip.language)
        return num_text_tokens + num_audio_tokens(len(clip.samples)) + max_new_tokens(clip, self._limits)

    def _transcription(self, inside: _Inside, found: Continuation) -> Transcription:
        return transcription(
            self._loaded.prompter,
            inside.clip,
            found.ids,
            language=inside.language,
            finish=found.finish,
            log_probs=found.log_probs,
            latency_s=time.perf_counter() - inside.began,
        )


def load_for_inference(model: str | Path, *, device: str | None = None, precision: Precision = "auto") -> Loaded:
    """A model folder, `models:/NAME@alias`, `runs:/ID/model` or a Hub id, on this machine's GPU if it has one.

    On a CPU the weights are packed, so the model cannot be trained or saved any more, and this process keeps what
    memory it frees from now on.

    Raises:
        ModelError: it is not there, or not a model that Caspi can use.
    """
    from caspi.tracking import locate_model  # MLflow is needed for its URIs alone

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = weight_type(precision, torch.device(device))
    loaded = load(locate_model(str(model)), device=device, dtype=dtype)
    if device == "cpu":
        pack(loaded.model)
        keep_freed_memory_of_any_size()
    return loaded


def open_transformers(model: str | Path, *, limits: Inference) -> TransformersEngine:
    """What `open_engine` calls."""
    return TransformersEngine(load_for_inference(model, precision=limits.precision), limits=limits)


def _num_text_tokens(prompter: Prompter, context: str, language: str | None) -> int:
    """Of a prompt, without its audio. Of a language that nobody knows it does not matter: `start` refuses it."""
    with contextlib.suppress(RequestError):
        return len(prompter.prompt(0, context=context, language=language_name(language)))
    return 0


def _padded(num_positions: Sequence[int]) -> int:
    """What rows take in the cache: all are as wide as the widest."""
    return len(num_positions) * max(num_positions, default=0)
