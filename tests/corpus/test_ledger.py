from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from caspi.corpus import ledger as ledgers
from caspi.corpus.format import SPLITS
from caspi.corpus.ledger import LEDGER_SCHEMA, Ledger


def wide(number: int, num_bytes: int) -> bytes:
    return number.to_bytes(num_bytes, "little")


def entry(
    row=0, segment=0, *, reason=None, utterance=0, recording=0, text=0, sound=0, split="train", seconds=1.0, source="s"
):
    """One outcome, by numbers that are easy to tell apart."""
    common = {
        "row": row,
        "segment": segment,
        "utterance_id": f"u{utterance}",
        "recording_id": f"r{recording}",
        "source": source,
    }
    if reason:
        return {**common, "reason": reason, "detail": "because"}
    return {
        **common,
        "split": split,
        "num_samples": round(seconds * 16000),
        "shuffle_key": (utterance * 0x9E3779B97F4A7C15) % 2**63,
        "id_digest": wide(utterance, 16),
        "recording_digest": wide(recording, 8),
        "text_digest": wide(text, 16),
        "audio_digest": wide(sound, 16),
        "file": "part.arrow",
        "file_row": 0,
    }


def gather(*chunks):
    return Ledger.gather(pa.Table.from_pylist(chunk, schema=LEDGER_SCHEMA) for chunk in chunks)


def reasons(ledger):
    words = ledger.reasons.words
    return [None if code < 0 else words[code] for code in ledger["reason"].tolist()]


def test_words_become_the_same_numbers_whatever_chunk_they_come_from():
    ledger = gather(
        [entry(source="b", reason="noisy"), entry(1, source="a", utterance=1)],
        [entry(source="a", reason="empty_text"), entry(1, source="b", reason="noisy")],
    )
    assert [ledger.sources.words[code] for code in ledger["source"]] == ["b", "a", "a", "b"]
    assert reasons(ledger) == ["noisy", None, "empty_text", "noisy"]
    assert ledger["chunk"].tolist() == [0, 0, 1, 1]


def test_the_first_of_each_id_is_kept():
    ledger = gather([entry(0, utterance=7), entry(1, utterance=8)], [entry(0, utterance=7, sound=1)])
    ledgers.refuse_repetitions(ledger, refuse_audio=False)
    assert reasons(ledger) == [None, None, "duplicate_id"]


def test_ids_that_agree_in_their_first_half_are_still_two():
    ledger = gather([entry(0, utterance=7), entry(1, utterance=7 + 2**64)])
    ledgers.refuse_repetitions(ledger, refuse_audio=False)
    assert reasons(ledger) == [None, None]


def test_the_same_sound_is_a_duplicate_and_with_another_text_a_contradiction():
    chunk = [entry(row, utterance=row, sound=5, text=text) for row, text in enumerate([1, 1, 2])]
    ledger = gather(chunk)
    ledgers.refuse_repetitions(ledger, refuse_audio=True)
    assert reasons(ledger) == [None, "duplicate", "duplicate_audio"]

    ledger = gather(chunk)
    ledgers.refuse_repetitions(ledger, refuse_audio=False)
    assert reasons(ledger) == [None, None, None]


def test_a_repeated_id_does_not_count_as_the_first_of_its_sound():
    ledger = gather([entry(0, utterance=1, sound=1), entry(1, utterance=1, sound=2), entry(2, utterance=2, sound=2)])
    ledgers.refuse_repetitions(ledger, refuse_audio=True)
    assert reasons(ledger) == [None, "duplicate_id", None]


def test_a_recording_on_two_sides_stays_where_it_is_rarest():
    splits = ["train", "test", "train", "validation", "train"]
    recordings = [1, 1, 2, 3, 3]
    pairs = zip(splits, recordings, strict=True)
    ledger = gather(
        [
            entry(row, utterance=row, sound=row, split=split, recording=recording)
            for row, (split, recording) in enumerate(pairs)
        ]
    )
    ledgers.refuse_two_sided(ledger)
    assert reasons(ledger) == ["recording_on_two_sides", None, None, None, "recording_on_two_sides"]


