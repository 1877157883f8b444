"""Groups as rows: those of which something was ever said."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.events import append_events
from opencode_lifecycle.adapters.database.tables import groups, releases
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.errors import ReleaseNotFound
from opencode_lifecycle.model.group import Group
from opencode_lifecycle.model.operation import Event

_ALL: Final = select(groups).order_by(groups.c.name)
_GET: Final = select(groups).where(groups.c.name == bindparam("which"))
_INSERT: Final = insert(groups)
_DELETE: Final = delete(groups).where(groups.c.name == bindparam("which"))
_RELEASE: Final = select(releases.c.id).where(releases.c.id == bindparam("which"))


class GroupRows(Store):
    async def find_groups(self) -> Sequence[Group]:
        return [_group_of(row) for row in await self._read("read groups", _ALL)]

    async def get_group(self, name: str) -> Group | None:
        rows = await self._read("get group", _GET, {"which": name})
        return _group_of(rows[0]) if rows else None

    async def put_group(
        self, group: Group, event: Event | None = None, *, before: Group | None = None
    ) -> bool:
        def put(transaction: Transaction) -> bool:
            rows = transaction.read(_GET, {"which": group.name})
            there = _group_of(rows[0]) if rows else Group(name=group.name)
            if before is not None and there != before:
                return False
            if group.pin is not None and not transaction.read(_RELEASE, {"which": group.pin}):
                raise ReleaseNotFound(release=group.pin)
            transaction.write(_DELETE, {"which": group.name})
            transaction.write(_INSERT, _values_of(group))
            append_events(transaction, [event] if event is not None else [])
            transaction.announces = True
            return True

        return await self._write("put group", put)


def _group_of(row: Mapping[str, Any]) -> Group:
    seconds = row["idle_stop_after"]
    return Group(
        name=row["name"],
        pin=row["pin"],
        idle_stop_after=timedelta(seconds=seconds) if seconds is not None else None,
        changed_at=row["changed_at"],
        changed_by=row["changed_by"],
    )


def _values_of(group: Group) -> dict[str, Any]:
    idle_stop_after = group.idle_stop_after
    return {
        "name": group.name,
        "pin": group.pin,
        "idle_stop_after": int(idle_stop_after.total_seconds()) if idle_stop_after is not None else None,
        "changed_at": group.changed_at,
        "changed_by": group.changed_by,
    }
