"""A spoken Hebrew corpus from nothing: sentences, voices, codecs, flaws, and the truth about all of them."""

from caspi.synthesis.corpus import NUM_UTTERANCES, SEED, Synthesis, synthesize

__all__ = ["NUM_UTTERANCES", "SEED", "Synthesis", "synthesize"]
