"""
Looks at what has no watch: the versions of secrets in Vault, and what runtimes use.

Both go round the fleet at a pace that no neighbour notices, and only tell the fleet what they saw.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from opencode_lifecycle.lifecycle.background import Pulse
from opencode_lifecycle.lifecycle.brake import secrets_missing
from opencode_lifecycle.lifecycle.conditions import Conditions
from opencode_lifecycle.lifecycle.fleet import Fleet, Known
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.orchestrator import Orchestrator
from opencode_lifecycle.ports.secrets import PasswordStore, SecretSeen

READS_PER_SECOND = 50
"""Of Vault's metadata, all together: the contract of the design."""
USAGES_PER_SECOND = 20
_AT_ONCE = 10


class SecretSweep:
    """
    Each stack's secret is looked at once per interval, or as often as 50 reads a second allow.

    A secret that is gone is told at the end of a round, when it is known whether it is one or a crowd: then it is Vault
    that is another one, and nothing is made again.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        conditions: Conditions,
        passwords: PasswordStore,
        installation: str,
        interval: timedelta,
        timeout: timedelta,
    ) -> None:
        self._fleet = fleet
        self._conditions = conditions
        self._passwords = passwords
        self._installation = installation
        self._interval = interval.total_seconds()
        self._timeout = timeout.total_seconds()
        self.pulse = Pulse()

    async def round(self) -> None:
        """Look at every secret once; takes one interval, or longer where there are too many for it."""
        stacks = [known.stack for known in self._fleet if _has_secret(known)]
        missing: list[tuple[Stack, SecretSeen]] = []
        pause = max(self._interval / max(len(stacks), 1), 1 / READS_PER_SECOND)
        for first in range(0, len(stacks), _AT_ONCE):
            some = stacks[first : first + _AT_ONCE]
            looked, _ = await asyncio.gather(self._look_at(some), asyncio.sleep(pause * len(some)))
            missing += looked
        await self._tell_missing(missing, len(stacks))
        self.pulse.beat()
        if not stacks:
            await asyncio.sleep(self._interval)

    async def _look_at(self, stacks: Sequence[Stack]) -> list[tuple[Stack, SecretSeen]]:
        found = await asyncio.gather(*(self._look(stack) for stack in stacks))
        missing = []
        for stack, seen in zip(stacks, found, strict=True):
            if seen.version is None:
                missing.append((stack, seen))
            else:
                self._fleet.saw_secret(stack.user_id, seen, expected=stack.status.secret_version)
        return missing

    async def _look(self, stack: Stack) -> SecretSeen:
        deadline = Deadline.after(self._timeout, f"look at the secret of {stack.job_id}")
        seen = await self._passwords.look(stack.job_id, deadline) or SecretSeen(version=None)
        if seen.version is not None and (seen.installation, seen.user_id) == (None, None):
            # So that it is known again should its row be lost. Done here, so that no start waits for it.
            await self._passwords.mark(
                stack.job_id, installation=self._installation, user_id=stack.user_id, deadline=deadline
            )
        return seen

    async def _tell_missing(self, missing: list[tuple[Stack, SecretSeen]], of: int) -> None:
        suspicion = secrets_missing([stack.job_id for stack, _ in missing], of)
        kind = ConditionKind.SECRETS_MISSING
        await self._conditions.report(kind, suspicion)
        if suspicion is not None and not self._conditions.confirmed(kind):
            return
        for stack, seen in missing:
            self._fleet.saw_secret(stack.user_id, seen, expected=stack.status.secret_version)


def _has_secret(known: Known) -> bool:
    return known.stack.status.secret_version is not None and known.stack.status.phase is not Phase.DELETING


class UsageSweep:
    """The memory of each runtime, once per interval."""

    def __init__(
        self, *, fleet: Fleet, orchestrator: Orchestrator, interval: timedelta, timeout: timedelta
    ) -> None:
        self._fleet = fleet
        self._orchestrator = orchestrator
        self._interval = interval.total_seconds()
        self._timeout = timeout.total_seconds()
        self.pulse = Pulse()

    async def round(self) -> None:
        """Look at every runtime once; takes one interval, or longer where there are too many for it."""
        stacks = [known.stack for known in self._fleet if known.stack.status.phase is Phase.RUNNING]
        pause = max(self._interval / max(len(stacks), 1), 1 / USAGES_PER_SECOND)
        for stack in stacks:
            await asyncio.sleep(pause)
            runtime = stack.status.runtime
            if runtime is None:
                continue
            deadline = Deadline.after(self._timeout, f"ask what {stack.job_id} uses")
            usage = await self._orchestrator.usage(runtime.allocation_id, deadline)
            if usage is not None:
                self._fleet.saw_memory(stack.user_id, usage.memory)
        self.pulse.beat()
        if not stacks:
            await asyncio.sleep(self._interval)
