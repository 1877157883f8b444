"""What a stack is brought to: what is asked for, or what ran before where that was tried and taken back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from opencode_lifecycle.lifecycle.reconciling.differences import in_detail
from opencode_lifecycle.lifecycle.reconciling.wanted import Site, wanted_facets
from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.job_template import TemplateNeeds
from opencode_lifecycle.model.migration import Footing
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.staleness import Staleness


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """
    What the job of *stack* is built of, with the intent that counts now, on *release*.

    *wanted* is what is striven for, *asked* what the intent says: they differ only for a stack on its footing.
    """

    stack: Stack
    release: Release
    needs: TemplateNeeds
    wanted: Facets
    asked: Facets

    @property
    def building(self) -> Footing:
        """Return what a job that is registered now is built of."""
        intent = self.stack.intent
        return Footing(
            release=self.release.id,
            resources=intent.resources,
            environment=intent.environment,
            facets=self.wanted,
        )


class Aims:
    """Waits for nothing once the releases of a stack are in memory."""

    def __init__(self, *, releases: Releases, site: Site) -> None:
        self._releases = releases
        self._site = site

    async def load(self, stack: Stack) -> None:
        """Have every release in memory that the stack may be brought to."""
        await self._releases.get(stack.intent.wanted_release)
        for footing in (stack.status.built, stack.status.footing):
            if footing is not None:
                await self._releases.get(footing.release)

    def in_detail(self, reasons: Sequence[Staleness], stack: Stack) -> tuple[Staleness, ...]:
        """Return *reasons* for which *stack* is stale with what differs, as far as that is known."""
        return in_detail(reasons, stack, self._releases, self._site)

    def of(self, stack: Stack) -> Aim | None:
        """Return what the stack is brought to, or None while its releases are not in memory."""
        found = self._releases.peek(stack.intent.wanted_release)
        if found is None:
            return None
        release, needs = found
        asked = wanted_facets(stack, release, self._site, secret_version=stack.status.secret_version or 0)
        aim = Aim(stack=stack, release=release, needs=needs, wanted=asked, asked=asked)
        # The digest is worked out only where something was refused: a whole fleet is judged again and again.
        if stack.status.refused is None or not stack.is_on_footing(asked.aim):
            return aim
        return self._on_footing(stack, aim)

    def _on_footing(self, stack: Stack, aim: Aim) -> Aim | None:
        footing = stack.status.footing
        assert footing is not None, "who is on a footing has one"
        found = self._releases.peek(footing.release)
        if found is None:
            return None
        release, needs = found
        intent = replace(
            stack.intent,
            wanted_release=footing.release,
            resources=footing.resources,
            environment=footing.environment,
        )
        before = replace(stack, intent=intent)
        wanted = wanted_facets(before, release, self._site, secret_version=aim.asked.secret_version)
        return Aim(stack=before, release=release, needs=needs, wanted=wanted, asked=aim.asked)
