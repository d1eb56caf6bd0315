"""What becomes of one row: utterances, refusals, or both. A plain function, tested and tried without a cluster."""

from collections.abc import Iterator

from caspi import audio
from caspi.audio import Audio
from caspi.corpus import cutting
from caspi.corpus.judging import judge_row, judge_utterance
from caspi.corpus.rows import Prepared, Refusal, Row
from caspi.errors import AudioError
from caspi.recipe.data import Filters
from caspi.text import Normalizer


def prepare_row(row: Row, filters: Filters, normalizer: Normalizer) -> Iterator[Prepared | Refusal]:
    """Decode, cut, normalize, judge. At least one outcome for every row."""
    verdict = judge_row(row, filters)
    if verdict:
        yield Refusal(row.row_id, *verdict)
        return
    assert row.encoded is not None and row.transcript is not None, "judge_row refuses rows without them"
    try:
        recording = audio.decode(row.encoded, source=row.path or row.row_id)
    except AudioError as error:  # only what one bad recording explains; anything else stops the job
        yield Refusal(row.row_id, error.reason, str(error))
        return
    if not (row.is_timed and cutting.has_timestamps(row.transcript)):
        text = normalizer.transcript(row.transcript)
        yield _finish(row.row_id, recording, 0.0, recording.duration_s, text, filters)
        return
    yield from _prepare_segments(row, recording, filters, normalizer)


def _prepare_segments(
    row: Row, recording: Audio, filters: Filters, normalizer: Normalizer
) -> Iterator[Prepared | Refusal]:
    assert row.transcript is not None
    segments = cutting.cut(row.transcript)
    if not segments:
        yield Refusal(row.row_id, "empty_text", "timestamps without words")
    for number, segment in enumerate(segments):
        segment_id = f"{row.row_id}-{number:03d}"
        span = cutting.fit(segment, recording.duration_s)
        if isinstance(span, str):
            yield Refusal(segment_id, "bad_timestamps", span, segment.start_s, segment.end_s)
        else:
            yield _finish(segment_id, recording, *span, normalizer.transcript(segment.text), filters)


def _finish(
    utterance_id: str, recording: Audio, start_s: float, end_s: float, text: str, filters: Filters
) -> Prepared | Refusal:
    """Judge what lies between `start_s` and `end_s`, and encode it if it is kept."""
    first, last = round(start_s * recording.sample_rate), round(end_s * recording.sample_rate)
    samples = recording.samples[first:last]
    duration_s = len(samples) / recording.sample_rate
    verdict = judge_utterance(text, duration_s, filters)
    if verdict:
        return Refusal(utterance_id, *verdict, start_s, end_s)
    return Prepared(utterance_id, audio.encode_flac(samples), duration_s, text, start_s, end_s)
