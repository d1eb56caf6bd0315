"""What each reason for a refusal means, in words for people. The codes are given where the refusals are made."""

from dataclasses import dataclass

_NOT_DECODED = "There is nothing to hear: it could not be decoded."
_NOT_LISTENED_TO = "No sound was kept: it was refused before it was decoded."
_KNOWN_AT_THE_END = "No sound was kept: that it is refused was known only when all rows were there."
_NOT_KEPT = "No sound was kept of this one."


@dataclass(frozen=True, slots=True)
class Reason:
    """A code of rejected.parquet, explained."""

    meaning: str
    remedy: str
    why_silent: str = _NOT_KEPT  # said where an example has no sound


_REASONS = {
    # Rows that cannot be read.
    "malformed_row": Reason(
        "The row lacks what its source's kind promises, or holds a value of another type.",
        "Look at the detail: it names the key. Correct the source, or the source's column names in the recipe.",
        _NOT_LISTENED_TO,
    ),
    "unknown_split": Reason(
        "The row names a split that is none of train, validation and test.",
        "Correct the rows, or give the source a `split`.",
        _NOT_LISTENED_TO,
    ),
    "missing_audio": Reason(
        "The transcript is there, its audio is not.",
        "Compare the path in the detail with where the files lie.",
        "There is nothing to hear: the audio is missing.",
    ),
    "missing_text": Reason(
        "The audio is there, its transcript is not.",
        "Add the transcripts, or move the audio out of the source.",
        _NOT_LISTENED_TO,
    ),
    # Audio that cannot be decoded.
    "undecodable_audio": Reason(
        "The bytes are no audio that Caspi knows, or are damaged.",
        "Download these files again. If they play elsewhere, convert them to FLAC.",
        _NOT_DECODED,
    ),
    "truncated_audio": Reason(
        "The file stops in the middle: its transcript would say more than is heard.",
        "Download these files again.",
        _NOT_DECODED,
    ),
    "invalid_samples": Reason(
        "The audio holds values that are no numbers, usually from a failed conversion to floating point.",
        "Convert these files again from their originals.",
        _NOT_DECODED,
    ),
    "empty_audio": Reason("The audio holds no sound at all.", "Download these files again.", _NOT_DECODED),
    "audio_too_long": Reason(
        "The recording is longer than the recipe allows to decode at once.",
        "Raise `data.decoding.max_recording_s` if there is memory, or split the files.",
        _NOT_DECODED,
    ),
    "audio_too_large": Reason(
        "Decoding would take more memory than is allowed, which a small file can do on purpose.",
        "Look at the file. If it is honest, convert it to mono and 16 kHz.",
        _NOT_DECODED,
    ),
    "decoder_crashed": Reason(
        "The decoder itself died on this file.",
        "Convert these files to FLAC with another program; the decoder's authors would like to see them.",
        _NOT_DECODED,
    ),
    "decoder_timeout": Reason(
        "The decoder did not come to an end.",
        "Raise `data.decoding.timeout_s`, or convert these files to FLAC.",
        _NOT_DECODED,
    ),
    "unusable_audio": Reason("The audio cannot be used.", "Look at the detail.", _NOT_DECODED),
    # Texts.
    "empty_text": Reason(
        "There is no letter and no digit in the transcript.",
        "Nothing, if these are pauses or noises. Otherwise look for the text in another column.",
        "No sound was kept: there is nothing to compare it with.",
    ),
    "bad_timestamps": Reason(
        "A segment runs backwards, never closes, or ends after the audio does.",
        "Look at the detail. Many of one source: its audio and its segments may be of different versions.",
    ),
    "wrong_script": Reason(
        "Most letters are not of the language's own script.",
        "Listen: another language, or a transliteration? `data.filters.min_script_share` says how much is allowed.",
    ),
    # Lengths.
    "too_short": Reason(
        "Shorter than the recipe's shortest utterance.",
        "Nothing, if they are fragments. Otherwise lower `data.filters.min_duration_s`, or join neighbours with "
        "`data.cutting`.",
    ),
    "too_long": Reason(
        "Longer than the recipe's longest utterance.",
        "Raise `data.filters.max_duration_s`, or bring segments, so that they can be cut.",
    ),
    "too_few_characters": Reason(
        "Too little text for so much audio: most of the speech is not transcribed, or there is little speech.",
        "Listen. If the text is whole, trim the silence or lower `data.filters.min_chars_per_s`.",
    ),
    "too_many_characters": Reason(
        "Too much text for so little audio: the transcript belongs to something longer.",
        "Listen. Many of one source: its audio may be cut, or paired with its neighbour's text.",
    ),
    # Sounds.
    "silent": Reason(
        "So soft that there is most likely nothing on it.",
        "Listen. If somebody speaks there, lower `data.filters.min_level_dbfs`.",
    ),
    "clipped": Reason(
        "Recorded too loud: too many samples are at full scale.",
        "Nothing can mend it. `data.filters.max_clipped_share` says how much is allowed.",
    ),
    "low_snr": Reason(
        "The noise is too loud beside the speech, as far as that can be estimated.",
        "Listen. `data.filters.min_snr_db` says how much is allowed.",
    ),
    "little_speech": Reason(
        "Hardly any speech is heard in it.",
        "Listen. `data.filters.min_speech_share` says how much is expected.",
    ),
    "disagrees_with_model": Reason(
        "The model that checks meanings hears other words than the transcript has.",
        "Listen. If the transcripts are right, raise `data.meaning.max_wer`: the model is too weak to judge.",
    ),
    # What the source itself says.
    "low_quality_score": Reason(
        "The source's own quality score is too low.",
        "`data.filters.min_quality_score` says how much is expected.",
        _NOT_LISTENED_TO,
    ),
    "skipped": Reason(
        "A volunteer skipped it.", "Nothing; or take it out of `data.filters.refused_flags`.", _NOT_LISTENED_TO
    ),
    "noisy": Reason(
        "A volunteer called it noisy.", "Nothing; or take it out of `data.filters.refused_flags`.", _NOT_LISTENED_TO
    ),
    "unintelligible": Reason(
        "A volunteer could not understand it.",
        "Nothing; or take it out of `data.filters.refused_flags`.",
        _NOT_LISTENED_TO,
    ),
    "foreign_language": Reason(
        "A volunteer heard another language.",
        "Nothing; or take it out of `data.filters.refused_flags`.",
        _NOT_LISTENED_TO,
    ),
    "multiple_speakers": Reason(
        "A volunteer heard more than one speaker.",
        "Nothing; or take it out of `data.filters.refused_flags`.",
        _NOT_LISTENED_TO,
    ),
    # What only the whole can tell.
    "duplicate_id": Reason(
        "Another utterance before it has the same id.",
        "Nothing, if a source is listed twice. Otherwise its ids are not unique: correct them.",
        _KNOWN_AT_THE_END,
    ),
    "duplicate": Reason(
        "The same sound with the same text came before.", "Nothing: one of them was kept.", _KNOWN_AT_THE_END
    ),
    "duplicate_audio": Reason(
        "The same sound came before, with another text: one of the two is wrong.",
        "Look at both in the source. The first was kept; it may be the wrong one.",
        _KNOWN_AT_THE_END,
    ),
    "recording_on_two_sides": Reason(
        "Its recording is also in a split that is held out, and must not be on both sides.",
        "Nothing, if few. Many: give the source one `split`.",
        _KNOWN_AT_THE_END,
    ),
    "in_evaluation_set": Reason(
        "It is part of a set that models will be judged by.", "Nothing: it must not be trained on."
    ),
}

_FLAG = Reason("The source itself has flagged it.", "Nothing; or change `data.filters.refused_flags`.")


def explain(reason: str) -> Reason:
    """What a code means. A code that we do not know is a flag that the source gave a name."""
    return _REASONS.get(reason, _FLAG)
