"""
Bugs to plant into one control plane, each named after what goes wrong.

Where two guards hold the same thing, both are taken away, and it is said which: that either alone suffices is no proof that
the simulator would see their loss.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from unittest.mock import patch

from fakes.nomad import FakeNomad
from opencode_lifecycle.lifecycle import control_plane
from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.lifecycle.observing.cross_checking import CatalogWatch
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.observing.watching import NomadWatch
from opencode_lifecycle.lifecycle.orphans import sweep as orphan_sweep
from opencode_lifecycle.lifecycle.orphans.judgement import OrphanLimits
from opencode_lifecycle.lifecycle.orphans.sweep import OrphanSweep
from opencode_lifecycle.lifecycle.reconciling import planning, reconciler
from opencode_lifecycle.lifecycle.reconciling.dispatcher import Dispatcher
from opencode_lifecycle.lifecycle.reconciling.effects import Effects
from opencode_lifecycle.lifecycle.reconciling.planning import ending, moves, running, starting
from opencode_lifecycle.lifecycle.reconciling.reconciler import Reconciler
from opencode_lifecycle.lifecycle.reconciling.steps import DestroySecret, MakeSecret, Part, StopJob
from opencode_lifecycle.lifecycle.requests import decisions
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import ABSENT, ClientStatus, JobSeen, Observation
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.orchestrator import Listing


@contextmanager
def watch_gives_up() -> Iterator[None]:
    async def once_only(name, once, **_):
        try:
            while True:
                await once()
        except Exception:  # noqa: BLE001 - that is the bug
            await asyncio.Event().wait()

    with patch.object(control_plane, "keep_going", once_only):
        yield


@contextmanager
def stream_is_trusted_alone() -> Iterator[None]:
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
def stop_that_failed_counts_as_done() -> Iterator[None]:
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
def a_lost_runtime_is_not_missed() -> Iterator[None]:
    with patch.object(running, "_lost", lambda *_: None):
        yield


@contextmanager
def a_recreate_is_done_for_ever() -> Iterator[None]:
    entered = ending.entered

    def forgetful(stack, to, **changes):
        changes.pop("fresh_start_done", None)
        return entered(stack, to, **changes)

    with patch.object(ending, "entered", forgetful):
        yield


@contextmanager
def the_sweeper_acts_on_an_old_decision() -> Iterator[None]:
    find, delete = OrphanSweep._find, OrphanSweep._delete

    def by_old_rows(finds, rows, kept):
        return [each for each in finds if each.job_id not in OLD_ROWS.get("rows", rows)]

    async def remembering(self):
        OLD_ROWS["rows"] = {known.stack.job_id for known in self._fleet}
        await asyncio.sleep(2)
        return await find(self)

    async def without_asking(self, orphan_id, *, by):
        orphan = await self._orphans.get_orphan(orphan_id)
        await delete(self, orphan.find)

    hasty = OrphanLimits(confirmations=0, grace=timedelta(0))
    init = OrphanSweep.__init__

    def eager(self, **values):
        init(self, **{**values, "limits": hasty, "interval": timedelta(seconds=3)})

    with (
        patch.object(OrphanSweep, "__init__", eager),
        patch.object(OrphanSweep, "_find", remembering),
        patch.object(OrphanSweep, "delete", without_asking),
        patch.object(orphan_sweep, "without_row", by_old_rows),
        patch.object(orphan_sweep, "action_for", lambda *_, **__: (orphan_sweep.OrphanAction.DELETE, "")),
    ):
        yield


OLD_ROWS: dict[str, set[JobId]] = {}


@contextmanager
def names_that_prefix_one_another_meet() -> Iterator[None]:
    with patch.object(decisions, "job_id_of", lambda installation, user: JobId(f"oc-{user[:3]}")):
        yield


@contextmanager
def a_start_does_not_wait_for_the_end() -> Iterator[None]:
    with (
        patch.object(ending, "wait_for_end", lambda *_: None),
        patch.object(starting, "wait_for_end", lambda *_: None),
    ):
        yield


@contextmanager
def a_wedge_is_not_replaced() -> Iterator[None]:
    with patch.object(running, "_replace_wedged", lambda *_: None):
        yield


@contextmanager
def an_earlier_run_proves_a_later_one() -> Iterator[None]:
    def by_name(proof, allocation):
        return proof is not None and allocation is not None

    with patch.object(starting, "is_about", by_name):
        yield


@contextmanager
def the_volume_goes_before_its_allocation() -> Iterator[None]:
    plan_deleted = ending.plan_deleted

    def hasty(work, seen, now, limits):
        return plan_deleted(work, replace(seen, job=ABSENT, allocations=()), now, limits)

    with patch.object(planning, "plan_deleted", hasty):
        yield


def _register_whatever_is_there(original):
    """Take a registration without comparing the index: the guard of Nomad is gone."""

    async def register(self, job, *, expected_index, deadline):
        del expected_index
        known = self.jobs.get(job.job_id)
        there = known.seen.modify_index if known else 0
        return await original(self, job, expected_index=there, deadline=deadline)

    return register


@contextmanager
def what_a_listing_lacks_is_gone_without_a_look() -> Iterator[None]:
    lost = running._lost

    def at_once(work, seen, now):
        return lost(replace(work, done=work.done | {Part.LOOK}), seen, now)

    with patch.object(running, "_lost", at_once):
        yield


@contextmanager
def an_allocation_that_a_listing_lacks_has_ended() -> Iterator[None]:
    with patch.object(moves, "is_end_untold", lambda *_: False):
        yield


@contextmanager
def a_look_that_failed_counts_as_absent() -> Iterator[None]:
    observe, list_all = FakeNomad.observe, FakeNomad.list_all

    async def nothing_there(self, job_id, deadline):
        try:
            return await observe(self, job_id, deadline)
        except (UpstreamError, DeadlineExceeded):
            return Observation(job=ABSENT, index=self.index, observed_at=self._now())

    async def nothing_at_all(self, deadline):
        try:
            return await list_all(self, deadline)
        except (UpstreamError, DeadlineExceeded):
            return Listing(index=self.index, observed_at=self._now(), stacks={})

    with (
        patch.object(FakeNomad, "observe", nothing_there),
        patch.object(FakeNomad, "list_all", nothing_at_all),
    ):
        yield


@contextmanager
def a_destruction_that_failed_counts_as_done() -> Iterator[None]:
    apply = Effects.apply

    async def careless(self, current, step):
        try:
            await apply(self, current, step)
        except UpstreamError:
            if not isinstance(step, DestroySecret):
                raise
            self._learn(current, Part.SECRET, receipt=("secret", "destroyed"), secret_version=None)

    with patch.object(Effects, "apply", careless):
        yield


@contextmanager
def work_lives_in_memory_alone() -> Iterator[None]:
    """Taken away with it: that a row says when it is due, and that a stack is compared whenever something is seen of it."""

    async def hinted_only(self, free):
        if not (self._urgent or self._hinted):
            return []
        now = self._now()
        mine = self._take_hints(free, free)
        claimed = await self._stacks.claim(
            limit=free, now=now, lapses_at=now + self._claim_lifetime, hinted=mine
        )
        for each in claimed:
            if each.stack.user_id not in mine:
                await self._stacks.release_claim(each, next_attempt_at=None)
        return [each for each in claimed if each.stack.user_id in mine]

    def remembered(self, known):
        if known.stack.user_id in _remembered_by(self):
            attend(self, known)

    def hint(self, user_id):
        _remembered_by(self).add(user_id)
        remember(self, user_id)

    attend, remember = Dispatcher.attend, Dispatcher.hint
    with (
        patch.object(Dispatcher, "_claim", hinted_only),
        patch.object(Dispatcher, "attend", remembered),
        patch.object(Dispatcher, "hint", hint),
    ):
        yield


def _remembered_by(dispatcher):
    return dispatcher.__dict__.setdefault("_remembered", set())


@contextmanager
def what_has_no_row_is_left() -> Iterator[None]:
    with patch.object(orphan_sweep, "action_for", lambda *_, **__: (orphan_sweep.OrphanAction.REPORT, "")):
        yield


@contextmanager
def a_start_has_no_deadline() -> Iterator[None]:
    plan = planning._plan

    def patient(work, now, limits):
        return plan(work, now, replace(limits, start=timedelta(days=999)))

    with patch.object(planning, "_plan", patient):
        yield


@contextmanager
def a_stop_waits_for_the_start() -> Iterator[None]:
    plan_stopped = planning.plan_stopped

    def later(work, seen, now, limits):
        if work.stack.status.phase is Phase.STARTING:
            return planning.plan_starting(work, seen, now, limits)
        return plan_stopped(work, seen, now, limits)

    with patch.object(planning, "plan_stopped", later):
        yield


@contextmanager
def a_call_has_no_deadline() -> Iterator[None]:
    @contextlib.asynccontextmanager
    async def never(self):
        del self
        yield

    with patch.object(Deadline, "enforce", never):
        yield


@contextmanager
def a_refusal_counts_as_an_outage() -> Iterator[None]:
    with patch.object(reconciler, "_is_final", lambda _: False):
        yield


@contextmanager
def a_rotation_is_done_for_ever() -> Iterator[None]:
    learn = Effects._learn

    def forgetful(self, current, part, **facts):
        facts.pop("rotation_done", None)
        learn(self, current, part, **facts)

    with patch.object(Effects, "_learn", forgetful):
        yield


@contextmanager
def what_was_seen_before_our_own_write_decides() -> Iterator[None]:
    """Taken away with it: the index of a registration, and the look before an absence is believed."""
    with (
        patch.object(Fleet, "wrote", lambda *_: None),
        patch.object(starting, "not_found_yet", lambda *_: False),
        patch.object(ending, "not_found_yet", lambda *_: False),
        patch.object(moves, "is_end_untold", lambda *_: False),
        patch.object(FakeNomad, "register", _register_whatever_is_there(FakeNomad.register)),
    ):
        yield


@contextmanager
def consul_is_not_compared() -> Iterator[None]:
    async def nothing(self):
        self.comparison_pulse.beat()

    with patch.object(CatalogWatch, "compare_once", nothing):
        yield


@contextmanager
def what_waits_for_vault_is_not_tried_again() -> Iterator[None]:
    wait_out = Reconciler._wait_out

    async def for_good(self, current, error):
        if getattr(error, "system", "") != "vault":
            await wait_out(self, current, error)
            return
        await self._stacks.release_claim(current.claimed, next_attempt_at=None)
        self._fleet.on_change = None

    with patch.object(Reconciler, "_wait_out", for_good):
        yield


@contextmanager
def a_password_is_written_into_the_history() -> Iterator[None]:
    apply = Effects.apply

    async def talkative(self, current, step):
        await apply(self, current, step)
        if isinstance(step, MakeSecret):
            job_id, version = current.work.stack.job_id, current.work.stack.status.secret_version
            deadline = Deadline.after(10, "read it")
            password = await self._passwords.read(job_id, version, deadline)
            current.note("secret.made", password=password.reveal())

    with patch.object(Effects, "apply", talkative):
        yield


@contextmanager
def it_is_tried_again_without_a_pause() -> Iterator[None]:
    with patch.object(Backoff, "seconds", lambda *_: 0.0):
        yield
