"""How many mel frames and audio tokens a clip becomes: arithmetic alone, without torch.

The encoder's convolutions see one second at a time, and what is left of a clip by itself.
"""

HOP = 160  # samples between frames
FRAMES_PER_CHUNK = 100  # the encoder's convolutions see one second at a time
TOKENS_PER_CHUNK = 13
MIN_SAMPLES = 8_000  # shorter clips are filled with silence to half a second, as upstream does


def num_frames(num_samples: int) -> int:
    """Mel frames of a clip."""
    return max(num_samples, MIN_SAMPLES) // HOP


def num_audio_tokens(num_samples: int) -> int:
    """Audio tokens of a clip in the prompt: 13 for each full second, the rest by the convolutions' strides."""
    return tokens_of_frames(num_frames(num_samples))


def tokens_of_frames(frames: int) -> int:
    """Audio tokens of so many mel frames."""
    chunks, rest = divmod(frames, FRAMES_PER_CHUNK)
    for _ in range(3):
        rest = (rest + 1) // 2
    return chunks * TOKENS_PER_CHUNK + rest
