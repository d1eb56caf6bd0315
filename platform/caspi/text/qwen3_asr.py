"""The thirty languages that Qwen3-ASR was trained on, named as it writes them. One that needs a normalizer of its own
declares itself in `languages/`, and that declaration counts."""

from caspi.text.language import Language

KNOWN_LANGUAGES = (
    Language("ar", "Arabic", ("ARABIC",)),
    Language("cs", "Czech"),
    Language("da", "Danish"),
    Language("de", "German"),
    Language("el", "Greek", ("GREEK",)),
    Language("en", "English"),
    Language("es", "Spanish"),
    Language("fa", "Persian", ("ARABIC",)),
    Language("fi", "Finnish"),
    Language("fil", "Filipino"),
    Language("fr", "French"),
    Language("hi", "Hindi", ("DEVANAGARI",)),
    Language("hu", "Hungarian"),
    Language("id", "Indonesian"),
    Language("it", "Italian"),
    Language("ja", "Japanese", ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA")),
    Language("ko", "Korean", ("HANGUL",)),
    Language("mk", "Macedonian", ("CYRILLIC",)),
    Language("ms", "Malay"),
    Language("nl", "Dutch"),
    Language("pl", "Polish"),
    Language("pt", "Portuguese"),
    Language("ro", "Romanian"),
    Language("ru", "Russian", ("CYRILLIC",)),
    Language("sv", "Swedish"),
    Language("th", "Thai", ("THAI",)),
    Language("tr", "Turkish"),
    Language("vi", "Vietnamese"),
    Language("yue", "Cantonese", ("CJK", "IDEOGRAPHIC")),
    Language("zh", "Chinese", ("CJK", "IDEOGRAPHIC")),
)
