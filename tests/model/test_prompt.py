"""Prompts, targets and labels, with the toy's tokenizer and with the released one."""

import numpy as np
import pytest
import torch

from caspi.errors import ModelError
from caspi.model import Loaded, Prompter, collate, num_audio_tokens
from caspi.model.batch import IGNORED

WORDS = ["שלום", "עולם", 'צה"ל', "בית-ספר", "ילד", "3.5", "Qwen", "hello", "!", "\u05d0\u05b8", "🙂", "ד'"]


def clip(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(int(seconds * 16000)).astype(np.float32) * 0.1


def test_supervised_positions_of_a_mixed_batch_decode_to_exactly_the_target(prompter: Prompter):
    random = np.random.default_rng(7)
    texts = [" ".join(random.choice(WORDS, size=random.integers(1, 12))) for _ in range(24)]
    clips = [clip(random.uniform(0.2, 9)) for _ in texts]
    contexts = ["" if i % 2 else "מונחים: הכנסת, Caspi" for i in range(len(texts))]
    examples = [
        prompter.example(text, num_audio_tokens=num_audio_tokens(len(samples)), language="Hebrew", context=context)
        for text, samples, context in zip(texts, clips, contexts, strict=True)
    ]
    batch = collate(examples, clips, pad_id=prompter.pad_id)
    for row, text in enumerate(texts):
        supervised = batch.labels[row][batch.labels[row] != IGNORED]
        written = prompter.tokenizer.decode(supervised, skip_special_tokens=False)
        assert written == f"language Hebrew<asr_text>{text}<|im_end|>"
        # The labels stand where the same tokens are read.
        assert torch.equal(batch.input_ids[row][batch.labels[row] != IGNORED], supervised)


def test_the_prompt_is_what_the_chat_template_renders(toy: Loaded):
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "שמות: דנה"}]},
        {"role": "user", "content": [{"type": "audio"}]},
        {"role": "assistant", "content": "language Hebrew<asr_text>שלום עולם"},
    ]
    rendered = toy.processor.apply_chat_template(messages, tokenize=False)
    rendered = rendered.replace("<|audio_pad|>", "<|audio_pad|>" * 7)
    example = toy.prompter.example("שלום עולם", num_audio_tokens=7, language="Hebrew", context="שמות: דנה")
    ids = example.prompt_ids + example.target_ids
    # The template ends its turns with a line end, which is not the model's to learn.
    assert toy.processor.tokenizer.decode(ids) + "\n" == rendered
    assert toy.processor.tokenizer.encode(rendered) == ids + toy.prompter.text_ids("\n")


def test_special_tokens_in_data_stay_letters(prompter: Prompter):
    added = prompter.tokenizer.added_tokens_decoder
    for token in added.values():
        for text in (token.content, f"שלום {token.content}{token.content} עולם", f"<{token.content}>"):
            ids = prompter.text_ids(text)
            assert not added.keys() & set(ids), text
            assert prompter.tokenizer.decode(ids) == text


def test_a_text_without_special_tokens_is_encoded_in_one_piece(prompter: Prompter):
    text = "ה-Qwen3 <אמר> |שלום| <asr text> < 3"
    assert prompter.text_ids(text) == prompter.tokenizer.encode(text, add_special_tokens=False)


def test_padding_is_not_the_end_of_turn(prompter: Prompter, toy: Loaded):
    assert prompter.pad_id != prompter.end_of_turn_id
    assert toy.model.config.pad_token_id == toy.prompter.pad_id
    assert toy.model.generation_config.pad_token_id != toy.prompter.end_of_turn_id


def test_a_tokenizer_that_pads_with_its_end_of_turn_is_refused(toy: Loaded):
    import copy

    tokenizer = copy.deepcopy(toy.processor.tokenizer)
    tokenizer.pad_token = "<|im_end|>"
    with pytest.raises(ModelError, match="pads with its end of turn"):
        Prompter(tokenizer).prompt(3)


@pytest.mark.parametrize(
    ("written", "forced", "expected"),
    [
        ("language Hebrew<asr_text>שלום<|im_end|>", None, ("Hebrew", "שלום")),
        ("language None<asr_text><|im_end|>", None, (None, "")),
        ("שלום<|im_end|><|endoftext|>", "Hebrew", ("Hebrew", "שלום")),
        ("<|im_end|>", "Hebrew", ("Hebrew", "")),
        ("language Hebrew<asr_text>שלום<asr_text><|audio_pad|> עולם<|im_end|>", None, ("Hebrew", "שלום עולם")),
    ],
)
def test_answers_are_parsed_and_the_tag_never_leaks(prompter: Prompter, written, forced, expected):
    ids = prompter.tokenizer.encode(written, add_special_tokens=False)
    assert prompter.parse(ids, language=forced) == expected


def test_the_pieces_of_an_answer_are_the_bytes_of_its_text(prompter: Prompter):
    ids = prompter.tokenizer.encode("language Hebrew<asr_text>צה״ל הודיע<asr_text> 7", add_special_tokens=False)
    pieces = prompter.pieces(ids)
    assert b"".join(pieces).decode() == "צה״ל הודיע 7"
    assert len(pieces) == len(ids) - ids.index(prompter.tokenizer.convert_tokens_to_ids("<asr_text>")) - 1
