"""What the prober makes of a reload where a runtime answers nonsense, too much or nothing."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from hostile_server import HostileServer, Misbehaviour, Reply, hostile_server, reply
from opencode_lifecycle.adapters.opencode.prober import OpenCodeProber
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.prober import Reloaded, ReloadResult
from scripted_opencode import PASSWORD, SESSIONS, UNREADABLE, ScriptedOpenCode, asked_of, session

CONFIG = "GET /config"
DISPOSE = "POST /global/dispose"
BAD = reply(400, {"name": "ConfigJsonError", "data": {"path": f"/{PASSWORD}"}})
unreadable = pytest.mark.parametrize("answer", UNREADABLE, ids=range(len(UNREADABLE)))


@pytest.fixture
async def runtime() -> AsyncIterator[HostileServer]:
    async with hostile_server() as server:
        yield server


async def reload(runtime: HostileServer, deadline: Deadline | None = None) -> Reloaded:
    async def read_password() -> Password:
        return Password(PASSWORD)

    return await OpenCodeProber().reload(
        address=Address(host="127.0.0.1", port=runtime.port),
        read_password=read_password,
        deadline=deadline or Deadline.after(10, "test"),
    )


def turning(server: ScriptedOpenCode, *, after: Reply) -> ScriptedOpenCode:
    """Let the configuration be answered with *after* from the reload on."""

    def dispose() -> bytes:
        server.answers[CONFIG] = after
        return reply(200, b"true")

    server.answers[DISPOSE] = dispose
    return server


async def test_the_configuration_is_looked_at_before_and_after_and_in_the_directories_of_the_latest(runtime):
    runtime.script = ScriptedOpenCode(
        [
            session("ses_1", "/old", ago=timedelta(days=3)),
            session("ses_2", "/new & odd", ago=timedelta(minutes=1)),
            session("ses_3", "/old"),
        ]
    )

    assert await reload(runtime) == Reloaded(result=ReloadResult.RELOADED, broken=[])
    asked = [each for each in asked_of(runtime) if SESSIONS not in each]
    assert asked == [
        CONFIG,
        DISPOSE,
        CONFIG,
        f"{CONFIG}?directory=/new+%26+odd",
        f"{CONFIG}?directory=/old",
    ]


async def test_only_so_many_directories_are_made_to_load(runtime):
    runtime.script = ScriptedOpenCode([session(f"ses_{n}", f"/{n}") for n in range(30)])

    await reload(runtime)

    assert len([each for each in asked_of(runtime) if "directory" in each]) == 5


async def test_what_cannot_load_its_configuration_now_is_not_reloaded(runtime):
    runtime.script = ScriptedOpenCode(answers={CONFIG: BAD})

    assert (await reload(runtime)).result is ReloadResult.BAD_CONFIG
    assert DISPOSE not in asked_of(runtime)


async def test_a_bad_configuration_is_told_without_a_word_of_what_the_runtime_said(runtime):
    runtime.script = turning(ScriptedOpenCode(), after=BAD)

    reloaded = await reload(runtime)

    assert reloaded.result is ReloadResult.BAD_CONFIG
    assert PASSWORD not in repr(reloaded)


@unreadable
async def test_a_reload_that_is_not_confirmed_is_unknown(runtime, answer):
    runtime.script = ScriptedOpenCode(answers={DISPOSE: answer})

    assert (await reload(runtime)).result is ReloadResult.UNKNOWN


@unreadable
async def test_what_answers_otherwise_than_it_must_after_its_reload_is_never_called_reloaded(runtime, answer):
    runtime.script = turning(ScriptedOpenCode(), after=answer)

    reloaded = await reload(runtime)

    assert reloaded.result in {ReloadResult.UNKNOWN, ReloadResult.BAD_CONFIG}
    assert reloaded.detail


@unreadable
async def test_a_list_of_sessions_that_cannot_be_read_keeps_nothing_from_being_reloaded(runtime, answer):
    runtime.script = ScriptedOpenCode(answers={SESSIONS: answer})

    assert (await reload(runtime)).result in {ReloadResult.RELOADED, ReloadResult.UNKNOWN}
    assert DISPOSE in asked_of(runtime)


@pytest.mark.parametrize("answer", [BAD, reply(500, {}), reply(404, {})])
async def test_a_directory_that_fails_alone_is_named(runtime, answer):
    runtime.script = ScriptedOpenCode(
        [session("ses_1", "/sound"), session("ses_2", "/broken"), session("ses_3", f"/{PASSWORD}")],
        per_directory={(CONFIG, each): answer for each in ("/broken", f"/{PASSWORD}")},
    )

    reloaded = await reload(runtime)

    assert reloaded.result is ReloadResult.RELOADED
    assert sorted(reloaded.broken) == ["(not shown)", "/broken"]


@pytest.mark.parametrize("misbehaviour", [Misbehaviour.HANG, Misbehaviour.CLOSE])
async def test_a_directory_that_does_not_answer_leaves_it_unknown(runtime, misbehaviour):
    runtime.script = ScriptedOpenCode(
        [session("ses_1", "/silent")], per_directory={(CONFIG, "/silent"): misbehaviour}
    )

    assert (await reload(runtime, Deadline.after(0.5, "test"))).result is ReloadResult.UNKNOWN


@pytest.mark.parametrize("misbehaviour", [Misbehaviour.HANG, Misbehaviour.DRIP])
@pytest.mark.parametrize("path", [CONFIG, DISPOSE])
async def test_a_runtime_that_takes_for_ever_is_not_waited_for(runtime, path, misbehaviour):
    runtime.script = ScriptedOpenCode(answers={path: misbehaviour})

    reloaded = await reload(runtime, Deadline.after(0.3, "test"))

    assert reloaded.result is (ReloadResult.UNKNOWN if path == DISPOSE else ReloadResult.NOT_ASKED)
