"""Who may call what. The table of routes is the source; a row that nobody thought about fails here."""

import asyncio

import pytest

from api.in_memory import NOW, RELEASE
from api.oversight_in_memory import a_condition, an_orphan
from api.world import SECRETS, World, eventually
from opencode_lifecycle.api.routes import ROUTES, Route
from opencode_lifecycle.lifecycle.requests.rate_limits import RateClass, RatePolicy
from opencode_lifecycle.model.identifiers import new_operation_id, new_token_id
from opencode_lifecycle.model.rollout import Rollout, RolloutState

CALLERS = ("backend", "operator", "auditor", "ada", "bob")
BODIES = {
    "pin": {"release": RELEASE},
    "issue_token": {"name": "ci", "role": "backend"},
    "lease": {"ttl": "60s"},
}

MAY = {
    "ensure": "backend own",
    "inspect": "backend operator auditor own",
    "list_stacks": "backend operator auditor",
    "address": "backend operator own",
    "credentials": "backend own",
    "lease": "backend own",
    "start": "backend operator own",
    "stop": "backend operator own",
    "recreate": "backend operator own",
    "rotate_password": "backend operator",
    "recover": "backend operator",
    "delete": "backend operator",
    "log": "operator own",
    "snapshots": "operator",
    "next_look": "backend operator auditor",
    "stack_events": "backend operator auditor own",
    "events": "backend operator auditor own",
    "operation": "backend operator auditor own",
    "pin": "operator",
    "unpin": "operator",
    "create_release": "operator",
    "list_releases": "operator auditor",
    "release": "operator auditor",
    "use_release": "operator",
    "group": "operator auditor",
    "put_group": "operator",
    "staleness": "operator auditor",
    "reconcile": "operator",
    "list_orphans": "operator",
    "adopt_orphan": "operator",
    "delete_orphan": "operator",
    "list_conditions": "operator auditor",
    "confirm_condition": "operator",
    "plan_rollout": "operator",
    "start_rollout": "operator",
    "list_rollouts": "operator auditor",
    "rollout": "operator auditor",
    "pause_rollout": "operator",
    "resume_rollout": "operator",
    "abort_rollout": "operator",
    "rollback_rollout": "operator",
    "list_tokens": "operator",
    "issue_token": "operator",
    "revoke_token": "operator",
}
"""Written down a second time, from the contract, so that a slip in the table is not its own witness."""


@pytest.fixture
async def open_world():
    plenty = {rate: RatePolicy(per_second=10_000, burst=10_000) for rate in RateClass}
    async with World(rates=plenty) as world:
        world.provisioning.given("ada")
        world.provisioning.given("bob")
        world.oversight.conditions_there.append(a_condition())
        world.oversight.orphans_there.append(an_orphan())
        yield world


def _target(route: Route, world: World, user_id: str = "ada") -> str:
    operation = next(iter(world.provisioning.operations), new_operation_id())
    token = next(iter(world.access.tokens.values())).id
    return route.path.format(
        user_id=user_id,
        operation_id=operation,
        token_id=token,
        condition_id=a_condition().id,
        orphan_id=an_orphan().id,
        release_id=RELEASE,
        group="team-a",
        rollout_id=_rollout(route, world).id,
    )


def _rollout(route: Route, world: World) -> Rollout:
    """Return a rollout to which what *route* does can be done; one that has ended stands in nobody's way."""
    state = RolloutState.PAUSED if route.handler == "resume_rollout" else RolloutState.RUNNING
    return world.rollouts.given(state=state, finished_at=NOW)


def _expected(route: Route, caller: str) -> set[int]:
    roles = MAY[route.handler].split()
    if caller in {"ada", "bob"}:
        if "own" not in roles:
            return {403}
        names_a_stack = "{user_id}" in route.path or "{operation_id}" in route.path
        return {404} if caller == "bob" and names_a_stack else set(route.answers)
    return set(route.answers) if caller in roles else {403}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("route", [r for r in ROUTES if r.roles], ids=lambda r: f"{r.method}-{r.handler}")
