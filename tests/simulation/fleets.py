"""What operators do to a fleet in a schedule: releases, rollouts that meet, pins, groups; and agents at work meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar

from opencode_lifecycle.lifecycle.control_plane import ControlPlane
from opencode_lifecycle.model.errors import LifecycleError
from opencode_lifecycle.model.group import GroupWish
from opencode_lifecycle.model.identifiers import ReleaseId, RolloutId, UserId
from opencode_lifecycle.model.migration import AtDeadline, DataPolicy
from opencode_lifecycle.model.release import ReleaseWish
from opencode_lifecycle.model.rollout import Rollout, RolloutState
from opencode_lifecycle.model.rollout_specification import (
    Amount,
    Gate,
    RolloutSpecification,
    Selector,
    Strategy,
)
from opencode_lifecycle.model.states import WhenStale
from opencode_lifecycle.model.view import EnsureRequest
from simulation.agents import Agents
from simulation.cluster import LIFE
from simulation.servers import BAD_CONFIG, MANNER
from world import BACKEND, OPERATOR

if TYPE_CHECKING:
    from simulation.schedule import Schedule

EVERY: Final = 16
"""Of so many schedules that are left to their seed, one has a fleet with rollouts."""
USERS: Final = (UserId("ada"), UserId("ada2"), UserId("bob"), UserId("cyd"))
GROUP: Final = "team"

KINDS: Final = (
    *("restart", "restart", "live", "reload", "version", "newer", "newer", "newest"),
    *("newer dud", "dud", "mute", "bad config", "open", "stranger", "shut"),
)
"""What a release is like: the migration that it needs, or what is wrong with it."""

ACTIONS: Final = (
    *("roll",) * 5,
    *("work",) * 6,
    *("ask",) * 5,
    *("come back",) * 3,
    "plan",
    "pause",
    "resume",
    "abort",
    "rollback",
    "rollback",
    "use",
    "release",
    "pin",
    "unpin",
    "group",
    "lease",
    "drain node",
    "drain node",
    "close node",
    "open nodes",
    "disk full",
)
ASKED: Final = (
    *("ensure", "ensure", "stop", "start", "recreate", "rotate", "delete"),
    *("recover", "recover with restore"),
)

AT_ONCE: Final = Strategy(
    canary=Amount(count=1),
    waves=(Amount(percent=100),),
    max_in_flight=2,
    soak=timedelta(seconds=5),
    deadline=timedelta(seconds=60),
)
"""The strategy of what is told."""

T = TypeVar("T")


class Fleet:
    """The operators and the agents of one schedule."""

    def __init__(self, schedule: "Schedule") -> None:
        self._schedule = schedule
        self._cluster = schedule.cluster
        self._random = schedule.random
        self.agents = Agents(schedule.cluster, schedule.random, schedule.some_replica)
        self.kind_of: dict[ReleaseId, str] = {}
        """Of each release that was made here, what it is like."""
        self._resumed: dict[RolloutId, int] = {}

    def settle_on_manner(self) -> None:
        """Let the seed say what is done about what is stale."""
        draw = self._random.random()
        self._cluster.when_stale = (
            WhenStale.IDLE if draw < 0.7 else WhenStale.NOW if draw < 0.85 else WhenStale.REPORT
        )

    # --- a schedule that is left to its seed

    async def improvise(self) -> None:
        random, schedule = self._random, self._schedule
        await self.gather(stopped=random.random() < 0.3)
        for _ in range(random.randint(1, 2)):
            await self.make(random.choice(KINDS))
        await self._act("roll")
        for _ in range(random.randint(2, 6)):
            if random.random() < 0.35:
                schedule.mischief.begin(schedule.job_ids)
            action = self._act(random.choice(ACTIONS))
            if random.random() < 0.3:
                schedule.begin(action)
            else:
                await action
            await asyncio.sleep(random.choice((0.0, 0.05, 0.5, 3.0, 20.0, 45.0)))
            if random.random() < 0.4:
                schedule.mischief.heal()
        await schedule.requests_end()

    async def gather(self, *, stopped: bool = False) -> None:
        """Have everybody's stack run, some of them in a group, and with *stopped* the last one stopped again."""
        schedule = self._schedule
        for user in schedule.users:
            wish = EnsureRequest(group=GROUP) if user in schedule.users[2:] else EnsureRequest()
            await schedule.ensure(user, wish)
        await schedule.rest()
        if stopped:
            await schedule.ask(schedule.users[-1], "stop")
            await schedule.rest()

    async def _act(self, action: str) -> None:
        random = self._random
        user = random.choice(self._schedule.users)
        match action:
            case "ask":
                await self._schedule.ask(user, random.choice(ASKED))
            case "come back":
                await self._schedule.ask(user, "stop")
                await asyncio.sleep(random.choice((0.5, 3.0)))
                await self._schedule.ask(user, "ensure")
            case "work":
                for each in random.sample(self._schedule.users, random.randint(1, 2)):
                    self.agents.begin(each)
            case "lease":
                await self.agents.lease(user)
            case "release":
                await self.make(random.choice(KINDS))
            case "roll":
                await self.roll(self._some_specification())
            case "plan":
                await self._plan_and_apply(self._some_specification(), after=random.choice((0.0, 5.0, 40.0)))
            case "use":
                await self.use(self._some_release())
            case "pin":
                release = self._some_release()
                await self.call(f"pin {user}", lambda plane: _pin(plane, user, release))
            case "unpin":
                await self.call(f"unpin {user}", lambda plane: _unpin(plane, user))
            case "group":
                await self._change_group()
            case _:
                if not self._in_cluster(action):
                    await self.steer(action, **(_some_data(random) if action == "rollback" else {}))

    def _in_cluster(self, action: str) -> bool:
        """Do what operators do to nodes, or let disks be full. Return whether *action* was that."""
        match action:
            case "open nodes":
                self._cluster.nodes.open_all()
            case "disk full":
                self._cluster.data.is_full = True
            case _:
                return self._schedule.mischief.to_node(action)
        return True

    def _some_release(self) -> ReleaseId:
        """Return one that was made, or the first one there was."""
        return self._random.choice(list(self._cluster.store._releases))

    def _some_specification(self) -> RolloutSpecification:
        random = self._random
        draw = random.random()
        users: tuple[UserId, ...] = ()
        groups: tuple[str, ...] = ()
        match random.random():
            case chance if chance < 0.15:
                users = tuple(random.sample(self._schedule.users, 2))
            case chance if chance < 0.25:
                groups = (GROUP,)
        return RolloutSpecification(
            release=list(self._cluster.store._releases)[-1]
            if draw < 0.6
            else self._some_release()
            if draw < 0.7
            else None,
            recreate=0.7 <= draw < 0.8,
            rotate_passwords=0.8 <= draw < 0.9,
            selector=Selector(users=users, groups=groups),
            strategy=_some_strategy(random),
        )

    # --- what operators ask

    async def call(self, what: str, call: Callable[[ControlPlane], Awaitable[T]]) -> T | None:
        """Ask some replica, once; None where it was refused, or nobody can say what came of it."""
        schedule, replica = self._schedule, self._schedule.some_replica()
        plane = replica.plane
        at = f" (life {replica.life})" if len(schedule.replicas) > 1 else ""
        self._cluster.say(f"an operator: {what}{at}")
        if plane is None:
            return None

        async def send() -> T:
            LIFE.set(replica.life)
            return await call(plane)

        task = schedule.loop.create_task(send())
        done, _ = await asyncio.wait([task], timeout=60)
        if not done:
            task.cancel()
            return None
        try:
            return task.result()
        except LifecycleError as error:
            self._cluster.say(f"  {what}: {error.code}")
        except asyncio.CancelledError:
            pass
        return None

    async def make(self, kind: str) -> ReleaseId | None:
        """Make a release of that kind over the fleet's target."""
        wish = _wish(kind, f"{len(self.kind_of)} {self._cluster.loop.time()}")
        made = await self.call(
            f"make a release: {kind}", lambda plane: plane.releasing.create(wish, by=OPERATOR)
        )
        if made is None:
            return None
        release = made.entry.release.id
        self.kind_of[release] = kind
        return release

    async def use(self, release: ReleaseId) -> None:
        self._schedule.watcher.rollouts.may_become_target(release)
        await self.call("use a release", lambda plane: plane.releasing.use(release, by=OPERATOR))

    async def roll(self, specification: RolloutSpecification) -> Rollout | None:
        what = f"roll out {self._told(specification)}"
        return await self.call(what, lambda plane: plane.rollouts.start(specification, by=OPERATOR))

    async def _plan_and_apply(self, specification: RolloutSpecification, *, after: float) -> None:
        what = self._told(specification)
        plan = await self.call(f"plan {what}", lambda plane: plane.rollouts.plan(specification, by=OPERATOR))
        if plan is not None:
            await asyncio.sleep(after)
            await self.call(f"apply {what}", lambda plane: plane.rollouts.apply(plan.id, by=OPERATOR))

    async def steer(self, how: str, rollout: RolloutId | None = None, **what: Any) -> None:
        """Pause, resume, abort or roll back: the last rollout there is, by default."""
        rollout = rollout or next(reversed(self._cluster.store.rollouts), None)
        if rollout is not None:
            await self.call(how, lambda plane: getattr(plane.rollouts, how)(rollout, by=OPERATOR, **what))

    async def _change_group(self) -> None:
        random = self._random
        wish = random.choice(
            (
                GroupWish(names=frozenset({"pin"}), pin=self._some_release()),
                GroupWish(names=frozenset({"pin"})),
                GroupWish(
                    names=frozenset({"idle_stop_after"}),
                    idle_stop_after=timedelta(seconds=random.choice((30, 60))),
                ),
                GroupWish(names=frozenset({"idle_stop_after"})),
            )
        )
        await self.call("change the group", lambda plane: plane.groups.put(GROUP, wish, by=OPERATOR))

    def _told(self, specification: RolloutSpecification) -> str:
        strategy = specification.strategy
        what = "what is stale"
        if specification.release is not None:
            what = self.kind_of.get(specification.release, "the first release")
        elif specification.recreate or specification.rotate_passwords:
            what = "fresh starts" if specification.recreate else "new passwords"
        pace = f"canary {strategy.canary}, {strategy.max_in_flight} at once, soak {strategy.soak.seconds} s"
        return f"{what}: {pace}, {strategy.at_deadline} after {strategy.deadline.seconds} s"

    # --- the end

    async def settle(self) -> None:
        """Let agents come to rest, and bad releases be mended."""
        self._cluster.servers.are_mended = True
        await self.agents.rest()

    async def answer_pauses(self) -> None:
        """Look at what is paused now and then, as an operator does: go on twice, then give up."""
        while True:
            await asyncio.sleep(5)
            active = self._cluster.store.the_active()
            if active is None or active.state is not RolloutState.PAUSED:
                continue
            times = self._resumed[active.id] = self._resumed.get(active.id, 0) + 1
            await self.steer("resume" if times <= _MOST_RESUMES else "abort", active.id)

    async def ended(self, *, within: float) -> None:
        """Wait until no rollout is under way, and answer its pauses meanwhile."""
        answering = self._schedule.loop.create_task(self.answer_pauses())
        try:
            async with asyncio.timeout(within):
                while self._cluster.store.the_active() is not None:  # noqa: ASYNC110 - virtual time
                    await asyncio.sleep(0.5)
        finally:
            answering.cancel()

    # --- what is told

    async def do(self, operation: str) -> None:
        """Do one operation of a script."""
        match operation.split():
            case ["gather"]:
                await self.gather()
            case ["release", *kind]:
                await self.make(" ".join(kind))
            case ["roll"]:
                await self.roll(self.to_last())
            case ["roll", "and", how]:
                await self.roll(self.to_last())
                await asyncio.sleep(3)
                await self.steer(how)
                if how == "pause":
                    await asyncio.sleep(10)
                    await self.steer("resume")
            case ["rollback"]:
                await self.steer("rollback")
            case ["recreate", "all"]:
                await self.roll(RolloutSpecification(recreate=True, strategy=AT_ONCE))
            case ["rotate", "all"]:
                await self.roll(RolloutSpecification(rotate_passwords=True, strategy=AT_ONCE))
            case ["plan"]:
                await self._plan_and_apply(self.to_last(), after=1)
            case ["use"]:
                await self.use(list(self._cluster.store._releases)[-1])
            case ["lease"]:
                await self.agents.lease(self._schedule.users[0])
            case ["pin"]:
                user, release = self._schedule.users[0], list(self._cluster.store._releases)[-1]
                await self.call("pin", lambda plane: _pin(plane, user, release))
            case ["group"]:
                wish = GroupWish(names=frozenset({"idle_stop_after"}), idle_stop_after=timedelta(seconds=30))
                await self.call("change the group", lambda plane: plane.groups.put(GROUP, wish, by=OPERATOR))
            case ["drain"]:
                self._cluster.nodes.drain(self._cluster.nodes.names[0], 90.0)
                await asyncio.sleep(60)
            case _:
                raise AssertionError(operation)

    def to_last(self, **strategy: Any) -> RolloutSpecification:
        """Specify a rollout to the release that was made last."""
        release = list(self._cluster.store._releases)[-1]
        return RolloutSpecification(release=release, strategy=replace(AT_ONCE, **strategy))


