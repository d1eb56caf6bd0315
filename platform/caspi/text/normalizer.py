"""What every language's normalizer can do."""

from typing import Protocol


class Normalizer(Protocol):
    """Two pure, idempotent functions with `scoring(transcript(x)) == scoring(x)`."""

    def transcript(self, text: str) -> str:
        """What the model learns to write: punctuation and case stay, one spelling for each mark, no markup."""
        ...

    def scoring(self, text: str) -> str:
        """What WER and CER compare: letters, digits and single spaces."""
        ...
