"""Names for people that say nothing about them."""

import hashlib

# Part of the format: with another key the same voices would get other names, and splits by speaker would move.
_KEY = b"caspi.corpus.speaker"


def speaker_name(personal_id: str | None) -> str | None:
    """A short name that is always the same for the same person; the id cannot be read from it.

    Whoever already holds a list of ids can hash them too, so this hides who somebody is from readers of a corpus, not
    from the collector.
    """
    if not personal_id:
        return None
    return hashlib.blake2b(personal_id.encode(), key=_KEY, digest_size=8).hexdigest()
