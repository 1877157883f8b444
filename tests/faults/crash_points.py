"""Kills the service at each effect that it has on its servers: before the request is passed on, or after it was done."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from end_to_end.service_process import ServiceProcess
from faults.interceptor import PassOn, Reply
from hostile_server import SeenRequest

_NO_EFFECT = re.compile(r"^/v1/(jobs/parse|validate/job|job/[^/]+/plan|auth/token/|internal/acl/authorize)")
_REGISTRATION = "PUT /v1/jobs"
_READS = frozenset({"GET", "HEAD", "LIST"})
_NAMES = (
    (re.compile(r"oc-[a-z0-9-]+-[a-z2-7]{20}"), "{job}"),
    (re.compile(r"[0-9a-f]{64}"), "{digest}"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "{id}"),
    (re.compile(r"%2F"), "/"),
)


def label_of(asked: SeenRequest) -> str | None:
    """Return the name of the effect that is asked for, without whose it is; None for what has none."""
    if asked.method in _READS or _NO_EFFECT.match(asked.path):
        return None
    purge = " purge" if "purge=True" in asked.path else ""
    path = asked.path.partition("?")[0]
    for pattern, name in _NAMES:
        path = pattern.sub(name, path)
    return f"{asked.method} {path}{purge}"


@dataclass(slots=True)
class CrashPoints:
    """
    One for all of the service's servers. While an operation is under way each of its effects kills the service once, the
    first time it is asked for; after that it is let through, or nothing would ever come about.

    With *once_in_a_life* an effect that an earlier operation had as well kills no more, since a start takes seconds; but
    a registration always does, from which a second server of the same workspace would come.
    """

    service: ServiceProcess
    random: Random
    once_in_a_life: bool
    points: list[str] = field(default_factory=list)
    _operation: str = ""
    _passed: set[str] = field(default_factory=set)
    _may_act: asyncio.Event = field(default_factory=asyncio.Event)
    _dead: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._may_act.set()

    @asynccontextmanager
    async def during(self, operation: str) -> AsyncIterator[None]:
        """Hold back all effects, so that a wish can be answered before the first one kills; they go on at the end."""
        self._operation = operation
        self._passed = self._passed - {_REGISTRATION} if self.once_in_a_life else set()
        self._may_act.clear()
        yield
        self._may_act.set()

    async def kill(self, moment: str) -> None:
        """Kill the service now, whatever it does, and return when it was revived."""
        await self._may_act.wait()
        self.points.append(f"{self._operation}: at the moment: {moment}")
        self._kill()
        await self._may_act.wait()

    def end(self) -> None:
        self._operation = ""

    @asynccontextmanager
    async def reviving(self) -> AsyncIterator[None]:
        """Start the service again whenever it was killed."""

        async def revive() -> None:
            while True:
                await self._dead.wait()
                await asyncio.to_thread(self.service.kill)
                self._dead.clear()
                await asyncio.to_thread(self.service.start)
                self._may_act.set()

        reviver = asyncio.create_task(revive())
        try:
            yield
        finally:
            failed = reviver.done() and reviver.exception()
            reviver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reviver
            assert not failed

    async def __call__(self, asked: SeenRequest, pass_on: PassOn) -> Reply | None:
        label = label_of(asked)
        if label is None:
            return await pass_on()
        await self._may_act.wait()
        if not self._operation or label in self._passed or self._dead.is_set():
            return await pass_on()
        self._passed.add(label)
        after = self.random.random() < 0.5
        self.points.append(f"{self._operation}: {'after' if after else 'before'} {label}")
        if after:
            await pass_on()
        self._kill()
        return None

    def _kill(self) -> None:
        process = self.service.process
        assert process is not None, "the service was up"
        os.kill(process.pid, signal.SIGKILL)
        self._may_act.clear()
        self._dead.set()
