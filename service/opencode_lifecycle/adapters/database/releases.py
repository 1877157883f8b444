"""Releases as rows. They are written once."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from sqlalchemy import bindparam, func, insert, select, update

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.tables import releases
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.errors import ReleaseNotFound
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.release import Release, ResourceClass

_GET: Final = select(releases).where(releases.c.id == bindparam("which"))
_CURRENT: Final = select(releases).where(releases.c.is_current)
_LAST_NUMBER: Final = select(func.coalesce(func.max(releases.c.number), 0).label("number"))
_INSERT: Final = insert(releases)
_NONE_IS_CURRENT: Final = update(releases).where(releases.c.is_current).values(is_current=False)
_IS_CURRENT: Final = update(releases).where(releases.c.id == bindparam("which")).values(is_current=True)


class ReleaseRows(Store):
    async def get_release(self, release_id: ReleaseId) -> Release | None:
        rows = await self._read("get release", _GET, {"which": release_id})
        return _release_of(rows[0]) if rows else None

    async def add_release(self, release: Release) -> Release:
        def add(transaction: Transaction) -> Release:
            existing = transaction.read(_GET, {"which": release.id})
            if existing:
                return _release_of(existing[0])
            numbered = replace(release, number=transaction.read(_LAST_NUMBER)[0]["number"] + 1)
            transaction.write(_INSERT, {**_values_of(numbered), "is_current": False})
            return numbered

        return await self._write("add release", add)

    async def current_release(self) -> Release | None:
        rows = await self._read("read the current release", _CURRENT)
        return _release_of(rows[0]) if rows else None

    async def use_release(self, release_id: ReleaseId) -> None:
        """Let new stacks want it from now on, or raise `ReleaseNotFound`."""

        def use(transaction: Transaction) -> None:
            if not transaction.read(_GET, {"which": release_id}):
                raise ReleaseNotFound
            transaction.write(_NONE_IS_CURRENT)
            transaction.write(_IS_CURRENT, {"which": release_id})
            transaction.announces = True

        await self._write("use release", use)


def _release_of(row: Mapping[str, Any]) -> Release:
    return Release(
        id=row["id"],
        number=row["number"],
        image=row["image"],
        opencode_version=row["opencode_version"],
        template=row["template"],
        instructions=row["instructions"],
        managed_config=row["managed_config"],
        environment=row["environment"],
        resource_classes={name: ResourceClass(**limits) for name, limits in row["resource_classes"].items()},
        created_at=row["created_at"],
    )


def _values_of(release: Release) -> dict[str, Any]:
    return {
        "id": release.id,
        "number": release.number,
        "image": release.image,
        "opencode_version": release.opencode_version,
        "template": release.template,
        "instructions": release.instructions,
        "managed_config": release.managed_config,
        "environment": dict(release.environment),
        "resource_classes": {name: asdict(limits) for name, limits in release.resource_classes.items()},
        "created_at": release.created_at,
    }
