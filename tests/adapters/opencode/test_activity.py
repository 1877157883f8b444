"""When a runtime is called idle: only where everything that could be at work was seen, and none of it was."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

import scripted_opencode
from hostile_server import HostileServer, Misbehaviour, Reply, SeenRequest, hostile_server, reply
from leaks import written
from opencode_lifecycle.adapters.opencode.prober import OpenCodeProber
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.prober import Activity

PASSWORD = "planted-password-of-the-runtime"
BASIC = "Basic " + base64.b64encode(f"opencode:{PASSWORD}".encode()).decode()
REFUSAL = reply(401, WWW_Authenticate='Basic realm="Secure Area"', content_type="")
PAGE = reply(200, b"<!doctype html>", content_type="text/html")
SESSIONS = "/experimental/session"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
EMPTY = {"/session/status": {}, "/pty": []}
BUSY = {
    "/session/status": {"ses_1": {"type": "busy"}},
    "/pty": [{"id": "pty_1", "status": "running"}],
}
each_list = pytest.mark.parametrize("path", EMPTY)


def session(directory: object = "/work", *, ago: timedelta = timedelta(hours=1)) -> dict[str, object]:
    updated = round((NOW - ago).timestamp() * 1000)
    return {"id": "ses_1", "directory": directory, "time": {"created": 1, "updated": updated}}


@dataclass
class Server:
    """Answers as OpenCode does, with these sessions, and to some path and directory as a test says."""

    sessions: object = field(default_factory=list)
    answers: dict[tuple[str, str | None], Reply] = field(default_factory=dict)

    def __call__(self, request: SeenRequest) -> Reply:
        if request.headers.get("authorization") != BASIC:
            return REFUSAL
        url = urlsplit(request.path)
        [directory] = parse_qs(url.query).get("directory", [None])
        if (url.path, directory) in self.answers:
            return self.answers[url.path, directory]
        if url.path == SESSIONS:
            return self.sessions if isinstance(self.sessions, bytes) else reply(200, self.sessions)
        return reply(200, EMPTY[url.path]) if url.path in EMPTY else PAGE


@pytest.fixture
async def runtime() -> AsyncIterator[HostileServer]:
    async with hostile_server() as server:
        yield server


async def activity(runtime: HostileServer, deadline: Deadline | None = None) -> Activity | None:
    async def read_password() -> Password:
        return Password(PASSWORD)

    return await OpenCodeProber(now=lambda: NOW).activity(
        address=Address(host="127.0.0.1", port=runtime.port),
        read_password=read_password,
        deadline=deadline or Deadline.after(10, "test"),
    )


def directories_asked(runtime: HostileServer) -> list[str | None]:
    """Return the directories in the order in which their sessions were asked for."""
    urls = [urlsplit(request.path) for request in runtime.requests]
    return [parse_qs(url.query).get("directory", [None])[0] for url in urls if url.path == "/session/status"]


async def test_the_latest_change_of_any_session_counts(runtime):
    runtime.script = Server(
        [session(ago=timedelta(hours=5)), session("/other"), session(ago=timedelta(hours=3))]
    )

    assert await activity(runtime) == Activity(busy=False, changed_at=NOW - timedelta(hours=1))


@each_list
@pytest.mark.parametrize("directory", ["/work", "/other", None])
async def test_work_or_waiting_in_any_directory_is_work(runtime, path, directory):
    runtime.script = Server(
        [session("/work"), session("/other")], {(path, directory): reply(200, BUSY[path])}
    )

    found = await activity(runtime)

    assert found == Activity(busy=True, changed_at=NOW - timedelta(hours=1))


@each_list
async def test_work_shows_in_the_server_s_own_directory_though_no_session_ever_was(runtime, path):
    runtime.script = Server([], {(path, None): reply(200, BUSY[path])})

    assert await activity(runtime) == Activity(busy=True, changed_at=None)


@pytest.mark.parametrize("status", ["busy", "retry", "something-new", None, 7])
async def test_every_status_but_idle_is_work(runtime, status):
    runtime.script = Server([], {("/session/status", None): reply(200, {"ses_1": {"type": status}})})

    assert (await activity(runtime)).busy


async def test_a_session_that_is_named_idle_is_no_work(runtime):
    runtime.script = Server([], {("/session/status", None): reply(200, {"ses_1": {"type": "idle"}})})

    assert not (await activity(runtime)).busy


@pytest.mark.parametrize(("status", "busy"), [("exited", False), ("running", True), (None, True)])
async def test_a_terminal_is_open_until_it_has_exited(runtime, status, busy):
    runtime.script = Server([], {("/pty", None): reply(200, [{"id": "pty_1", "status": status}])})

    assert (await activity(runtime)).busy is busy


UNREADABLE = [
    *scripted_opencode.UNREADABLE,
    reply(400, ["ConfigJsonError"]),
    reply(400, b"{"),
    reply(400, {"name": ["ConfigJsonError"]}),
    reply(400, b'{"name": "ConfigJsonError"}', content_type="text/plain"),
    reply(500, {"name": "ConfigJsonError"}),
    reply(401, content_type=""),
    reply(200, False),
]


@each_list
@pytest.mark.parametrize("name", ["ConfigJsonError", "ConfigInvalidError"])
@pytest.mark.parametrize("directory", ["/other", None])
async def test_in_a_directory_that_it_cannot_load_nothing_is_at_work(runtime, path, name, directory):
    runtime.script = Server(
        [session("/work"), session("/other")], {(path, directory): reply(400, {"name": name})}
    )

    assert await activity(runtime) == Activity(busy=False, changed_at=NOW - timedelta(hours=1))


@each_list
@pytest.mark.parametrize("answer", UNREADABLE, ids=range(len(UNREADABLE)))
async def test_what_cannot_be_read_in_one_directory_leaves_all_unknown(runtime, path, answer):
    runtime.script = Server([session("/work"), session("/other")], {(path, "/other"): answer})

    assert await activity(runtime) is None


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/session/status", []),
        ("/session/status", {"ses_1": "busy"}),
        ("/session/status", {"ses_1": None}),
        ("/pty", {}),
        ("/pty", ["pty_1"]),
        ("/pty", [None]),
    ],
)
async def test_an_answer_of_another_shape_is_unknown_and_never_idle(runtime, path, answer):
    runtime.script = Server([], {(path, None): reply(200, answer)})

    assert await activity(runtime) is None


@pytest.mark.parametrize("answer", [*UNREADABLE, reply(200, {})], ids=range(len(UNREADABLE) + 1))
async def test_without_the_list_of_sessions_all_is_unknown(runtime, answer):
    runtime.script = Server(answers={(SESSIONS, None): answer})

    assert await activity(runtime) is None


@pytest.mark.parametrize(
    "wrong",
    [
        7,
        None,
        [],
        {},
        session(None),
        session(7),
        session() | {"time": None},
        session() | {"time": 7},
        session() | {"time": {}},
        session() | {"time": {"updated": None}},
        session() | {"time": {"updated": "1795516391030"}},
        session() | {"time": {"updated": -1}},
        session() | {"time": {"updated": 10**30}},
        session() | {"time": {"updated": float("nan")}},
        session() | {"time": {"updated": float("inf")}},
        session(""),
        session("\ud800"),
        session("/" + "x" * 100_000),
    ],
    ids=lambda value: str(value)[:60].encode("ascii", "replace").decode(),
)
async def test_one_session_that_cannot_be_read_leaves_all_unknown(runtime, wrong):
    runtime.script = Server(reply(200, json.dumps([session(), wrong]).encode()))

    assert await activity(runtime) is None


async def test_archived_sessions_are_asked_for_and_more_than_the_server_shows_unasked(runtime):
    runtime.script = Server([])

    await activity(runtime)

    [listing] = [request.path for request in runtime.requests if request.path.startswith(SESSIONS)]
    assert parse_qs(urlsplit(listing).query) == {"archived": ["true"], "limit": ["500"]}


async def test_directories_are_asked_once_each_the_latest_first(runtime):
    runtime.script = Server(
        [
            session("/old", ago=timedelta(days=3)),
            session("/new & odd/ü", ago=timedelta(minutes=1)),
            session("/old", ago=timedelta(days=2)),
            session("/middle"),
        ]
    )

    await activity(runtime)

    assert directories_asked(runtime) == [None, "/new & odd/ü", "/middle", "/old"]


async def test_no_more_is_asked_once_something_is_at_work(runtime):
    runtime.script = Server(
        [session("/work")], {("/session/status", "/work"): reply(200, BUSY["/session/status"])}
    )

    await activity(runtime)

    assert runtime.requests[-1].path == "/session/status?directory=/work"


def many(number: int, *, ago: timedelta) -> list[dict[str, object]]:
    """Make sessions in as many directories; the later one has, the longer ago it changed."""
    return [session(f"/{index}", ago=ago + timedelta(seconds=index)) for index in range(number)]


async def test_only_so_many_directories_are_made_to_load(runtime):
    runtime.script = Server(many(60, ago=timedelta(days=2)))

    assert await activity(runtime) == Activity(busy=False, changed_at=NOW - timedelta(days=2))
    assert directories_asked(runtime) == [None, *(f"/{index}" for index in range(20))]


async def test_a_directory_that_is_too_many_and_changed_of_late_leaves_all_unknown(runtime):
    runtime.script = Server(many(21, ago=timedelta(hours=1)))

    assert await activity(runtime) is None


async def test_a_list_that_may_go_on_is_whole_only_if_what_is_left_out_is_old(runtime):
    runtime.script = Server([session() for _ in range(500)])
    assert await activity(runtime) is None

    runtime.script = Server([session(ago=timedelta(days=2)) for _ in range(500)])
    assert await activity(runtime) == Activity(busy=False, changed_at=NOW - timedelta(days=2))

    runtime.script = Server([session() for _ in range(499)])
    assert await activity(runtime) == Activity(busy=False, changed_at=NOW - timedelta(hours=1))


@pytest.mark.parametrize(
    "answer",
    [reply(200, []), reply(200, {"healthy": True}), PAGE, reply(401, content_type=""), reply(403, {}),
     reply(500, {}), reply(302, {}, Location="/"), Misbehaviour.RESET, Misbehaviour.GARBLE],
    ids=str,
)  # fmt: skip
async def test_what_does_not_refuse_as_it_must_is_shown_no_password(runtime, answer):
    runtime.always(answer)

    assert await activity(runtime) is None
    assert all("authorization" not in request.headers for request in runtime.requests)


@pytest.mark.parametrize("misbehaviour", [Misbehaviour.HANG, Misbehaviour.DRIP])
@pytest.mark.parametrize("path", [SESSIONS, "/session/status", "/pty"])
async def test_a_runtime_that_takes_for_ever_is_not_waited_for(runtime, path, misbehaviour):
    runtime.script = Server([session()], {(path, None): misbehaviour})
    clock = asyncio.get_running_loop().time
    began = clock()

    assert await activity(runtime, Deadline.after(0.3, "test")) is None
    assert clock() - began < 1


async def test_a_redirect_carries_the_password_nowhere(runtime):
    async with hostile_server() as elsewhere:
        runtime.script = Server(
            answers={(SESSIONS, None): reply(307, {}, Location=f"{elsewhere.url}{SESSIONS}")}
        )

        assert await activity(runtime) is None
        assert elsewhere.requests == []


async def test_a_runtime_that_sends_the_password_back_gets_it_into_no_answer_and_no_log(runtime, caplog):
    caplog.set_level(logging.DEBUG)
    echo = {"id": PASSWORD, "status": BASIC}
    runtime.script = Server(
        [session(f"/{PASSWORD}") | {"title": BASIC}], {("/pty", None): reply(200, [echo], X_Echo=BASIC)}
    )

    found = await activity(runtime)

    for secret in (PASSWORD, BASIC):
        assert secret not in repr(found)
        assert secret not in written(caplog.records)
