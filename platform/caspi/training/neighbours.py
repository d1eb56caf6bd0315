"""Which rows of a shard follow each other in one recording, and with which pause."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NEIGHBOUR_COLUMNS = ["recording_id", "start_s", "end_s"]

PAUSE_S = 0.3
"""Between two files of one recording, of which nobody knows how far apart they are: a short breath."""

# Ends and starts come as text with two or three digits.
_ROUNDING_S = 0.011


def gaps_s(table: pa.Table) -> np.ndarray:
    """The pause since the row before, (num_rows,) float32; NaN where that is no neighbour.

    Neighbours are two rows of the same recording, source and language, both with a text, of which the second begins
    where the first has ended or later. Where times begin again, as they do where each row was a file of its own, the
    second follows in the order of its source, after `PAUSE_S`.

    Args:
        table: `NEIGHBOUR_COLUMNS`, `source`, `language` and `text` of rows in their order.
    """
    follows = np.ones(max(len(table) - 1, 0), bool)
    for name in ("recording_id", "source", "language"):
        column = table[name].combine_chunks()
        follows &= pc.equal(column[:-1], column[1:]).to_numpy(zero_copy_only=False)
    has_text = pc.greater(pc.utf8_length(table["text"]), 0).to_numpy()
    starts_s, ends_s = table["start_s"].to_numpy(), table["end_s"].to_numpy()
    pauses_s = starts_s[1:] - ends_s[:-1]
    begins_again = starts_s[1:] <= starts_s[:-1]
    follows &= has_text[1:] & has_text[:-1] & (begins_again | (pauses_s > -_ROUNDING_S))
    gaps = np.full(len(table), np.nan, np.float32)
    gaps[1:][follows] = np.where(begins_again, PAUSE_S, np.maximum(pauses_s, 0))[follows]
    return gaps
