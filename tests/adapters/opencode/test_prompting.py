"""What the prober makes of a prompt where a runtime answers nonsense, too much or nothing, and what it leaves behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from hostile_server import HostileServer, Misbehaviour, hostile_server, reply
from opencode_lifecycle.adapters.opencode.prober import OpenCodeProber
from opencode_lifecycle.adapters.opencode.prompting import TITLE
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.prober import PromptOutcome, PromptResult
from scripted_opencode import NOW, PASSWORD, UNREADABLE, ScriptedOpenCode, asked_of, message, session

OPEN = "POST /session"
SAY = "POST /session/ses_new/message"
CLEARED = ["POST /session/ses_new/abort", "DELETE /session/ses_new"]


@pytest.fixture
async def runtime() -> AsyncIterator[HostileServer]:
    async with hostile_server() as server:
        yield server


async def prompt(runtime: HostileServer, deadline: Deadline | None = None) -> PromptResult:
    async def read_password() -> Password:
        return Password(PASSWORD)

    return await OpenCodeProber(now=lambda: NOW).prompt(
        address=Address(host="127.0.0.1", port=runtime.port),
        read_password=read_password,
        text="Are you there?",
        deadline=deadline or Deadline.after(10, "test"),
    )


def cleared(runtime: HostileServer) -> bool:
    return [each for each in asked_of(runtime) if each in CLEARED] == CLEARED


async def test_the_session_is_ours_by_its_title_and_may_use_nothing(runtime):
    runtime.script = ScriptedOpenCode()

    assert await prompt(runtime) == PromptResult(outcome=PromptOutcome.ANSWERED)

    bodies = [json.loads(request.body) for request in runtime.requests if request.body]
    assert bodies == [
        {"title": TITLE, "permission": [{"permission": "*", "pattern": "*", "action": "deny"}]},
        {"parts": [{"type": "text", "text": "Are you there?"}]},
    ]
    assert cleared(runtime)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply(500, {"name": "UnknownError", "data": {"message": PASSWORD}}), "500"),
        (reply(400, {}), "400"),
        (reply(200, message(completed=2, error={"name": "APIError"})), "APIError"),
        (reply(200, message(error={"name": "ProviderAuthError"})), "ProviderAuthError"),
        (reply(200, message(completed=2, error={"name": PASSWORD})), "bears an error"),
        (reply(200, message(completed=2, error={"name": [PASSWORD]})), "bears an error"),
        (reply(200, message(completed=2, error=PASSWORD)), "bears an error"),
        (reply(200, message()), "broke off"),
        (reply(200, message("user", completed=2)), "no message of an agent"),
        (reply(200, message(completed=2) | {"parts": []}), "is empty"),
        (reply(200, message(completed=2) | {"parts": [{"type": "text", "text": " \n"}]}), "is empty"),
        (reply(200, message(completed=2) | {"parts": PASSWORD}), "is empty"),
        (reply(200, {}), "no message of an agent"),
        (Misbehaviour.CLOSE, "closed it without an answer"),
    ],
    ids=range(14),
)
async def test_what_is_wrong_with_an_answer_is_told_without_a_word_of_it(runtime, answer, words):
    runtime.script = ScriptedOpenCode(answers={SAY: answer})

    result = await prompt(runtime)

    assert result.outcome is PromptOutcome.FAILED
    assert words in result.detail
    assert PASSWORD not in repr(result)
    assert cleared(runtime)


@pytest.mark.parametrize("answer", UNREADABLE, ids=range(len(UNREADABLE)))
async def test_an_answer_that_cannot_be_read_is_a_failure(runtime, answer):
    runtime.script = ScriptedOpenCode(answers={SAY: answer})

    assert (await prompt(runtime)).outcome is PromptOutcome.FAILED
    assert cleared(runtime)


@pytest.mark.parametrize("misbehaviour", [Misbehaviour.HANG, Misbehaviour.DRIP])
async def test_an_answer_that_takes_for_ever_costs_the_deadline_and_its_session_goes(runtime, misbehaviour):
    runtime.script = ScriptedOpenCode(answers={SAY: misbehaviour})

    assert (await prompt(runtime, Deadline.after(0.3, "test"))).outcome is PromptOutcome.TIMED_OUT
    assert cleared(runtime)


async def test_a_prompt_that_is_called_off_leaves_no_session(runtime):
    said = asyncio.Event()
    server = ScriptedOpenCode()

    def hang() -> Misbehaviour:
        said.set()
        return Misbehaviour.HANG

    server.answers[SAY] = hang
    runtime.script = server
    asking = asyncio.create_task(prompt(runtime))
    await asyncio.wait_for(said.wait(), 10)

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert cleared(runtime)


@pytest.mark.parametrize(
    "answer", [Misbehaviour.CLOSE, reply(200, {}), reply(200, {"id": "../x"}), reply(500, {})]
)
async def test_a_session_that_may_have_been_opened_all_the_same_is_looked_for_and_goes(runtime, answer):
    runtime.script = ScriptedOpenCode(
        [session("ses_new", title=TITLE, ago=timedelta()), session("ses_user", title="Does it answer?")],
        answers={OPEN: answer},
    )

    assert (await prompt(runtime)).outcome is PromptOutcome.FAILED
    assert cleared(runtime)
    assert "DELETE /session/ses_user" not in asked_of(runtime)


async def test_sessions_of_ours_that_were_left_behind_go_and_those_of_others_at_work_stay(runtime):
    runtime.script = ScriptedOpenCode(
        [
            session("ses_left", title=TITLE, ago=timedelta(hours=1)),
            session("ses_another", title=TITLE, ago=timedelta(minutes=1)),
            session("ses_user", title=f"{TITLE} Yes.", ago=timedelta(hours=1)),
        ]
    )

    await prompt(runtime)

    deleted = [each for each in asked_of(runtime) if each.startswith("DELETE")]
    assert deleted == ["DELETE /session/ses_new", "DELETE /session/ses_left"]


async def test_another_program_that_took_the_port_meanwhile_is_shown_no_password(runtime):
    sound = ScriptedOpenCode()
    taken = asyncio.Event()

    def script(request):
        if taken.is_set():
            return reply(200, {"healthy": True})
        answer = sound(request)
        if request.path.endswith("/message"):
            taken.set()
            return Misbehaviour.CLOSE
        return answer

    runtime.script = script

    await prompt(runtime)

    assert asked_of(runtime) == [OPEN, SAY]
