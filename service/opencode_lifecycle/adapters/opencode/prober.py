"""Proves runtimes over OpenCode's HTTP API."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from opencode_lifecycle.adapters.opencode import prompting, reloading, turns, v1
from opencode_lifecycle.adapters.opencode.answers import Finding, credentials_of
from opencode_lifecycle.adapters.opencode.exchange import Credentials, Exchange, exchange_with
from opencode_lifecycle.adapters.opencode.sessions import count_sessions
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.model.states import Reason
from opencode_lifecycle.ports.prober import (
    Activity,
    Liveness,
    PromptOutcome,
    PromptResult,
    ReadPassword,
    Reloaded,
    ReloadResult,
    Turn,
)

_V1: Final = "1"
_SECONDS_TO_CLEAR_AWAY: Final = 5.0
"""Also when the deadline of the prompt is spent."""


class OpenCodeProber:
    """
    The `RuntimeProber` over HTTP. Every look has connections of its own, closed when it ends.

    Version 2 has another API: when it comes, `prove` chooses by the expected version which module to ask.
    """

    def __init__(self, *, now: Clock = utc_now) -> None:
        self._now = now

    async def prove(
        self,
        *,
        address: Address,
        allocation_id: AllocationId,
        expected_version: str,
        directory: str | None,
        read_password: ReadPassword,
        deadline: Deadline,
    ) -> Proof:
        if expected_version.partition(".")[0] == _V1:
            async with exchange_with(address, deadline) as exchange:
                version, finding = await _prove_v1(exchange, expected_version, directory, read_password)
        else:
            version, finding = "", (ProofResult.NOT_READY, "no way to look at this version is known")
        result, detail = finding or (ProofResult.PROVEN, "")
        return Proof(
            result=result,
            address=address,
            allocation_id=allocation_id,
            version=version,
            detail=detail,
            reason=Reason.BAD_CONFIG if finding == v1.CANNOT_LOAD else None,
            at=self._now(),
        )

    async def activity(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> Activity | None:
        async with exchange_with(address, deadline) as exchange:
            _, finding = await v1.look_unauthenticated(exchange)
            if finding is not None:
                return None
            return await v1.look_at_activity(exchange, await read_password(), self._now())

    async def liveness(self, address: Address, deadline: Deadline) -> Liveness:
        async with exchange_with(address, deadline) as exchange:
            liveness, _ = await v1.look_unauthenticated(exchange)
        return liveness

    async def reload(self, *, address: Address, read_password: ReadPassword, deadline: Deadline) -> Reloaded:
        async with exchange_with(address, deadline) as exchange:
            credentials, finding = await _introduce(exchange, read_password)
            if credentials is None:
                return Reloaded(result=ReloadResult.NOT_ASKED, detail=finding)
            return await reloading.reload(exchange, credentials)

    async def abort_turns(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> Sequence[Turn] | None:
        async with exchange_with(address, deadline) as exchange:
            credentials, _ = await _introduce(exchange, read_password)
            if credentials is None:
                return None
            return await turns.abort_turns(exchange, credentials, now=self._now(), deadline=deadline)

    async def interrupted_turns(
        self, *, address: Address, read_password: ReadPassword, since: datetime, deadline: Deadline
    ) -> Sequence[Turn] | None:
        async with exchange_with(address, deadline) as exchange:
            credentials, _ = await _introduce(exchange, read_password)
            return (
                None
                if credentials is None
                else await turns.interrupted_turns(exchange, credentials, since=since)
            )

    async def prompt(
        self, *, address: Address, read_password: ReadPassword, text: str, deadline: Deadline
    ) -> PromptResult:
        async with exchange_with(address, deadline) as exchange:
            credentials, finding = await _introduce(exchange, read_password)
            if credentials is None:
                return PromptResult(outcome=PromptOutcome.NOT_ASKED, detail=finding)
            session_id: str | None = None
            try:
                opened = await prompting.open_session(exchange, credentials)
                if isinstance(opened, PromptResult):
                    return opened
                session_id = opened
                return await prompting.say(exchange, credentials, session_id, text)
            finally:
                await self._clear_away(address, credentials, session_id)

    async def session_count(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> int | None:
        async with exchange_with(address, deadline) as exchange:
            credentials, _ = await _introduce(exchange, read_password)
            return None if credentials is None else await count_sessions(exchange, credentials)

    async def _clear_away(self, address: Address, credentials: Credentials, session_id: str | None) -> None:
        """Over a connection of its own, as after a prompt that took too long there is no other."""
        deadline = Deadline.after(_SECONDS_TO_CLEAR_AWAY, "delete the session of a prompt")
        async with exchange_with(address, deadline) as exchange:
            _, finding = await v1.look_unauthenticated(exchange)
            if finding is None:
                await prompting.clear_away(exchange, credentials, session_id, now=self._now())


async def _introduce(exchange: Exchange, read_password: ReadPassword) -> tuple[Credentials | None, str]:
    """Return what to log in with once the server has shown that it asks for that, else why it has not."""
    _, finding = await v1.look_unauthenticated(exchange)
    if finding is not None:
        return None, finding[1]
    return credentials_of(await read_password()), ""


async def _prove_v1(
    exchange: Exchange, expected_version: str, directory: str | None, read_password: ReadPassword
) -> tuple[str, Finding | None]:
    """Go as far as each look allows; the password is read once the server has shown that it asks for one."""
    _, finding = await v1.look_unauthenticated(exchange)
    if finding is not None:
        return "", finding
    password = await read_password()
    version, finding = await v1.look_at_health(exchange, password, expected_version)
    if finding is None:
        finding = await v1.look_at_configuration(exchange, password, directory)
    return version, finding
