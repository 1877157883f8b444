"""A real OpenCode session answers a prompt through the fake model."""

import asyncio

import pytest

from fakes.model_server import MODEL
from opencode_session import ask, client_of
from real_opencode import opencode

pytestmark = [pytest.mark.opencode, pytest.mark.timeout(300)]


@pytest.fixture
def server(opencode_program, model, tmp_path):
    configuration = model.configuration(api_key="planted-model-key")
    with opencode(
        opencode_program, tmp_path, password="secret-of-this-test", configuration=configuration
    ) as running:
        yield running


async def test_a_prompt_is_answered_by_the_model(server, model):
    model.say("Forty-two, as everybody knows.")

    answer = await ask(server.address.url, server.password, server.directory, "What is the answer?")

    assert answer == "Forty-two, as everybody knows."
    asked = [request for request in model.requests if request.last_text == "What is the answer?"]
    assert asked
    assert asked[0].model == MODEL
    assert asked[0].streamed
    assert asked[0].authorization == "Bearer planted-model-key"


async def test_an_answer_can_be_held_while_the_session_is_busy(server, model):
    model.say("This takes a while")
    hold = model.hold("Take your time.")

    asking = asyncio.create_task(
        ask(server.address.url, server.password, server.directory, "Take your time.")
    )
    await asyncio.wait_for(hold.reached.wait(), 60)
    # Its request for a title may be the one that came first.
    async with asyncio.timeout(60):
        while not (busy := await statuses(server)):
            pass
    hold.release()

    assert [status["type"] for status in busy.values()] == ["busy"]
    assert await asking == "This takes a while"


async def statuses(server) -> dict[str, dict[str, str]]:
    async with (
        client_of(server.address.url, server.password) as session,
        session.get("/session/status", params={"directory": server.directory}) as response,
    ):
        return await response.json()
