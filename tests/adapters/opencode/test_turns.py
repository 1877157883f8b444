"""What the prober makes of turns where a runtime answers nonsense, too much or nothing."""

import logging
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

import pytest

from hostile_server import HostileServer, Misbehaviour, hostile_server, reply
from leaks import written
from opencode_lifecycle.adapters.opencode.prober import OpenCodeProber
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.prober import Turn
from scripted_opencode import (
    BASIC,
    NOW,
    PASSWORD,
    SESSIONS,
    UNREADABLE,
    ScriptedOpenCode,
    asked_of,
    message,
    session,
)

STATUS = "GET /session/status"
BUSY = reply(200, {"ses_1": {"type": "busy"}})
IDLE = reply(200, {})
unreadable = pytest.mark.parametrize("answer", UNREADABLE, ids=range(len(UNREADABLE)))


@pytest.fixture
async def runtime() -> AsyncIterator[HostileServer]:
    async with hostile_server() as server:
        yield server


def looking(runtime: HostileServer, deadline: Deadline | None = None) -> dict[str, object]:
    async def read_password() -> Password:
        return Password(PASSWORD)

    return {
        "address": Address(host="127.0.0.1", port=runtime.port),
        "read_password": read_password,
        "deadline": deadline or Deadline.after(10, "test"),
    }


async def abort(runtime: HostileServer, deadline: Deadline | None = None) -> Sequence[Turn] | None:
    return await OpenCodeProber(now=lambda: NOW).abort_turns(**looking(runtime, deadline))


async def interrupted(
    runtime: HostileServer, since: datetime = NOW - timedelta(days=1), deadline: Deadline | None = None
) -> Sequence[Turn] | None:
    return await OpenCodeProber().interrupted_turns(**looking(runtime, deadline), since=since)


async def count(runtime: HostileServer) -> int | None:
    return await OpenCodeProber().session_count(**looking(runtime))


def until_aborted(*, directory: str | None = "/work") -> ScriptedOpenCode:
    """Have a session at work in *directory* until it is aborted there."""
    server = ScriptedOpenCode([session()])
    server.per_directory[STATUS, directory] = BUSY

    def aborted() -> bytes:
        server.per_directory[STATUS, directory] = IDLE
        return reply(200, b"true")

    server.per_directory["POST /session/ses_1/abort", directory] = aborted
    return server


@pytest.mark.parametrize("directory", ["/work", None])
async def test_a_session_is_aborted_where_it_is_seen_at_work(runtime, directory):
    runtime.script = until_aborted(directory=directory)

    assert await abort(runtime) == [Turn(session_id="ses_1", directory="/work")]


async def test_what_is_at_work_in_two_directories_at_once_is_one_turn(runtime):
    server = until_aborted()
    server.per_directory[STATUS, None] = lambda: server.per_directory[STATUS, "/work"]
    server.per_directory["POST /session/ses_1/abort", None] = server.per_directory[
        "POST /session/ses_1/abort", "/work"
    ]
    runtime.script = server

    assert await abort(runtime) == [Turn(session_id="ses_1", directory="/work")]


async def test_a_turn_that_goes_on_after_its_abort_is_waited_for_until_the_deadline(runtime):
    runtime.script = ScriptedOpenCode([session()], per_directory={(STATUS, "/work"): BUSY})

    assert await abort(runtime, Deadline.after(0.5, "test")) is None
    assert asked_of(runtime).count(f"{STATUS}?directory=/work") > 2


@unreadable
async def test_what_cannot_be_seen_in_one_directory_is_unknown_and_the_rest_is_aborted(runtime, answer):
    server = until_aborted()
    server.sessions = [session(), session("ses_2", "/other")]
    server.per_directory[STATUS, "/other"] = answer
    runtime.script = server

    assert await abort(runtime) is None
    assert "POST /session/ses_1/abort?directory=/work" in asked_of(runtime)


async def test_in_a_directory_that_it_cannot_load_there_is_nothing_to_abort(runtime):
    server = until_aborted()
    server.sessions = [session(), session("ses_2", "/broken")]
    server.per_directory[STATUS, "/broken"] = reply(400, {"name": "ConfigInvalidError"})
    runtime.script = server

    assert await abort(runtime) == [Turn(session_id="ses_1", directory="/work")]


@unreadable
async def test_an_abort_that_is_not_confirmed_is_unknown(runtime, answer):
    server = until_aborted()
    server.per_directory["POST /session/ses_1/abort", "/work"] = answer
    runtime.script = server

    assert await abort(runtime, Deadline.after(1, "test")) is None


@unreadable
async def test_without_the_list_of_sessions_what_is_at_work_is_unknown(runtime, answer):
    runtime.script = ScriptedOpenCode(answers={SESSIONS: answer})

    assert await abort(runtime) is None
    assert await interrupted(runtime) is None
    assert await count(runtime) is None


@pytest.mark.parametrize("wrong", ["../../global/dispose", "", "a b", "x" * 200, "ses_1?x="])
async def test_an_id_that_is_none_is_never_made_a_part_of_an_address(runtime, wrong):
    runtime.script = ScriptedOpenCode(
        [session()], per_directory={(STATUS, None): reply(200, {wrong: {"type": "busy"}})}
    )

    assert await abort(runtime) is None
    assert not [each for each in asked_of(runtime) if each.startswith("POST")]

    runtime.script = ScriptedOpenCode([session(wrong)])

    assert await interrupted(runtime) is None
    assert not [each for each in asked_of(runtime) if "/message" in each]


