"""Releases, groups and snapshots in memory: what `FakeStore` keeps of them. It passes the contract suite of the real store."""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from fakes.store_rows import Row
from opencode_lifecycle.model.errors import ReleaseNotFound, RolloutActive
from opencode_lifecycle.model.group import Group
from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.release import Release, ReleaseInUse
from opencode_lifecycle.model.rollout import Rollout
from opencode_lifecycle.model.snapshot import Snapshot, SnapshotsSeen
from opencode_lifecycle.model.states import Desired
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.rollouts import ClaimedRollout


class FakeReleases:
    """The part of a store in memory that is about what stacks may be, and may go back to."""

    rows: dict[UserId, Row]
    events: list[Event]
    _call: Callable[[str], contextlib.AbstractAsyncContextManager[None]]
    _announce: Callable[[], None]
    check_rollout_claim: Callable[[ClaimedRollout], None]
    the_active: Callable[[], Rollout | None]

    def __init__(self) -> None:
        super().__init__()
        self._releases: dict[ReleaseId, Release] = {}
        self._current: ReleaseId | None = None
        self._of_settings: ReleaseId | None = None
        self.groups: dict[str, Group] = {}
        self.snapshots: dict[UserId, SnapshotsSeen] = {}

    async def get_release(self, release_id: ReleaseId) -> Release | None:
        async with self._call("get_release"):
            return self._releases.get(release_id)

    async def add_release(self, release: Release, event: Event | None = None) -> Release:
        async with self._call("add_release"):
            if release.id not in self._releases and event is not None:
                self.events.append(event)
            return self._releases.setdefault(
                release.id,
                replace(release, number=max((r.number for r in self._releases.values()), default=0) + 1),
            )

    async def find_releases(self, *, before: int | None, limit: int) -> Page[ReleaseInUse]:
        async with self._call("find_releases"):
            wanted = Counter(
                row.stack.intent.wanted_release
                for row in self.rows.values()
                if row.stack.intent.desired is not Desired.DELETED
            )
            found = sorted(
                (
                    ReleaseInUse(
                        release=each, is_current=each.id == self._current, stacks=wanted.get(each.id, 0)
                    )
                    for each in self._releases.values()
                    if before is None or each.number < before
                ),
                key=lambda each: -each.release.number,
            )
            more = str(found[limit - 1].release.number) if len(found) > limit else None
            return Page(items=found[:limit], next_cursor=more)

    async def current_release(self) -> Release | None:
        async with self._call("current_release"):
            return self._releases.get(self._current) if self._current is not None else None

    async def use_release(
        self,
        release_id: ReleaseId,
        *,
        event: Event | None = None,
        under: ClaimedRollout | None = None,
        of_settings: bool = False,
    ) -> None:
        async with self._call("use_release"):
            if release_id not in self._releases:
                raise ReleaseNotFound
            if under is not None:
                self.check_rollout_claim(under)
            elif (active := self.the_active()) is not None:
                raise RolloutActive(rollout=active.id)
            if of_settings:
                self._of_settings = release_id
            if self._current == release_id:
                return
            self._current = release_id
            if event is not None:
                self.events.append(event)
            self._announce()

    async def settings_release(self) -> ReleaseId | None:
        async with self._call("settings_release"):
            return self._of_settings

    async def find_groups(self) -> Sequence[Group]:
        async with self._call("find_groups"):
            return [group for _, group in sorted(self.groups.items())]

    async def get_group(self, name: str) -> Group | None:
        async with self._call("get_group"):
            return self.groups.get(name)

    async def put_group(
        self, group: Group, event: Event | None = None, *, before: Group | None = None
    ) -> bool:
        async with self._call("put_group"):
            if before not in {None, self.groups.get(group.name, Group(name=group.name))}:
                return False
            if group.pin is not None and group.pin not in self._releases:
                raise ReleaseNotFound
            self.groups[group.name] = group
            if event is not None:
                self.events.append(event)
            self._announce()
            return True

    async def put_snapshots(
        self,
        user_id: UserId,
        found: Sequence[Snapshot],
        *,
        observed_at: datetime,
        news: Callable[[Sequence[Snapshot]], Event | None],
    ) -> None:
        async with self._call("put_snapshots"):
            before = self.snapshots.get(user_id, SnapshotsSeen())
            is_newer = before.observed_at is None or before.observed_at <= observed_at
            if user_id in self.rows and is_newer:
                if (event := news(before.snapshots)) is not None:
                    self.events.append(event)
                ordered = tuple(sorted(found, key=lambda snapshot: snapshot.id))
                self.snapshots[user_id] = SnapshotsSeen(
                    snapshots=ordered, observed_at=observed_at if ordered else None
                )

    async def snapshots_of(self, user_id: UserId) -> SnapshotsSeen:
        async with self._call("snapshots_of"):
            return self.snapshots.get(user_id, SnapshotsSeen())
