"""What the adapter makes of a Nomad that answers nonsense, too much, something else or nothing (B24)."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hostile_server import HostileServer, Misbehaviour, Reply, SeenRequest, hostile_server, reply
from opencode_lifecycle.adapters.nomad.nomad import Nomad
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    IndexConflict,
    LifecycleError,
    NoCapacity,
    UpstreamDenied,
    UpstreamNonsense,
    UpstreamRejected,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.observation import JobSeen
from opencode_lifecycle.ports.orchestrator import Connected, RenderedJob

TOKEN = "planted-token-0123456789"
JOB = JobId("oc-ada")
TEMPLATE = 'variable "job_id" {\n  type = string\n}\n'
LOG_OF = AllocationId("00000000-0000-4000-8000-000000000000")


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with hostile_server() as server:
        yield server


@pytest.fixture
async def nomad(server, tmp_path) -> AsyncIterator[Nomad]:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    nomad = Nomad(address=server.url, token_file=file, namespace="opencode", threads=2)
    yield nomad
    await nomad.close()


def soon(seconds: float = 5) -> Deadline:
    return Deadline.after(seconds, "hostile")


async def _follow(nomad: Nomad) -> None:
    async for _ in nomad.follow(1):
        pass


async def _log(nomad: Nomad) -> None:
    async for _ in nomad.read_log(LOG_OF, kind="stdout", tail=1, follow=False, deadline=soon()):
        pass


CALLS = {
    "render": lambda nomad: nomad.render(TEMPLATE, {"job_id": JOB}, soon()),
    "register": lambda nomad: nomad.register(
        RenderedJob(job_id=JOB, specification={"Job": {"ID": JOB}}), expected_index=0, deadline=soon()
    ),
    "deregister": lambda nomad: nomad.deregister(JOB, purge=False, deadline=soon()),
    "validate": lambda nomad: nomad.validate(
        RenderedJob(job_id=JOB, specification={"Job": {"ID": JOB}}), soon()
    ),
    "plan_placement": lambda nomad: nomad.plan_placement(
        RenderedJob(job_id=JOB, specification={"Job": {"ID": JOB}}), soon()
    ),
    "observe": lambda nomad: nomad.observe(JOB, soon()),
    "list_all": lambda nomad: nomad.list_all(soon()),
    "closed_nodes": lambda nomad: nomad.closed_nodes(soon()),
    "ping": lambda nomad: nomad.ping(soon()),
    "workspaces.ensure": lambda nomad: nomad.workspaces.ensure(JOB, soon()),
    "workspaces.find": lambda nomad: nomad.workspaces.find(JOB, soon()),
    "live_files.publish": lambda nomad: nomad.live_files.publish("text", soon()),
}


async def _file(nomad: Nomad, deadline: Deadline | None = None) -> bytes | None:
    return await nomad.read_file(LOG_OF, "server/local/a b&c", limit=10, deadline=deadline or soon())


STREAMS = {"follow": _follow, "read_log": _log, "read_file": _file}
EVERY = {
    **CALLS,
    **STREAMS,
    "workspaces.destroy": lambda nomad: nomad.workspaces.destroy("some-id", soon()),
    "live_files.clear": lambda nomad: nomad.live_files.clear(JOB, soon()),
}


async def error_of(nomad: Nomad, call: str) -> LifecycleError:
    with pytest.raises(LifecycleError) as caught:
        await EVERY[call](nomad)
    error = caught.value
    assert TOKEN not in repr(error)
    assert error.__cause__ is None
    return error


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b"<html>Welcome</html>", content_type="text/html"),
        reply(200, b"<html>Welcome</html>"),
        reply(200, b"{"),
        reply(200, b"\xff\xfe"),
        reply(200, b"[" * 100_000),
        reply(200, 17),
        reply(200, [17]),
        reply(200, [{"ID": 17}]),
        Misbehaviour.GARBLE,
    ],
    ids=["html", "html-as-json", "half", "not-utf8", "deep", "number", "numbers", "wrong-types", "no-http"],
)
async def test_nonsense_is_no_answer(server, nomad, call, answer):
    server.always(answer)

    assert isinstance(await error_of(nomad, call), UpstreamNonsense | UpstreamUnavailable)


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(server, nomad, call, status):
    server.always(reply(status, b"", Location=f"{server.url}/elsewhere"))

    assert isinstance(await error_of(nomad, call), UpstreamNonsense)
    assert all("elsewhere" not in request.path for request in server.requests)


@pytest.mark.parametrize("call", CALLS)
async def test_an_answer_without_end_is_not_read_to_the_end(server, nomad, call):
    server.always(Misbehaviour.ENDLESS)

    assert isinstance(await error_of(nomad, call), UpstreamNonsense)


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize("answer", [Misbehaviour.RESET, Misbehaviour.CLOSE])
async def test_a_broken_connection_is_trouble_that_passes(server, nomad, call, answer):
    server.always(answer)

    assert isinstance(await error_of(nomad, call), UpstreamUnavailable)


@pytest.mark.parametrize("call", EVERY)
@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_an_overloaded_or_broken_server_is_trouble_that_passes(server, nomad, call, status):
    server.always(reply(status, b"rpc error: No cluster leader", content_type="text/plain"))

    assert isinstance(await error_of(nomad, call), UpstreamUnavailable)


@pytest.mark.parametrize("call", EVERY)
async def test_a_refused_token_is_a_matter_for_a_person(server, nomad, call):
    server.always(reply(403, b"Permission denied", content_type="text/plain"))

    assert isinstance(await error_of(nomad, call), UpstreamDenied)


async def test_a_new_token_in_the_file_is_tried_once(server, nomad, tmp_path):
    answers = [reply(403, b"Permission denied"), reply(404, b"not found", X_Nomad_Index="5"), reply(404, b"")]

    def script(_: SeenRequest) -> bytes:
        (tmp_path / "token").write_text("the-new-token")
        return answers.pop(0)

    server.script = script

    await nomad.live_files.clear(JOB, soon())

    assert [request.headers["x-nomad-token"] for request in server.requests] == [TOKEN, "the-new-token"]


async def test_a_registration_that_is_switched_off_is_trouble_that_passes(server, nomad):
    server.always(reply(403, b"job registration disabled", content_type="text/plain"))

    assert isinstance(await error_of(nomad, "register"), UpstreamUnavailable)


@pytest.mark.parametrize("name", ["oc-ada", "oc-is-in use"])
async def test_a_volume_that_no_node_can_take_is_told_from_an_outage_and_from_a_refusal(server, nomad, name):
    text = (
        f'could not place volume "{name}": no node meets constraints: 0 nodes had existing volume, '
        "0 nodes filtered by node pool governance, 3 nodes were infeasible"
    )
    server.always(reply(500, text.encode(), content_type="text/plain"))

    error = await error_of(nomad, "register")
    assert isinstance(error, NoCapacity)
    assert error.detail == text


async def test_an_index_conflict_is_told_by_its_text(server, nomad):
    server.always(reply(500, b"Enforcing job modify index 0: job already exists", content_type="text/plain"))

    assert isinstance(await error_of(nomad, "register"), IndexConflict)


async def test_a_refused_job_is_told_in_nomads_own_words_up_to_a_length(server, nomad):
    text = "1 error occurred:\n\t* Missing job datacenters " + "x" * 5000
    server.always(reply(500, text.encode(), content_type="text/plain"))

    error = await error_of(nomad, "register")
    assert isinstance(error, UpstreamRejected)
    assert "Missing job datacenters" in error.detail
    assert len(error.detail) <= 512
    assert "\n" not in error.detail


@pytest.mark.parametrize("call", ["observe", "list_all", "deregister", "ping", "workspaces.find"])
@pytest.mark.parametrize("answer", [Misbehaviour.HANG, Misbehaviour.DRIP])
async def test_a_server_that_says_nothing_costs_the_deadline_and_no_more(server, nomad, call, answer):
    server.always(answer)
    calls = {
        "observe": nomad.observe(JOB, soon(0.3)),
        "list_all": nomad.list_all(soon(0.3)),
        "deregister": nomad.deregister(JOB, purge=False, deadline=soon(0.3)),
        "ping": nomad.ping(soon(0.3)),
        "workspaces.find": nomad.workspaces.find(JOB, soon(0.3)),
    }
    for name, other in calls.items():
        if name != call:
            other.close()

    with pytest.raises((DeadlineExceeded, UpstreamUnavailable)):
        await calls[call]


async def test_ids_cannot_reach_another_endpoint(server, nomad):
    server.always(reply(404, b"not found"))

    await nomad.observe(JobId("../../acl/tokens?x=#"), soon())

    assert all(
        request.path.startswith("/v1/job/..%2F..%2Facl%2Ftokens%3Fx%3D%23") for request in server.requests
    )


async def test_a_page_that_fails_fails_the_listing(server, nomad):
    stub: dict[str, Any] = {"ID": "oc-a", "JobModifyIndex": 5, "Stop": False, "Meta": {}, "SubmitTime": 1}

    def script(request: SeenRequest) -> bytes:
        if "next_token" in request.path:
            return reply(500, b"timeout")
        return reply(200, [stub], X_Nomad_NextToken="oc-b", X_Nomad_Index="9")

    server.script = script

    assert isinstance(await error_of(nomad, "list_all"), UpstreamUnavailable)


async def test_pages_that_never_end_are_not_read_for_ever(server, nomad):
    server.always(reply(200, [], X_Nomad_NextToken="again", X_Nomad_Index="9"))

    assert isinstance(await error_of(nomad, "list_all"), UpstreamNonsense)


@pytest.mark.parametrize("meta", [None, {}, {"managed_by": "opencode-lifecycle", "installation": "other"}])
async def test_a_job_of_another_owner_is_seen_as_such(server, nomad, meta):
    job = {"ID": JOB, "Version": 0, "JobModifyIndex": 5, "Stop": True, "Meta": meta}
    server.script = lambda request: reply(
        200, [] if "/allocations" in request.path else job, X_Nomad_Index="7"
    )

    seen = await nomad.observe(JOB, soon())

    assert isinstance(seen.job, JobSeen)
    assert not seen.job.belongs_to("main")


async def test_another_job_than_the_asked_one_is_nonsense(server, nomad):
    job = {"ID": "oc-mallory", "Version": 0, "JobModifyIndex": 5, "Stop": True, "Meta": {}}
    server.script = lambda request: reply(
        200, [] if "/allocations" in request.path else job, X_Nomad_Index="7"
    )

    assert isinstance(await error_of(nomad, "observe"), UpstreamNonsense)


async def test_a_cookie_is_not_kept(server, nomad):
    server.always(reply(404, b"not found", Set_Cookie="session=evil"))

    await nomad.live_files.clear(JOB, soon())
    await nomad.live_files.clear(JOB, soon())

    assert all("cookie" not in request.headers for request in server.requests)


async def test_a_stream_that_closes_at_once_means_a_refused_token(server, nomad):
    server.always(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n")

    with pytest.raises(UpstreamDenied):
        await _follow(nomad)


async def test_a_stream_that_ends_later_is_trouble_that_passes(server, nomad):
    server.always(reply(200, b"{}\n"))

    with pytest.raises(UpstreamUnavailable):
        await _follow(nomad)


@pytest.mark.parametrize(
    "line", [b"<html>\n", b"[]\n", b'{"Events": 5}\n', b'{"Events": [{"Index": "x"}]}\n']
)
async def test_nonsense_in_a_stream_ends_it(server, nomad, line):
    server.always(reply(200, b"{}\n" + line))

    with pytest.raises(UpstreamNonsense):
        await _follow(nomad)


async def test_events_of_other_jobs_are_not_told(server, nomad):
    job = {"ID": "web", "Version": 0, "JobModifyIndex": 5, "Stop": False, "Meta": {}}
    event = {"Index": 9, "Topic": "Job", "Type": "JobRegistered", "Payload": {"Job": job}}
    server.always(reply(200, b"{}\n" + json.dumps({"Index": 9, "Events": [event]}).encode() + b"\n"))
    told = nomad.follow(1)

    assert isinstance(await anext(told), Connected)
    with pytest.raises(UpstreamUnavailable):
        await anext(told)


async def test_nobody_listening_is_trouble_that_passes(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    nomad = Nomad(address="http://127.0.0.1:9", token_file=file, namespace="opencode")
    try:
        for call in EVERY:
            assert isinstance(await error_of(nomad, call), UpstreamUnavailable)
    finally:
        await nomad.close()


async def test_a_missing_token_file_is_a_matter_for_a_person(server, tmp_path):
    nomad = Nomad(address=server.url, token_file=tmp_path / "none", namespace="opencode")
    try:
        for call in EVERY:
            assert isinstance(await error_of(nomad, call), UpstreamDenied)
    finally:
        await nomad.close()
    assert server.requests == []


async def test_a_404_that_is_not_nomads_says_nothing_of_the_job(nomad, server):
    server.always(reply(404, b"<html><h1>404 Not Found</h1></html>"))

    with pytest.raises(UpstreamNonsense):
        await nomad.observe(JobId("oc-ada"), soon())


def file_of(size: object, *, content: Reply, is_dir: object = False) -> Callable[[SeenRequest], Reply]:
    """Say that the file has *size* bytes, and answer with *content* when it is read."""
    status = reply(200, {"Name": "a", "IsDir": is_dir, "Size": size})
    return lambda request: status if "/fs/stat/" in request.path else content


def plain(content: bytes, status: int = 200) -> bytes:
    return reply(status, content, content_type="text/plain")


async def test_a_file_is_read_that_has_the_size_which_nomad_says(server, nomad):
    server.script = file_of(10, content=plain(b"0123456789"))

    assert await _file(nomad) == b"0123456789"
    asked, read = (request.path for request in server.requests)
    assert asked.startswith(f"/v1/client/fs/stat/{LOG_OF}?")
    assert read.startswith(f"/v1/client/fs/readat/{LOG_OF}?")
    assert "path=server%2Flocal%2Fa+b%26c&offset=0&limit=11" in read


async def test_a_file_that_is_too_large_is_not_even_asked_for(server, nomad):
    server.script = file_of(11, content=plain(b"0123456789x"))

    assert isinstance(await error_of(nomad, "read_file"), UpstreamNonsense)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "content",
    [
        plain(b"stat /a/b: no such file or directory"),
        plain(b'Unknown allocation "00000000-0000-4000-8000-000000000000"'),
        plain(b"012345678"),
        plain(b"0123456789x"),
        plain(b""),
        Misbehaviour.ENDLESS,
        Misbehaviour.CUT,
    ],
    ids=range(7),
)
async def test_what_comes_in_place_of_a_file_is_never_taken_for_it(server, nomad, content):
    server.script = file_of(10, content=content)

    assert isinstance(await error_of(nomad, "read_file"), UpstreamUnavailable)


@pytest.mark.parametrize("content", [Misbehaviour.HANG, Misbehaviour.DRIP])
async def test_a_file_that_does_not_come_costs_the_deadline_and_no_more(server, nomad, content):
    server.script = file_of(10_000, content=content)

    with pytest.raises(DeadlineExceeded):
        await nomad.read_file(LOG_OF, "a", limit=10_000, deadline=soon(0.2))


@pytest.mark.parametrize(
    "text",
    [
        b"stat /a/b: no such file or directory",
        b'Unknown allocation "00000000-0000-4000-8000-000000000000"',
    ],
)
async def test_a_file_is_missing_where_nomad_says_so(server, nomad, text):
    server.always(plain(text, 404))

    assert await _file(nomad) is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (plain(b"No path to node. Please see the logs", 404), UpstreamNonsense),
        (plain(b"<html>no such file or directory</html>", 404), UpstreamNonsense),
        (plain(b"", 404), UpstreamNonsense),
        (plain(b"rpc error: no such file or directory", 500), UpstreamUnavailable),
        (reply(200, {"IsDir": True, "Size": 4}), UpstreamRejected),
        (reply(200, {"Size": 4}), UpstreamRejected),
        (reply(200, {"IsDir": False, "Size": "4"}), UpstreamNonsense),
        (reply(200, {"IsDir": False}), UpstreamNonsense),
        (reply(200, []), UpstreamNonsense),
        (plain(b"0123456789"), UpstreamNonsense),
    ],
    ids=range(10),
)
async def test_what_else_is_said_of_a_file_does_not_mean_that_it_is_missing(server, nomad, answer, kind):
    server.always(answer)

    assert type(await error_of(nomad, "read_file")) is kind
