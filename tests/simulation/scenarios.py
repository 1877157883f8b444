"""Faults that are shown in virtual time: named stories, each under many orders of things."""

import asyncio
import contextlib

from opencode_lifecycle.model.errors import LifecycleError, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import AllocationId, job_id_of
from opencode_lifecycle.model.observation import ClientStatus, TaskTrouble
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.model.states import Phase, Reason
from opencode_lifecycle.model.view import UNCHANGED
from opencode_lifecycle.ports.stores import IdempotentAnswer
from simulation import rollout_stories, server_stories, workspace_stories
from simulation.invariants import Violation
from simulation.schedule import USERS, Schedule
from simulation.telling import Scenario, comes_to, hold

ADA, OTHER = USERS
JOB = job_id_of("main", ADA)


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
    hold(sum(answer is None for answer in answers) == 1, "F8: more than one of five requests is handled")
    answer = IdempotentAnswer(status=202, location=None, operation_id=None)
    await store.finish(principal="p", route="r", key="k", answer=answer, lapses_at=key["lapses_at"])
    hold(await store.begin(request_hash="h", **key) == answer, "F8: the second gets another answer")
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
    hold(len(registered) == 1, f"F16: the job was registered {len(registered)} times")


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
    await schedule.ask(ADA, "ensure")
    await schedule.rest()
    for label in ("1", "2", "3"):
        await schedule.relabel(ADA, label)
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
    hold(cluster.nomad.faults.calls["register"] - before <= 6, "F22: it is tried again in a hot loop")
    await schedule.ask(ADA, "stop")
    await schedule.rest()


async def _a_task_that_blocks_for_ten_minutes(schedule: Schedule) -> None:
    """Let its driver take ten minutes to start a task, and say nothing meanwhile; another stack goes on beside it."""
    cluster = schedule.cluster
    advance = cluster._advance
    blocked_until = schedule.loop.time() + 600
    cluster._advance = lambda job_id, allocation_id: (
        advance(job_id, allocation_id)
        if job_id != JOB or schedule.loop.time() >= blocked_until or cluster.is_stopping(JOB, allocation_id)
        else None
    )
    await schedule.ask(ADA, "ensure")
    await schedule.ask(OTHER, "ensure")
    hold(await comes_to(schedule, OTHER, Phase.RUNNING, within=20), "F22: one that blocks holds another up")
    hold(await comes_to(schedule, ADA, Phase.FAILED, within=90), "F22: a start that blocks has no end")
    if schedule.seed % 2 == 0:
        await schedule.ask(ADA, "stop")
        hold(await comes_to(schedule, ADA, Phase.STOPPED, within=20), "F22: what blocks cannot be stopped")
        await asyncio.sleep(600)
        await schedule.ask(ADA, "ensure")
    else:
        await asyncio.sleep(600)
    hold(cluster.nomad.faults.calls["register"] <= 10, "F22: it is tried again without pauses")
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
    hold(flips <= 1, f"F24: it failed {flips} times")
    await schedule.rest()


async def _a_zombie_in_consul(schedule: Schedule) -> None:
    cluster = schedule.cluster
    await schedule.ask(ADA, "ensure")
    await schedule.rest()
    await schedule.ask(OTHER, "ensure")
    await schedule.rest()
    others_job = job_id_of("main", OTHER)
    (live,), (others,) = cluster.nomad._live(JOB), cluster.nomad._live(others_job)
    zombie = AllocationId("ffffffff-0000-4000-8000-000000000000")
    cluster.consul.register(JOB, zombie, Address(host="127.0.0.1", port=9))
    cluster.consul.register(others_job, others.id, live.address)
    await schedule.ask(ADA, "ensure")
    await asyncio.sleep(90)
    row = cluster.store.rows[ADA]
    published = row.stack.status.runtime is not None and row.stack.status.runtime.address is not None
    hold(not published, "F33: an address that Consul lists for somebody else as well is given out")
    cluster.consul.register(others_job, others.id, others.address)
    await schedule.rest()
    hold(cluster.store.rows[ADA].stack.status.runtime.allocation_id == live.id, "F33: it was replaced")
    cluster.consul.forget(JOB, zombie)


async def _a_job_that_is_refused(schedule: Schedule) -> None:
    cluster = schedule.cluster
    if schedule.random.random() < 0.5:
        await schedule.ask(ADA, "ensure")
        await schedule.rest()
        await schedule.ask(ADA, "stop")
        await schedule.rest()
    cluster.refuses_jobs = True
    await schedule.ask(ADA, "ensure")
    await asyncio.sleep(300)
    hold(cluster.refused == 1, f"G10: what Nomad refuses for good was offered {cluster.refused} times")
    status = cluster.store.rows[ADA].stack.status
    hold(status.reason is Reason.JOB_REJECTED, f"G10: {status.reason} is not why it failed")
    cluster.refuses_jobs = False
    await schedule.ask(ADA, "recover")
    await schedule.rest()


