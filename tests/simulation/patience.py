"""People come first (I14): who asks for a stack while a rollout is under way is answered, and served, as at any other time."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Desired, Phase
from simulation.cluster import Cluster

if TYPE_CHECKING:
    from simulation.replicas import Replica

ANSWERED = 5.0
"""Seconds in which an ensure is answered, where nothing goes wrong."""
BEGUN = 8.0
"""Seconds after its answer in which something is done for it: the end of what ran is waited for first."""

_A_MOMENT = 2.0
_BEGUN = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING})


class Patience:
    """Follows ensures. Judged is only what nothing but a rollout can have held up: all was well in the whole time."""

    def __init__(self, cluster: Cluster, violate: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._violate = violate
        self.judged = 0
        """How many ensures something had to be done for, while a rollout was under way and nothing went wrong."""

    async def follow(self, user: UserId, replica: "Replica", answer: "asyncio.Task[None]") -> None:
        """Hold one ensure, which was just sent, against the time that it takes."""
        if not self._is_rolling():
            return
        await asyncio.wait([answer], timeout=ANSWERED)
        if not answer.done():
            if self._is_rolling() and self._cluster.is_calm(ANSWERED):
                self._violate(f"I14: an ensure of {user} is not answered while a rollout is under way")
            return
        if answer.cancelled() or answer.exception() is not None:
            return
        row = self._cluster.store.rows.get(user)
        if row is None or row.stack.standing_order is not None or self._is_begun(row.stack):
            return
        accepted = row.stack
        await asyncio.sleep(BEGUN)
        row = self._cluster.store.rows.get(user)
        if row is not None and self._could_be_begun(row.stack, accepted, replica):
            self.judged += 1
            if not self._is_begun(row.stack):
                self._violate(f"I14: {user} asks, and is {row.stack.status.phase} behind a rollout")

    def _is_rolling(self) -> bool:
        active = self._cluster.store.the_active()
        return active is not None

    def _is_begun(self, stack: Stack) -> bool:
        status = stack.status
        return status.phase in _BEGUN or (status.phase is not Phase.PENDING and stack.is_settled)

    def _could_be_begun(self, now: Stack, accepted: Stack, replica: "Replica") -> bool:
        """Whether it is what was asked for still, and nothing but a rollout was in the way."""
        cluster, workspace = self._cluster, accepted.status.workspace
        is_same = (now.created_at, now.intent.generation) == (accepted.created_at, accepted.intent.generation)
        is_placed = workspace is None or not cluster.nodes.was("closed", workspace.node_id)
        plane = replica.plane
        is_free = plane is not None and not plane.conditions.standing()
        return (
            is_same
            and is_placed
            and is_free
            and now.intent.desired is Desired.RUNNING
            and self._is_rolling()
            and cluster.is_calm(BEGUN + _A_MOMENT)
        )
