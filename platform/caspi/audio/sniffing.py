"""What kind of file is this? Told by the bytes: names and extensions lie too often, and MIME types more often still.

The answer also names FFmpeg's demuxer, so that FFmpeg never guesses: some of what it could guess are playlists, which
open further files.
"""

import re
from dataclasses import dataclass, replace

# Each container: the words for messages, and FFmpeg's demuxer (None where libsndfile alone reads it).
_KINDS: dict[str, tuple[str, str | None]] = {
    "wav": ("a WAV file", "wav"),
    "w64": ("a Wave64 file", "w64"),
    "aiff": ("an AIFF file", "aiff"),
    "au": ("an AU file", "au"),
    "sphere": ("a SPHERE file", "nistsphere"),
    "caf": ("a CAF file", "caf"),
    "voc": ("a VOC file", "voc"),
    "flac": ("a FLAC file", "flac"),
    "mp3": ("an MP3 file", "mp3"),
    "ogg": ("an Ogg file", "ogg"),
    "mp4": ("an MP4/M4A file", "mov"),
    "adts": ("an AAC (ADTS) file", "aac"),
    "matroska": ("a WebM/Matroska file", "matroska"),
    "amr": ("an AMR file", "amr"),
    "asf": ("a WMA/ASF file", "asf"),
}

# What people store under an audio name by mistake: (start, words).
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"PAR1", "a Parquet file"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"#EXTM3U", "a playlist, not a recording"),
)

_OGG_CODECS: tuple[tuple[bytes, str], ...] = (
    (b"OpusHead", "opus"),
    (b"\x01vorbis", "vorbis"),
    (b"\x7fFLAC", "flac"),
    (b"Speex   ", "speex"),
)

# Where MP3 and AAC frames are looked for when the file does not open with one: a cut stream, zeros after a tag.
_SEARCHED_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Container:
    """A kind of audio file."""

    name: str  # a key of _KINDS
    start: int = 0  # where it begins, behind an ID3v2 tag
    codec: str | None = None  # for Ogg: opus, vorbis, flac, speex

    @property
    def words(self) -> str:
        """For messages."""
        return _KINDS[self.name][0]

    @property
    def demuxer(self) -> str | None:
        """FFmpeg's name for it."""
        return _KINDS[self.name][1]


def sniff(encoded: bytes) -> Container | None:
    """The container of `encoded`; None for what is not audio that we know."""
    start = _behind_id3(encoded)
    found = _by_start(encoded[start : start + 4096]) or _by_frames(encoded, start)
    if found is None and start:
        return Container("mp3", start)  # only MP3s are tagged so, and the message of their decoder is the best one
    return replace(found, start=start) if found else None


def describe(encoded: bytes) -> str:
    """What the bytes are, in words, when `sniff` did not know them."""
    for start, words in _STRANGERS:
        if encoded[: len(start)] == start:
            return words
    head = encoded[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] == b"<":
        return "an HTML or XML page; the server answered with it in place of the recording"
    if head[:1] in (b"{", b"["):
        return "JSON text"
    text = head.decode("utf-8", errors="ignore")  # the last character may be cut in two
    if len(text.encode()) > len(head) - 4 and all(letter.isprintable() or letter.isspace() for letter in text):
        return "text"
    return f"{len(encoded)} bytes that are not audio"


def opus_input_rate(encoded: bytes) -> int:
    """The rate, in Hz, of what was encoded, as the header of an Ogg Opus file gives it; 0 where it does not."""
    head = encoded.find(b"OpusHead", 0, 512)
    return int.from_bytes(encoded[head + 12 : head + 16], "little") if head >= 0 else 0


def _by_start(head: bytes) -> Container | None:
    """By the magic bytes of containers that have them."""
    name = None
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        name = "wav"
    elif head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        name = "aiff"
    elif head[:4] == b"OggS":
        payload = head[27 + head[26] :] if len(head) > 26 else b""
        codec = next((codec for magic, codec in _OGG_CODECS if payload.startswith(magic)), None)
        return Container("ogg", codec=codec)
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"pnot") or (
        head[4:8] in (b"wide", b"free", b"skip") and head[12:16].isalpha()
    ):
        name = "mp4"
    else:
        name = next((name for magic, name in _MAGICS if head.startswith(magic)), None)
    return Container(name) if name else None


_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"fLaC", "flac"),
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"NIST_1A", "sphere"),
    (b".snd", "au"),
    (b"dns.", "au"),
    (b"caff", "caf"),
    (b"riff\x2e\x91\xcf\x11", "w64"),
    (b"Creative Voice File", "voc"),
    (b"#!AMR", "amr"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
)


def _behind_id3(encoded: bytes) -> int:
    """Where the ID3v2 tag ends; 0 without one. Seven bits of each byte of its size count."""
    if encoded[:3] != b"ID3" or len(encoded) < 10:
        return 0
    size = 0
    for byte in encoded[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


def _by_frames(encoded: bytes, start: int) -> Container | None:
    """MP3 and AAC in ADTS have no header of their own: two frames that follow one another, or one that is the end.

    Away from the start two are not enough: compressed data of any kind holds the pattern by chance.
    """
    window = encoded[start : start + _SEARCHED_BYTES]
    for match in re.finditer(rb"\xff[\xe0-\xff]", window):
        place = start + match.start()
        name, length = frame(encoded, place)
        if not name:
            continue
        num_frames, place = 1, place + length
        while num_frames < 4 and frame(encoded, place)[0] == name:
            num_frames, place = num_frames + 1, place + frame(encoded, place)[1]
        wanted = 2 if match.start() == 0 else 4
        if num_frames >= wanted or (match.start() == 0 and place >= len(encoded) > 32):
            return Container(name)
    return None


# MPEG audio's tables, ISO/IEC 11172-3 and 13818-3: kbit/s by (is MPEG-1, layer), Hz by version bits.
_BIT_RATES = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def frame(encoded: bytes, place: int) -> tuple[str | None, int]:
    """The kind (`mp3`, `adts`, None) and the length in bytes of the frame whose header is at `place`."""
    header = encoded[place : place + 7]
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None, 0
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    if layer == 4:  # 0 in the header, which MPEG audio forbids and ADTS demands
        length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        is_adts = header[1] & 0xF0 == 0xF0 and header[2] >> 2 & 15 < 13 and length > 7
        return ("adts", length) if is_adts else (None, 0)
    rate_index, frequency_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or rate_index in (0, 15) or frequency_index == 3:
        return None, 0
    bit_rate = _BIT_RATES[version == 3, layer][rate_index] * 1000
    sample_rate = _SAMPLE_RATES[version][frequency_index]
    if layer == 1:
        return "mp3", (12 * bit_rate // sample_rate + padding) * 4
    return "mp3", (144 if version == 3 or layer == 2 else 72) * bit_rate // sample_rate + padding
