"""Faults of nodes and of data, told in virtual time: drains that meet agents and rollouts, versions that go back."""

import asyncio
from datetime import timedelta

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.identifiers import UserId, job_id_of
from opencode_lifecycle.model.migration import DataPolicy
from opencode_lifecycle.model.rollout import RolloutState
from opencode_lifecycle.model.rollout_specification import Amount
from opencode_lifecycle.model.states import Phase, Reason
from simulation.agents import RENEWED_EVERY
from simulation.schedule import Schedule
from simulation.telling import Scenario, hold

_NODE = "node-1"
_QUIET = 75.0
"""Seconds after which whoever is not at work has left a node that is drained."""


def _is_held(schedule: Schedule, user: UserId) -> bool:
    return schedule.cluster.store.rows[user].stack.is_held_by_node


def _phase_of(schedule: Schedule, user: UserId) -> Phase:
    return schedule.cluster.store.rows[user].stack.status.phase


async def _keep_leased(schedule: Schedule, user: UserId) -> None:
    while await schedule.fleet.agents.lease(user):  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(RENEWED_EVERY)


def _ids(schedule: Schedule, user: UserId) -> list[str]:
    return [each.id for each in schedule.cluster.nomad._live(job_id_of("main", user))]


async def _a_node_is_drained(schedule: Schedule) -> None:
    random, cluster, fleet = schedule.random, schedule.cluster, schedule.fleet
    await fleet.gather()
    user = random.choice(schedule.users)
    place = fleet.agents.place_of(user)
    assert place is not None, "it runs"
    if schedule.seed % 2 == 0:
        fleet.agents.begin_at(place, is_told=random.random() < 0.5)
    else:
        schedule.loop.create_task(_keep_leased(schedule, user))
    ids = _ids(schedule, user)
    await asyncio.sleep(8)
    if random.random() < 0.4:
        await fleet.make(random.choice(("restart", "live", "newer")))
        await fleet.roll(fleet.to_last())
    left = random.choice((None, 90.0, 90.0))
    cluster.nodes.drain(_NODE, left)
    began = schedule.loop.time()
    if random.random() < 0.3:
        await asyncio.sleep(random.choice((0.1, 1.0, 20.0)))
        schedule.kill(schedule.replicas[0].life)
    await asyncio.sleep(began + _QUIET - schedule.loop.time())
    others = [each for each in schedule.users if each != user]
    hold(_ids(schedule, user) == ids, "R15: an agent at work is cut off")
    hold(all(_is_held(schedule, each) for each in others), "R15: who is idle does not leave the node")
    await asyncio.sleep(60)
    if left is None:
        hold(_ids(schedule, user) == ids, "R15: an agent at work is cut off, and has all the time there is")
    else:
        hold(_is_held(schedule, user), "R15: who works on is not stopped before Nomad ends it")
    cluster.nodes.open_all()
    await schedule.fleet.ended(within=900)
    for each in others:
        await _runs(schedule, each, "R15: what was held does not start when its node takes jobs again")


async def _runs(schedule: Schedule, user: UserId, otherwise: str) -> None:
    until = schedule.loop.time() + 60
    while _phase_of(schedule, user) is not Phase.RUNNING:
        hold(schedule.loop.time() < until, otherwise)
        await asyncio.sleep(0.5)


async def _a_closed_node(schedule: Schedule) -> None:
    """Close the node, drained or not, while a rollout is to restart everybody on it."""
    random, cluster, fleet = schedule.random, schedule.cluster, schedule.fleet
    await fleet.gather()
    cluster.nodes.close(_NODE)
    await asyncio.sleep(_QUIET)
    ids = {user: _ids(schedule, user) for user in schedule.users}
    await fleet.make(random.choice(("restart", "reload", "newer")))
    await fleet.roll(fleet.to_last())
    await asyncio.sleep(_QUIET)
    now = {user: _ids(schedule, user) for user in schedule.users}
    hold(now == ids, "R16: what could not start again is stopped for a change")
    cluster.nodes.open_all()
    await fleet.ended(within=900)