async def _a_stop_while_it_never_gets_healthy(schedule: Schedule) -> None:
    cluster = schedule.cluster
    cluster.servers.are_dud = True
    await schedule.ask(ADA, "ensure")
    await asyncio.sleep(schedule.random.choice((0.2, 3.0, 20.0)))
    await schedule.ask(ADA, "stop")
    hold(
        await comes_to(schedule, ADA, Phase.STOPPED, within=20), "F23: a stack that starts cannot be stopped"
    )
    await schedule.ask(ADA, "ensure")
    hold(
        await comes_to(schedule, ADA, Phase.FAILED, within=90), "F23: a start that never ends has no deadline"
    )
    cluster.servers.are_dud = False
    await schedule.rest()


async def _vault_is_away(schedule: Schedule) -> None:
    cluster = schedule.cluster
    cluster.trouble.send_away("vault", schedule.loop.time())
    await schedule.ask(ADA, "ensure")
    calls = cluster.vault.faults.calls
    await asyncio.sleep(120)
    asked = calls["ensure"]
    hold(asked <= 40, f"F29: a Vault that is away is asked {asked} times in two minutes")
    cluster.trouble.away.clear()
    hold(
        await comes_to(schedule, ADA, Phase.RUNNING, within=60),
        "F29: it is not tried again when Vault is back",
    )
    await schedule.rest()


async def _frozen_at_work(schedule: Schedule) -> None:
    """Freeze whoever has the claim, at a moment of its own, for longer than the claim is good."""
    cluster = schedule.cluster
    if schedule.random.random() < 0.7:
        await schedule.ask(ADA, "ensure")
        await schedule.rest()
    cluster.trouble.slow = 0.5
    await schedule.ask(ADA, schedule.random.choice(("ensure", "recreate", "rotate", "delete", "stop")))
    await asyncio.sleep(schedule.random.choice((0.0, 0.01, 0.1, 0.4, 1.0, 3.0)))
    row = cluster.store.rows.get(ADA)
    life = schedule.watcher.holder_of(row.claim_token) if row is not None else 0
    if life:
        cluster.say(f"life {life} is frozen at its work")
        cluster.freeze(life, schedule.random.choice((61.0, 75.0, 100.0)))
    await asyncio.sleep(schedule.random.choice((5.0, 70.0)))
    await schedule.ask(ADA, schedule.random.choice(("ensure", "recreate", "delete", "start")))
    await asyncio.sleep(110)


async def _a_snapshot_from_before_a_deletion(schedule: Schedule) -> None:
    nomad = schedule.cluster.nomad
    await schedule.ask(ADA, "ensure")
    await schedule.ask(OTHER, "ensure")
    await schedule.rest()
    snapshot = nomad.snapshot()
    await schedule.ask(ADA, "delete_all")
    await schedule.rest()
    schedule.cluster.restore(snapshot)
    await asyncio.sleep(schedule.random.choice((1.0, 40.0)))


async def _a_listing_that_is_empty(schedule: Schedule) -> None:
    cluster = schedule.cluster
    await schedule.ask(ADA, "ensure")
    await schedule.rest()
    live = cluster.nomad._live(JOB)[0].id
    cluster.nomad.hide_from_listings(what=schedule.random.choice(("both", "jobs", "allocations")))
    cluster.trouble.fail = 0.3
    await asyncio.sleep(schedule.random.choice((90.0, 150.0)))
    cluster.trouble.fail = 0.0
    cluster.nomad.show_in_listings()
    await schedule.rest()
    hold([each.id for each in cluster.nomad._live(JOB)] == [live], "F18: what was not listed was replaced")
    cluster.nomad.hide_from_listings(what="allocations")
    await schedule.ask(ADA, "stop")
    await asyncio.sleep(0.01)
    # When a stream ends everything is listed, and the allocation is on its way to its end still.
    cluster.nomad.drop_streams()
    await asyncio.sleep(schedule.random.choice((0.0, 0.01, 5.0)))
    await schedule.ask(ADA, schedule.random.choice(("recover", "delete", "recreate")))
    cluster.nomad.show_in_listings()
    await schedule.rest()


async def _a_replica_hears_of_the_other(schedule: Schedule) -> None:
    cluster = schedule.cluster
    if schedule.random.random() < 0.5:
        cluster.store.is_mute = True
    if schedule.random.random() < 0.5:
        cluster.trouble.slow = 0.3
    for label in ("1", "2", "3"):
        one, other = schedule.random.sample(schedule.replicas, 2)
        await schedule.relabel(ADA, label, at=one)
        for _ in range(12):
            await asyncio.sleep(1)
            if (known := other.plane.fleet.get(ADA)) is not None and known.stack.intent.labels == {
                "n": label
            }:
                break
        else:
            raise Violation("F5: a replica does not hear of what another accepted")
    cluster.trouble.slow = 0.6
    # Answers about earlier changes may come after the news of later ones.
    for label in ("4", "6", "8"):
        later = str(int(label) + 1)
        one, other = schedule.replicas
        await asyncio.gather(schedule.relabel(ADA, label, at=one), schedule.relabel(ADA, later, at=other))
    cluster.trouble.slow = 0.0
    await schedule.rest()


