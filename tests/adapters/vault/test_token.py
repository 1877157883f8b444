"""How the token of the password store stays alive. Against a real Vault."""

import asyncio

import pytest
import structlog

from leaks import carried_by
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamDenied
from opencode_lifecycle.model.identifiers import JobId

pytestmark = pytest.mark.servers
JOB = JobId("oc-ada-aaaaaaaaaaaaaaaaaaaa")


class Pauses:
    """Stands in for sleeping: notes how long was asked for, and waits for the test to go on."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self._go = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.asked.put_nowait(seconds)
        await self._go.acquire()

    def go_on(self) -> None:
        self._go.release()


def soon() -> Deadline:
    return Deadline.after(10, "test")


@pytest.fixture
async def pauses(real_vault):
    pauses = Pauses()
    task = asyncio.create_task(real_vault.store.keep_token_alive(pause=pauses))
    yield pauses
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def remaining(real_vault) -> int:
    token = real_vault.token_file.read_text().strip()
    answer = await real_vault.server.request("POST", "auth/token/lookup", {"token": token})
    return int(answer["data"]["ttl"])


async def test_a_token_is_renewed_well_before_it_ends(real_vault, pauses):
    await pauses.asked.get()
    token = await real_vault.server.make_token(ttl="2m", explicit_max_ttl="10m")
    real_vault.token_file.write_text(token)
    await real_vault.server.request("POST", "auth/token/renew", {"token": token, "increment": "30s"})
    assert await remaining(real_vault) <= 30

    pauses.go_on()
    pause = await pauses.asked.get()

    assert await remaining(real_vault) > 100
    assert pause <= 40


async def test_a_token_that_cannot_be_renewed_is_looked_at_again_later(real_vault, pauses):
    await pauses.asked.get()
    token = await real_vault.server.make_token(ttl="1h", renewable=False)
    real_vault.token_file.write_text(token)

    pauses.go_on()

    assert await pauses.asked.get() == 300


async def test_a_refused_renewal_is_said_and_tried_again_soon(real_vault, pauses):
    await pauses.asked.get()
    real_vault.token_file.write_text("hvs.nobody-knows-this")

    with structlog.testing.capture_logs() as logs:
        pauses.go_on()
        pause = await pauses.asked.get()

    assert pause == 5
    assert [(entry["event"], entry["code"]) for entry in logs] == [
        ("vault token not renewed", "upstream-denied")
    ]
    assert "nobody-knows-this" not in repr(logs)


async def test_a_revoked_token_is_denied_until_the_file_holds_another(real_vault):
    store = real_vault.store
    old = real_vault.token_file.read_text().strip()
    await store.ensure(JOB, soon())
    await real_vault.server.request("POST", "auth/token/revoke", {"token": old})

    with pytest.raises(UpstreamDenied) as caught:
        await store.ensure(JOB, soon())
    real_vault.token_file.write_text(await real_vault.server.make_token())

    assert old not in carried_by(caught.value)
    assert await store.ensure(JOB, soon()) >= 1