async def test_every_route_answers_each_role_as_the_contract_says(open_world, route, caller):
    await open_world.call("POST", "/v1/stacks/ada/stop")

    answer = await open_world.call(
        route.method, _target(route, open_world), by=caller, json=BODIES.get(route.handler)
    )

    assert answer.status in _expected(route, caller), answer.text


@pytest.mark.parametrize("route", [r for r in ROUTES if r.roles], ids=lambda r: f"{r.method}-{r.handler}")
async def test_no_route_answers_without_a_token(open_world, route):
    answer = await open_world.call(route.method, _target(route, open_world), by=None)

    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert open_world.provisioning.calls == []


def test_every_row_of_the_table_is_in_the_contract_and_the_other_way_round():
    assert {route.handler for route in ROUTES if route.roles} == set(MAY)


@pytest.mark.parametrize("route", [r for r in ROUTES if not r.roles], ids=lambda r: r.path)
async def test_what_needs_no_token_answers_without_one(open_world, route):
    answer = await open_world.call("GET", route.path, by=None)

    assert answer.status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/endpoints",
    ],
)
async def test_calls_that_do_not_exist_yet_are_not_found(open_world, path):
    answer = await open_world.call("GET", path, by="operator")

    assert (answer.status, answer.code) == (404, "not-found")


async def test_another_users_stack_looks_exactly_like_an_absent_one(open_world):
    theirs = await open_world.call("GET", "/v1/stacks/ada", by="bob")
    absent = await open_world.call("GET", "/v1/stacks/nobody", by="bob")

    assert {**theirs.json, "instance": ""} == {**absent.json, "instance": ""}
    assert theirs.code == "stack-not-found"


async def test_a_role_is_refused_before_anything_else_of_the_request_is_looked_at(open_world):
    answer = await open_world.call(
        "PUT", "/v1/stacks/%00?wait=1h", by="auditor", data=b"{", headers={"If-Match": "x"}
    )

    assert (answer.status, answer.code) == (403, "forbidden")


async def test_a_refused_role_is_told_which_one_it_has_and_which_would_do(open_world):
    answer = await open_world.call("PUT", "/v1/stacks/ada", by="auditor")

    assert answer.json["detail"] == (
        "The role of this token, auditor, does not allow this call, which is for backend or user."
    )


async def test_a_user_sees_only_its_own_operations_and_events(open_world):
    accepted = await open_world.call("POST", "/v1/stacks/ada/stop")
    await open_world.call("POST", "/v1/stacks/bob/stop")

    mine = await open_world.call("GET", accepted.headers["Location"], by="ada")
    theirs = await open_world.call("GET", accepted.headers["Location"], by="bob")
    history = await open_world.call("GET", "/v1/events", by="ada")

    assert mine.status == 200
    assert (theirs.status, theirs.code) == (404, "operation-not-found")
    assert {event["user_id"] for event in history.json["items"]} == {"ada"}


async def test_only_an_operator_may_hold_a_stack(open_world):
    by_backend = await open_world.call("POST", "/v1/stacks/ada/stop?hold=true", by="backend")
    by_user = await open_world.call("POST", "/v1/stacks/ada/stop?hold=true", by="ada")
    by_operator = await open_world.call("POST", "/v1/stacks/ada/stop?hold=true", by="operator")

    assert [by_backend.status, by_user.status, by_operator.status] == [403, 403, 202]
    assert open_world.provisioning.calls == ["stop"]


async def test_a_revoked_token_is_refused_at_once(open_world):
    issued = await open_world.call(
        "POST", "/v1/tokens", by="operator", json={"name": "ci", "role": "backend"}
    )
    secret = issued.json["secret"]
    before = await open_world.call("GET", "/v1/stacks/ada", by=secret)

    revoked = await open_world.call("DELETE", f"/v1/tokens/{issued.json['id']}", by="operator")

    after = await open_world.call("GET", "/v1/stacks/ada", by=secret)
    assert [before.status, revoked.status, after.status] == [200, 204, 401]


