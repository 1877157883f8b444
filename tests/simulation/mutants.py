"""
Planted bugs, each of a class that other control planes had (G1 to G30 of the list of bug classes), and of our own.

A simulator that finds none of them proves nothing. Each is planted into the product's own objects for one schedule after
another until an invariant does not hold.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

from opencode_lifecycle.lifecycle import control_plane, decisions, orphan_sweep
from opencode_lifecycle.lifecycle.effects import Effects
from opencode_lifecycle.lifecycle.orphan_sweep import OrphanSweep
from opencode_lifecycle.lifecycle.orphans import OrphanLimits
from opencode_lifecycle.lifecycle.planning import ending, running, starting
from opencode_lifecycle.lifecycle.steps import StopJob
from opencode_lifecycle.lifecycle.watching import NomadWatch
from opencode_lifecycle.model.errors import UpstreamError
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import ABSENT, ClientStatus, JobSeen
from simulation import crashes
from simulation.schedule import Schedule, Script

Plant = Callable[[], Iterator[None]]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug, of class *of*."""

    of: str
    what: str
    plant: Plant
    within: int = 600
    """Schedules that must be enough."""


@contextmanager
def _watch_gives_up() -> Iterator[None]:
    async def once_only(name, once, **_):
        try:
            while True:
                await once()
        except Exception:  # noqa: BLE001 - that is the bug
            await asyncio.Event().wait()

    with patch.object(control_plane, "keep_going", once_only):
        yield


@contextmanager
def _stream_is_trusted_alone() -> Iterator[None]:
    async def never(self):
        await asyncio.Event().wait()

    async def no_list(self):
        async for change in self._orchestrator.follow(self._index):
            self._fleet.apply(change)

    with (
        patch.object(NomadWatch, "list_periodically", never),
        patch.object(NomadWatch, "follow_once", no_list),
    ):
        yield


@contextmanager
def _stop_that_failed_counts_as_done() -> Iterator[None]:
    apply = Effects.apply

    async def careless(self, current, step):
        try:
            await apply(self, current, step)
        except UpstreamError:
            if not isinstance(step, StopJob):
                raise
            seen = current.work.observation
            ended = [replace(each, client_status=ClientStatus.COMPLETE) for each in seen.allocations]
            job = replace(seen.job, stopped=True) if isinstance(seen.job, JobSeen) else seen.job
            current.work = replace(current.work, observation=replace(seen, job=job, allocations=ended))

    with patch.object(Effects, "apply", careless):
        yield


@contextmanager
def _a_lost_runtime_is_not_missed() -> Iterator[None]:
    # Nor by its silence, which would have it replaced in the end.
    with (
        patch.object(running, "_lost", lambda *_: None),
        patch.object(running, "_replace_wedged", lambda *_: None),
    ):
        yield


@contextmanager
def _a_recreate_is_done_for_ever() -> Iterator[None]:
    entered = ending.entered

    def forgetful(stack, to, **changes):
        changes.pop("fresh_start_done", None)
        return entered(stack, to, **changes)

    with patch.object(ending, "entered", forgetful):
        yield


@contextmanager
def _the_sweeper_acts_on_an_old_decision() -> Iterator[None]:
    find, delete = OrphanSweep._find, OrphanSweep._delete

    async def rows_first(self):
        rows = {known.stack.job_id for known in self._fleet}
        listing, finds = await find(self)
        await asyncio.sleep(2)
        self._old_rows = rows
        return listing, finds

    def by_old_rows(finds, rows, kept):
        return [each for each in finds if each.job_id not in _OLD.get("rows", rows)]

    async def remembering(self):
        _OLD["rows"] = {known.stack.job_id for known in self._fleet}
        await asyncio.sleep(2)
        return await find(self)

    async def without_asking(self, orphan_id, *, by):
        orphan = await self._orphans.get_orphan(orphan_id)
        await delete(self, orphan.find)

    hasty = OrphanLimits(confirmations=0, grace=orphan_sweep.timedelta(0))
    init = OrphanSweep.__init__

    def eager(self, **values):
        init(self, **{**values, "limits": hasty, "interval": orphan_sweep.timedelta(seconds=3)})

    with (
        patch.object(OrphanSweep, "__init__", eager),
        patch.object(OrphanSweep, "_find", remembering),
        patch.object(OrphanSweep, "delete", without_asking),
        patch.object(orphan_sweep, "without_row", by_old_rows),
        patch.object(orphan_sweep, "action_for", lambda *_, **__: (orphan_sweep.OrphanAction.DELETE, "")),
    ):
        yield


_OLD: dict[str, set[JobId]] = {}


@contextmanager
def _names_that_prefix_one_another_meet() -> Iterator[None]:
    with patch.object(decisions, "job_id_of", lambda installation, user: JobId(f"oc-{user[:3]}")):
        yield


