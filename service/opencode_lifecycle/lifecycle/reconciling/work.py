"""Puts together what a plan may look at: the row, what is seen of the stack, and what should be."""

from dataclasses import dataclass

from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.reconciling.steps import Work
from opencode_lifecycle.lifecycle.reconciling.wanted import Site, wanted_facets
from opencode_lifecycle.model.job_template import TemplateNeeds
from opencode_lifecycle.model.observation import Observation
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.stack import Address, Stack
from opencode_lifecycle.model.states import WhenStale

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Where the papers of one stack are laid out before a plan is made, by whoever needs one."""

    fleet: Fleet
    site: Site
    when_stale: WhenStale

    def work_on(self, stack: Stack, known: Known, release: Release, needs: TemplateNeeds) -> Work:
        """Return what is known of *stack* now, with what it should be on *release*."""
        seen = self.fleet.observation(stack.job_id)
        resources = release.resource_classes.get(stack.intent.resources)
        return Work(
            stack=stack,
            observation=seen,
            proof=known.proof,
            liveness=known.liveness,
            silent_probes=known.silent_probes,
            wanted=wanted_facets(stack, release, self.site, secret_version=stack.status.secret_version or 0),
            needs=needs,
            installation=self.site.installation,
            activity=known.activity,
            activity_at=known.activity_at,
            busy_at=known.busy_at,
            secret=known.secret,
            memory=known.memory,
            memory_max=resources.memory_max * _MIB if resources is not None else 0,
            doubt=known.doubt_of(_address_of(stack, seen)),
            when_stale=self.when_stale,
            frozen=self.fleet.frozen,
        )


def _address_of(stack: Stack, seen: Observation | None) -> Address | None:
    """Return the proven address, or the one that is to be proven next."""
    if stack.status.runtime is not None:
        return stack.status.runtime.address
    return seen.newest.address if seen is not None and seen.newest is not None else None