_MOST_RESUMES = 2


async def _pin(plane: ControlPlane, user: UserId, release: ReleaseId) -> object:
    return await plane.provisioning.pin(user, release, by=BACKEND, if_match=None)


async def _unpin(plane: ControlPlane, user: UserId) -> object:
    return await plane.provisioning.unpin(user, by=BACKEND, if_match=None)


def _wish(kind: str, name: str) -> ReleaseWish:
    match kind:
        case "live":
            return ReleaseWish(instructions=f"Be brief. {name}")
        case "reload":
            return ReleaseWish(managed_config=f'{{"share": "disabled {name}"}}')
        case "bad config":
            return ReleaseWish(managed_config=BAD_CONFIG)
        case "version":
            return ReleaseWish(opencode_version="1.18.35", environment={"LANG": name})
        case "newer":
            return ReleaseWish(opencode_version="1.19.0", environment={"LANG": name})
        case "newest":
            return ReleaseWish(opencode_version="1.19.1", environment={"LANG": name})
        case "newer dud":
            return ReleaseWish(opencode_version="1.19.0", environment={"LANG": name, MANNER: "dud"})
        case "dud" | "mute" | "open" | "stranger" | "shut":
            return ReleaseWish(environment={"LANG": name, MANNER: kind})
        case _:
            return ReleaseWish(environment={"LANG": name})


def _some_data(random: Random) -> dict[str, DataPolicy]:
    return {"data": DataPolicy.RESTORE} if random.random() < 0.4 else {}


def _some_strategy(random: Random) -> Strategy:
    count, percent = (lambda number: Amount(count=number)), (lambda number: Amount(percent=number))
    return Strategy(
        canary=random.choice((count(0), count(1), count(1), count(2), percent(30))),
        waves=random.choice(((percent(50),), (count(1),), (percent(100),), (count(1), percent(100)))),
        max_in_flight=random.randint(1, 3),
        max_unavailable=random.choice((None, None, count(1), percent(50))),
        soak=timedelta(seconds=random.choice((0, 5, 30))),
        gate=Gate(
            failure_budget=random.choice((count(0), percent(50), percent(100))),
            health=random.random() < 0.9,
            prompt="Say hello." if random.random() < 0.4 else None,
        ),
        deadline=timedelta(seconds=random.choice((0, 30, 90, 300))),
        at_deadline=random.choice(tuple(AtDeadline)),
    )
