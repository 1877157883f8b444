"""How a stack is shown, and whether it may be called ready: from its row and what is seen of it, all in memory."""

from dataclasses import replace

from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.reconciling.differences import in_detail
from opencode_lifecycle.lifecycle.reconciling.wanted import Site, wanted_facets
from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.model.observation import JobSeen, Observation
from opencode_lifecycle.model.stack import Runtime, Stack
from opencode_lifecycle.model.staleness import Staleness, staleness_of
from opencode_lifecycle.model.states import Desired, Health, Phase, Reason
from opencode_lifecycle.model.view import StackView


class Views:
    """Waits for nothing and calls nobody."""

    def __init__(self, *, fleet: Fleet, releases: Releases, site: Site) -> None:
        self._fleet = fleet
        self._releases = releases
        self._site = site

    def is_ready(self, known: Known) -> bool:
        """
        Whether the stack runs as was asked, proven, and is seen to.

        A job that somebody else registered anew is not before it was compared: what it is stale in would not be said.
        """
        stack = known.stack
        runtime = stack.status.runtime
        seen = self._fleet.observation(stack.job_id)
        return (
            stack.intent.desired is Desired.RUNNING
            and stack.status.phase is Phase.RUNNING
            and stack.is_settled
            and runtime is not None
            and runtime.address is not None
            and known.has_answered()
            and stack.status.health in {Health.HEALTHY, Health.DEGRADED}
            and is_seen_running(seen, runtime)
            and _is_compared(seen, stack)
        )

    def of(self, known: Known) -> StackView:
        """Return how the stack is shown: the row as it is seen now. The same object until something of it changes."""
        stack = known.stack
        seen_at = self._fleet.last_seen_at(stack.job_id)
        is_unseen = stack.status.phase is Phase.RUNNING and self._fleet.observation(stack.job_id) is None
        if known.view is not None and known.view.observed_at == seen_at and not is_unseen:
            return known.view
        if is_unseen:
            message = "it cannot be seen at the moment; this is what was known last"
            unseen = replace(stack.status, health=Health.UNKNOWN, reason=Reason.UNKNOWN, message=message)
            stack = replace(stack, status=unseen)
        elif self._is_seen_gone(stack):
            gone = replace(stack.status, health=Health.UNKNOWN)
            if gone.reason is not Reason.BRAKE:
                # The row follows as soon as it is written down; what is seen is shown before.
                gone = replace(gone, reason=Reason.LOST, message="its allocation ended or restarted")
            stack = replace(stack, status=gone)
        known.view = StackView(
            stack=stack,
            staleness=self._staleness(stack),
            observed_at=seen_at,
            public_url=self.public_url(stack),
            closed_node=self._fleet.closed_node(stack),
        )
        return known.view

    def _is_seen_gone(self, stack: Stack) -> bool:
        runtime, seen = stack.status.runtime, self._fleet.observation(stack.job_id)
        if stack.status.phase is not Phase.RUNNING or runtime is None or seen is None:
            return False
        return not is_seen_running(seen, runtime)

    def _staleness(self, stack: Stack) -> tuple[Staleness, ...]:
        found = self._releases.peek(stack.intent.wanted_release)
        if found is None:
            return ()
        want = wanted_facets(stack, found[0], self._site, secret_version=stack.status.secret_version or 0)
        reasons = staleness_of(stack.status, want, desired=stack.intent.desired)
        return in_detail(reasons, stack, self._releases, self._site)

    def public_url(self, stack: Stack) -> str | None:
        """Return where browsers reach the stack, or None where there is no ingress."""
        return self._site.public_url(stack.job_id)


def is_seen_running(seen: Observation | None, runtime: Runtime) -> bool:
    """Whether the very run of the allocation that was proven is what Nomad shows now."""
    if seen is None or not isinstance(seen.job, JobSeen) or seen.job.stopped:
        return False
    return any(
        allocation.id == runtime.allocation_id
        and allocation.restarts == runtime.restarts
        and not allocation.client_status.is_terminal
        for allocation in seen.allocations
    )


def _is_compared(seen: Observation | None, stack: Stack) -> bool:
    """
    Whether the row speaks of the job that is registered now, or it was tried in vain to compare that one.

    Where Nomad cannot compare it, or refuses to, nothing is said against a runtime that runs.
    """
    if seen is None or not isinstance(seen.job, JobSeen):
        return False
    is_known = seen.job.modify_index == stack.status.job_modify_index
    return is_known or stack.is_refused or stack.status.attempts > 0
