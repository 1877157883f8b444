"""What is known of the whole: standing conditions, what has no row, and the cluster by its mark."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from opencode_lifecycle.model.condition import Condition
from opencode_lifecycle.model.identifiers import (
    ConditionId,
    OrphanId,
)
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.orphan import Orphan
from opencode_lifecycle.model.view import Page


class ConditionStore(Protocol):
    async def put_condition(self, condition: Condition, event: Event | None = None) -> None:
        """Insert or replace the condition of that id, with what is to be remembered of it."""
        ...

    async def change_condition(
        self,
        condition_id: ConditionId,
        change: Callable[[Condition], Condition],
        event: Event | None = None,
    ) -> Condition | None:
        """
        Put what *change* makes of the row of that id in its place, in one transaction, and return what is there then.

        Where *change* leaves it as it is nothing is written, nor is *event*. None when there is no such row.
        """
        ...

    async def get_condition(self, condition_id: ConditionId) -> Condition | None: ...

    async def find_conditions(
        self, *, standing: bool, after: ConditionId | None = None, limit: int = 500
    ) -> Page[Condition]:
        """Return conditions in the order of ids, oldest first: with *standing* only those that are not cleared."""
        ...

    async def prune_conditions(self, cleared_before: datetime) -> int:
        """Forget conditions that ended before that, and return how many there were. What stands is never forgotten."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedOrphan:
    """An orphan that only whoever has the token may see to, and whose name no worker touches, until the claim lapses."""

    orphan: Orphan
    token: str


class OrphanStore(Protocol):
    async def put_orphans(
        self, orphans: Sequence[Orphan], *, earlier: Mapping[OrphanId, Orphan], now: datetime
    ) -> Sequence[Orphan]:
        """
        Take in a full comparison, in one transaction: *orphans* is all it found, *earlier* all that was known before it.

        Only what differs is written, and only where the row is what it was before: what another replica has put, removed
        or claimed meanwhile stands. Returned is what there is now of *orphans*.
        """
        ...

    async def get_orphan(self, orphan_id: OrphanId) -> Orphan | None: ...

    async def find_orphans(self, *, after: OrphanId | None = None, limit: int | None = 500) -> Page[Orphan]:
        """Return one page in the order of ids; with a limit of None, all."""
        ...

    async def claim_orphan(self, orphan_id: OrphanId, *, now: datetime, lapses_at: datetime) -> ClaimedOrphan:
        """
        Take exclusive charge of everything that bears the orphan's name.

        A stack that is made meanwhile is under the same claim: nobody works on it before that is released or lapses.
        Raises `OrphanNotFound` when there is no such orphan, or a row explains it by now, which also forgets it;
        `ClaimLost` while another is at something of that name.
        """
        ...

    async def release_orphan(self, claimed: ClaimedOrphan, *, gone: bool) -> None:
        """
        End the claim, also on a stack that was made meanwhile, which is due at once. With *gone* the orphan is forgotten.

        A claim that is lost already is no error.
        """
        ...


class InstallationStore(Protocol):
    async def cluster_mark(self, installation: str) -> str | None:
        """Return the mark by which *installation* knows its cluster, or None before the first one."""
        ...

    async def put_cluster_mark(self, installation: str, mark: str) -> None: ...
