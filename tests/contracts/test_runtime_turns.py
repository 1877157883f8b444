"""
What a migration may rely on of a runtime, held against the fake, the prober over HTTP and the real OpenCode.

One real server is shared by those tests that leave it as it was.
"""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.runtime_worlds import PROMPT, History, InMemory, Prompts, Real, Stub, World
from fakes.model_server import ModelServer, model_server
from hostile_server import hostile_server
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.prober import (
    Activity,
    PromptOutcome,
    PromptResult,
    ReadPassword,
    Reloaded,
    ReloadResult,
)
from real_opencode import RealOpenCode, opencode

REAL = pytest.param("real", marks=[pytest.mark.opencode, pytest.mark.timeout(300)])
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def model_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def shared_opencode(opencode_program, model_port, tmp_path_factory) -> Iterator[RealOpenCode]:
    home = tmp_path_factory.mktemp("opencode")
    with start(opencode_program, home, model_port) as server:
        yield server


def start(program: Path, home: Path, model_port: int) -> AbstractContextManager[RealOpenCode]:
    configuration = ModelServer(url=f"http://127.0.0.1:{model_port}/v1").configuration()
    return opencode(program, home, password="planted-password-of-the-real-one", configuration=configuration)


@pytest.fixture(params=["in_memory", "stub", REAL])
def shared(request) -> tuple[str, RealOpenCode | None]:
    """Name the kind, with the shared server of the real one. What starts it must not run in a test's event loop."""
    return request.param, request.getfixturevalue("shared_opencode") if request.param == "real" else None


@pytest.fixture
async def world(shared, model_port) -> AsyncIterator[World]:
    kind, server = shared
    if server is None:
        async with pretending(kind) as pretended:
            yield pretended
        return
    async with model_server(model_port) as model:
        real = Real(server, model)
        async with real.clearing_up():
            yield real


@pytest.fixture(params=["in_memory", "stub", REAL])
def program(request) -> tuple[str, Path | None]:
    return request.param, request.getfixturevalue("opencode_program") if request.param == "real" else None


@pytest.fixture
async def own_world(program, model_port, tmp_path) -> AsyncIterator[World]:
    """Yield one that a test may kill or spoil."""
    kind, path = program
    if path is None:
        async with pretending(kind) as pretended:
            yield pretended
        return
    async with (
        model_server(model_port) as model,
        Real.of_its_own(lambda: start(path, tmp_path, model_port), model) as real,
    ):
        yield real


@asynccontextmanager
async def pretending(kind: str) -> AsyncIterator[InMemory | Stub]:
    if kind == "in_memory":
        yield InMemory()
        return
    async with hostile_server() as http:
        yield Stub(http)


@pytest.fixture(params=["in_memory", "stub"])
async def pretended(request) -> AsyncIterator[InMemory | Stub]:
    """Yield one that can be made to misbehave."""
    async with pretending(request.param) as pretended:
        yield pretended


def soon(seconds: float = 60) -> Deadline:
    return Deadline.after(seconds, "test")


def reading(password: str) -> ReadPassword:
    async def read_password() -> Password:
        return Password(password)

    return read_password


def how(world: World, deadline: Deadline | None = None) -> dict[str, Any]:
    """Return what every call is told."""
    return {
        "address": world.address,
        "read_password": reading(world.password),
        "deadline": deadline or soon(),
    }


async def activity(world: World) -> Activity | None:
    return await world.prober.activity(**how(world))


# Turns at work


async def test_where_nothing_is_at_work_nothing_is_aborted(world):
    await world.open_session()

    assert await world.prober.abort_turns(**how(world)) == []


async def test_a_turn_in_the_middle_of_its_answer_is_aborted_and_its_history_says_so(world):
    turn = await world.begin_turn()

    assert await world.prober.abort_turns(**how(world)) == [turn]

    assert await world.history_of(turn) is History.ABORTED
    assert not (await activity(world)).busy


