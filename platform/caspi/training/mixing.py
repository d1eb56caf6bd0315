"""How often an epoch hears each utterance, and where clips without speech come in.

Weights are counted in whole units of a millionth, and an utterance is heard as often as the running sum of weights
passes a whole number (systematic sampling). So how many items a shard gives is known from its totals alone, and weights
of 1 mean exactly once whatever the other sources' weights are.
"""

import numpy as np

from caspi.errors import RecipeError
from caspi.recipe.sections import Mixture
from caspi.training.draws import draw
from caspi.training.items import silence_items, spans, utterance_items
from caspi.training.lengths import LengthIndex
from caspi.training.silence import MEAN_S

_UNIT_BITS = 20
_UNIT = 1 << _UNIT_BITS


class EpochMixture:
    """What each shard gives to one epoch."""

    def __init__(self, index: LengthIndex, mixture: Mixture, *, seed: int, epoch: int) -> None:
        """Raises RecipeError when a weight is of a source that the split does not have, or nothing is left to hear."""
        if unknown := sorted(mixture.weights.keys() - set(index.sources)):
            raise RecipeError(
                f"training.mixture.weights.{unknown[0]}: no such source in the training split; "
                f"it has {', '.join(sorted(index.sources))}"
            )
        weights = [mixture.weights.get(source, 1.0) for source in index.sources]
        self._index, self._seed, self._epoch = index, seed, epoch
        self._weights = np.array([round(weight * _UNIT) for weight in weights], np.int64)
        # The running sum of weights at the borders of shards. A random start lets fractions fall elsewhere each time.
        start = int(draw(seed, epoch, "mixture").integers(_UNIT))
        self._sums = start + np.concatenate([[0], np.cumsum(index.shard_utterances @ self._weights)])
        heard = self._sums >> _UNIT_BITS
        if len(index) and not heard[-1]:
            raise RecipeError(f"training.mixture.weights: {mixture.weights} leave no utterance to train on; raise one")
        silences = heard * round(mixture.silence_share * _UNIT) >> _UNIT_BITS
        self._num_silences = np.diff(silences)
        self.num_items = np.diff(heard) + self._num_silences  # (num_shards,) int64
        # (num_shards,) what to expect; which utterances are heard how often decides about the rest.
        self.audio_s = index.shard_audio_s @ np.array(weights) + self._num_silences * MEAN_S

    def items(self, shard: int) -> np.ndarray:
        """The items of one shard, in the order of its rows: (num_items[shard],) int64."""
        start, stop = self._index.starts[shard], self._index.starts[shard + 1]
        weights = self._weights[self._index.source_codes[start:stop]]
        # The running sum visits utterances in random order, or rows beside each other would exclude each other.
        order = draw(self._seed, self._epoch, "mixture", shard + 1).permutation(len(weights))
        sums = self._sums[shard] + np.concatenate([[0], np.cumsum(weights[order])])
        copies = np.empty(len(weights), np.int64)
        copies[order] = np.diff(sums >> _UNIT_BITS)
        utterances = utterance_items(
            np.repeat(np.arange(start, stop), copies), spans(np.zeros(len(copies), np.int64), copies)
        )
        return np.concatenate([utterances, silence_items(shard, int(self._num_silences[shard]))])
