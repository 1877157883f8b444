"""
When a real OpenCode takes notice of a file that changed: by what it tells its model at the next turn.

The classes of migrations rest on this: instructions need nothing, managed configuration a reload, and neither another
process.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from fakes.model_server import ModelServer, model_server
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.ports.prober import Reloaded, ReloadResult
from opencode_session import ask, open_session
from real_opencode import RealOpenCode, opencode

pytestmark = [pytest.mark.opencode, pytest.mark.timeout(300)]


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with model_server() as server:
        yield server


@pytest.fixture
def live(tmp_path) -> Path:
    """Return the folder of the live files, with instructions in it."""
    (tmp_path / "live" / "instructions").mkdir(parents=True)
    return tmp_path / "live"


@pytest.fixture
def server(opencode_program, model, live, tmp_path):
    write(live / "instructions" / "AGENTS.md", "Old instructions.")
    configuration = model.configuration() | {"instructions": [str(live / "instructions" / "AGENTS.md")]}
    with opencode(
        opencode_program, tmp_path, password="secret-of-this-test", configuration=configuration
    ) as running:
        yield running


def write(file: Path, text: str) -> None:
    """Put the file in place as Nomad's templates do: whole, by a rename."""
    new = file.with_name(f".{file.name}")
    new.write_text(text)
    new.replace(file)


def manage(server: RealOpenCode, **configuration: object) -> None:
    write(Path(server.directory).parent / "managed" / "opencode.json", json.dumps(configuration))


async def told_at_next_turn(server: RealOpenCode, model: ModelServer, session: str) -> str:
    """Say something in the session and return what the model was told to be."""
    question = f"Are you there, {uuid4().hex}?"
    await ask(server.address.url, server.password, server.directory, question, session=session)
    [request] = [each for each in model.requests if each.tools and each.last_text == question]
    return request.system


async def reload(server: RealOpenCode) -> Reloaded:
    async def read_password() -> Password:
        return Password(server.password)

    return await server.prober.reload(
        address=server.address, read_password=read_password, deadline=Deadline.after(60, "test")
    )


async def test_instructions_that_changed_are_in_the_next_turn_of_the_same_session(server, model, live):
    session = await open_session(server.address.url, server.password, server.directory)
    assert "Old instructions." in await told_at_next_turn(server, model, session)

    write(live / "instructions" / "AGENTS.md", "New instructions.")

    told = await told_at_next_turn(server, model, session)
    assert "New instructions." in told
    assert "Old instructions." not in told


async def test_managed_configuration_is_read_at_a_reload_and_not_before(server, model):
    session = await open_session(server.address.url, server.password, server.directory)
    await told_at_next_turn(server, model, session)

    manage(server, agent={"build": {"prompt": "You are managed."}})
    before = await told_at_next_turn(server, model, session)
    reloaded = await reload(server)
    after = await told_at_next_turn(server, model, session)

    assert "You are managed." not in before
    assert reloaded == Reloaded(result=ReloadResult.RELOADED, broken=[])
    assert "You are managed." in after
