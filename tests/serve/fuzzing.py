"""Every operation of the OpenAPI page with values of every kind that the page allows."""

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error, response_headers_conformance, response_schema_conformance
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

# Not among them: that whatever the page allows is accepted. It cannot say which languages there are, or which fields go
# together.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def fuzz(schema: Any, recording: bytes, *, max_examples: int = 60, **call: Any) -> Counter[str]:
    """How often each operation answered with each status. A recording stands where one is asked for.

    Raises:
        AssertionError: an answer is not one of those that the page names.
    """
    seen: Counter[str] = Counter()
    for result in schema.get_all_operations():

        @settings(max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=result.ok().as_strategy())
        def ask(case: Any) -> None:
            if isinstance(case.body, dict) and "file" in case.body:
                case.body["file"] = recording
            answer = case.call_and_validate(checks=CHECKS, **call)
            seen[f"{case.method} {case.path} {answer.status_code}"] += 1

        ask()
    return seen
