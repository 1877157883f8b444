"""What callers are told when something is wrong, and what is logged of it."""

import inspect
import re

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.parser import text_string_to_metric_families

from api.oversight_in_memory import Report, WatchReport
from api.world import SECRETS, World
from opencode_lifecycle.api.problems import DEFECT, answer_for
from opencode_lifecycle.api.routes import ROUTES
from opencode_lifecycle.model import errors
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    IllegalTransition,
    IndexConflict,
    QuotaExceeded,
    SecretMissing,
    StackDraining,
    StackHeld,
    UpstreamDenied,
    UpstreamNonsense,
    UpstreamRejected,
    UpstreamUnavailable,
)

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
INNER = "planted-inner-detail"


async def test_a_problem_is_rfc_9457_and_names_the_request(world, logged):
    answer = await world.call("GET", "/v1/stacks/nobody")

    request_id = answer.headers["X-Request-Id"]
    assert re.fullmatch(UUID, request_id)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json == {
        "type": "/docs#problem-stack-not-found",
        "title": "Stack not found",
        "status": 404,
        "detail": "There is no stack for this user.",
        "instance": f"urn:uuid:{request_id}",
        "code": "stack-not-found",
    }
    assert [line["request_id"] for line in logged] == [request_id]


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (UpstreamUnavailable("nomad", "register", INNER), 503, "upstream-unavailable", True),
        (UpstreamNonsense("consul", "read", INNER), 502, "upstream-nonsense", True),
        (UpstreamDenied("vault", "write", INNER), 502, "upstream-denied", False),
        (UpstreamRejected("nomad", "register", INNER), 502, "upstream-rejected", False),
        (IndexConflict("nomad", "register", INNER), 503, "index-conflict", True),
        (SecretMissing("vault", "read", INNER), 502, "secret-missing", False),
        (DeadlineExceeded(INNER), 504, "deadline-exceeded", True),
        (StackHeld(), 409, "stack-held", False),
        (StackDraining(retry_after=7), 409, "stack-draining", True),
        (QuotaExceeded(), 409, "quota-exceeded", False),
        (IllegalTransition(INNER), 500, "internal", False),
        (RuntimeError(INNER), 500, "internal", False),
        (TimeoutError(INNER), 500, "internal", False),
        (KeyError(INNER), 500, "internal", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_b24_a_failure_behind_us_is_told_without_its_inside(world, error, status, code, retry):
    world.provisioning.fails_with = error

    answer = await world.call("GET", "/v1/stacks/ada")

    assert (answer.status, answer.code) == (status, code)
    assert ("Retry-After" in answer.headers) == retry
    assert INNER not in answer.text


async def test_what_we_did_not_expect_is_logged_once_with_the_id_that_the_caller_got(world, logged):
    world.provisioning.fails_with = RuntimeError(INNER)

    answer = await world.call("GET", "/v1/stacks/ada")

    (broke,) = [line for line in logged if line["log_level"] == "error"]
    assert (broke["event"], broke["request_id"]) == ("request broke", answer.headers["X-Request-Id"])
    assert broke["exc_info"] is world.provisioning.fails_with


async def test_a_quota_says_what_is_used_up_and_who_may_raise_it(world):
    world.provisioning.fails_with = QuotaExceeded(
        "All stacks of the group are used.", limit=5, use=5, raised_by="operator"
    )

    answer = await world.call("PUT", "/v1/stacks/ada")

    assert answer.json["facts"] == {"limit": 5, "use": 5, "raised_by": "operator"}


def test_every_error_that_may_reach_a_caller_has_its_answer():
    kinds = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.Refusal)
    ]

    for kind in kinds:
        if kind is not errors.Refusal:
            assert answer_for(kind.__new__(kind)) is not DEFECT, kind


async def test_an_answered_request_is_one_line_in_the_access_log(world, logged):
    await world.call("GET", "/v1/stacks?phase=running", by="operator")

    (line,) = logged
    assert line.pop("seconds") >= 0
    assert re.fullmatch(UUID, line.pop("request_id"))
    assert line == {
        "event": "request answered",
        "log_level": "info",
        "principal": "operator",
        "method": "GET",
        "route": "/v1/stacks",
        "status": 200,
    }


async def test_a_hot_ensure_is_logged_at_debug_and_a_refused_one_at_info(world, logged):
    world.provisioning.given("ada")

    await world.call("PUT", "/v1/stacks/ada")
    await world.call("PUT", "/v1/stacks/ada", headers={"If-Match": '"9"'})

    assert [(line["status"], line["log_level"]) for line in logged] == [(200, "debug"), (412, "info")]