@pytest.mark.parametrize(
    ("messages", "cut"),
    [
        ([], False),
        ([message("user")], False),
        ([message(completed=2)], False),
        ([message(completed=2, error={"name": "MessageAbortedError"})], False),
        ([message()], True),
        ([message(completed=2), message("user", 3), message(created=4)], True),
        ([message(created=4), message("user", 3), message(completed=2)], True),
        ([message(), message("user", 3), message(created=4, completed=5)], False),
        ([message(), message("user", 3)], True),
    ],
    ids=range(9),
)
async def test_a_turn_was_cut_off_when_the_last_answer_has_no_end(runtime, messages, cut):
    runtime.script = ScriptedOpenCode(
        [session()], answers={"GET /session/ses_1/message": reply(200, messages)}
    )

    assert await interrupted(runtime) == ([Turn(session_id="ses_1", directory="/work")] if cut else [])


@unreadable
async def test_without_its_messages_nothing_is_said_of_any_session(runtime, answer):
    runtime.script = ScriptedOpenCode(
        [session(), session("ses_2")], answers={"GET /session/ses_2/message": answer}
    )

    assert await interrupted(runtime) is None


@pytest.mark.parametrize(
    "wrong",
    [
        7,
        None,
        [],
        {},
        {"info": 7},
        {"info": {"role": "assistant"}},
        message(created=None),
        message(created="1"),
    ],
    ids=str,
)
async def test_a_message_of_another_shape_is_unknown_and_never_an_end(runtime, wrong):
    runtime.script = ScriptedOpenCode(
        [session()], answers={"GET /session/ses_1/message": reply(200, [message(completed=2), wrong])}
    )

    assert await interrupted(runtime) is None


async def test_of_cut_turns_only_the_latest_sessions_since_then_are_looked_at(runtime):
    runtime.script = ScriptedOpenCode(
        [session(f"ses_{n}", ago=timedelta(minutes=n)) for n in range(100)],
        answers={f"GET /session/ses_{n}/message": reply(200, [message()]) for n in range(100)},
    )

    assert len(await interrupted(runtime)) == 50
    assert [turn.session_id for turn in await interrupted(runtime, NOW - timedelta(minutes=2))] == [
        "ses_0",
        "ses_1",
        "ses_2",
    ]


def pages_of(sessions: list[dict[str, object]]):
    """Answer as a server that pages: those that changed before the cursor, the latest first."""

    def script(request):
        server = ScriptedOpenCode(sessions)
        if "experimental" in request.path and "authorization" in request.headers:
            query = dict(pair.split("=") for pair in request.path.partition("?")[2].split("&"))
            before = int(query.get("cursor", 1 << 60))
            older = [each for each in sessions if each["time"]["updated"] < before]
            return reply(200, older[: int(query["limit"])])
        return server(request)

    return script


async def test_more_sessions_than_fit_one_page_are_counted_once_each(runtime):
    # Three of each moment, so that pages end between some that changed together.
    runtime.script = pages_of([session(f"ses_{n}", ago=timedelta(minutes=n // 3)) for n in range(1700)])

    assert await count(runtime) == 1700


async def test_a_server_that_gives_the_same_page_for_ever_is_not_counted_for_ever(runtime):
    runtime.script = ScriptedOpenCode([session(f"ses_{n}") for n in range(500)])

    assert await count(runtime) is None
    assert len(asked_of(runtime)) == 2


@pytest.mark.parametrize("misbehaviour", [Misbehaviour.HANG, Misbehaviour.DRIP])
@pytest.mark.parametrize("path", [SESSIONS, STATUS, "GET /session/ses_1/message"])
async def test_a_runtime_that_takes_for_ever_is_not_waited_for(runtime, path, misbehaviour):
    runtime.script = ScriptedOpenCode([session()], answers={path: misbehaviour})
    look = interrupted if path.endswith("message") else abort

    assert await look(runtime, deadline=Deadline.after(0.3, "test")) is None


async def test_a_runtime_that_sends_the_password_back_gets_it_into_no_answer_and_no_log(runtime, caplog):
    caplog.set_level(logging.DEBUG)
    server = until_aborted(directory=f"/{PASSWORD}")
    server.sessions = [session(directory=f"/{PASSWORD}", title=BASIC), session(PASSWORD, "/other")]
    for each in ("ses_1", PASSWORD):
        server.answers[f"GET /session/{each}/message"] = reply(200, [message()])
    runtime.script = server

    found = [*await interrupted(runtime), *await abort(runtime)]

    assert len(found) == 3
    for secret in (PASSWORD, BASIC):
        assert secret not in repr(found)
        assert secret not in written(caplog.records)


async def test_a_directory_with_a_name_without_end_is_told_up_to_a_length(runtime):
    runtime.script = ScriptedOpenCode(
        [session(directory="/" + "x" * 5000)],
        answers={"GET /session/ses_1/message": reply(200, [message()])},
    )

    [turn] = await interrupted(runtime)

    assert len(turn.directory) <= 256
