"""Puts together what a plan may look at: the row, what is seen of the stack, and what should be."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.reconciling.aims import Aims
from opencode_lifecycle.lifecycle.reconciling.steps import Part, Work
from opencode_lifecycle.model.observation import Observation
from opencode_lifecycle.model.stack import Address, Stack
from opencode_lifecycle.model.states import WhenStale

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Where the papers of one stack are laid out before a plan is made, by whoever needs one."""

    fleet: Fleet
    aims: Aims
    installation: str
    when_stale: WhenStale
    idle_stop_after: Callable[[str], timedelta | None]
    """How long a stack of a group may be idle before it is stopped."""

    def work_on(self, stack: Stack, known: Known) -> Work | None:
        """Return what is known of *stack* now, with what it should be; None while its releases are not in memory."""
        aim = self.aims.of(stack)
        if aim is None:
            return None
        seen = self.fleet.observation(stack.job_id)
        resources = aim.release.resource_classes.get(aim.stack.intent.resources)
        return Work(
            stack=stack,
            observation=seen,
            proof=known.proof,
            liveness=known.liveness,
            silent_probes=known.silent_probes,
            wanted=aim.wanted,
            asked=aim.asked,
            building=aim.building,
            needs=aim.needs,
            installation=self.installation,
            activity=known.activity,
            activity_at=known.activity_at,
            busy_at=known.busy_at,
            secret=known.secret,
            memory=known.memory,
            memory_max=resources.memory_max * _MIB if resources is not None else 0,
            doubt=known.doubt_of(_address_of(stack, seen)),
            when_stale=self.when_stale,
            idle_stop_after=self.idle_stop_after(stack.intent.group),
            frozen=self.fleet.frozen,
            closed_node=self.fleet.closed_node(stack),
            nodes_age=self.fleet.nodes.age,
        )

    def rework(self, work: Work, stack: Stack) -> Work:
        """Return *work* with what became of its stack, and what that should be now."""
        aim = self.aims.of(stack)
        assert aim is not None, "whoever works on a stack has its releases in memory"
        texts = (work.wanted.prompt, work.wanted.config)
        is_of_other_texts = (aim.wanted.prompt, aim.wanted.config) != texts
        return replace(
            work,
            stack=stack,
            wanted=aim.wanted,
            asked=aim.asked,
            building=aim.building,
            needs=aim.needs,
            # What was published in this pass is not what is to be published now.
            done=work.done - {Part.LIVE_FILES, Part.DELIVERY} if is_of_other_texts else work.done,
        )


def _address_of(stack: Stack, seen: Observation | None) -> Address | None:
    """Return the proven address, or the one that is to be proven next."""
    if stack.status.runtime is not None:
        return stack.status.runtime.address
    return seen.newest.address if seen is not None and seen.newest is not None else None