async def test_requests_are_counted_by_route_method_and_status(world):
    world.provisioning.given("ada")
    for path in ("/v1/stacks/ada", "/v1/stacks/bob", "/v1/stacks/ada", "/nothing-here"):
        await world.call("GET", path)

    text = (await world.call("GET", "/metrics", by=None)).text

    samples = {
        (sample.name, sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }
    assert samples["opencode_lifecycle_http_requests_total", "/v1/stacks/{user_id}", "200"] == 2
    assert samples["opencode_lifecycle_http_requests_total", "/v1/stacks/{user_id}", "404"] == 1
    assert samples["opencode_lifecycle_http_requests_total", "unmatched", "404"] == 1
    assert (
        samples["opencode_lifecycle_http_request_duration_seconds_count", "/v1/stacks/{user_id}", "200"] == 2
    )
    assert "ada" not in text


async def test_readiness_tells_the_age_of_every_watch_and_does_not_depend_on_it(world):
    world.readiness.watch_reports = (
        WatchReport("nomad_listing"),
        WatchReport("orphans", ok=False, age_seconds=None),
    )

    answer = await world.call("GET", "/readyz", by=None)

    assert answer.status == 200
    assert answer.json["watches"] == [
        {"name": "nomad_listing", "ok": True, "age_seconds": 0.5, "limit_seconds": 30.0},
        {"name": "orphans", "ok": False, "age_seconds": None, "limit_seconds": 30.0},
    ]


async def test_readiness_has_a_line_for_every_dependency_and_is_503_when_one_is_not_well(world):
    well = await world.call("GET", "/readyz", by=None)
    world.readiness.reports = (Report("nomad"), Report("vault", ok=False, detail="sealed", age_seconds=None))
    ill = await world.call("GET", "/readyz", by=None)

    assert (well.status, well.json["status"]) == (200, "ready")
    assert (ill.status, ill.json["status"]) == (503, "not ready")
    assert ill.json["dependencies"][1] == {
        "name": "vault",
        "ok": False,
        "detail": "sealed",
        "age_seconds": None,
    }
    assert [("vault" in line, "nomad" in line) for line in ill.text.splitlines()[1:3]] == [
        (False, True),
        (True, False),
    ]


async def test_liveness_asks_nobody(world):
    world.provisioning.fails_with = RuntimeError()

    answer = await world.call("GET", "/livez", by=None)

    assert (answer.status, answer.json) == (200, {"status": "alive"})


async def test_the_description_is_valid_openapi_and_names_every_route(world):
    description = (await world.call("GET", "/openapi.json", by=None)).json

    OpenAPIV31SpecValidator(description).validate()
    described = {
        (method.upper(), path): operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }
    assert set(described) == {(route.method, route.path) for route in ROUTES}
    assert described["PUT", "/v1/stacks/{user_id}"]["x-roles"] == ["backend", "user"]
    assert {entry["code"] for entry in description["x-problem-codes"]} >= {
        "stack-not-found",
        "rate-limited",
        "internal",
    }


async def test_shapes_bear_names_that_a_generated_client_can_use(world):
    description = (await world.call("GET", "/openapi.json", by=None)).json

    names = description["components"]["schemas"]
    assert {"Stack", "StackList", "EnsureBody", "Problem"} <= set(names)
    assert [name for name in names if not re.fullmatch(r"[A-Z][A-Za-z]+", name) or "Shape" in name] == []


async def test_the_contents_of_the_page_lead_to_every_call(world):
    page = (await world.call("GET", "/docs", by=None)).text

    contents = page[page.index("<nav>") : page.index("</nav>")]
    assert set(re.findall(r'href="#([a-z_]+)"', contents)) == {
        *(route.handler for route in ROUTES),
        "problems",
        "shapes",
    }
    for place in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{place}"' in page


async def test_the_page_for_people_stands_alone(world):
    answer = await world.call("GET", "/docs", by=None)

    policy = answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script|<link|<img|https?://|style=", answer.text)
    for route in ROUTES:
        assert route.path in answer.text
    assert 'id="problem-stack-not-found"' in answer.text


async def test_every_problem_type_is_a_place_on_that_page(world):
    page = (await world.call("GET", "/docs", by=None)).text
    for path, by in (
        ("/v1/stacks/nobody", "backend"),
        ("/nothing", "backend"),
        ("/v1/tokens", "ada"),
        ("/v1/tokens", None),
    ):
        problem = await world.call("GET", path, by=by)

        assert f'id="{problem.json["type"].removeprefix("/docs#")}"' in page


async def test_no_secret_of_a_caller_is_in_any_log_line(world, logged):
    world.provisioning.given("ada")
    for by in SECRETS:
        await world.call("PUT", "/v1/stacks/ada", by=by)
        await world.call("GET", "/v1/nothing?x=1", by=by)

    assert logged
    for secret in SECRETS.values():
        assert secret not in str(logged)


async def test_the_running_server_uses_our_kind_of_connection():
    async with World() as world:
        answer = await world.raw(b"\x16\x03\x01\x02\x00 not HTTP at all\r\n\r\n")

    assert b"application/problem+json" in answer
    assert b"not HTTP" not in answer


@pytest.mark.parametrize(
    "line",
    [
        "OPTIONS *",
        "CONNECT *",
        "CONNECT planted.example:443",
        "GET http://planted.example",
        "OPTIONS http://planted.example",
        "GET http://planted.example?x=1",
    ],
)
@pytest.mark.parametrize("by", ["backend", None])
async def test_a_request_target_without_a_path_is_refused_as_a_problem(world, line, by):
    status, answer = await world.raw_call(line, by=by)

    assert status == 404
    assert b"Content-Type: application/problem+json" in answer
    assert b'"code":"not-found"' in answer
    assert b"Server: opencode-lifecycle" in answer
    assert b"planted" not in answer


async def test_a_request_target_with_scheme_and_host_means_its_path(world):
    status, answer = await world.raw_call("GET http://anywhere.example/livez", by=None)

    assert (status, answer.endswith(b'{"status":"alive"}')) == (200, True)


async def test_no_answer_names_the_software_that_it_is_made_with(world):
    for path, by in (("/livez", None), ("/v1/stacks", "backend"), ("/v1/stacks", None), ("/nothing", None)):
        answer = await world.call("GET", path, by=by)

        assert answer.headers["Server"] == "opencode-lifecycle"
