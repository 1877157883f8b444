"""Groups in memory, and what operators say of one."""

from dataclasses import replace
from datetime import timedelta

from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.group import Group, GroupWish
from opencode_lifecycle.model.identifiers import ReleaseId, UserId, new_event_id
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.ports.stores import GroupStore


class Groups:
    """
    What is otherwise for some groups, always at hand.

    `refresh()` is called after every change of ours, and periodically where others can write too.
    """

    def __init__(self, *, store: GroupStore, releases: Releases, now: Clock) -> None:
        self._store = store
        self._releases = releases
        self._now = now
        self._known: dict[str, Group] = {}
        self.pins: dict[str, ReleaseId] = {}
        """By group, what its stacks want that begin or start. Every one of these releases is in memory."""

    async def refresh(self) -> None:
        groups = {group.name: group for group in await self._store.find_groups()}
        pins = {name: group.pin for name, group in groups.items() if group.pin is not None}
        for release_id in set(pins.values()):
            await self._releases.get(release_id)
        self._known, self.pins = groups, pins

    def idle_stop_after(self, name: str) -> timedelta | None:
        """Return how long a stack of that group may be idle before it is stopped; None: for ever."""
        group = self._known.get(name)
        return group.idle_stop_after if group is not None else None

    async def show(self, name: str) -> Group:
        """Return the group as it is, or as every group is of which nothing was ever said."""
        return await self._store.get_group(name) or Group(name=name)

    async def put(self, name: str, wish: GroupWish, *, by: Principal) -> Group:
        """
        Set what *wish* names; the rest stays. Repeating it changes nothing.

        A pin counts for stacks that begin or start from now on. Raises `ReleaseNotFound`.
        """
        while True:
            before = await self.show(name)
            after = wish.applied_to(before)
            if after == before:
                return before
            after = replace(after, changed_at=self._now(), changed_by=by.name)
            if await self._store.put_group(after, self._event(before, after, by), before=before):
                break
            # Somebody has set the rest of it meanwhile, which stays.
        await self.refresh()
        return after

    def _event(self, before: Group, after: Group, by: Principal) -> Event:
        changes = {
            name: {"from": _said(getattr(before, name)), "to": _said(getattr(after, name))}
            for name in ("pin", "idle_stop_after")
            if getattr(before, name) != getattr(after, name)
        }
        return Event(
            id=new_event_id(),
            user_id=UserId(""),
            kind="group.changed",
            actor=by.name,
            at=self._now(),
            generation=0,
            data={"group": after.name, **changes},
        )


def _said(value: ReleaseId | timedelta | None) -> str | None:
    return f"{int(value.total_seconds())}s" if isinstance(value, timedelta) else value
