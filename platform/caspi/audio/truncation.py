"""Does a file stop before its end? Decoders read what is there and say nothing, so we look at what was promised.

A recording cut short keeps the whole transcript, and teaches a model to write what nobody said.

Here is what the file's own structure tells; `decode` compares the promised number of samples besides. An MP3 without
a Xing header and raw AAC that end between two frames promise nothing, and a cut there cannot be known.
"""

import re
from collections.abc import Callable, Iterator

from caspi.audio.sniffing import Container, frame

_OGG_LAST_PAGE = 4  # bit of a page's header_type

# More parts than that are nothing that anybody recorded (three hours in blocks of 20 ms are 540,000), and walking
# through them would keep a thread, and Python's lock, for minutes. What lies behind them is not looked at.
_MAX_PARTS = 1_000_000


def missing_end(encoded: bytes, container: Container) -> str | None:
    """What is missing, in words; None for a whole file, and for kinds whose structure tells nothing."""
    check = _CHECKS.get(container.name)
    return check(encoded, container.start) if check else None


def excess(encoded: bytes, container: Container) -> str | None:
    """What there is more than was promised, in words, where that would be lost in silence: in FLAC.

    libsndfile stops where STREAMINFO says.
    """
    if container.name != "flac":
        return None
    promised, there = flac_promise(encoded), _flac_length(encoded)
    if promised and there and there > promised:
        return f"it promises {promised} samples, and {there} are there"
    return None


def flac_promise(encoded: bytes) -> int:
    """The number of samples by STREAMINFO: the 36 bits that end at its byte 18. 0 says that nobody knows."""
    start = encoded.find(b"fLaC")
    return int.from_bytes(encoded[start + 21 : start + 26], "big") & (2**36 - 1)


def _shortfall(num_there: int, num_promised: int, what: str) -> str | None:
    if num_there < num_promised:
        return f"{max(0, num_there)} of {num_promised} bytes of {what} are there"
    return None


def _wav_end(encoded: bytes, start: int) -> str | None:
    """Walk the chunks to `data` and compare its size with what follows. In RF64 `ds64` holds the size."""
    order = "big" if encoded[:4] == b"RIFX" else "little"
    long_size = None
    for name, place, size in _chunks(encoded, start + 12, order):
        if name == b"ds64":
            long_size = int.from_bytes(encoded[place + 8 : place + 16], "little")
        if name == b"data":
            # Programs that write to a pipe cannot know the size, and put one of these.
            unknown = size == 0 or size >= 0x7FFFF000
            size = long_size if unknown and long_size and encoded[:4] in (b"RF64", b"BW64") else 0 if unknown else size
            return _shortfall(len(encoded) - place, size, "samples")
    return None


def _aiff_end(encoded: bytes, start: int) -> str | None:
    for name, place, size in _chunks(encoded, start + 12, "big"):
        if name == b"SSND":
            return _shortfall(len(encoded) - place, size, "samples")
    return None


