"""
What a rollout would do with each stack, and why: worked out from memory, for a whole fleet at once.

Pure, but that it gives way to others while it goes on.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from opencode_lifecycle.lifecycle.observing.known import Known
from opencode_lifecycle.lifecycle.rollouts.standing import rests
from opencode_lifecycle.lifecycle.rollouts.waves import Candidate, in_waves
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.identifiers import ReleaseId
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.rollout import BusyState, Member, MemberReason, PlannedStack, Rollout
from opencode_lifecycle.model.rollout_specification import RolloutSpecification
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.staleness import Staleness, class_of, facets_of, staleness_of
from opencode_lifecycle.model.states import Desired, Phase

SEEN_LATELY: Final = timedelta(minutes=5)
"""How long what was last seen of an agent says something of it."""

PLANNED_AT_ONCE: Final = 200

FacetsOn = Callable[[Stack, ReleaseId | None], Facets | None]
"""What a stack would be on a release, or on what it wants already; None where that is not in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a plan is made on: the fleet's target, the pins of groups, and what a stack would be on a release."""

    target: ReleaseId | None
    pins: Mapping[str, ReleaseId]
    facets_on: FacetsOn
    now: datetime


def busy_state(known: Known, now: datetime) -> BusyState:
    """Return whether an agent was at work when that was last seen; a lease says that one is."""
    if known.stack.busy_until is not None and known.stack.busy_until > now:
        return BusyState.BUSY
    if known.activity is None or known.activity_at is None or known.activity_at < now - SEEN_LATELY:
        return BusyState.UNKNOWN
    return BusyState.BUSY if known.activity.busy else BusyState.IDLE


async def planned(
    fleet: Iterable[Known], specification: RolloutSpecification, ground: Ground
) -> tuple[list[PlannedStack], int]:
    """
    Return every stack that is selected, in the order of users, with its wave or why it is left out, and how many waves.

    Of a large fleet that takes long: after some of them it gives way, so that nobody's ensure waits for all.
    """
    found: list[tuple[PlannedStack, Stack]] = []
    everybody = _selected(fleet, specification)
    for place in range(0, len(everybody), PLANNED_AT_ONCE):
        for known in everybody[place : place + PLANNED_AT_ONCE]:
            stack = known.stack
            each = plan_of(known, specification, ground)
            if each is not None:
                found.append((each, stack))
        await asyncio.sleep(0)
    candidates = [
        Candidate(
            user_id=each.user_id, group=stack.intent.group, rests=rests(specification, stack), busy=each.busy
        )
        for each, stack in found
        if each.left_out is None
    ]
    waves = in_waves(candidates, specification.strategy, specification.release)
    stacks = [replace(each, wave=waves.of.get(each.user_id)) for each, _ in found]
    return sorted(stacks, key=lambda each: each.user_id), waves.count


def member_of(rollout: Rollout, planned: PlannedStack, stack: Stack, now: datetime) -> Member:
    """Return the member that *planned*, of which *stack* is the row, becomes."""
    assert planned.wave is not None, "who is left out becomes none"
    return Member(
        rollout_id=rollout.id,
        user_id=stack.user_id,
        stack_created_at=stack.created_at,
        wave=planned.wave,
        migration_class=planned.migration_class,
        release_before=stack.intent.wanted_release,
        generation=stack.intent.generation,
        changed_at=now,
    )


def revision_of(stack: Stack) -> str | None:
    runtime = stack.status.runtime
    return runtime.revision if runtime is not None else None


def what_changed(planned: PlannedStack, stack: Stack, now: PlannedStack | None) -> str:
    """
    Return what is otherwise with *stack* than when it was *planned*, in prose; empty when it is as it was.

    *now* is what would be planned of it by now, None where it would not be moved at all. Whoever saw that only the prompt
    would change under a running process has not agreed to a restart for a secret that was rotated since.
    """
    generation, revision = stack.intent.generation, revision_of(stack)
    if generation != planned.generation:
        return (
            f"something else was asked for it since: generation {generation}, planned at {planned.generation}"
        )
    if revision != planned.revision:
        if planned.revision is None:
            return "it had not started yet, and runs now"
        if revision is None:
            return "it ran, and does not run now"
        return f"it ran revision {planned.revision}, and runs {revision} now"
    if now is None:
        return "it is as it should be by now"
    if (now.migration_class, facets_of(now.why)) == (planned.migration_class, facets_of(planned.why)):
        return ""
    before, by_now = _told(planned), _told(now)
    return f"{before} was planned, and by now it is {by_now}"