async def test_a_turn_that_waits_for_its_user_is_aborted(world):
    turn = await world.wait_for_user()

    assert await world.prober.abort_turns(**how(world)) == [turn]

    assert await world.history_of(turn) is not History.WITHOUT_END
    assert not (await activity(world)).busy


async def test_every_turn_is_aborted(world):
    turns = [await world.begin_turn() for _ in range(3)]

    aborted = await world.prober.abort_turns(**how(world))

    assert sorted(turn.session_id for turn in aborted) == sorted(turn.session_id for turn in turns)
    assert {await world.history_of(turn) for turn in turns} == {History.ABORTED}


# Turns that were cut off


async def test_a_turn_whose_process_was_killed_is_found_afterwards(own_world):
    cut, other = await own_world.begin_turn(), await own_world.begin_turn()
    began = datetime.now(UTC) - timedelta(minutes=5)
    await own_world.prober.abort_turns(**how(own_world))
    again = await own_world.begin_turn()
    await own_world.open_session()

    await own_world.kill_and_start()

    found = await own_world.prober.interrupted_turns(**how(own_world), since=began)
    assert found == [again]
    assert not (await activity(own_world)).busy
    assert await own_world.history_of(again) is History.WITHOUT_END
    assert {await own_world.history_of(turn) for turn in (cut, other)} == {History.ABORTED}


async def test_what_was_cut_off_before_is_not_told(own_world):
    await own_world.begin_turn()
    await own_world.kill_and_start()
    later = datetime.now(UTC) + timedelta(seconds=1)

    assert await own_world.prober.interrupted_turns(**how(own_world), since=later) == []


async def test_a_turn_that_was_cut_off_bears_the_time_of_its_beginning_whenever_it_is_asked_for(own_world):
    before = datetime.now(UTC) - timedelta(seconds=1)
    await own_world.begin_turn()
    after = datetime.now(UTC) + timedelta(seconds=1)
    await own_world.kill_and_start()

    [found] = await own_world.prober.interrupted_turns(**how(own_world), since=LONG_AGO)
    [again] = await own_world.prober.interrupted_turns(**how(own_world), since=LONG_AGO)

    assert before < found.began_at < after
    assert again.began_at == found.began_at


async def test_what_came_to_its_end_was_not_cut_off(world):
    turn = await world.begin_turn()
    await world.prober.abort_turns(**how(world))

    found = await world.prober.interrupted_turns(**how(world), since=LONG_AGO)

    assert turn.session_id not in [each.session_id for each in found]


# Reloading


async def test_a_reload_of_a_sound_configuration_leaves_everything_answering(world):
    await world.open_session()

    assert await world.prober.reload(**how(world)) == Reloaded(result=ReloadResult.RELOADED, broken=[])
    assert await activity(world) is not None


async def test_a_configuration_that_cannot_be_loaded_shows_at_the_reload_and_sticks(own_world):
    assert (await own_world.prober.reload(**how(own_world))).result is ReloadResult.RELOADED
    own_world.spoil_configuration()

    assert (await own_world.prober.reload(**how(own_world))).result is ReloadResult.BAD_CONFIG
    assert (await own_world.prober.reload(**how(own_world))).result is ReloadResult.BAD_CONFIG


async def test_a_project_that_its_user_broke_is_told_apart_from_a_bad_configuration(own_world):
    project = (await own_world.open_session()).directory
    await own_world.prober.reload(**how(own_world))
    own_world.spoil_project(project)

    reloaded = await own_world.prober.reload(**how(own_world))

    assert (reloaded.result, list(reloaded.broken)) == (ReloadResult.RELOADED, [project])


async def test_a_turn_in_a_project_that_its_user_breaks_is_seen_until_it_has_ended(own_world):
    turn = await own_world.begin_turn()

    own_world.spoil_project(turn.directory)
    while_at_work = await activity(own_world)
    await own_world.prober.reload(**how(own_world))
    afterwards = await activity(own_world)

    assert while_at_work.busy
    assert afterwards is not None
    assert not afterwards.busy
    assert await own_world.prober.abort_turns(**how(own_world)) == []


# Prompts