def _chunks(encoded: bytes, place: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """The name, the place of the content, and the promised size of each chunk of a RIFF or IFF file."""
    for _ in range(_MAX_PARTS):
        if place + 8 > len(encoded):
            return
        size = int.from_bytes(encoded[place + 4 : place + 8], "big" if order == "big" else "little")
        yield encoded[place : place + 4], place + 8, size
        place += 8 + size + size % 2


def _au_end(encoded: bytes, start: int) -> str | None:
    order = "big" if encoded[:4] == b".snd" else "little"
    place, size = (int.from_bytes(encoded[at : at + 4], "big" if order == "big" else "little") for at in (4, 8))
    return None if size == 0xFFFFFFFF else _shortfall(len(encoded) - place, size, "samples")


def _caf_end(encoded: bytes, start: int) -> str | None:
    place = 8
    for _ in range(_MAX_PARTS):
        if place + 12 > len(encoded):
            break
        name, size = encoded[place : place + 4], int.from_bytes(encoded[place + 4 : place + 12], "big", signed=True)
        place += 12
        if size < 0:  # -1: the rest of the file
            return None
        if name == b"data":
            return _shortfall(len(encoded) - place, size, "samples")
        place += size
    return None


def _sphere_end(encoded: bytes, start: int) -> str | None:
    """The header is text: `sample_count -i 8000` and the like; its own length stands in the second line."""
    header = encoded[:4096]
    fields = dict(re.findall(rb"(\w+) -i (\d+)", header))
    length = re.match(rb"NIST_1A\s+(\d+)", header)
    try:
        count, width = int(fields[b"sample_count"]), int(fields[b"sample_n_bytes"])
    except KeyError:
        return None
    if length is None or b"shorten" in header:
        return None
    promised = count * width * int(fields.get(b"channel_count", 1))
    return _shortfall(len(encoded) - int(length[1]), promised, "samples")


def _ogg_end(encoded: bytes, start: int) -> str | None:
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


def _mp4_end(encoded: bytes, start: int) -> str | None:
    """Every box must fit, and `moov`, the table of where samples lie, must be among them: recorders write it last."""
    place, has_moov, has_media = start, False, False
    for _ in range(_MAX_PARTS):
        if place + 8 > len(encoded):
            break
        size, name = int.from_bytes(encoded[place : place + 4], "big"), encoded[place + 4 : place + 8]
        if size == 1:
            size = int.from_bytes(encoded[place + 8 : place + 16], "big")
        if size == 0:  # to the end of the file
            size = len(encoded) - place
        if size < 8:
            break  # not a box: what follows is somebody's appendix
        has_moov, has_media = has_moov or name == b"moov", has_media or name == b"mdat"
        if place + size > len(encoded) and name.isalnum():
            box = name.decode("latin-1")
            return f"{len(encoded) - place} of {size} bytes of its box `{box}` are there"
        place += size
    if has_media and not has_moov:
        return "its table of samples (the box `moov`) is not there"
    return None


# Matroska's elements that hold others, and may be of unknown size where the writer could not go back.
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675


def _matroska_end(encoded: bytes, start: int) -> str | None:
    """Every element must fit. Browsers record into segments and clusters of unknown size; their content must fit."""
    place = start
    for _ in range(_MAX_PARTS):
        if place >= len(encoded):
            break
        number, place_of_size = _ebml_number(encoded, place, keep_marker=True)
        size, content = _ebml_number(encoded, place_of_size, keep_marker=False)
        if number is None or size is None:
            return "it ends inside an element's header" if len(encoded) - place < 12 else None
        is_unknown = size == 2 ** (7 * (content - place_of_size)) - 1
        if number in (_SEGMENT, _CLUSTER) and (is_unknown or content + size <= len(encoded)):
            place = content  # its elements follow one by one
            continue
        if is_unknown:
            return None
        if content + size > len(encoded):
            return f"{len(encoded) - content} of {size} bytes of an element are there"
        place = content + size
    return None


def _ebml_number(encoded: bytes, place: int, *, keep_marker: bool) -> tuple[int | None, int]:
    """A number whose length is told by the leading zeros of its first byte, and the place behind it."""
    first = encoded[place] if place < len(encoded) else 0
    length = 9 - first.bit_length()
    if not first or place + length > len(encoded):
        return None, place
    number = int.from_bytes(encoded[place : place + length], "big")
    return (number if keep_marker else number & (1 << 7 * length) - 1), place + length


def _adts_end(encoded: bytes, start: int) -> str | None:
    """Walk the frames: each says its length."""
    place = encoded.find(b"\xff", start)
    for _ in range(_MAX_PARTS):
        if not 0 <= place < len(encoded):
            break
        name, length = frame(encoded, place)
        if name != "adts":
            return None  # a tag or another appendix
        if place + length > len(encoded):
            return f"{len(encoded) - place} of {length} bytes of the last frame are there"
        place += length
    return None


def _flac_length(encoded: bytes) -> int | None:
    """How many samples there are by the last frame's own number; None where that is not clear."""
    start = encoded.find(b"fLaC")
    if len(encoded) < start + 42:
        return None
    block_size = int.from_bytes(encoded[start + 10 : start + 12], "big")  # the same for all frames but the last
    if (
        start < 0
        or encoded[start + 4] & 0x7F != 0
        or block_size < 16
        or encoded[start + 8 : start + 10] != (encoded[start + 10 : start + 12])
    ):
        return None
    # The pattern stands in compressed data by chance too, so a frame counts together with the one before it.
    ends: dict[int, int] = {}  # the frame's number -> the sample it ends at
    place = len(encoded)
    for _ in range(_MAX_CANDIDATES):
        place = encoded.rfind(b"\xff\xf8", start, place)
        if place < 0:
            return None
        if (found := _flac_frame(encoded[place : place + 16])) is not None:
            number, size = found
            if number + 1 in ends:
                return ends[number + 1]
            ends[number] = number * block_size + size
    return None


def _flac_end(encoded: bytes, start: int) -> str | None:
    promised, there = flac_promise(encoded), _flac_length(encoded)
    if there is not None and there < promised:
        return f"{there} of the promised {promised} samples are there, the last of them cut off"
    return None


# Compressed data holds the pattern of a frame's start once in 64 KiB, so the last two frames are among the first found.
_MAX_CANDIDATES = 16


def _flac_frame(head: bytes) -> tuple[int, int] | None:
    """The number of the frame that `head` starts, and how many samples it holds."""
    if len(head) < 6 or head[3] & 1 or head[2] >> 4 == 0 or head[2] & 15 == 15:
        return None
    length = 8 - (head[4] ^ 0xFF).bit_length() or 1  # of the number, coded as UTF-8 codes a character
    if not 1 <= length <= 7 or (length == 1 and head[4] > 0x7F) or len(head) < 4 + length:
        return None
    number = head[4] & (0x7F if length == 1 else (1 << 7 - length) - 1)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    place = 4 + length
    num_size_bytes = {6: 1, 7: 2}.get(head[2] >> 4, 0)
    if head[2] >> 4 not in (6, 7):
        code = head[2] >> 4
        size = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    else:
        size = int.from_bytes(head[place : place + num_size_bytes], "big") + 1
    place += num_size_bytes + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if place >= len(head) or _crc8(head[:place]) != head[place]:
        return None
    return number, size


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc


_CHECKS: dict[str, Callable[[bytes, int], str | None]] = {
    "wav": _wav_end,
    "aiff": _aiff_end,
    "au": _au_end,
    "caf": _caf_end,
    "sphere": _sphere_end,
    "flac": _flac_end,
    "ogg": _ogg_end,
    "mp4": _mp4_end,
    "matroska": _matroska_end,
    "adts": _adts_end,
}
