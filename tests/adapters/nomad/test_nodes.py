"""What Nomad says of nodes that take nothing new, in our words."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hostile_server import HostileServer, SeenRequest, hostile_server, reply
from opencode_lifecycle.adapters.nomad.nomad import Nomad
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamNonsense
from opencode_lifecycle.model.node import ClosedNode, Drain

HOUR = 3_600_000_000_000
BEGAN, ENDS = "2026-11-30T11:00:00.123456789Z", "2026-11-30T12:00:00.5Z"


def node(**changes: Any) -> dict[str, Any]:
    return {"ID": "n1", "Name": "one", "SchedulingEligibility": "ineligible", "Drain": False, **changes}


def strategy(deadline: object, **changes: Any) -> dict[str, Any]:
    return {"Deadline": deadline, "StartedAt": BEGAN, "ForceDeadline": "0001-01-01T00:00:00Z", **changes}


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with hostile_server() as server:
        yield server


@pytest.fixture
async def nomad(server, tmp_path) -> AsyncIterator[Nomad]:
    file = tmp_path / "token"
    file.write_text("token")
    nomad = Nomad(address=server.url, token_file=file, namespace="opencode", threads=2)
    yield nomad
    await nomad.close()


def answers(server: HostileServer, stub: dict[str, Any], whole: dict[str, Any] | None = None) -> None:
    """List one node, and answer for it alone with *whole*, or that it is not there."""

    def answer(request: SeenRequest):
        if urlsplit(request.path).path == "/v1/nodes":
            return reply(200, [stub])
        return reply(200, whole) if whole is not None else reply(404, b"node not found")

    server.script = answer


async def closed(nomad: Nomad) -> list[ClosedNode]:
    return list(await nomad.closed_nodes(Deadline.after(5, "list nodes")))


async def test_only_nodes_that_take_nothing_new_are_asked_for(server, nomad):
    answers(server, node())

    assert await closed(nomad) == [ClosedNode(id="n1", name="one", drain=None)]
    (request,) = server.requests
    assert parse_qs(urlsplit(request.path).query)["filter"] == ['SchedulingEligibility == "ineligible"']


@pytest.mark.parametrize(
    ("said", "deadline"),
    [
        (strategy(0), None),
        (strategy(HOUR, ForceDeadline=ENDS), datetime(2026, 11, 30, 12, 0, 0, 500_000, tzinfo=UTC)),
        (strategy(-1_000_000_000), datetime(2026, 11, 30, 11, 0, 0, 123_456, tzinfo=UTC)),
    ],
    ids=["no_deadline", "a_deadline", "forced"],
)
async def test_a_drain_ends_at_its_deadline_never_or_at_once(server, nomad, said, deadline):
    answers(server, node(Drain=True), node(DrainStrategy=said))

    assert [each.drain for each in await closed(nomad)] == [Drain(deadline=deadline)]


async def test_a_drain_that_has_ended_since_the_listing_is_none(server, nomad):
    answers(server, node(Drain=True), node(DrainStrategy=None))

    assert [each.drain for each in await closed(nomad)] == [None]


@pytest.mark.parametrize("whole", [None, node(SchedulingEligibility="eligible")], ids=["gone", "open"])
async def test_a_node_that_is_gone_or_open_since_the_listing_is_not_closed(server, nomad, whole):
    answers(server, node(Drain=True), whole)

    assert await closed(nomad) == []


@pytest.mark.parametrize(
    "said",
    [
        strategy("1h"),
        strategy(True),
        strategy(None),
        strategy(HOUR),
        strategy(HOUR, ForceDeadline="soon"),
        strategy(-1, StartedAt=None),
        [],
        "drained",
    ],
    ids=str,
)
async def test_a_drain_that_does_not_say_until_when_is_nonsense(server, nomad, said):
    answers(server, node(Drain=True), node(DrainStrategy=said))

    with pytest.raises(UpstreamNonsense):
        await closed(nomad)


async def test_a_listing_of_nodes_that_were_not_asked_for_is_nonsense(server, nomad):
    answers(server, node(SchedulingEligibility="eligible"))

    with pytest.raises(UpstreamNonsense):
        await closed(nomad)