async def test_b11_a_request_without_exactly_one_good_bearer_token_is_unauthenticated(open_world, logged):
    good = SECRETS["backend"]
    values = [
        "",
        "Bearer",
        "Bearer ",
        good,
        f"Basic {good}",
        f"bearer {good}",
        f"BEARER {good}",
        f"Bearer  {good}",
        f"Bearer {good} {good}",
        f"Bearer {good},{good}",
        f"Token {good}",
        f"Bearer {good}x",
        f"Bearer {'a' * 4000}",
        "Bearer caf\xe9",
    ]
    for value in values:
        status, answer = await open_world.raw_call(
            "GET /v1/stacks/ada", by=None, headers=f"Authorization: {value}\r\n"
        )
        assert status == 401, value
        assert b"WWW-Authenticate: Bearer" in answer
        assert good.encode() not in answer
    assert good not in str(logged)


async def test_b11_two_authorization_headers_are_refused_even_if_both_are_good(open_world):
    line = f"Authorization: Bearer {SECRETS['backend']}\r\n"

    status, _ = await open_world.raw_call("GET /v1/stacks/ada", by=None, headers=line * 2)

    assert status == 401


async def test_b11_a_token_of_a_hundred_kilobytes_is_refused_and_neither_logged_nor_echoed(
    open_world, logged
):
    token = "planted" * 15_000

    status, answer = await open_world.raw_call(
        "GET /v1/stacks/ada", by=None, headers=f"Authorization: Bearer {token}\r\n"
    )

    assert status in {400, 401}
    assert b"planted" not in answer
    assert "planted" not in str(logged)
    assert b"application/problem+json" in answer


async def test_b11_a_token_in_the_query_is_worth_nothing_and_is_not_logged(open_world, logged):
    secret = SECRETS["backend"]

    alone = await open_world.call("GET", f"/v1/stacks/ada?access_token={secret}", by=None)
    beside = await open_world.call("GET", f"/v1/stacks/ada?access_token={secret}")

    assert (alone.status, beside.status) == (401, 400)
    assert secret not in alone.text + beside.text
    assert secret not in str(logged)


async def test_b21_nothing_is_told_of_paths_and_methods_before_the_token_is_seen(open_world):
    wrong_method = await open_world.call("PATCH", "/v1/stacks/ada", by=None)
    no_such_path = await open_world.call("GET", "/v1/nothing", by=None)

    assert [wrong_method.code, no_such_path.code] == ["unauthenticated", "unauthenticated"]
    assert "Allow" not in wrong_method.headers


@pytest.mark.parametrize("method", ["PATCH", "OPTIONS", "TRACE", "POST"])
async def test_b21_a_method_that_a_path_does_not_take_is_refused_with_those_it_does(open_world, method):
    answer = await open_world.call(method, "/v1/stacks/ada")

    assert (answer.status, answer.code) == (405, "method-not-allowed")
    assert set(answer.headers["Allow"].split(",")) == {"GET", "HEAD", "PUT", "DELETE"}


async def test_b21_head_answers_as_get_does_without_a_body(open_world):
    answer = await open_world.call("HEAD", "/v1/stacks/ada")
    stream = await open_world.call("HEAD", "/v1/stacks/ada/logs", by="operator")

    assert (answer.status, answer.text) == (200, "")
    assert int(answer.headers["Content-Length"]) > 100
    assert stream.status == 405


@pytest.mark.parametrize(
    "path",
    [
        "//v1/stacks/ada",
        "/v1//stacks/ada",
        "/v1/stacks//ada",
        "/v1/stacks/ada/",
        "/v1/stacks/",
        "/v1/stacks/x/../ada",
        "/v1/./stacks/ada",
        "/V1/stacks/ada",
        "/v1/Stacks/ada",
        "/v1/stacks/ada/Address",
        "/v1%2fstacks%2fada",
        "/v1/stacks/ada;v=1/address",
    ],
)
async def test_b21_a_path_that_is_not_spelled_exactly_so_is_not_found(open_world, path):
    answer = await open_world.call("GET", path)

    assert answer.status in {400, 404}
    assert open_world.provisioning.calls == []


