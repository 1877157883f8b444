"""What operators do with releases: make one, look at them, and say which one the fleet is to be on."""

from collections.abc import Mapping

from opencode_lifecycle.lifecycle.neighbours import Neighbours
from opencode_lifecycle.lifecycle.parameters import Parameters
from opencode_lifecycle.lifecycle.releases import ReleaseContent, Releases
from opencode_lifecycle.lifecycle.requests.release_checks import ReleaseChecks, ReleaseRules
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.identifiers import ReleaseId, UserId, new_event_id
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.release import MadeRelease, Release, ReleaseInUse, ReleaseWish
from opencode_lifecycle.model.view import Page
from opencode_lifecycle.ports.stores import ReleaseStore


class Releasing:
    """The use cases of releases."""

    def __init__(self, *, store: ReleaseStore, releases: Releases, checks: ReleaseChecks, now: Clock) -> None:
        self._store = store
        self._releases = releases
        self._checks = checks
        self._now = now

    async def create(self, wish: ReleaseWish, *, by: Principal) -> MadeRelease:
        """
        Make the release that *wish* describes over its base, after everything of it was checked.

        Content that exists is that release: nothing is checked or stored again. Raises `ReleaseNotFound` for the base,
        `InvalidBody` or `BundleTooLarge` for the content.
        """
        base = await self._base(wish)
        content = wish_over(wish, base)
        known = await self._store.get_release(content.id)
        if known is not None:
            return MadeRelease(entry=await self.show(known.id), is_new=False, checks={})
        release = content.release(now=self._now(), created_by=by.name, note=wish.note)
        checks = await self._checks.check(release, base)
        data = {"release": release.id, "base": base.id, "note": wish.note, "checks": dict(checks)}
        stored = await self._store.add_release(release, self._event("release.created", by, data))
        self._releases.remember(stored)
        return MadeRelease(entry=await self.show(stored.id), is_new=True, checks=checks)

    async def find(self, before: int | None, limit: int) -> Page[ReleaseInUse]:
        """Return releases, newest first."""
        return await self._store.find_releases(before=before, limit=limit)

    async def show(self, release_id: ReleaseId) -> ReleaseInUse:
        """Return one release whole, or raise `ReleaseNotFound`."""
        release = await self._releases.find(release_id)
        [entry] = (await self._store.find_releases(before=release.number + 1, limit=1)).items
        return entry

    async def use(self, release_id: ReleaseId, *, by: Principal) -> ReleaseInUse:
        """
        Make it what new stacks want, and those that start. What runs is left as it is: that is for a rollout.

        Raises `ReleaseNotFound`, or `RolloutActive` while one is under way.
        """
        release = await self._releases.find(release_id)
        before = self._releases.current
        data = {"release": release_id, "before": before.id if before is not None else None}
        await self._store.use_release(release_id, event=self._event("release.used", by, data))
        self._releases.current = release
        return await self.show(release_id)

    async def _base(self, wish: ReleaseWish) -> Release:
        if wish.base is not None:
            return await self._releases.find(wish.base)
        assert self._releases.current is not None, "the first release is made before requests are taken"
        return self._releases.current

    def _event(self, kind: str, by: Principal, data: Mapping[str, object]) -> Event:
        return Event(
            id=new_event_id(),
            user_id=UserId(""),
            kind=kind,
            actor=by.name,
            at=self._now(),
            generation=0,
            data=data,
        )


def wish_over(wish: ReleaseWish, base: Release) -> ReleaseContent:
    """Return the content of *base* with everything that *wish* names in its place."""
    return ReleaseContent(
        image=base.image if wish.image is None else wish.image,
        opencode_version=base.opencode_version if wish.opencode_version is None else wish.opencode_version,
        template=base.template if wish.template is None else wish.template,
        instructions=base.instructions if wish.instructions is None else wish.instructions,
        managed_config=base.managed_config if wish.managed_config is None else wish.managed_config,
        agent_prompts=base.agent_prompts if wish.agent_prompts is None else wish.agent_prompts,
        environment=base.environment if wish.environment is None else wish.environment,
        resource_classes=base.resource_classes if wish.resource_classes is None else wish.resource_classes,
    )


def releasing_among(neighbours: Neighbours, p: Parameters, releases: Releases) -> Releasing:
    """Return the use cases of releases with what they need around them."""
    checks = ReleaseChecks(
        rules=ReleaseRules(
            allowed_environment=p.allowed_environment,
            opencode_floor=p.opencode_floor,
            default_resources=p.default_resources,
        ),
        orchestrator=neighbours.orchestrator,
        config_check=neighbours.config_check,
        site=p.site,
        namespace=p.namespace,
        region=p.region,
        now=p.clock,
        upstream_timeout=p.upstream_timeout,
    )
    return Releasing(store=neighbours.store, releases=releases, checks=checks, now=p.clock)
