"""Faults that are shown in virtual time: named stories, each under many orders of things."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from opencode_lifecycle.model.errors import LifecycleError, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import AllocationId, job_id_of
from opencode_lifecycle.model.observation import TaskTrouble
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.stores import IdempotentAnswer
from simulation.invariants import Violation
from simulation.schedule import USERS, Schedule

ADA, OTHER = USERS
JOB = job_id_of("main", ADA)


@dataclass(frozen=True, slots=True)
class Scenario:
    fault: str
    must_hold: str
    story: Callable[[Schedule], Awaitable[None]]


def _hold(condition: bool, sentence: str) -> None:  # noqa: FBT001 - as `assert`
    if not condition:
        raise Violation(sentence)


async def _one_key_at_once(schedule: Schedule) -> None:
    store = schedule.cluster.store
    now = schedule.loop.wall_clock()
    key = {
        "principal": "p",
        "route": "r",
        "key": "k",
        "now": now,
        "lapses_at": schedule.loop.wall_clock().replace(year=2027),
    }
    answers = await asyncio.gather(
        *(store.begin(request_hash="h", **key) for _ in range(5)), return_exceptions=True
    )
    _hold(sum(answer is None for answer in answers) == 1, "F8: more than one of five requests is handled")
    answer = IdempotentAnswer(status=202, location=None, operation_id=None)
    await store.finish(principal="p", route="r", key="k", answer=answer, lapses_at=key["lapses_at"])
    _hold(await store.begin(request_hash="h", **key) == answer, "F8: the second gets another answer")
    with contextlib.suppress(LifecycleError):
        await store.begin(request_hash="other", **key)
        raise Violation("F8: another body is taken for the same request")


async def _the_observation_is_not_saved(schedule: Schedule) -> None:
    store = schedule.cluster.store
    store.faults.fail_next(
        "save", UpstreamUnavailable("database", "save"), times=schedule.random.randint(1, 3)
    )
    await schedule.ask(ADA, "ensure")
    await schedule.rest()
    registered = [effect for effect in schedule.cluster.effects if effect == ("nomad.register", True)]
    _hold(len(registered) == 1, f"F16: the job was registered {len(registered)} times")


async def _a_stream_that_says_nothing_true(schedule: Schedule) -> None:
    nomad = schedule.cluster.nomad
    await schedule.ask(ADA, "ensure")
    await schedule.rest()
    tell = nomad._tell
    told: list[object] = []

    def garbled(change):
        told.append(change)
        for each in [schedule.random.choice(told), change, change]:
            if schedule.random.random() < 0.7:
                tell(each)

    nomad._tell = garbled
    for _ in range(4):
        await schedule.ask(ADA, schedule.random.choice(("recreate", "stop", "start", "ensure")))
        nomad.drop_streams()
        await asyncio.sleep(schedule.random.choice((0.1, 5.0, 30.0)))
    await schedule.rest()


async def _tasks_that_do_not_start(schedule: Schedule) -> None:
    cluster = schedule.cluster
    await schedule.ask(ADA, "ensure")
    for _ in range(schedule.random.randint(1, 6)):
        await asyncio.sleep(schedule.random.choice((1.0, 20.0, 70.0)))
        for allocation in list(cluster.nomad._live(JOB)):
            cluster.nomad.fail_allocation(
                JOB, schedule.random.choice(TROUBLES), "exit code 1", reschedule=True
            )
            del allocation
            break
    before = cluster.nomad.faults.calls["register"]
    await asyncio.sleep(120)
    _hold(cluster.nomad.faults.calls["register"] - before <= 6, "F22: it is tried again in a hot loop")
    await schedule.ask(ADA, "stop")
    await schedule.rest()


async def _healthy_about_the_deadline(schedule: Schedule) -> None:
    cluster = schedule.cluster
    on_run, cluster.nomad.on_run = cluster.nomad.on_run, None
    await schedule.ask(ADA, "ensure")
    await asyncio.sleep(schedule.random.choice((59.0, 59.9, 60.0, 60.1, 61.0)))
    cluster.nomad.on_run = on_run
    for allocation in cluster.nomad._live(JOB):
        on_run(JOB, allocation)
    flips = 0
    phase = None
    for _ in range(400):
        row = cluster.store.rows[ADA]
        flips += row.stack.status.phase is Phase.FAILED and phase is not Phase.FAILED
        phase = row.stack.status.phase
        await asyncio.sleep(1)
    _hold(flips <= 1, f"F24: it failed {flips} times")
    await schedule.rest()


async def _a_zombie_in_consul(schedule: Schedule) -> None:
    cluster = schedule.cluster
    await schedule.ask(ADA, "ensure")
    await schedule.rest()
    live = cluster.nomad._live(JOB)[0]
    zombie = AllocationId("ffffffff-0000-4000-8000-000000000000")
    cluster.consul.register(JOB, zombie, Address(host="127.0.0.1", port=9))
    cluster.consul.register(job_id_of("main", OTHER), zombie, live.address)
    await schedule.ask(ADA, "ensure")
    await asyncio.sleep(90)
    row = cluster.store.rows[ADA]
    published = row.stack.status.runtime is not None and row.stack.status.runtime.address is not None
    _hold(not published, "F33: an address that Consul lists for somebody else as well is given out")
    cluster.consul.forget(job_id_of("main", OTHER), zombie)
    await schedule.rest()
    _hold(cluster.store.rows[ADA].stack.status.runtime.allocation_id == live.id, "F33: it was replaced")
    cluster.consul.forget(JOB, zombie)


TROUBLES = tuple(TaskTrouble)

SCENARIOS = (
    Scenario("F8", "one of many requests with a key is handled; another body is refused", _one_key_at_once),
    Scenario(
        "F16",
        "what was registered and not saved is adopted, and registered once",
        _the_observation_is_not_saved,
    ),
    Scenario(
        "F17",
        "a stream that doubles, reorders and drops is made good by listings",
        _a_stream_that_says_nothing_true,
    ),
    Scenario(
        "F22", "starts that fail are tried again with pauses; stop works meanwhile", _tasks_that_do_not_start
    ),
    Scenario(
        "F24",
        "healthy about the deadline: no back and forth, and it runs in the end",
        _healthy_about_the_deadline,
    ),
    Scenario("F33", "no address is given out that Consul lists for another as well", _a_zombie_in_consul),
)
