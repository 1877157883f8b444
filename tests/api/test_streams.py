"""Logs and events: lists, and streams that end when they should."""

import asyncio

import pytest

from api.world import SECRETS, World, eventually
from opencode_lifecycle.model.errors import UpstreamUnavailable


def _url(world: World, path: str) -> str:
    return f"http://127.0.0.1:{world.port}{path}"


def _as(name: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS[name]}", **headers}


async def test_a_log_is_plain_text_as_the_runtime_wrote_it(world):
    world.provisioning.given("ada")

    answer = await world.call("GET", "/v1/stacks/ada/logs?type=stderr&tail=5", by="ada")

    assert (answer.status, answer.text) == (200, "first line\nsecond line\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_log_that_cannot_be_read_is_a_problem_and_no_broken_stream(world):
    world.provisioning.given("ada")
    world.provisioning.fails_with = UpstreamUnavailable("nomad", "read log")

    answer = await world.call("GET", "/v1/stacks/ada/logs", by="operator")

    assert (answer.status, answer.code) == (503, "upstream-unavailable")


@pytest.mark.parametrize(
    "query", ["type=both", "tail=-1", "tail=10001", "tail=x", "follow=1", "follow=", "lines=5"]
)
async def test_a_log_query_that_cannot_be_read_is_refused(world, query):
    answer = await world.call("GET", f"/v1/stacks/ada/logs?{query}", by="operator")

    assert (answer.status, answer.code) == (400, "invalid-request")


async def test_a_followed_log_stays_open_and_ends_whole_when_the_service_stops():
    async with World(shutdown_seconds=60.0) as world:
        world.provisioning.given("ada")
        url = _url(world, "/v1/stacks/ada/logs?follow=true")
        async with world.session.get(url, headers=_as("operator")) as answer:
            lines = [await answer.content.readline() for _ in range(2)]
            stopping = asyncio.create_task(world.runner.cleanup(), name="stop the service")
            rest = await asyncio.wait_for(answer.content.read(), 10)
        await asyncio.wait_for(stopping, 10)

    assert lines == [b"first line\n", b"second line\n"]
    assert rest == b""


async def test_a_followed_log_ends_when_its_token_is_revoked(world):
    world.provisioning.given("ada")
    token = next(token for token in world.access.tokens.values() if token.name == "operator")
    async with world.session.get(
        _url(world, "/v1/stacks/ada/logs?follow=true"), headers=_as("operator")
    ) as answer:
        await answer.content.readline()

        await world.access.revoke(token.id, by=token.principal())

        rest = await asyncio.wait_for(answer.content.read(), 10)
    assert rest == b"second line\n"


async def test_a_followed_log_is_let_go_when_its_reader_is_gone(world, logged):
    world.provisioning.given("ada")
    answer = await world.session.get(_url(world, "/v1/stacks/ada/logs?follow=true"), headers=_as("operator"))
    await answer.content.readline()

    answer.close()

    await eventually(lambda: any(line["event"] == "request answered" for line in logged))


async def test_events_are_a_list_with_pages(world):
    events = [world.provisioning.record_event("ada", f"kind-{n}") for n in range(3)]

    first = await world.call("GET", "/v1/stacks/ada/events?limit=2", by="auditor")
    second = await world.call(
        "GET", f"/v1/stacks/ada/events?limit=2&cursor={first.json['next_cursor']}", by="auditor"
    )

    assert [item["id"] for item in first.json["items"] + second.json["items"]] == [
        event.id for event in events
    ]
    assert first.json["items"][0] == {
        "id": events[0].id,
        "user_id": "ada",
        "kind": "kind-0",
        "actor": "service",
        "at": "2026-11-24T12:00:00Z",
        "generation": 1,
        "data": {},
    }


async def test_events_can_be_followed_and_resumed_after_the_last_one_seen(world):
    seen = world.provisioning.record_event("ada", "started")
    missed = world.provisioning.record_event("ada", "stopped")
    headers = _as("ada", Accept="text/event-stream", **{"Last-Event-ID": seen.id})
    async with world.session.get(_url(world, "/v1/stacks/ada/events"), headers=headers) as answer:
        first = await asyncio.wait_for(answer.content.readuntil(b"\n\n"), 10)
        await answer.content.readuntil(b": alive\n\n")
        new = world.provisioning.record_event("ada", "started")
        second = await asyncio.wait_for(answer.content.readuntil(b"\n\n"), 10)

    assert answer.content_type == "text/event-stream"
    assert first.startswith(f"id: {missed.id}\ndata: ".encode())
    assert second.startswith(f"id: {new.id}\n".encode())


async def test_a_last_event_id_that_is_none_is_refused(world):
    answer = await world.call(
        "GET", "/v1/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "1; DROP"}
    )

    assert (answer.status, answer.code) == (400, "invalid-request")
