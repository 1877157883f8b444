"""Faults of servers that are not what they should be, told in virtual time; and of those whose next life could not start."""

import asyncio

from opencode_lifecycle.model.states import Phase, Reason
from opencode_lifecycle.model.view import UNCHANGED, EnsureRequest
from simulation.schedule import USERS, Schedule
from simulation.servers import Oddity
from simulation.telling import Scenario, comes_to, hold, live_of

ADA = USERS[0]

_TOLD = {
    Oddity.OTHER_VERSION: (Reason.WRONG_VERSION, "it is version 0.0.1, not"),
    Oddity.OTHER_PASSWORD: (Reason.NEVER_HEALTHY, "it refused the password of its job"),
}
"""What is said of a stack whose server is that, once its start has failed."""


async def _open_to_everybody(schedule: Schedule) -> None:
    cluster, random = schedule.cluster, schedule.random
    if schedule.seed % 2 == 0:
        cluster.servers.oddity = Oddity.OPEN
        await schedule.ask(ADA, "ensure")
    else:
        await schedule.ask(ADA, "ensure")
        await schedule.rest()
        await asyncio.sleep(random.choice((0.0, 3.0, 9.0)))
        (live,) = live_of(schedule, ADA)
        assert live.address is not None
        cluster.servers.open_up(
            cluster.owner[live.address.host, live.address.port], (live.address.host, live.address.port)
        )
    hold(await comes_to(schedule, ADA, Phase.FAILED, within=40), "F26: an open server is left as it is")
    status = cluster.store.rows[ADA].stack.status
    hold(status.reason is Reason.OPEN_WITHOUT_PASSWORD, f"F26: {status.reason} is said of an open server")
    hold(status.runtime is None, "F26: the address of an open server is given out")
    hold(schedule.plane.provisioning.hot(ADA, UNCHANGED) is None, "F26: an open server is called ready")
    await asyncio.sleep(10)
    hold(not live_of(schedule, ADA), "F26: an open server is not stopped")
    before = cluster.nomad.faults.calls["register"]
    await asyncio.sleep(300)
    hold(cluster.nomad.faults.calls["register"] == before, "F26: it is started again, and nobody has looked")
    cluster.servers.oddity = None
    await schedule.ask(ADA, random.choice(("ensure", "recover")))
    await schedule.rest()


def _not_what_its_job_says(oddity: Oddity):
    async def told(schedule: Schedule) -> None:
        cluster, random = schedule.cluster, schedule.random
        reason, words = _TOLD[oddity]
        ran_before = schedule.seed % 2 == 1
        if ran_before:
            await schedule.ask(ADA, "ensure")
            await schedule.rest()
        cluster.servers.oddity = oddity
        await schedule.ask(ADA, "recreate" if ran_before else "ensure")
        await asyncio.sleep(15)
        stopped = schedule.seed % 3 == 0
        if stopped:
            await schedule.ask(ADA, "stop")
            hold(await comes_to(schedule, ADA, Phase.STOPPED, within=20), f"{oddity}: it cannot be stopped")
        else:
            hold(await comes_to(schedule, ADA, Phase.FAILED, within=90), f"{oddity}: its start has no end")
            status = cluster.store.rows[ADA].stack.status
            hold(status.reason is reason, f"a server is {oddity}, and {status.reason} is said")
            hold(words in status.message, f"a server is {oddity}, and its stack says: {status.message}")
            await asyncio.sleep(random.choice((1.0, 100.0)))
        cluster.servers.oddity = None
        await schedule.ask(ADA, "ensure")
        await schedule.rest()

    return told


async def _vault_is_away_when_it_is_to_change(schedule: Schedule) -> None:
    """Ask for a fresh start, a new password, or change what is wanted, while Vault is away: what runs runs on."""
    cluster, random = schedule.cluster, schedule.random
    await schedule.ask(ADA, "ensure")
    await schedule.rest()
    (live,) = live_of(schedule, ADA)
    cluster.trouble.send_away("vault", schedule.loop.time())
    await asyncio.sleep(random.choice((0.0, 20.0, 40.0)))
    match schedule.seed % 3:
        case 0:
            await schedule.ask(ADA, "recreate")
        case 1:
            await schedule.ask(ADA, "rotate")
        case _:
            await schedule.ensure(ADA, EnsureRequest(resources="large"))
    await asyncio.sleep(random.choice((60.0, 120.0)))
    ids = [each.id for each in live_of(schedule, ADA)]
    hold(ids == [live.id], "S3: it is stopped, and could not start again")
    cluster.trouble.away.clear()
    await schedule.rest()
    hold([each.id for each in live_of(schedule, ADA)] != ids, "S3: what was asked for is not done after that")


SCENARIOS = (
    Scenario(
        "F26", "a server that is open to everybody is never given out, stopped, and told", _open_to_everybody
    ),
    Scenario(
        "S1",
        "a server of another version is never given out, and its stack says why",
        _not_what_its_job_says(Oddity.OTHER_VERSION),
    ),
    Scenario(
        "S2",
        "a server that refuses its own password is never given out, and its stack says why",
        _not_what_its_job_says(Oddity.OTHER_PASSWORD),
    ),
    Scenario(
        "S3",
        "while Vault is away nothing is stopped for a change, and what was asked for is done after that",
        _vault_is_away_when_it_is_to_change,
    ),
)
