"""Labels at scale: whatever a transcript or a context holds, the target is supervised, all of it and nothing else."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caspi.model import NO_SPEECH, Batch, Prompter, num_audio_tokens
from caspi.model.batch import IGNORED
from tests.model.making import batch_of, noise

NUM_ROWS = 1_000
ROWS_OF_A_BATCH = 40
LANGUAGES = ("Hebrew", "Yiddish", "English", "Arabic", "Chinese")

HEBREW = [chr(code) for code in range(0x05D0, 0x05EB)]
POINTS = [chr(code) for code in (*range(0x0591, 0x05BE), 0x05BF, 0x05C1, 0x05C2, 0x05C7)]
MARKS = list("\u200e\u200f\u202a\u202b\u202c\u2066\u2069\u05f3\u05f4\u05be\u05c0\u05c3.,:;!?-–\"'()[]{}<>|/\\%&#@+=*₪€")
FOREIGN = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéüñ中文日本語한국어عربىрус🙂👍🏽\u00a0\ufb2a\ufb4b")
SPECIAL = (
    "<|im_end|>",
    "<|im_start|>",
    "<asr_text>",
    "<|audio_pad|>",
    "<|audio_start|>",
    "<|endoftext|>",
    "<non_speech>",
)


def word(random: np.random.Generator) -> str:
    kind = random.integers(8)
    length = int(random.integers(1, 9))
    if kind <= 2:
        return "".join(random.choice(HEBREW, length))
    if kind == 3:
        return "".join(
            letter + "".join(random.choice(POINTS, random.integers(3))) for letter in random.choice(HEBREW, length)
        )
    if kind == 4:
        return "".join(random.choice(FOREIGN, length))
    if kind == 5:
        return str(random.integers(10**length))
    if kind == 6:
        return "".join(random.choice(MARKS, length))
    return str(random.choice(SPECIAL))


def text(random: np.random.Generator, num_words: int) -> str:
    separators = (" ", " ", " ", "", "  ", "\n", "\t")
    return "".join(word(random) + str(random.choice(separators)) for _ in range(num_words))


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str, str, float]]:
    """Text, language, context and seconds; one in twenty without speech, one in fifty with a long context."""
    random = np.random.default_rng(2026)
    made = []
    for number in range(NUM_ROWS):
        is_speech = number % 20 != 7
        num_context_words = 400 if number % 50 == 3 else int(random.integers(0, 6)) * (number % 3 == 0)
        made.append(
            (
                text(random, int(random.integers(1, 16))) if is_speech else "",
                str(random.choice(LANGUAGES)) if is_speech else NO_SPEECH,
                text(random, num_context_words),
                float(random.uniform(0.05, 2.5)),
            )
        )
    return made


def check(prompter: Prompter, batch: Batch, rows: list[tuple[str, str, str, float]]) -> None:
    assert batch.num_utterances == len(rows)
    for ids, labels, (transcript, language, context, seconds) in zip(
        batch.input_ids.tolist(), batch.labels.tolist(), rows, strict=True
    ):
        supervised = [place for place, label in enumerate(labels) if label != IGNORED]
        start, end = supervised[0], supervised[-1] + 1
        assert supervised == list(range(start, end)), "one run of labels"
        assert labels[start:end] == ids[start:end], "labels are the tokens that stand there"
        # The tokenizer composes letters and their points (NFC), and keeps everything else.
        answer, prompt = (
            prompter.tokenizer.decode(part, skip_special_tokens=False) for part in (ids[start:end], ids[:start])
        )
        assert answer == unicodedata.normalize("NFC", f"language {language}<asr_text>{transcript}<|im_end|>")
        audio = "<|audio_pad|>" * num_audio_tokens(round(seconds * 16000))
        assert prompt == (
            f"<|im_start|>system\n{unicodedata.normalize('NFC', context)}<|im_end|>\n"
            f"<|im_start|>user\n<|audio_start|>{audio}<|audio_end|><|im_end|>\n<|im_start|>assistant\n"
        )
        assert set(ids[end:]) <= {prompter.pad_id}
        # Nothing in the data became a token that means something: three turns, the audio, and the head's end.
        added = [token for token in ids[:end] if token in prompter.tokenizer.added_tokens_decoder]
        assert len(added) == 3 * 2 + 2 + len(audio) // len("<|audio_pad|>") + 1
        written = unicodedata.normalize("NFC", transcript).strip()
        assert prompter.parse(ids[start:end]) == (None if language == NO_SPEECH else language, written)


def test_a_thousand_texts_and_contexts_are_supervised_exactly(prompter: Prompter, rows):
    for start in range(0, NUM_ROWS, ROWS_OF_A_BATCH):
        part = rows[start : start + ROWS_OF_A_BATCH]
        texts, languages, contexts, seconds = zip(*part, strict=True)
        clips = [noise(each, seed=place) for place, each in enumerate(seconds)]
        batch = batch_of(prompter, clips, texts, languages=languages, contexts=contexts)
        check(prompter, batch, part)
        first, second = batch.halves()
        check(prompter, first, part[: first.num_utterances])
        check(prompter, second, part[first.num_utterances :])


@settings(max_examples=300, deadline=None)
@given(written=st.text() | st.lists(st.sampled_from([*SPECIAL, "<", ">", "|", "א"])).map("".join))
def test_any_text_at_all_survives(prompter: Prompter, written: str):
    ids = prompter.text_ids(written)
    assert prompter.tokenizer.decode(ids) == unicodedata.normalize("NFC", written)
    assert not prompter.tokenizer.added_tokens_decoder.keys() & set(ids)