async def prompt(world: World, deadline: Deadline | None = None) -> PromptResult:
    return await world.prober.prompt(**how(world, deadline), text=PROMPT)


async def test_a_prompt_that_is_answered_leaves_nothing_behind(world):
    world.answer(Prompts.ANSWERED)
    before = await world.sessions()

    assert await prompt(world) == PromptResult(outcome=PromptOutcome.ANSWERED)

    assert await world.sessions() == before


async def test_a_prompt_whose_answer_bears_an_error_failed_and_leaves_nothing_behind(world):
    world.answer(Prompts.FAIL)
    before = await world.sessions()

    assert (await prompt(world)).outcome is PromptOutcome.FAILED

    assert await world.sessions() == before


async def test_a_prompt_that_is_not_answered_in_time_leaves_nothing_behind(world):
    await prompt(world)  # so that everything is loaded and the deadline is spent on the answer alone
    world.answer(Prompts.HANG)
    before = await world.sessions()

    assert (await prompt(world, soon(3))).outcome is PromptOutcome.TIMED_OUT

    assert await world.sessions() == before
    assert not (await activity(world)).busy


# Counting


async def test_sessions_are_counted(world):
    before = await world.prober.session_count(**how(world))

    await world.open_session()
    await world.open_session()

    assert await world.prober.session_count(**how(world)) == before + 2


async def test_the_sessions_are_as_many_after_a_restart(own_world):
    await own_world.open_session()
    await own_world.begin_turn()

    await own_world.kill_and_start()

    assert await own_world.prober.session_count(**how(own_world)) == 2


# Whom the password is shown, and what cannot be asked

CALLS = {
    "reload": lambda world, **how: world.prober.reload(**how),
    "abort_turns": lambda world, **how: world.prober.abort_turns(**how),
    "interrupted_turns": lambda world, **how: world.prober.interrupted_turns(**how, since=LONG_AGO),
    "prompt": lambda world, **how: world.prober.prompt(**how, text=PROMPT),
    "session_count": lambda world, **how: world.prober.session_count(**how),
}
each_call = pytest.mark.parametrize("call", CALLS)


def shows_nothing(found: object) -> bool:
    """Whether the outcome is that nothing could be asked."""
    match found:
        case Reloaded(result=result):
            return result is ReloadResult.NOT_ASKED
        case PromptResult(outcome=outcome):
            return outcome is PromptOutcome.NOT_ASKED
        case _:
            return found is None


@each_call
@pytest.mark.parametrize("behaviour", [{"password": ""}, {"is_something_else": True}], ids=str)
async def test_only_who_refuses_the_unauthenticated_is_shown_the_password(pretended, call, behaviour):
    await pretended.begin_turn()
    for name, value in behaviour.items():
        setattr(pretended.server, name, value)

    assert shows_nothing(await CALLS[call](pretended, **how(pretended)))

    assert pretended.server.tried == []
    assert pretended.server.is_at_work()
    assert pretended.server.reloads == 0


@each_call
async def test_who_refuses_the_password_is_asked_nothing(pretended, call):
    await pretended.begin_turn()
    pretended.server.password = "another"

    assert shows_nothing(await CALLS[call](pretended, **how(pretended)))

    assert pretended.server.is_at_work()
    assert pretended.server.reloads == 0


@each_call
async def test_a_runtime_that_hangs_costs_the_deadline_and_no_more(pretended, call):
    pretended.server.hangs = True

    assert shows_nothing(await CALLS[call](pretended, **how(pretended, soon(0.2))))


@each_call
async def test_where_nothing_listens_nothing_is_asked(pretended, call):
    nowhere = how(pretended) | {"address": Address(host="127.0.0.1", port=1)}

    assert shows_nothing(await CALLS[call](pretended, **nowhere))


@each_call
async def test_a_password_that_cannot_be_read_is_the_one_thing_that_is_raised(pretended, call):
    async def read_password() -> Password:
        raise UpstreamUnavailable("vault", "read")

    with pytest.raises(UpstreamUnavailable):
        await CALLS[call](pretended, **how(pretended) | {"read_password": read_password})
