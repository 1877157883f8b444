"""Standing conditions: raised, kept, confirmed and cleared, and what they freeze."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from opencode_lifecycle.lifecycle.brake import Suspicion
from opencode_lifecycle.lifecycle.fleet import Fleet
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


class Conditions:
    """
    What is wrong with the whole, in memory and in the database.

    Memory comes first: a brake must hold while the database is away. What could not be written is written with the next
    report. *on_confirmation* is called when an operator has confirmed one: what was refused may be true now.
    """

    def __init__(
        self,
        *,
        store: ConditionStore,
        fleet: Fleet,
        on_confirmation: Callable[[Condition], None],
        now: Clock,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._now = now
        self._standing: dict[ConditionKind, Condition] = {}
        self._unwritten: list[tuple[Condition, Event]] = []
        self._writing = asyncio.Lock()
        self._on_confirmation = on_confirmation

    def standing(self) -> tuple[Condition, ...]:
        return tuple(self._standing.values())

    def confirmed(self, kind: ConditionKind) -> bool:
        """Whether *kind* stands, and an operator said that what is seen is true."""
        condition = self._standing.get(kind)
        return condition is not None and condition.confirmed_at is not None

    async def load(self) -> None:
        """Take up what stands according to the database: what an earlier life, or another replica, raised or confirmed."""
        page = await self._store.find_conditions(standing=True)
        unwritten = {condition.kind: condition for condition, _ in self._unwritten}
        written: dict[ConditionKind, Condition] = {}
        for condition in page.items:
            # Two replicas may have raised the same at the same moment; who confirmed one of them has confirmed it.
            if condition.confirmed_at is not None or condition.kind not in written:
                written[condition.kind] = condition
        for kind in unwritten:
            written.pop(kind, None)
        still = {kind: each for kind, each in self._standing.items() if kind in unwritten}
        self._standing = {**written, **still}
        self._freeze()

    async def report(self, kind: ConditionKind, suspicion: Suspicion | None) -> None:
        """Raise, keep or clear the condition of *kind*, as *suspicion* says."""
        condition = self._standing.get(kind)
        if suspicion is None and condition is not None:
            del self._standing[kind]
            cleared = replace(condition, cleared_at=self._now())
            log.info("condition cleared", kind=kind)
            self._write(cleared, "condition.cleared", "service")
        elif suspicion is not None and condition is None:
            raised = Condition(
                id=new_condition_id(),
                kind=kind,
                message=suspicion.message,
                details=suspicion.details,
                since=self._now(),
            )
            self._standing[kind] = raised
            log.error("condition raised", kind=kind, message=raised.message)
            self._write(raised, "condition.raised", "service")
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
            if there.cleared_at is not None or there.confirmed_at is not None:
                return there
            return replace(there, confirmed_at=now, confirmed_by=by.name)

        event = self._event(condition, "condition.confirmed", by.name)
        confirmed = await self._store.change_condition(condition_id, confirm, event)
        if confirmed is None:
            raise ConditionNotFound
        if confirmed.cleared_at is not None or (confirmed.confirmed_at, confirmed.confirmed_by) != (
            now,
            by.name,
        ):
            return confirmed
        known = self._standing.get(confirmed.kind)
        if known is not None and known.id == condition_id:
            # Else it was cleared before this was answered.
            self._standing[confirmed.kind] = confirmed
            self._freeze()
        log.warning("condition confirmed", kind=confirmed.kind, by=by.name)
        self._on_confirmation(confirmed)
        return confirmed

    async def find(self, *, standing: bool, after: ConditionId | None, limit: int) -> Page[Condition]:
        return await self._store.find_conditions(standing=standing, after=after, limit=limit)

    def _freeze(self) -> None:
        self._fleet.freeze(frozenset(kind for kind, each in self._standing.items() if each.freezes))

    def _write(self, condition: Condition, kind: str, actor: str) -> None:
        self._unwritten.append((condition, self._event(condition, kind, actor)))

    async def _flush(self) -> None:
        async with self._writing:
            while self._unwritten:
                condition, event = self._unwritten[0]
                try:
                    if condition.cleared_at is None:
                        await self._store.put_condition(condition, event)
                    else:
                        await self._store.change_condition(
                            condition.id, _cleared_at(condition.cleared_at), event
                        )
                except UpstreamError as error:
                    log.warning("condition not written yet", kind=condition.kind, error=error.message)
                    return
                del self._unwritten[0]

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


def _cleared_at(at: datetime) -> Callable[[Condition], Condition]:
    """Clear it, whatever was done to it meanwhile."""
    return lambda there: there if there.cleared_at is not None else replace(there, cleared_at=at)