async def _a_version_goes_back(schedule: Schedule) -> None:
    """Roll out a version that migrates the data, let some users work on, and go back, with their work or without."""
    random, fleet = schedule.random, schedule.fleet
    await fleet.gather()
    before = schedule.cluster.store._current
    await fleet.make("newer")
    await fleet.roll(fleet.to_last())
    await fleet.ended(within=900)
    writers = random.sample(schedule.users, random.randint(1, 2))
    for user in writers:
        place = fleet.agents.place_of(user)
        assert place is not None, "everybody was moved"
        fleet.agents.begin_at(place, is_told=True)
        fleet.agents.end_at(place, is_told=True)
    restores = schedule.seed % 2 == 1
    await fleet.steer("rollback", **({"data": DataPolicy.RESTORE} if restores else {}))
    for _ in range(random.randint(0, 2)):
        await asyncio.sleep(random.choice((0.0, 0.05, 1.0, 21.0, 26.0)))
        schedule.kill(schedule.replicas[0].life)
        while schedule.plane is None:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.5)
    await fleet.ended(within=900)
    await schedule.rest()
    rollout = next(reversed(schedule.cluster.store.rollouts.values()))
    hold(rollout.state is RolloutState.ROLLED_BACK, f"R17: the rollout is {rollout.state}, {rollout.reason}")
    for user in schedule.users:
        status = schedule.cluster.store.rows[user].stack.status
        if user in writers and not restores:
            hold(
                status.reason is Reason.DATA_NEWER, f"R17: {user} has worked on, and {status.reason} is said"
            )
            hold(status.release == rollout.release, f"R17: {user} has worked on, and is taken back")
        else:
            hold(status.release == before, f"R17: {user} is not taken back")


async def _handed_out_and_stopped_outside(schedule: Schedule) -> None:
    """Let a user work with a version whose migration cannot end yet; then its job is stopped, and it starts no more."""
    cluster, fleet, user = schedule.cluster, schedule.fleet, schedule.users[0]
    await fleet.gather()
    await fleet.make("newer")
    cluster.nomad.faults.fail_next("read_file", UpstreamUnavailable("nomad", "read file"), times=None)
    await fleet.roll(fleet.to_last(canary=Amount(count=4), max_in_flight=4))
    await asyncio.sleep(45)
    place = fleet.agents.place_of(user)
    hold(place is not None, "R19: it is not there after 45 s")
    assert place is not None
    fleet.agents.begin_at(place, is_told=True)
    fleet.agents.end_at(place, is_told=True)
    cluster.servers.are_dud = True
    job_id = job_id_of("main", user)
    await cluster.nomad.deregister(job_id, purge=False, deadline=Deadline.after(5, "an operator's stop"))
    await asyncio.sleep(90)
    cluster.nomad.faults.heal()
    cluster.servers.are_dud = False
    await fleet.ended(within=900)
    volume = cluster.nomad.workspaces.volumes[job_id].volume_id
    content = cluster.data.of(volume).content
    hold(content is not None and bool(content.of_users), "R19: what was written is lost")


async def _asked_during_a_rollout(schedule: Schedule) -> None:
    """Ask for a stack that is stopped, while an agent at work keeps a rollout waiting."""
    fleet, random = schedule.fleet, schedule.random
    await fleet.gather(stopped=True)
    place = fleet.agents.place_of(schedule.users[0])
    assert place is not None, "it runs"
    fleet.agents.begin_at(place, is_told=True)
    await fleet.make(random.choice(("restart", "newer")))
    await fleet.roll(fleet.to_last(canary=Amount(count=0), deadline=timedelta(seconds=150)))
    await asyncio.sleep(random.choice((1.0, 20.0, 30.0)))
    await schedule.ask(schedule.users[-1], "ensure")
    await asyncio.sleep(30)
    phase = _phase_of(schedule, schedule.users[-1])
    hold(phase is Phase.RUNNING, f"R20: who asks during a rollout is {phase} after 30 s")
    await fleet.ended(within=900)


