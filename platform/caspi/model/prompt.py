"""What Qwen3-ASR reads and writes, as token ids: the one place that builds prompts, targets and labels.

    prompt   <|im_start|>system⏎CONTEXT<|im_end|>⏎
             <|im_start|>user⏎<|audio_start|><|audio_pad|>...<|audio_end|><|im_end|>⏎
             <|im_start|>assistant⏎
    target   language Hebrew<asr_text>TEXT<|im_end|>

Prompt and target are built apart and joined, so the supervised positions are known by construction. The official
fine-tuning script masks by position in padded rows instead, and trains on the prompts of all but the longest row
(QwenLM/Qwen3-ASR#70).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from caspi.errors import ModelError

# Written to the output of the released template: a system turn always, one audio, user text ignored.
CHAT_TEMPLATE = (
    "{%- set ns = namespace(system='', audio='') -%}"
    "{%- for message in messages -%}"
    "{%- if message.content is string -%}"
    "{%- if message.role == 'system' -%}{%- set ns.system = ns.system + message.content -%}{%- endif -%}"
    "{%- else -%}{%- for content in message.content -%}"
    "{%- if message.role == 'system' and content.type == 'text' -%}"
    "{%- set ns.system = ns.system + content.text -%}{%- endif -%}"
    "{%- if content.type == 'audio' -%}"
    "{%- set ns.audio = ns.audio + '<|audio_start|><|audio_pad|><|audio_end|>' -%}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endfor -%}"
    "{{- '<|im_start|>system\n' + ns.system + '<|im_end|>\n<|im_start|>user\n' + ns.audio + '<|im_end|>\n' -}}"
    "{%- for message in messages -%}{%- if message.role == 'assistant' -%}"
    "{{- '<|im_start|>assistant\n' -}}"
    "{% generation %}{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for content in message.content -%}{%- if content.type == 'text' -%}{{- content.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{- '<|im_end|>\n' -}}{% endgeneration %}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)

NO_SPEECH = "None"  # `language None<asr_text>`: what the model writes when nobody speaks


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance as the model sees it in training."""

    prompt_ids: list[int]
    target_ids: list[int]  # the supervised tokens, all of them and nothing else
    text_ids: list[int]  # those of them that are the transcript


@dataclass(frozen=True)
class Prompter:
    """Builds prompts and targets for one tokenizer."""

    tokenizer: Any  # transformers.Qwen2Tokenizer

    @classmethod
    def matching(cls, tokenizer: Any, config: Any) -> "Prompter":
        """A prompter for a model's own tokenizer. `config` is the model's Qwen3ASRConfig.

        Raises:
            ModelError: the tokenizer is not Qwen3-ASR's, pads with its end of turn, or is of another checkpoint.
        """
        prompter = cls(tokenizer)
        if prompter.audio_id != config.audio_token_id or len(tokenizer) > config.text_config.vocab_size:
            raise ModelError(
                f"the tokenizer has {len(tokenizer)} tokens and <|audio_pad|> is {prompter.audio_id}; config.json says "
                f"vocab_size={config.text_config.vocab_size} and audio_token_id={config.audio_token_id}: "
                "they are not of the same checkpoint"
            )
        return prompter

    @cached_property
    def _special(self) -> dict[str, int]:
        names = ("<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>", "<asr_text>")
        ids = {name: self.tokenizer.convert_tokens_to_ids(name) for name in names}
        missing = [name for name, token in ids.items() if token is None or token == self.tokenizer.unk_token_id]
        if missing:
            raise ModelError(f"the tokenizer lacks {', '.join(missing)}: it is not a Qwen3-ASR tokenizer")
        if self.tokenizer.pad_token_id in (None, ids["<|im_end|>"]):
            # Masking or padding with the end of turn is how models learn never to stop.
            raise ModelError("the tokenizer pads with its end of turn <|im_end|>; expected <|endoftext|>")
        return ids

    @property
    def end_of_turn_id(self) -> int:
        return self._special["<|im_end|>"]

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def audio_id(self) -> int:
        """The placeholder of one audio embedding."""
        return self._special["<|audio_pad|>"]

    def prompt(self, num_audio_tokens: int, *, context: str = "", language: str | None = None) -> list[int]:
        """Everything before the answer. With `language` (Hebrew) the answer's head is forced."""
        special = self._special
        ids = [special["<|im_start|>"], *self.text_ids(f"system\n{context}"), special["<|im_end|>"]]
        ids += [*self.text_ids("\n"), special["<|im_start|>"], *self.text_ids("user\n"), special["<|audio_start|>"]]
        ids += [special["<|audio_pad|>"]] * num_audio_tokens
        ids += [special["<|audio_end|>"], special["<|im_end|>"], *self.text_ids("\n")]
        ids += [special["<|im_start|>"], *self.text_ids("assistant\n")]
        if language is not None:
            ids += [*self.text_ids(f"language {language}"), special["<asr_text>"]]
        return ids

    def target(self, text: str, *, language: str) -> list[int]:
        """The answer: `language Hebrew<asr_text>` + text + end of turn."""
        return self._answer(self.text_ids(text), language)

    def example(self, text: str, *, num_audio_tokens: int, language: str, context: str = "") -> Example:
        """A training example."""
        prompt = self.prompt(num_audio_tokens, context=context)
        text_ids = self.text_ids(text)
        return Example(prompt, self._answer(text_ids, language), text_ids)

    def _answer(self, text_ids: list[int], language: str) -> list[int]:
        head = [*self.text_ids(f"language {language}"), self._special["<asr_text>"]]
        return [*head, *text_ids, self.end_of_turn_id]

    def text_ids(self, text: str) -> list[int]:
        """Plain text as tokens. What looks like a special token in data stays letters: it must not steer the model."""
        pieces = self._inside_added_tokens.split(text)
        return [token for piece in pieces for token in self.tokenizer.encode(piece, add_special_tokens=False)]

    @cached_property
    def _inside_added_tokens(self) -> re.Pattern[str]:
        """The places behind the first letter of every added token in a text.

        Not `split_special_tokens=True`: it spares `<asr_text>` and 40 others, which the released tokenizer adds without
        calling them special.
        """
        rests: dict[str, list[str]] = {}  # by first letter, which is `<` for all that are released: one look a place
        for token in self.tokenizer.added_tokens_decoder.values():
            rests.setdefault(re.escape(token.content[0]), []).append(re.escape(token.content[1:]))
        return re.compile("|".join(f"(?<={first})(?={'|'.join(rest)})" for first, rest in rests.items()))

    def parse(self, ids: Sequence[int], *, language: str | None = None) -> tuple[str | None, str]:
        """Generated ids to (language name or None for no speech, text). `language` was forced, so is not in `ids`."""
        ids = [token for token in ids if token not in (self.pad_id, self.end_of_turn_id)]
        marker = self._special["<asr_text>"]
        if marker in ids:
            place = ids.index(marker)
            head, ids = ids[:place], ids[place + 1 :]
            named = self.tokenizer.decode(head, skip_special_tokens=True).strip().removeprefix("language").strip()
            language = named or None
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        return (None if language == NO_SPEECH else language), text

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """What each token of the text in generated ids stands for, in UTF-8: the last of `ids`, without the head."""
        marker = self._special["<asr_text>"]
        text_ids = ids[ids.index(marker) + 1 :] if marker in ids else ids
        letters = self.tokenizer.convert_ids_to_tokens(list(text_ids))
        return [bytes(_BYTES[letter] for letter in piece) for piece in letters]


# Byte-level BPE writes each byte as a printable letter.
_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}
