"""The whole OpenAPI, asked at random: never a fault of the service, and every answer as described."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.conftest import Served, start

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, model: Callable[[str], Path]) -> Iterator[Served]:
    """One in which whatever is asked for is soon done."""
    home = tmp_path_factory.mktemp("openapi") / "home"
    served = start(home, model("sd1"), "--no-auth", max_pixels=4096, max_steps=2, max_queued=10, max_queued_each=10)
    yield served
    served.stop()


def test_a_side_that_is_left_to_the_model_counts_too(small: Served) -> None:
    job = small.ask(width=128, height=None)
    ended = small.ended(job["id"])
    assert ended["state"] == "failed" and "at most 4,096 pixels" in ended["problem"]["detail"]


def test_no_answer_surprises(small: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{small.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:

        @given(operation.as_strategy())
        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
        def asked(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=list(CHECKS), timeout=60)

        asked()