async def _replicas_that_see_it_differently(schedule: Schedule) -> None:
    cluster = schedule.cluster
    cluster.trouble.cut_off.add((schedule.random.randrange(2), schedule.random.choice(("vault", "opencode"))))
    await schedule.ask(ADA, "ensure")
    await asyncio.sleep(60)
    saves = cluster.store.faults.calls["save"]
    hold(saves <= 60, f"G11: two replicas wrote {saves} times in a minute what each of them sees")
    cluster.trouble.cut_off.clear()
    await schedule.rest()


async def _calls_that_hang(schedule: Schedule) -> None:
    schedule.cluster.trouble.hang = 0.3
    await schedule.ask(ADA, "ensure")
    await asyncio.sleep(60)
    await schedule.ask(ADA, schedule.random.choice(("recreate", "stop")))
    await asyncio.sleep(60)


async def _a_wedge(schedule: Schedule) -> None:
    cluster = schedule.cluster
    await schedule.ask(ADA, "ensure")
    await schedule.rest()
    live = cluster.nomad._live(JOB)[0]
    cluster.prober.servers[live.address.host, live.address.port].hangs = True
    await asyncio.sleep(240)
    hold(live.id not in [each.id for each in cluster.nomad._live(JOB)], "F25: a wedge is left as it is")
    await schedule.rest()


async def _ends_unheard(schedule: Schedule) -> None:
    cluster = schedule.cluster
    await schedule.ask(ADA, "ensure")
    await schedule.rest()
    cluster.nomad.is_mute = schedule.random.random() < 0.5
    cluster.nomad.refuse_placement("Resources exhausted on 1 node")
    ended = cluster.nomad._live(JOB)[0]
    cluster.end(
        JOB, ended, schedule.random.choice((ClientStatus.LOST, ClientStatus.FAILED, ClientStatus.COMPLETE))
    )
    await asyncio.sleep(45)
    hold(schedule.plane.provisioning.hot(ADA, UNCHANGED) is None, "F13: what has ended is called ready")
    runtime = cluster.store.rows[ADA].stack.status.runtime
    hold(runtime is None or runtime.allocation_id != ended.id, "F13: what has ended is not missed")
    cluster.nomad.allow_placement()
    await schedule.rest()


TROUBLES = tuple(TaskTrouble)

SCENARIOS = (
    Scenario("F2", "a replica that was frozen for longer than its claim does no harm", _frozen_at_work, 2),
    Scenario(
        "F29", "a Vault that is away is asked with pauses, and what waits for it goes on", _vault_is_away
    ),
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
        "F22b",
        "a start that blocks for ten minutes fails in time, can be stopped, and holds nobody up",
        _a_task_that_blocks_for_ten_minutes,
    ),
    Scenario(
        "F24",
        "healthy about the deadline: no back and forth, and it runs in the end",
        _healthy_about_the_deadline,
    ),
    Scenario(
        "F23",
        "what never gets healthy can be stopped, and its start has an end",
        _a_stop_while_it_never_gets_healthy,
    ),
    Scenario(
        "G10", "a job that Nomad refuses for good is offered once for each request", _a_job_that_is_refused
    ),
    Scenario("F25", "a server that answers nothing any more is replaced", _a_wedge),
    Scenario("F13", "what has ended is missed, whether the stream tells or not", _ends_unheard),
    Scenario(
        "F18",
        "what an empty listing lacks runs on, and is waited for when it is stopped",
        _a_listing_that_is_empty,
    ),
    Scenario(
        "G11",
        "replicas that see a stack differently do not correct each other without end",
        _replicas_that_see_it_differently,
        2,
    ),
    Scenario("F9", "calls that are never answered hold nothing up for ever", _calls_that_hang),
    Scenario(
        "F5",
        "what one replica accepts, the other knows, also without a notice",
        _a_replica_hears_of_the_other,
        2,
    ),
    Scenario(
        "F12",
        "what an older snapshot brings back, and has no row, goes again",
        _a_snapshot_from_before_a_deletion,
    ),
    Scenario("F33", "no address is given out that Consul lists for another as well", _a_zombie_in_consul),
    *server_stories.SCENARIOS,
    *rollout_stories.SCENARIOS,
    *workspace_stories.SCENARIOS,
)


def named(fault: str) -> Scenario:
    """Return the told fault of that name."""
    return next(each for each in SCENARIOS if each.fault == fault)
