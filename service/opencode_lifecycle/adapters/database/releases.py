"""Releases as rows. They are written once; only which one is the fleet's target changes."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from sqlalchemy import bindparam, func, insert, select, update

from opencode_lifecycle.adapters.database.base import Store
from opencode_lifecycle.adapters.database.events import append_events
from opencode_lifecycle.adapters.database.rollout_claims import check_claim
from opencode_lifecycle.adapters.database.tables import releases, rollouts, user_stacks
from opencode_lifecycle.adapters.database.transaction import Transaction
from opencode_lifecycle.model.errors import ReleaseNotFound, RolloutActive
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.release import Release, ReleaseInUse, ResourceClass
from opencode_lifecycle.model.states import Desired
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.rollouts import ClaimedRollout

_GET: Final = select(releases).where(releases.c.id == bindparam("which"))
_CURRENT: Final = select(releases).where(releases.c.is_current)
_OF_SETTINGS: Final = select(releases.c.id).where(releases.c.is_of_settings)
_LAST_NUMBER: Final = select(func.coalesce(func.max(releases.c.number), 0).label("number"))
_INSERT: Final = insert(releases)
_NONE_IS_CURRENT: Final = update(releases).where(releases.c.is_current).values(is_current=False)
_IS_CURRENT: Final = update(releases).where(releases.c.id == bindparam("which")).values(is_current=True)
_NONE_IS_OF_SETTINGS: Final = update(releases).where(releases.c.is_of_settings).values(is_of_settings=False)
_IS_OF_SETTINGS: Final = (
    update(releases).where(releases.c.id == bindparam("which")).values(is_of_settings=True)
)
_ACTIVE_ROLLOUTS: Final = select(rollouts.c.id).where(rollouts.c.is_active)
_WANTED: Final = (
    select(user_stacks.c.wanted_release, func.count().label("stacks"))
    .where(user_stacks.c.desired != Desired.DELETED.value)
    .group_by(user_stacks.c.wanted_release)
)


class ReleaseRows(Store):
    async def get_release(self, release_id: ReleaseId) -> Release | None:
        rows = await self._read("get release", _GET, {"which": release_id})
        return _release_of(rows[0]) if rows else None

    async def add_release(self, release: Release, event: Event | None = None) -> Release:
        def add(transaction: Transaction) -> Release:
            existing = transaction.read(_GET, {"which": release.id})
            if existing:
                return _release_of(existing[0])
            numbered = replace(release, number=transaction.read(_LAST_NUMBER)[0]["number"] + 1)
            transaction.write(_INSERT, {**_values_of(numbered), "is_current": False, "is_of_settings": False})
            append_events(transaction, [event] if event is not None else [])
            return numbered

        return await self._write("add release", add)

    async def find_releases(self, *, before: int | None, limit: int) -> Page[ReleaseInUse]:
        statement = select(releases).order_by(releases.c.number.desc()).limit(limit + 1)
        if before is not None:
            statement = statement.where(releases.c.number < before)
        rows = await self._read("find releases", statement)
        wanted = {row["wanted_release"]: row["stacks"] for row in await self._read("count stacks", _WANTED)}
        found = [
            ReleaseInUse(
                release=_release_of(row), is_current=row["is_current"], stacks=wanted.get(row["id"], 0)
            )
            for row in rows[:limit]
        ]
        return Page(items=found, next_cursor=str(found[-1].release.number) if len(rows) > limit else None)

    async def current_release(self) -> Release | None:
        rows = await self._read("read the current release", _CURRENT)
        return _release_of(rows[0]) if rows else None

    async def use_release(
        self,
        release_id: ReleaseId,
        *,
        event: Event | None = None,
        under: ClaimedRollout | None = None,
        of_settings: bool = False,
    ) -> None:
        def use(transaction: Transaction) -> None:
            found = transaction.read(_GET, {"which": release_id})
            if not found:
                raise ReleaseNotFound(release=release_id)
            if under is not None:
                check_claim(transaction, under)
            elif active := transaction.read(_ACTIVE_ROLLOUTS):
                raise RolloutActive(rollout=active[0]["id"])
            if of_settings:
                transaction.write(_NONE_IS_OF_SETTINGS)
                transaction.write(_IS_OF_SETTINGS, {"which": release_id})
            if found[0]["is_current"]:
                return
            transaction.write(_NONE_IS_CURRENT)
            transaction.write(_IS_CURRENT, {"which": release_id})
            append_events(transaction, [event] if event is not None else [])
            transaction.announces = True

        await self._write("use release", use)

    async def settings_release(self) -> ReleaseId | None:
        rows = await self._read("read the release of the settings", _OF_SETTINGS)
        return ReleaseId(rows[0]["id"]) if rows else None


def _release_of(row: Mapping[str, Any]) -> Release:
    return Release(
        id=row["id"],
        number=row["number"],
        image=row["image"],
        opencode_version=row["opencode_version"],
        template=row["template"],
        instructions=row["instructions"],
        managed_config=row["managed_config"],
        agent_prompts=row["agent_prompts"],
        environment=row["environment"],
        resource_classes={name: ResourceClass(**limits) for name, limits in row["resource_classes"].items()},
        note=row["note"],
        created_by=row["created_by"],
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
        "agent_prompts": dict(release.agent_prompts),
        "environment": dict(release.environment),
        "resource_classes": {name: asdict(limits) for name, limits in release.resource_classes.items()},
        "note": release.note,
        "created_by": release.created_by,
        "created_at": release.created_at,
    }
