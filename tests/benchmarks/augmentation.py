"""What each kind of augmentation costs one core, beside reading the FLAC that it is done to.

python tests/benchmarks/augmentation.py FILE...
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soxr

from caspi import audio
from caspi.recipe.augmentation import Augmentation, BandLimit, Codec, Noise, Reverberation
from caspi.training.augment import augment_samples
from caspi.training.draws import draw

CLIP_S = 6.0
EACH = {
    "speed": Augmentation(speed=0.1),
    "reverberation": Augmentation(reverberation=Reverberation(share=1)),
    "noise: white": Augmentation(noise=Noise(share=1, kinds=("white",))),
    "noise: pink": Augmentation(noise=Noise(share=1, kinds=("pink",))),
    "noise: babble, its decoding included": Augmentation(noise=Noise(share=1, kinds=("babble",))),
    "gain": Augmentation(gain_db=6),
    "band limit": Augmentation(band_limit=BandLimit(share=1)),
    "codec: Opus": Augmentation(codec=Codec(share=1, kinds=("opus",))),
    "codec: MP3": Augmentation(codec=Codec(share=1, kinds=("mp3",))),
    "codec: AMR": Augmentation(codec=Codec(share=1, kinds=("amr",))),
    "codec: mu-law": Augmentation(codec=Codec(share=1, kinds=("mu_law",))),
    "all, each for three of ten": Augmentation(
        speed=0.1,
        speed_share=0.3,
        gain_db=6,
        gain_share=0.3,
        reverberation=Reverberation(share=0.3),
        noise=Noise(share=0.3),
        band_limit=BandLimit(share=0.3),
        codec=Codec(share=0.3),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="recordings of speech")
    parser.add_argument("--clips", type=int, default=30, help="of six seconds")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    samples = np.concatenate([audio.decode(file.read_bytes(), source=str(file)).samples for file in args.files])
    length = round(CLIP_S * audio.SAMPLE_RATE)
    clips = np.resize(samples, args.clips * length).reshape(-1, length)
    encoded = [audio.encode_flac(clip) for clip in clips]

    def other_speech(random: np.random.Generator) -> np.ndarray:
        return audio.decode(encoded[int(random.integers(len(encoded)))], source="another clip").samples

    soxr.resample(clips[0], 16000, 16160)  # what is slow the first time
    report("reading FLAC", lambda clip: audio.decode(encoded[clip], source="clip"), args)
    for name, settings in EACH.items():
        report(
            name,
            lambda clip, settings=settings: augment_samples(clips[clip], settings, draw(1, 0, str(clip)), other_speech),
            args,
        )


def report(name: str, do: Callable[[int], object], args: argparse.Namespace) -> None:
    """The median of a few turns over all clips, in CPU seconds."""
    do(0)
    turns = []
    for _ in range(args.repeats):
        started = time.process_time()
        for clip in range(args.clips):
            do(clip)
        turns.append(time.process_time() - started)
    print(f"{name:<40} {args.clips * CLIP_S / statistics.median(turns):10,.0f} x real time")


if __name__ == "__main__":
    main()
