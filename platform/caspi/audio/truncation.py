"""Does a file stop before its end? libsndfile reads what is there and says nothing, so we look at what was promised.

A recording cut short keeps the whole transcript, and teaches a model to write what nobody said.
"""

# An MP3 header rounds to whole frames and encoders pad, so only a clear shortfall counts.
_MP3_TOLERANCE_S = 0.5

_OGG_LAST_PAGE = 4  # bit of a page's header_type


def missing_end(encoded: bytes, format: str, num_promised: int, num_read: int, sample_rate: int) -> str | None:
    """What is missing, in words; None for a whole file.

    `format` is libsndfile's name; `num_promised` the samples that its header promises, `num_read` those that came.
    """
    if format in ("WAV", "WAVEX", "RF64"):
        return _wav_end(encoded)
    if format == "OGG":
        return _ogg_end(encoded)
    if format == "MP3":
        # Without a Xing or Info header the length is an estimate from the bit rate, and promises nothing.
        if not any(tag in encoded[:65536] for tag in (b"Xing", b"Info")):
            return None
        num_promised -= int(_MP3_TOLERANCE_S * sample_rate)
    if num_read < num_promised < 2**62:
        return f"{num_read / sample_rate:.2f} s of the promised {num_promised / sample_rate:.2f} s are there"
    return None


def _wav_end(encoded: bytes) -> str | None:
    """Walk the chunks to `data` and compare its size with what follows."""
    if encoded[:4] != b"RIFF":
        return None
    place = 12
    while place + 8 <= len(encoded):
        name, size = encoded[place : place + 4], int.from_bytes(encoded[place + 4 : place + 8], "little")
        place += 8
        if name == b"data":
            # Programs that write to a pipe cannot know the size, and put one of these.
            unknown = size == 0 or size >= 0x7FFFF000
            if not unknown and len(encoded) < place + size:
                return f"{len(encoded) - place} of {size} bytes of samples are there"
            return None
        place += size + size % 2
    return None


def _ogg_end(encoded: bytes) -> str | None:
    """The last page must be whole and marked as the last."""
    page = encoded.rfind(b"OggS")
    header = encoded[page : page + 27]
    if len(header) < 27:
        return "the last Ogg page is cut off"
    segments = encoded[page + 27 : page + 27 + header[26]]
    if len(encoded) < page + 27 + header[26] + sum(segments):
        return "the last Ogg page is cut off"
    if not header[5] & _OGG_LAST_PAGE:
        return "the Ogg stream lacks its last page"
    return None