async def _a_newer_version_that_never_gets_healthy(schedule: Schedule) -> None:
    fleet = schedule.fleet
    await fleet.gather()
    before = schedule.cluster.store._current
    for user in schedule.users:
        place = fleet.agents.place_of(user)
        assert place is not None, "it runs"
        fleet.agents.begin_at(place, is_told=True)
        fleet.agents.end_at(place, is_told=True)
    await fleet.make("newer dud")
    await fleet.roll(fleet.to_last())
    if schedule.random.random() < 0.5:
        await asyncio.sleep(schedule.random.choice((20.0, 25.0, 60.0, 80.0, 85.0)))
        schedule.kill(schedule.replicas[0].life)
    await fleet.ended(within=900)
    await schedule.rest()
    rollout = next(reversed(schedule.cluster.store.rollouts.values()))
    hold(
        rollout.state is RolloutState.FAILED, f"R18: a rollout of what never gets healthy is {rollout.state}"
    )
    releases = {row.stack.status.release for row in schedule.cluster.store.rows.values()}
    hold(releases == {before}, "R18: somebody was left on it, or on the data that it has migrated")


async def _a_drain_is_called_off_at_the_last_moment(schedule: Schedule) -> None:
    """Call a drain off, or give it longer, just before it is forced; nothing tells of that but a look at the node."""
    random, cluster, fleet = schedule.random, schedule.cluster, schedule.fleet
    await fleet.gather()
    user = random.choice(schedule.users)
    place = fleet.agents.place_of(user)
    assert place is not None, "it runs"
    fleet.agents.begin_at(place, is_told=random.random() < 0.5)
    ids = _ids(schedule, user)
    # Nodes are listed when the drain begins and every ten seconds from then on: the last time before the call.
    left = random.choice((63.0, 93.0))
    cluster.nodes.drain(_NODE, left)
    await asyncio.sleep(left - random.choice((0.2, 1.0, 2.0)))
    cluster.nomad.is_mute = True
    if random.random() < 0.5:
        cluster.nodes.open_all()
    else:
        cluster.nodes.drain(_NODE, random.choice((None, 600.0)))
    await asyncio.sleep(60)
    hold(
        _ids(schedule, user) == ids,
        "R21: an agent is cut off by a drain that was called off, or has time left",
    )
    cluster.nomad.is_mute = False
    cluster.nodes.open_all()
    await fleet.ended(within=900)


SCENARIOS = (
    Scenario(
        "R16", "for a change nobody is stopped who could not start again", _a_closed_node, has_rollouts=True
    ),
    Scenario(
        "R17",
        "who has worked on keeps the version, unless what was written is given up",
        _a_version_goes_back,
        has_rollouts=True,
    ),
    Scenario(
        "R18",
        "the data of a version that never gets healthy goes back with it",
        _a_newer_version_that_never_gets_healthy,
        has_rollouts=True,
    ),
    Scenario(
        "R19",
        "what was written by a version that was handed out stays, when that starts no more",
        _handed_out_and_stopped_outside,
        has_rollouts=True,
    ),
    Scenario(
        "R21",
        "a drain that was called off, or given longer, at the last moment cuts off nobody",
        _a_drain_is_called_off_at_the_last_moment,
        has_rollouts=True,
    ),
    Scenario("R20", "who asks during a rollout is served", _asked_during_a_rollout, has_rollouts=True),
    Scenario(
        "R15",
        "of a node that is drained everybody leaves who is idle; whoever works is waited for, and all come back",
        _a_node_is_drained,
        has_rollouts=True,
    ),
)