def _told(planned: PlannedStack) -> str:
    how = planned.migration_class.value if planned.migration_class is not None else "no migration"
    return f"{how} for {', '.join(sorted(facets_of(planned.why)))}" if planned.why else how


def _selected(fleet: Iterable[Known], specification: RolloutSpecification) -> list[Known]:
    users = frozenset(specification.selector.users)
    return [
        known
        for known in fleet
        if (not users or known.stack.user_id in users) and _is_selected(known.stack, specification)
    ]


def _is_selected(stack: Stack, specification: RolloutSpecification) -> bool:
    selector, intent = specification.selector, stack.intent
    return (
        (not selector.groups or intent.group in selector.groups)
        and (not selector.releases or stack.status.release in selector.releases)
        and all(intent.labels.get(name) == value for name, value in selector.labels.items())
    )


def plan_of(known: Known, specification: RolloutSpecification, ground: Ground) -> PlannedStack | None:
    """Return what would be done with a stack that the filters let through; None when it does not differ."""
    stack, release = known.stack, specification.release
    facets = ground.facets_on(stack, release)
    why = staleness_of(stack.status, facets, desired=stack.intent.desired) if facets is not None else ()
    selected = specification.selector.reasons
    if selected and not facets_of(why) & set(selected):
        return None
    is_down = rests(specification, stack)
    moves = release is not None and stack.intent.wanted_release != release
    if not (why or moves or _is_moved_anyway(specification, rests=is_down)):
        return None
    if is_down and not moves and not specification.rotate_passwords:
        # It starts on what it wants in any case.
        return None
    left_out, message = _left_out(known, specification, ground)
    runtime = stack.status.runtime
    return PlannedStack(
        user_id=stack.user_id,
        generation=stack.intent.generation,
        revision=runtime.revision if runtime is not None else None,
        release=stack.status.release if runtime is not None else None,
        why=why,
        migration_class=None if is_down or left_out is not None else _class(stack, why, specification),
        busy=busy_state(known, ground.now),
        left_out=left_out,
        message=message,
    )


def _is_moved_anyway(specification: RolloutSpecification, *, rests: bool) -> bool:
    return specification.rotate_passwords or (specification.recreate and not rests)


def _class(stack: Stack, why: Sequence[Staleness], specification: RolloutSpecification) -> MigrationClass:
    """
    Return the class of its migration. What is on its way down or up may come to run anything: that takes a restart.

    1. A runtime is being replaced as a rollout is begun, so it is stale in nothing.
    2. It starts on what it was before, or on the release already. Called live, it would not count as unavailable then, nor
       when the rollout is taken back.
    """
    if specification.moves_all or stack.status.phase is not Phase.RUNNING:
        return MigrationClass.RESTART
    return class_of(why) or MigrationClass.LIVE


def _left_out(
    known: Known, specification: RolloutSpecification, ground: Ground
) -> tuple[MemberReason | None, str]:
    stack, release = known.stack, specification.release
    intent, pin = stack.intent, ground.pins.get(stack.intent.group)
    if intent.desired is Desired.DELETED:
        return MemberReason.DELETED, "it is being deleted"
    if intent.held:
        return MemberReason.HELD, "an operator holds it"
    if release is not None and intent.pinned:
        return MemberReason.PINNED, f"it is pinned to {intent.wanted_release}"
    if release is not None and pin not in {None, release}:
        return MemberReason.PINNED, f"its group {intent.group} is pinned to {pin}"
    if stack.standing_order is not None:
        return MemberReason.ORDERED_BY_ANOTHER, f"it is being migrated by {stack.standing_order.id}"
    return None, ""
