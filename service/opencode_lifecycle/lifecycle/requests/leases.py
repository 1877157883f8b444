"""Work leases, asked for by backends that are at work with a runtime."""

from datetime import datetime, timedelta

from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.ports.stores import LeaseStore


class Leases:
    """
    Every renewal is written: whether a stop was committed meanwhile, by whichever replica, only the row can say.

    What is in memory would answer sooner, and now and then for a runtime that is about to be stopped.
    """

    def __init__(self, *, stacks: LeaseStore, fleet: Fleet, now: Clock) -> None:
        self._stacks = stacks
        self._fleet = fleet
        self._now = now

    async def extend(self, user_id: UserId, ttl: timedelta) -> datetime:
        """
        Say that somebody is at work with the stack's runtime for *ttl* from now, and return until when it holds now.

        Raises `StackNotFound`, or `StackDraining` once a stop is committed.
        """
        stack = await self._stacks.extend_lease(user_id, self._now() + ttl)
        self._fleet.put(stack)
        assert stack.busy_until is not None, "the store has just written it"
        return stack.busy_until
