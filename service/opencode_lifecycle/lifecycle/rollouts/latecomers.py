"""
Stacks that came to the release of a rollout while that was the fleet's target, without being moved to it. Pure.

1. The release becomes the target. A stack is made, or starts, and wants it.
2. The rollout is rolled back. Whoever asks for that is told so at once; until the target is what it was, others come.
3. None of them is in the rollout, and nobody would ever take them off a release that was given up.

So they are looked for when the way back begins, and again before it ends.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.migration import MigrationClass
from opencode_lifecycle.model.rollout import Member, MemberReason, MemberState, Rollout
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Desired


def latecomers(
    rollout: Rollout,
    members: Mapping[UserId, Member],
    fleet: Iterable[Stack],
    pins: Mapping[str, ReleaseId],
    now: datetime,
) -> Sequence[Member]:
    """
    Return, as members of *rollout*, those of *fleet* that came to its release and are none of its *members*.

    A stack that was deleted and made anew while its name was in the rollout is another one than the member. One that its
    group's pin holds on the release stays there.
    """
    if rollout.release is None or rollout.target_before in {None, rollout.release}:
        return []
    if rollout.promoted_at is None and rollout.wave == 0:
        # It never was the target: no wave after the canaries begins before that.
        return []
    since = rollout.promoted_at or rollout.created_at
    return [
        Member(
            rollout_id=rollout.id,
            user_id=stack.user_id,
            stack_created_at=stack.created_at,
            wave=rollout.waves + 1,
            state=MemberState.MIGRATED,
            migration_class=MigrationClass.RESTART,
            release_before=rollout.target_before,
            generation=stack.intent.generation,
            reason=MemberReason.CAME_LATER.value,
            changed_at=now,
        )
        for stack in fleet
        if stack.intent.wanted_release == rollout.release
        and pins.get(stack.intent.group) != rollout.release
        and not _is_in(members, stack)
        and _came_since(stack, since)
    ]


def _is_in(members: Mapping[UserId, Member], stack: Stack) -> bool:
    member = members.get(stack.user_id)
    return member is not None and member.stack_created_at == stack.created_at


def _came_since(stack: Stack, since: datetime) -> bool:
    """
    Whether it was made or began to run after that moment. One of which nothing runs wants another release at its next start,
    unless it starts by itself.
    """
    if stack.intent.pinned or stack.intent.desired is Desired.DELETED:
        return False
    if stack.created_at >= since:
        return True
    runtime = stack.status.runtime
    if runtime is not None:
        return runtime.started_at is not None and runtime.started_at >= since
    return stack.intent.desired is Desired.RUNNING and stack.status.phase_since >= since