@contextmanager
def _a_start_does_not_wait_for_the_end() -> Iterator[None]:
    with (
        patch.object(ending, "wait_for_end", lambda *_: None),
        patch.object(starting, "wait_for_end", lambda *_: None),
    ):
        yield


@contextmanager
def _a_wedge_is_not_replaced() -> Iterator[None]:
    with patch.object(running, "_replace_wedged", lambda *_: None):
        yield


@contextmanager
def _an_earlier_run_proves_a_later_one() -> Iterator[None]:
    def by_name(proof, allocation):
        return proof is not None and allocation is not None

    with patch.object(starting, "is_about", by_name):
        yield


@contextmanager
def _the_volume_goes_before_its_allocation() -> Iterator[None]:
    plan_deleted = ending.plan_deleted

    def hasty(work, seen, now, limits):
        return plan_deleted(work, replace(seen, job=ABSENT, allocations=()), now, limits)

    from opencode_lifecycle.lifecycle import planning  # noqa: PLC0415

    with patch.object(planning, "plan_deleted", hasty):
        yield


MUTANTS = (
    Mutant("G1", "a watch that failed once is never run again", _watch_gives_up),
    Mutant("G2", "the event stream is trusted, and nothing is listed", _stream_is_trusted_alone),
    Mutant("G4", "a stop that failed counts as done", _stop_that_failed_counts_as_done),
    Mutant("G9", "a runtime that is gone is not missed", _a_lost_runtime_is_not_missed),
    Mutant("G11", "a recreate is not remembered as done", _a_recreate_is_done_for_ever),
    Mutant("G12", "the sweeper acts on rows that it read before", _the_sweeper_acts_on_an_old_decision),
    Mutant("G19", "names that prefix one another meet", _names_that_prefix_one_another_meet),
    Mutant("G20", "a start does not wait for the end of what ran", _a_start_does_not_wait_for_the_end),
    Mutant(
        "G21", "secret and volume go before the allocation has ended", _the_volume_goes_before_its_allocation
    ),
    Mutant("G25", "a server that answers nothing is left so", _a_wedge_is_not_replaced),
    Mutant("own", "the proof of an earlier run counts for a later one", _an_earlier_run_proves_a_later_one),
)

NOT_HERE = {
    "G3": "planted in looks and listings alike, it stops nothing: what is absent is asked for twice, and the index of a "
    "registration refuses a second one; tests/lifecycle/test_brake.py and test_fleet.py hold it",
    "G5": "planted, work that lives in a hint alone is taken up all the same: at start every stack is compared with what "
    "runs; that the row says when it is due is held by tests/contracts/stores/test_claiming.py",
    "G6": "deadlines of a start need a server that never gets well: real servers, tests/end_to_end",
    "G7": "one hung neighbour blocks nobody else: tests/lifecycle/test_races.py and tests/end_to_end",
    "G8": "two workers of one stack need two replicas: tests/contracts/stores and tests/lifecycle/test_races.py",
    "G10": "jobs that Nomad refuses for good: tests/lifecycle/test_one_stack.py",
    "G13": "a caller that goes away: tests/lifecycle/test_races.py and tests/api",
    "G14": "queues before the API: tests/api",
    "G15": "placement is Nomad's",
    "G16": "placement is Nomad's",
    "G17": "quotas are not built yet",
    "G18": "planted, an observation from before our own last write is masked by Nomad's check of the index: "
    "tests/lifecycle/test_fleet.py holds it",
    "G22": "an address that Consul lists twice: tests/lifecycle/test_health.py",
    "G23": "a secret that is not there: tests/lifecycle/test_one_stack.py and tests/end_to_end",
    "G24": "rollouts are not built yet",
    "G26": "leadership is not built yet; stale claims: tests/contracts/stores",
    "G27": "planted values in every sink: tests/end_to_end/test_planted_values.py",
    "G28": "a database's transactions: tests/contracts/stores/test_faults.py",
    "G29": "cost that grows with the fleet: make bench",
    "G30": "retention and pacing: tests/contracts/stores, make bench",
}
"""Classes that this simulator cannot show, and where they are shown."""


def hunt(mutant: Mutant, *, most: int) -> tuple[int, str] | None:
    """
    Return after how many schedules the mutant was caught, and by what; None when none of *most* did.

    Every point to die or to fail at is tried first, then seeds.
    """
    points = crashes.points()
    number = 0
    for point in points:
        number += 1
        script = Script(operations=crashes.OPERATIONS[point.operation], crash=point.crash)
        with mutant.plant():
            outcome = Schedule(0, script).run()
        if outcome.violation is not None:
            return number, f"{point}: {outcome.violation}"
    for seed in range(most):
        number += 1
        with mutant.plant():
            outcome = Schedule(seed).run()
        if outcome.violation is not None:
            return number, f"seed {seed}: {outcome.violation}"
    return None
