"""A real OpenCode that is waited for: the end of its turn is known from what it tells, without asking again and again."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from database_examples import RUNTIME, a_stack
from fakes.consul import FakeConsul
from fakes.vault import FakeVault
from opencode_lifecycle.adapters.opencode.event_stream import OpenCodeEvents
from opencode_lifecycle.lifecycle.observing.busy_watch import BusyWatch
from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.observing.recent_passwords import RecentPasswords
from opencode_lifecycle.lifecycle.observing.vouching import Vouching
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.states import MigrationState, Phase
from opencode_session import ask
from real_opencode import RealOpenCode

pytestmark = [pytest.mark.opencode, pytest.mark.timeout(300)]


def known_of(fleet: Fleet, server: RealOpenCode, vault: FakeVault, consul: FakeConsul) -> Known:
    """Put down the server as the runtime of a stack whose migration waits for its agent."""
    stack = a_stack()
    runtime = replace(RUNTIME, address=server.address, secret_version=1)
    status = replace(
        stack.status, phase=Phase.RUNNING, migration_state=MigrationState.DRAINING, runtime=runtime
    )
    vault.put(stack.job_id, {"password": server.password, "env": {}})
    consul.register(stack.job_id, runtime.allocation_id, server.address)
    return fleet.put(replace(stack, status=status, change_seq=1))


async def test_that_a_turn_has_ended_is_known_from_what_the_runtime_tells(server, model):
    fleet = Fleet(now=utc_now, max_age=timedelta(seconds=30))
    vault, consul, finished = FakeVault(), FakeConsul(), asyncio.Event()
    vouching = Vouching(fleet=fleet, prober=server.prober, passwords=RecentPasswords(vault), catalog=consul)
    watch = BusyWatch(
        fleet=fleet,
        events=OpenCodeEvents(),
        vouching=vouching,
        now=utc_now,
        random=Random(0),
        timeout=timedelta(seconds=60),
    )
    hold = model.hold("Take your time.")
    where = server.address.url, server.password, server.directory
    asking = asyncio.create_task(ask(*where, "Take your time."))
    await asyncio.wait_for(hold.reached.wait(), 60)
    known = known_of(fleet, server, vault, consul)
    fleet.on_idle = lambda _: finished.set()
    watch.consider(known)
    await watch.round()

    async with asyncio.timeout(60):
        while known.activity is None or not known.activity.busy:  # noqa: ASYNC110 - memory has no event for it
            await asyncio.sleep(0.05)
    assert watch.streams == 1
    assert not finished.is_set()
    hold.release()
    await asking
    async with asyncio.timeout(60):
        await finished.wait()

    assert not known.activity.busy
    await watch.close()
    assert watch.streams == 0