outcomes = st.builds(
    lambda refused, utterance, recording, text, sound, split, seconds: {
        "reason": "noisy" if refused else None,
        "utterance": utterance,
        "recording": recording,
        "text": text,
        "sound": sound,
        "split": split,
        "seconds": seconds,
    },
    st.booleans(),
    *[st.integers(0, 6)] * 4,
    st.sampled_from(SPLITS),
    st.integers(1, 9),
)
corpora = st.lists(st.lists(st.lists(outcomes, min_size=1, max_size=3), min_size=1, max_size=6), min_size=1, max_size=4)


def expected_refusals(flat):
    """The rules again, one outcome after the other, in plain Python."""
    refused = ["noisy" if each["reason"] else None for each in flat]
    ids, sounds = set(), {}
    for place, each in enumerate(flat):
        if refused[place] is None and each["utterance"] in ids:
            refused[place] = "duplicate_id"
        elif refused[place] is None:
            ids.add(each["utterance"])
    for place, each in enumerate(flat):
        if refused[place] is None and each["sound"] in sounds:
            refused[place] = "duplicate" if sounds[each["sound"]] == each["text"] else "duplicate_audio"
        elif refused[place] is None:
            sounds[each["sound"]] = each["text"]
    sides = {}
    for place, each in enumerate(flat):
        if refused[place] is None:
            sides.setdefault(each["recording"], set()).add(SPLITS.index(each["split"]))
    for place, each in enumerate(flat):
        if refused[place] is None and SPLITS.index(each["split"]) != max(sides[each["recording"]]):
            refused[place] = "recording_on_two_sides"
    return refused


@settings(max_examples=200, deadline=None)
@given(corpora, st.integers(1, 20))
def test_every_row_is_accounted_for(chunks, shard_s):
    ledger = gather(
        *[
            [entry(row, segment, **each) for row, segments in enumerate(chunk) for segment, each in enumerate(segments)]
            for chunk in chunks
        ]
    )
    ledgers.refuse_repetitions(ledger, refuse_audio=True)
    ledgers.refuse_two_sided(ledger)
    flat = [each for chunk in chunks for row in chunk for each in row]
    refused = expected_refusals(flat)
    assert reasons(ledger) == refused

    counts = ledgers.count(ledger)
    rows = [
        (number, row) for number, chunk in enumerate(chunks) for row, segments in enumerate(chunk) for _ in segments
    ]
    kept_rows = {row for row, reason in zip(rows, refused, strict=True) if reason is None}
    assert counts["num_recordings"] == len(set(rows)) == len(kept_rows) + counts["num_recordings_rejected"]
    assert counts["num_utterances"] == refused.count(None)
    assert counts["rejected_by_reason"] == dict(sorted(Counter(reason for reason in refused if reason).items()))
    assert sum(split["num_utterances"] for split in counts["splits"].values()) == counts["num_utterances"]
    assert sum(source["num_rejected"] for source in counts["sources"].values()) == len(flat) - counts["num_utterances"]

    order = ledgers.order_kept(ledger)
    assert sorted(order.tolist()) == np.flatnonzero(ledger.is_kept).tolist()
    shards = ledgers.cut_shards(ledger, order, shard_s)
    assert [place for shard in shards for place in range(shard.start, shard.stop)] == list(range(len(order)))
    assert len({shard.path for shard in shards}) == len(shards)
    for shard in shards:
        inside = order[shard.start : shard.stop]
        assert len({int(code) for code in ledger["split"][inside]}) == 1
        assert len(inside) == 1 or ledger["num_samples"][inside].sum() <= shard_s * 16000


def test_the_fingerprint_sees_order_and_text_and_nothing_of_the_shards():
    chunk = [entry(row, utterance=row, sound=row, text=row) for row in range(5)]
    ledger = gather(chunk)
    order = ledgers.order_kept(ledger)
    same = gather(chunk[:2], chunk[2:])
    assert ledgers.fingerprint(ledger, order) == ledgers.fingerprint(same, ledgers.order_kept(same))
    other = gather([{**chunk[0], "text_digest": wide(9, 16)}, *chunk[1:]])
    assert ledgers.fingerprint(other, order) != ledgers.fingerprint(ledger, order)
    assert ledgers.fingerprint(ledger, order[::-1]) != ledgers.fingerprint(ledger, order)
