"""The form of a transcription request, checked: every field honoured or refused by name, none passed over."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from caspi import text
from caspi.errors import RequestError
from caspi.inference.cutting import Cutting
from serve.errors import ApiError, invalid_field
from serve.options import Options
from serve.schemas import FORMATS, MAX_PROMPT_CHARS, STREAMED_FORMATS, Fields, TranscriptionForm

_LISTS = {
    name for name, described in TranscriptionForm.model_fields.items() if str(described.annotation).startswith("list")
}

# `chunking_strategy[threshold]`: how OpenAI's client sends an object in a form.
_MEMBER = re.compile(r"(\w+)\[(\w+)\]")


def parse(form: FormData, options: Options) -> tuple[UploadFile, Fields]:
    """The recording, and what is asked about it.

    Raises:
        ApiError: 400, naming the field that is missing, unknown, wrong or not supported.
    """
    upload = form.get("file")
    if upload is None:
        message = "Missing required parameter: 'file'."
        raise ApiError(400, message, param="file", code="missing_required_parameter")
    if not isinstance(upload, UploadFile):
        message = "`file` is text; send the recording as a file, with a file name."
        raise ApiError(400, message, param="file", code="invalid_value")
    return upload, check(gather((name, value) for name, value in form.multi_items() if name != "file"), options)


def gather(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Form fields as the form's model takes them: lists and objects put together, empty fields left out.

    Raises:
        ApiError: 400, a field is a file, or an object that is not JSON.
    """
    gathered: dict[str, Any] = {}
    for name, value in items:
        if not isinstance(value, str):
            raise ApiError(400, f"{name!r} is a file; only `file` is one.", param=name, code="invalid_value")
        member = _MEMBER.fullmatch(name)
        if name.removesuffix("[]") in _LISTS:
            gathered.setdefault(name.removesuffix("[]"), []).append(value)
        elif member:
            held = gathered.setdefault(member[1], {})
            if isinstance(held, dict):
                held[member[2]] = value
        elif value:  # an empty field of a page's form is one that was not filled in
            gathered[name] = value
    strategy = gathered.get("chunking_strategy")
    if strategy == "auto":
        del gathered["chunking_strategy"]
    elif isinstance(strategy, str):
        gathered["chunking_strategy"] = _object(strategy)
    return gathered


def check(values: Mapping[str, Any], options: Options) -> Fields:
    """Fields of values by name.

    Raises:
        ApiError: 400, naming the field that is unknown, wrong or not supported.
    """
    try:
        form = TranscriptionForm.model_validate(values)
    except ValidationError as invalid:
        raise invalid_field(invalid.errors()[0]) from None
    _check_supported(form)
    return Fields(
        model=form.model,
        language=_language_code(form),
        prompt=_prompt(form),
        response_format=form.response_format,
        stream=bool(form.stream),
        log_probs=bool(form.include),
        cutting=_cutting(form, options),
    )


def _object(written: str) -> dict[str, Any]:
    try:
        parsed = json.loads(written)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        return parsed
    message = f"chunking_strategy is {written[:40]!r}; expected 'auto', or an object with type 'server_vad'."
    raise ApiError(400, message, param="chunking_strategy", code="invalid_value")


def _check_supported(form: TranscriptionForm) -> None:
    """Refuse what this server cannot do, rather than answer something else."""
    if form.response_format == "diarized_json" or form.known_speaker_names or form.known_speaker_references:
        param = "response_format" if form.response_format == "diarized_json" else "known_speaker_names"
        raise _unsupported(param, "Speakers are not told apart here; ask for verbose_json, without known speakers.")
    if form.response_format not in FORMATS:
        message = f"response_format {form.response_format!r} is not supported; supported: {', '.join(FORMATS)}."
        raise _unsupported("response_format", message)
    if "word" in form.timestamp_granularities:
        raise _unsupported("timestamp_granularities", "This model does not time single words; ask for `segment`.")
    if form.timestamp_granularities and form.response_format != "verbose_json":
        raise _unsupported("timestamp_granularities", "Timestamps need response_format verbose_json.")
    if form.include and form.response_format != "json":
        raise _unsupported("include", "`logprobs` need response_format json.")
    if form.stream and form.response_format not in STREAMED_FORMATS:
        formats = " or ".join(STREAMED_FORMATS)
        raise _unsupported("stream", f"{form.response_format} cannot be streamed; use {formats}, or no `stream`.")


def _unsupported(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="unsupported_value")


def _language_code(form: TranscriptionForm) -> str | None:
    """The ISO 639 code of `he`, `Hebrew` or `hebrew`."""
    language = form.language or next(iter(form.languages), None)
    if not language:
        return None
    try:
        return text.language_code(language)
    except RequestError as error:
        message = f"{error}. Leave it out to let the model say."
        raise ApiError(400, message, param="language", code="invalid_language") from error


def _prompt(form: TranscriptionForm) -> str:
    prompt = " ".join(filter(None, [form.prompt, ", ".join(form.keywords)]))
    if len(prompt) > MAX_PROMPT_CHARS:
        message = f"prompt and keywords have {len(prompt)} characters together; at most {MAX_PROMPT_CHARS} fit."
        raise ApiError(400, message, param="keywords", code="invalid_value")
    return prompt


def _cutting(form: TranscriptionForm, options: Options) -> Cutting:
    given, usual = form.chunking_strategy, Cutting(max_piece_s=options.max_piece_s)
    if given is None:
        return usual
    return Cutting(
        max_piece_s=options.max_piece_s,
        threshold=usual.threshold if given.threshold is None else given.threshold,
        pause_s=usual.pause_s if given.silence_duration_ms is None else given.silence_duration_ms / 1000,
        padding_s=usual.padding_s if given.prefix_padding_ms is None else given.prefix_padding_ms / 1000,
    )
