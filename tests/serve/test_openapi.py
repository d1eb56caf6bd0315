"""The OpenAPI page says what is answered."""

from pathlib import Path

import schemathesis

from serve.api import http_app
from serve.metrics import Metrics
from serve.options import Options
from tests.serve.backends import Backend
from tests.serve.fuzzing import fuzz
from tests.speech import spoken


def test_every_answer_is_one_that_the_page_names(tmp_path: Path) -> None:
    options = Options(model="double", jobs_folder=str(tmp_path), max_jobs=10_000, max_jobs_per_key=10_000)
    app = http_app(Backend(), options=options, key_hashes=(), page="", metrics=Metrics("test"))
    assert "HTTPValidationError" not in app.openapi()["components"]["schemas"], (
        "what FastAPI would answer, and we do not"
    )
    seen = fuzz(schemathesis.openapi.from_asgi("/openapi.json", app), spoken(1.0))
    assert seen["POST /v1/audio/transcriptions 200"] > 5
    assert seen["POST /v1/audio/transcriptions 400"] > 5
    assert seen["POST /v1/audio/transcriptions/jobs 202"] > 5
