"""
Standing conditions: raised, kept, confirmed and cleared, and what they freeze.

What this replica suspects itself is kept apart from what stands in the database. It freezes this replica for as long as it
is suspected here, whatever others see: one that is cut off must not be told by one that is not that all is well.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from opencode_lifecycle.lifecycle.braking.brake import Suspicion, covers, extent_of
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.errors import ConditionNotFound, UpstreamError
from opencode_lifecycle.model.identifiers import ConditionId, UserId, new_condition_id, new_event_id
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.stores import ConditionStore

log = structlog.get_logger(__name__)

OF_NOBODY = UserId("")
"""Events of the whole carry no user."""
LEASE: Final = timedelta(minutes=2)
"""So long after a replica last answered for a condition, others may clear it: it is gone, or cut off from the database."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Unwritten:
    """What is still to be done to a row: made what *change* makes of it, or put as *raised*."""

    condition: Condition
    change: Callable[[Condition], Condition] | None
    event: Event | None


class Conditions:
    """
    What is wrong with the whole, in memory and in the database.

    Memory comes first: a brake must hold while the database is away. What could not be written is written with the next
    report. *on_confirmation* is called when an operator has confirmed one: what was refused may be true now. *replica* is
    what this process is called among those that share the database, None where it shares it with nobody.
    """

    def __init__(
        self,
        *,
        store: ConditionStore,
        fleet: Fleet,
        on_confirmation: Callable[[Condition], None],
        now: Clock,
        replica: str | None = None,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._now = now
        self._replica = replica
        self._rows: dict[ConditionId, Condition] = {}
        """Everything that stands, whoever raised it."""
        self._suspected: dict[ConditionKind, Suspicion] = {}
        """What this replica suspects itself."""
        self._held: dict[ConditionKind, Condition] = {}
        """What stands no more, because others cleared it, and is suspected here still. Raised again if it is next time."""
        self._unwritten: list[_Unwritten] = []
        self._writing = asyncio.Lock()
        self._on_confirmation = on_confirmation

    def standing(self) -> tuple[Condition, ...]:
        """Return one condition of each kind that stands: one that freezes before one that is confirmed."""
        shown = (self._shown(kind) for kind in ConditionKind)
        return tuple(condition for condition in shown if condition is not None)

    def confirmed(self, kind: ConditionKind) -> bool:
        """Whether *kind* stands, and an operator said that what is seen is true."""
        return self._shown(kind) is not None and not self._freezes(kind)

    async def load(self) -> None:
        """Take up what stands according to the database: what an earlier life, or another replica, raised or confirmed."""
        async with self._writing:
            page = await self._store.find_conditions(standing=True)
            pending = {each.condition.id for each in self._unwritten}
            rows = {each.id: each for each in page.items if each.id not in pending}
            rows |= {each: row for each, row in self._rows.items() if each in pending}
            before = {kind: self._shown(kind) for kind in self._suspected}
            self._rows = rows
            for kind, shown in before.items():
                if shown is not None and not self._of(kind):
                    self._held[kind] = shown
        self._freeze()

    async def report(self, kind: ConditionKind, suspicion: Suspicion | None) -> None:
        """
        Raise, keep or clear the condition of *kind*, as *suspicion* says that this replica sees it now.

        What another replica raised is its own to clear, unless it has not answered for it for long.
        """
        now = self._now()
        ours = [row for row in self._of(kind) if self._answers_for(row, now)]
        held = self._held.pop(kind, None)
        if suspicion is None:
            self._suspected.pop(kind, None)
            for row in ours:
                self._clear(row, now)
        else:
            self._suspected[kind] = suspicion
            if ours:
                self._keep(ours[0], suspicion, now)
            elif not any(row.freezes or covers(row, suspicion.details) for row in self._of(kind)):
                self._raise(kind, suspicion, held, now)
        self._renew(now)
        self._freeze()
        await self._flush()

    async def confirm(self, condition_id: ConditionId, *, by: Principal) -> Condition:
        """Take what is seen for the truth. Confirming again, or what is cleared already, changes nothing."""
        # What was raised this moment may not be written yet; whoever was shown it may confirm it.
        await self._flush()
        condition = await self._store.get_condition(condition_id)
        if condition is None:
            raise ConditionNotFound
        now = self._now()

        def confirm(there: Condition) -> Condition:
            if not there.freezes:
                return there
            extent = extent_of(there.details)
            return there.changed(confirmed_at=now, confirmed_by=by.name, confirmed_extent=extent)

        event = self._event(condition, "condition.confirmed", by.name)
        async with self._writing:
            confirmed = await self._store.change_condition(condition_id, confirm, event)
            if confirmed is None:
                raise ConditionNotFound
            if confirmed.cleared_at is not None or confirmed.confirmed_at != now:
                return confirmed
            if all(each.condition.id != condition_id for each in self._unwritten):
                # Else it was cleared before this was answered, which is still to be written.
                self._rows[condition_id] = confirmed
        self._freeze()
        log.warning("condition confirmed", kind=confirmed.kind, by=by.name)
        self._on_confirmation(confirmed)
        return confirmed

    async def hand_over(self) -> None:
        """
        Answer for nothing any more, since this replica ends: what it raised is anyone's to keep or to clear from now on.

        One that is killed says nothing, and could as well be cut off: its conditions stand until their time is over.
        """
        if self._replica is None:
            return
        now = self._now()

        def hand_over(there: Condition) -> Condition:
            is_ours = there.reported_by == self._replica and there.cleared_at is None
            return there.changed(reported_until=now) if is_ours else there

        for row in [row for row in self._rows.values() if row.reported_by == self._replica]:
            self._write(row, hand_over, None)
        await self._flush()

    async def find(self, *, standing: bool, after: ConditionId | None, limit: int) -> Page[Condition]:
        return await self._store.find_conditions(standing=standing, after=after, limit=limit)

    # --- what stands

    def _of(self, kind: ConditionKind) -> Sequence[Condition]:
        return [row for row in self._rows.values() if row.kind is kind]

    def _shown(self, kind: ConditionKind) -> Condition | None:
        rows = self._of(kind) or [each for each in (self._held.get(kind),) if each is not None]
        uncovered = [row for row in rows if row.freezes and not _is_covered(row.details, rows)]
        confirmed = [row for row in rows if not row.freezes]
        return next(iter(uncovered + confirmed), None)

    def _freezes(self, kind: ConditionKind) -> bool:
        shown, suspicion = self._shown(kind), self._suspected.get(kind)
        if shown is not None and shown.freezes:
            return True
        confirmed = self._of(kind) or ([shown] if shown is not None else [])
        return suspicion is not None and not _is_covered(suspicion.details, confirmed)

    def _freeze(self) -> None:
        if not (self._rows or self._held or self._suspected):
            self._fleet.freeze(frozenset())
            return
        self._fleet.freeze(frozenset(kind for kind in ConditionKind if self._freezes(kind)))

    def _answers_for(self, row: Condition, now: datetime) -> bool:
        """Whether the condition is this replica's to keep or clear."""
        until = row.reported_until
        return row.reported_by == self._replica or until is None or until <= now

    # --- what becomes of it

    def _raise(
        self, kind: ConditionKind, suspicion: Suspicion, held: Condition | None, now: datetime
    ) -> None:
        raised = Condition(
            id=new_condition_id(),
            kind=kind,
            message=suspicion.message,
            details=suspicion.details,
            since=now,
            reported_by=self._replica,
            reported_until=self._lease(now),
        )
        if held is not None and covers(held, suspicion.details):
            # It never ended here, and what was said of it is still so.
            raised = raised.changed(
                confirmed_at=held.confirmed_at,
                confirmed_by=held.confirmed_by,
                confirmed_extent=held.confirmed_extent,
            )
        self._rows[raised.id] = raised
        log.error("condition raised", kind=kind, message=raised.message)
        self._write(raised, None, "condition.raised")

    def _keep(self, row: Condition, suspicion: Suspicion, now: datetime) -> None:
        """Say what is seen now. What grew far beyond what was confirmed stands unconfirmed again."""

        def keep(there: Condition) -> Condition:
            if there.cleared_at is not None:
                return there
            if there.confirmed_at is not None and not covers(there, suspicion.details):
                there = there.changed(confirmed_at=None, confirmed_by=None, confirmed_extent=None)
            kept = there.changed(message=suspicion.message, details=suspicion.details)
            return kept if there.reported_by == self._replica else self._renewed(kept, now)

        kept = keep(row)
        if kept == row:
            return
        self._rows[row.id] = kept
        grew = kept.freezes and not row.freezes
        if grew:
            log.error("condition grew beyond what was confirmed", kind=row.kind, message=kept.message)
        self._write(kept, keep, "condition.grew" if grew else None)

    def _renew(self, now: datetime) -> None:
        """Go on answering for what was raised here and is suspected still."""
        for row in list(self._rows.values()):
            is_ours = self._replica is not None and row.reported_by == self._replica
            if is_ours and row.kind in self._suspected and _left(row, now) < LEASE / 2:
                self._rows[row.id] = self._renewed(row, now)
                self._write(row, lambda there: self._renewed(there, now), None)

    def _renewed(self, there: Condition, now: datetime) -> Condition:
        if there.cleared_at is not None:
            return there
        return there.changed(reported_by=self._replica, reported_until=self._lease(now))

    def _lease(self, now: datetime) -> datetime | None:
        return now + LEASE if self._replica is not None else None

    def _clear(self, row: Condition, now: datetime) -> None:
        def clear(there: Condition) -> Condition:
            if there.cleared_at is not None or not self._answers_for(there, now):
                return there
            return there.changed(cleared_at=now)

        del self._rows[row.id]
        log.info("condition cleared", kind=row.kind)
        self._write(row, clear, "condition.cleared")

    def _write(
        self, condition: Condition, change: Callable[[Condition], Condition] | None, kind: str | None
    ) -> None:
        if kind is None:
            # While the database is away the same is said again and again.
            self._unwritten = [
                each
                for each in self._unwritten
                if each.condition.id != condition.id or each.event is not None or each.change is None
            ]
        event = self._event(condition, kind, "service") if kind is not None else None
        self._unwritten.append(_Unwritten(condition=condition, change=change, event=event))

    async def _flush(self) -> None:
        if not self._unwritten:
            return
        async with self._writing:
            while self._unwritten:
                each = self._unwritten[0]
                try:
                    if each.change is None:
                        await self._store.put_condition(each.condition, each.event)
                        there: Condition | None = None
                    else:
                        there = await self._store.change_condition(each.condition.id, each.change, each.event)
                except UpstreamError as error:
                    log.warning("condition not written yet", kind=each.condition.kind, error=error.message)
                    return
                self._unwritten = [other for other in self._unwritten if other is not each]
                if there is not None:
                    self._take_up(there)

    def _take_up(self, there: Condition) -> None:
        """Take in what became of a row, unless more is still to be done to it."""
        if any(each.condition.id == there.id for each in self._unwritten):
            return
        if there.cleared_at is None:
            self._rows[there.id] = there
        elif (row := self._rows.pop(there.id, None)) is not None and row.kind in self._suspected:
            self._held[row.kind] = row
        self._freeze()

    def _event(self, condition: Condition, kind: str, actor: str) -> Event:
        return Event(
            id=new_event_id(),
            user_id=OF_NOBODY,
            kind=kind,
            actor=actor,
            at=self._now(),
            generation=0,
            data={"condition": condition.id, "kind": condition.kind, "message": condition.message},
        )


def _is_covered(details: Mapping[str, Any], rows: Sequence[Condition]) -> bool:
    return any(covers(row, details) for row in rows)


def _left(row: Condition, now: datetime) -> timedelta:
    return row.reported_until - now if row.reported_until is not None else timedelta(0)
