"""Releases and groups in memory, enough to hold the HTTP layer to its contract."""

from dataclasses import dataclass, field, replace

from api.in_memory import NOW, RELEASE
from opencode_lifecycle.lifecycle.requests.releasing import wish_over
from opencode_lifecycle.model.errors import ReleaseNotFound
from opencode_lifecycle.model.group import Group, GroupWish
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.release import MadeRelease, Release, ReleaseInUse, ReleaseWish, ResourceClass
from opencode_lifecycle.model.view import Page


def a_release(**changes: object) -> Release:
    values = {
        "id": RELEASE,
        "number": 1,
        "image": "registry.example/opencode:1.18.34",
        "opencode_version": "1.18.34",
        "template": 'job "x" {}',
        "instructions": "Be kind.",
        "managed_config": "{}",
        "environment": {},
        "resource_classes": {"small": ResourceClass(cpu=200, memory=512, memory_max=2048)},
        "created_by": "settings",
        "created_at": NOW,
    }
    return Release(**{**values, **changes})


@dataclass
class MemoryReleasing:
    """Takes whatever it is given for good, unless `fails_with` says otherwise. `wishes` are what reached it."""

    there: dict[ReleaseId, Release] = field(default_factory=lambda: {RELEASE: a_release()})
    current: ReleaseId = RELEASE
    wishes: list[ReleaseWish] = field(default_factory=list)
    fails_with: Exception | None = None

    async def create(self, wish: ReleaseWish, *, by: Principal) -> MadeRelease:
        if self.fails_with is not None:
            raise self.fails_with
        self.wishes.append(wish)
        base = self._found(wish.base or self.current)
        content = wish_over(wish, base)
        checks = {"template": "accepted by Nomad", "config": "accepted by OpenCode 1.18.34"}
        if is_new := content.id not in self.there:
            made = content.release(now=NOW, created_by=by.name, note=wish.note)
            self.there[made.id] = replace(made, number=len(self.there) + 1)
        return MadeRelease(
            entry=self._entry(self.there[content.id]), is_new=is_new, checks=checks if is_new else {}
        )

    async def find(self, before: int | None, limit: int) -> Page[ReleaseInUse]:
        newest = sorted(self.there.values(), key=lambda each: -each.number)
        found = [self._entry(each) for each in newest if before is None or each.number < before]
        more = str(found[limit - 1].release.number) if len(found) > limit else None
        return Page(items=found[:limit], next_cursor=more)

    async def show(self, release_id: ReleaseId) -> ReleaseInUse:
        return self._entry(self._found(release_id))

    async def use(self, release_id: ReleaseId, *, by: Principal) -> ReleaseInUse:
        if self.fails_with is not None:
            raise self.fails_with
        self.current = self._found(release_id).id
        return await self.show(release_id)

    def _found(self, release_id: ReleaseId) -> Release:
        if release_id not in self.there:
            raise ReleaseNotFound
        return self.there[release_id]

    def _entry(self, release: Release) -> ReleaseInUse:
        return ReleaseInUse(release=release, is_current=release.id == self.current, stacks=2)


@dataclass
class MemoryGroups:
    there: dict[str, Group] = field(default_factory=dict)
    fails_with: Exception | None = None

    async def show(self, name: str) -> Group:
        return self.there.get(name) or Group(name=name)

    async def put(self, name: str, wish: GroupWish, *, by: Principal) -> Group:
        if self.fails_with is not None:
            raise self.fails_with
        group = wish.applied_to(await self.show(name))
        self.there[name] = replace(group, changed_at=NOW, changed_by=by.name)
        return self.there[name]
