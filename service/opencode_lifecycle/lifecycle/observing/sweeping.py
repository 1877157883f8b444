"""
Looks at what has no watch: the versions of secrets in Vault, and what runtimes use.

Both go round the fleet at a pace that no neighbour notices, and only tell the fleet what they saw. What cannot be looked at
keeps nobody from the rest; a round in which nothing could be seen has failed.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

import structlog

from opencode_lifecycle.lifecycle.background import Pulse
from opencode_lifecycle.lifecycle.braking.brake import secrets_missing
from opencode_lifecycle.lifecycle.braking.conditions import Conditions
from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.orchestrator import Orchestrator
from opencode_lifecycle.ports.secrets import PasswordStore, SecretSeen

log = structlog.get_logger(__name__)

Failure = UpstreamError | DeadlineExceeded

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
        failures: dict[JobId, Failure] = {}
        pause = max(self._interval / max(len(stacks), 1), 1 / READS_PER_SECOND)
        for first in range(0, len(stacks), _AT_ONCE):
            some = stacks[first : first + _AT_ONCE]
            found, _ = await asyncio.gather(self._look_at(some), asyncio.sleep(pause * len(some)))
            missing += [(stack, seen) for stack, seen in found if isinstance(seen, SecretSeen)]
            failures |= {stack.job_id: seen for stack, seen in found if not isinstance(seen, SecretSeen)}
        _tell_failures("secrets not looked at", failures, len(stacks))
        await self._tell_missing(missing, list(failures), len(stacks))
        self.pulse.beat()
        if not stacks:
            await asyncio.sleep(self._interval)

    async def _look_at(self, stacks: Sequence[Stack]) -> list[tuple[Stack, SecretSeen | Failure]]:
        """Tell of the secrets that are there; return those that are not, and those that could not be looked at."""
        found = await asyncio.gather(*(self._look(stack) for stack in stacks))
        rest = []
        for stack, seen in zip(stacks, found, strict=True):
            if isinstance(seen, SecretSeen) and seen.version is not None:
                self._fleet.saw_secret(stack.user_id, seen, expected=stack.status.secret_version)
            else:
                rest.append((stack, seen))
        return rest

    async def _look(self, stack: Stack) -> SecretSeen | Failure:
        deadline = Deadline.after(self._timeout, f"look at the secret of {stack.job_id}")
        try:
            return await self._seen(stack, deadline)
        except (UpstreamError, DeadlineExceeded) as error:
            return error

    async def _seen(self, stack: Stack, deadline: Deadline) -> SecretSeen:
        seen = await self._passwords.look(stack.job_id, deadline) or SecretSeen(version=None)
        if seen.version is not None and (seen.installation, seen.user_id) == (None, None):
            # So that it is known again should its row be lost. Done here, so that no start waits for it.
            await self._passwords.mark(
                stack.job_id, installation=self._installation, user_id=stack.user_id, deadline=deadline
            )
        return seen

    async def _tell_missing(
        self, missing: Sequence[tuple[Stack, SecretSeen]], unseen: Sequence[JobId], of: int
    ) -> None:
        gone = [stack.job_id for stack, _ in missing]
        suspicion = secrets_missing(gone, of - len(unseen))
        kind = ConditionKind.SECRETS_MISSING
        if suspicion is None and secrets_missing([*gone, *unseen], of) is not None:
            # It may be a crowd or not. That is seen in a round that sees more.
            return
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
        failures: dict[JobId, Failure] = {}
        for stack in stacks:
            await asyncio.sleep(pause)
            try:
                await self._look(stack)
            except (UpstreamError, DeadlineExceeded) as error:
                failures[stack.job_id] = error
        _tell_failures("use of memory not seen", failures, len(stacks))
        self.pulse.beat()
        if not stacks:
            await asyncio.sleep(self._interval)

    async def _look(self, stack: Stack) -> None:
        runtime = stack.status.runtime
        if runtime is None:
            return
        deadline = Deadline.after(self._timeout, f"ask what {stack.job_id} uses")
        usage = await self._orchestrator.usage(runtime.allocation_id, deadline)
        if usage is not None:
            self._fleet.saw_memory(stack.user_id, usage.memory)


def _tell_failures(what: str, failures: Mapping[JobId, Failure], of: int) -> None:
    """Say how many of a round failed. When all did, it is no round: raise the first."""
    if not failures:
        return
    job_id, error = next(iter(failures.items()))
    if len(failures) == of:
        raise error
    log.warning(what, failed=len(failures), of=of, first=job_id, error=error.message)
