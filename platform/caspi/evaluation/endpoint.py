"""Any endpoint with OpenAI's transcription contract as a system: OpenAI's own, a rival's, ours."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import openai

from caspi import audio, settings
from caspi.errors import RequestError, ServingError
from caspi.inference.transcription import Transcription

logger = logging.getLogger(__name__)

# Requests under way at once, from each actor.
_CONCURRENT = 8
_TIMEOUT_S = 120.0
# OpenAI's client repeats what may pass (no connection, 408, 409, 429, 5xx), after pauses that grow to 8 s or that the
# server asks for: half a minute in all.
_MAX_RETRIES = 6
# Said of a clip: it is too short, too long, or of a language that is not served. Other clips may be well.
_REFUSALS_OF_A_CLIP = (400, 413, 415, 422)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where it is and which of its models is meant. Calling it makes the client, in the process that transcribes."""

    name: str
    url: str
    model: str
    api_key: str = field(repr=False)

    @classmethod
    def open(cls, name: str) -> "Endpoint":
        """`https://HOST/v1#MODEL`; without `#MODEL`, the only model that the endpoint lists.

        The key is `OPENAI_API_KEY`.

        Raises:
            RequestError: the endpoint does not answer, refuses the key, or lacks the model.
        """
        url, _, model = name.partition("#")
        opened = cls(name, url, model, settings.read().openai_api_key)
        try:
            listed = [each.id for each in opened._client(max_retries=1).models.list()]
        except openai.NotFoundError:
            listed = []  # not every endpoint lists its models
        except openai.OpenAIError as error:
            raise RequestError(f"{url}: {_explain(error)}; expected an endpoint of OpenAI's contract there") from error
        if model and (model in listed or not listed):
            return opened
        if not model and len(listed) == 1:
            return cls(name, url, listed[0], opened.api_key)
        wanted = f"it has no model {model!r}" if model else "say which of its models"
        raise RequestError(f"{url}: {wanted}: {url}#MODEL; it lists {', '.join(listed) or 'none'}")

    def __call__(self) -> "EndpointClient":
        return EndpointClient(self, self._client(max_retries=_MAX_RETRIES))

    def _client(self, *, max_retries: int) -> openai.OpenAI:
        # Without a key the client would refuse to start; endpoints that need none do not look at it.
        return openai.OpenAI(
            base_url=self.url, api_key=self.api_key or "none", timeout=_TIMEOUT_S, max_retries=max_retries
        )


class EndpointClient:
    """Sends clips as FLAC, some at a time."""

    def __init__(self, endpoint: Endpoint, client: openai.OpenAI) -> None:
        self._endpoint = endpoint
        self._client = client
        self._has_answered = False

    def transcribe_batch(
        self, clips: Sequence[np.ndarray], *, languages: Sequence[str | None] | None = None
    ) -> list[Transcription]:
        """Answers in the order of the clips. A clip that the endpoint refuses counts as one in which it heard nothing.

        Raises:
            ServingError: it stopped answering, or has refused every clip so far.
        """
        spoken = list(languages) if languages is not None else [None] * len(clips)
        with ThreadPoolExecutor(_CONCURRENT) as pool:
            answers = list(pool.map(self._ask, clips, spoken))
        refusals = [answer for answer in answers if isinstance(answer, openai.APIStatusError)]
        self._has_answered |= len(refusals) < len(answers)
        if refusals and not self._has_answered:
            raise ServingError(f"{self._endpoint.name}: refuses every clip: {_explain(refusals[0])}") from refusals[0]
        for refusal in refusals:
            logger.warning("%s: a clip was refused and counts as unheard: %s", self._endpoint.name, _explain(refusal))
        return [answer if isinstance(answer, Transcription) else Transcription("", None, 0.0) for answer in answers]

    def _ask(self, clip: np.ndarray, language: str | None) -> Transcription | openai.APIStatusError:
        """The answer, or the endpoint's refusal of this very clip."""
        began = time.monotonic()
        try:
            answer = self._client.audio.transcriptions.create(
                file=("clip.flac", audio.encode_flac(clip)),
                model=self._endpoint.model,
                language=language if language is not None else openai.omit,
                response_format="json",
            )
        except openai.APIStatusError as error:
            if error.status_code in _REFUSALS_OF_A_CLIP:
                return error
            raise ServingError(f"{self._endpoint.name}: {_explain(error)}") from error
        except openai.OpenAIError as error:
            raise ServingError(f"{self._endpoint.name}: {_explain(error)}") from error
        return Transcription(answer.text, language, len(clip) / audio.SAMPLE_RATE, time.monotonic() - began)


def _explain(error: openai.OpenAIError) -> str:
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return f"the key in OPENAI_API_KEY is refused: {error}"
    if isinstance(error, openai.APIConnectionError):
        return f"no answer: {error.__cause__ or error}"
    return str(error)