async def test_b21_a_method_override_header_changes_nothing(open_world):
    answer = await open_world.call(
        "GET", "/v1/stacks/ada", headers={"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "DELETE"}
    )

    assert answer.status == 200
    assert open_world.provisioning.calls == ["inspect"]


@pytest.mark.parametrize("method", ["BREW", "CONNECT"])
async def test_b21_an_unheard_of_method_is_refused(open_world, method):
    target = "localhost:80" if method == "CONNECT" else "/v1/stacks/ada"

    status, _ = await open_world.raw_call(f"{method} {target}")

    assert status in {400, 404, 405}


async def test_a_client_that_is_over_its_rate_is_told_when_to_come_back():
    few = {rate: RatePolicy(per_second=2, burst=3) for rate in RateClass}
    async with World(rates=few) as world:
        world.provisioning.given("ada")
        answers = [await world.call("GET", "/v1/stacks/ada") for _ in range(4)]
        other = await world.call("GET", "/v1/stacks/ada", by="operator")
        ensure = await world.call("PUT", "/v1/stacks/ada")
        world.clocks.seconds += 0.5
        later = await world.call("GET", "/v1/stacks/ada")

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[3].code == "rate-limited"
    assert answers[3].headers["Retry-After"] == "1"
    assert answers[3].headers["RateLimit-Policy"] == '"read";q=3;w=2'
    assert answers[3].headers["RateLimit"].startswith('"read";r=0;t=')
    assert [answer.headers["RateLimit"] for answer in answers[:2]] == ['"read";r=2;t=1', '"read";r=1;t=1']
    assert (other.status, ensure.status, later.status) == (200, 200, 200)


async def test_two_tokens_of_the_same_holder_share_one_rate():
    few = {rate: RatePolicy(per_second=1, burst=1) for rate in RateClass}
    async with World(rates=few) as world:
        world.provisioning.given("ada")
        world.access.given("second-token-of-ada", world.access.authenticate(SECRETS["ada"]).role, "ada")
        first = await world.call("GET", "/v1/stacks/ada", by="ada")
        second = await world.call(
            "GET", "/v1/stacks/ada", by="second-token-of-ada", headers={"X-Forwarded-For": "10.9.9.9"}
        )

    assert (first.status, second.status) == (200, 429)


async def test_a_change_goes_on_when_its_client_is_gone(open_world):
    open_world.provisioning.gate = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", open_world.port)
    writer.write(
        f"PUT /v1/stacks/new HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['backend']}\r\n\r\n".encode()
    )
    await eventually(lambda: open_world.provisioning.calls == ["ensure"])

    writer.transport.abort()
    await eventually(
        lambda: all(connection.transport is None for connection in open_world.runner.server.connections)
    )
    open_world.provisioning.gate.set()

    async with asyncio.timeout(5):
        await open_world.provisioning.finished.wait()
    assert "new" in open_world.provisioning.views
    del reader


async def test_tokens_are_listed_without_secrets_and_page_by_page(open_world):
    first = await open_world.call("GET", "/v1/tokens?limit=3", by="operator")
    second = await open_world.call(
        "GET", f"/v1/tokens?limit=3&cursor={first.json['next_cursor']}", by="operator"
    )

    names = [token["name"] for token in first.json["items"] + second.json["items"]]
    assert sorted(names) == sorted(SECRETS)
    assert second.json["next_cursor"] is None
    assert "secret" not in first.text


async def test_a_token_for_a_user_needs_its_subject_and_no_other_may_have_one(open_world):
    without = await open_world.call("POST", "/v1/tokens", by="operator", json={"name": "x", "role": "user"})
    needless = await open_world.call(
        "POST", "/v1/tokens", by="operator", json={"name": "x", "role": "backend", "subject": "ada"}
    )
    good = await open_world.call(
        "POST", "/v1/tokens", by="operator", json={"name": "x", "role": "user", "subject": "ada"}
    )

    assert [fault["pointer"] for fault in without.json["errors"]] == ["/subject"]
    assert needless.status == 422
    assert (good.status, good.headers["Cache-Control"]) == (201, "no-store")


async def test_revoking_a_token_that_does_not_exist_is_not_found(open_world):
    answer = await open_world.call("DELETE", f"/v1/tokens/{new_token_id()}", by="operator")

    assert (answer.status, answer.code) == (404, "token-not-found")
