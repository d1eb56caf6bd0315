"""Encoded bytes to samples and back. Knows nothing of Ray, corpora or models."""

from caspi.audio.decoding import SAMPLE_RATE, Audio, decode, open_recording
from caspi.audio.encoding import encode_flac, encode_mp3, quantize, samples_md5

__all__ = ["SAMPLE_RATE", "Audio", "decode", "encode_flac", "encode_mp3", "open_recording", "quantize", "samples_md5"]
