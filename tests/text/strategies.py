"""Texts as nobody would write them, for properties that must hold of any."""

from hypothesis import strategies as st

# Qwen's own tokens, and time and task tokens of Whisper that data brings along.
TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|audio_start|>", "<|audio_pad|>", "<asr_text>", "<think>",
    "</tool_call>", "<tts_pad>", "<non_speech>", "<blank7>", "<timestamp>", "<|2.40|>", "<|he|>", "<|notimestamps|>",
)  # fmt: skip

INVISIBLE = (
    "\xad\u034f\u061c\u115f\u180b\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2063\u2066\u2067"
    "\u2068\u2069\u3164\ufe0f\ufeff\U000e0061\U000e0100"
)

HEBREW_MARKS = "".join(
    map(chr, [*range(0x0591, 0x05BE), 0x05BF, 0x05C1, 0x05C2, 0x05C4, 0x05C5, 0x05C7, 0xFB1E])
)  # fmt: skip

# What stands between words without a space.
SEPARATORS = (
    "\u05be",
    "\u05c0",
    "\u05c3",
    "\u05c6",
    "-",
    "–",
    "—",
    "\u2011",
    "/",
    "\n",
    "\xa0",
    "\u2028",
    "\x00",
    "\ufffc",
)


def wide(text: str) -> str:
    """In fullwidth characters, which NFKC turns into the ASCII ones."""
    return "".join(chr(ord(character) + 0xFEE0) if "!" <= character <= "~" else character for character in text)


def _pieces(token: str, cut: int) -> list[str]:
    return [token, token[:cut], token[cut:], wide(token), wide(token[:cut]) + token[cut:], token.upper()]


# Whole tokens, halves that meet again when what stood between them goes, and fullwidth ones.
TOKEN_PIECES = st.tuples(st.sampled_from(TOKENS), st.integers(1, 14)).flatmap(
    lambda drawn: st.sampled_from(_pieces(*drawn))
)

# Letters, points, accents, punctuation, presentation forms; marks of other scripts; what is invisible; token pieces.
HEBREW_TEXT = st.lists(
    st.one_of(
        st.characters(min_codepoint=0x0590, max_codepoint=0x05FF),
        st.characters(min_codepoint=0xFB1D, max_codepoint=0xFB4F),
        st.sampled_from(HEBREW_MARKS),
        st.sampled_from("abcXYZ0189½²é"),
        st.sampled_from("\"'״׳“”„‘’‚`´′″ʼʹ-–—‑.,!?;:…()<>|/_¨⃣ \t\n\xa0"),
        st.sampled_from(INVISIBLE),
        st.sampled_from("\u0301\u0307\u0327\u0338"),
        TOKEN_PIECES,
        st.characters(),
    ),
    max_size=30,
).map("".join)

# Token pieces with what hides them: invisible characters, points, and one inside the other.
TOKEN_TEXT = st.lists(
    st.one_of(
        TOKEN_PIECES, st.sampled_from(INVISIBLE), st.sampled_from(HEBREW_MARKS), st.sampled_from("<>|/_ א≮≯\u0338")
    ),
    max_size=12,
).map("".join)

HEBREW_WORD = st.text(st.sampled_from("אבגדהוזחטיכלמנסעפצקרשתךםןףץ"), min_size=1, max_size=5)
PLAIN_WORD = st.one_of(HEBREW_WORD, st.text(st.sampled_from("abcdef0123"), min_size=1, max_size=5))
