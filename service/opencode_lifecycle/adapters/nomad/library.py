"""
The calls that python-nomad makes for us: stopping jobs and asking whether Nomad is there.

They are rare, so its cost does not matter. It is synchronous, verifies no certificate unless it is told to, follows the
redirects of some methods and reads answers of any length: it is given a session of ours that does none of this.
"""

import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import nomad
import requests
import urllib3
from nomad.api.exceptions import BaseNomadException

from opencode_lifecycle.adapters.blocking import BlockingCalls
from opencode_lifecycle.adapters.bounded_session import AnswerTooLarge, BoundedSession
from opencode_lifecycle.adapters.nomad.connection import SYSTEM, meaning_of
from opencode_lifecycle.adapters.token_file import TokenFile
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    LifecycleError,
    UpstreamDenied,
    UpstreamNonsense,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.identifiers import JobId

T = TypeVar("T")
_EXPECTED: Final = (
    BaseNomadException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
    ValueError,
    RecursionError,
)


class NomadLibrary:
    """python-nomad, with one client and session per thread of a bounded pool."""

    def __init__(
        self,
        *,
        address: str,
        token_file: Path,
        namespace: str,
        region: str,
        ca_file: Path | None,
        threads: int,
    ) -> None:
        self._address = address.rstrip("/")
        self._token = TokenFile(token_file)
        self._namespace = namespace
        self._region = region
        self._ca_file = ca_file
        self._calls = BlockingCalls(threads=threads, name="nomad")
        self._of_thread = threading.local()

    async def deregister(self, job_id: JobId, *, purge: bool, deadline: Deadline) -> int:
        """Stop the job and return the index after; a job that is gone is no error."""

        def stop(client: nomad.Nomad) -> Any:
            return client.job.deregister_job(quote(job_id, safe=""), purge=purge)

        answer = await self._calls.run(deadline, self._call, "deregister", deadline, stop)
        index = answer.get("JobModifyIndex") if isinstance(answer, dict) else None
        if not isinstance(index, int) or isinstance(index, bool):
            raise UpstreamNonsense(SYSTEM, "deregister", "the answer has no index")
        return index

    async def ping(self, deadline: Deadline) -> None:
        """Return when a leader is known and our token is one of Nomad's."""
        leader = await self._calls.run(
            deadline, self._call, "ping", deadline, lambda client: client.status.leader.get_leader()
        )
        if not isinstance(leader, str):
            raise UpstreamNonsense(SYSTEM, "ping", "the leader is no address")
        if not leader:
            raise UpstreamUnavailable(SYSTEM, "ping", "it has no leader")
        await self._calls.run(
            deadline, self._call, "ping", deadline, lambda client: client.acl.get_self_token()
        )

    def close(self) -> None:
        self._calls.close()

    def _call(self, operation: str, deadline: Deadline, request: Callable[[nomad.Nomad], Any]) -> Any:
        """Make one request, once more with a new token if the file holds one after a refusal."""
        token = self._token.current()
        if not token:
            raise UpstreamDenied(SYSTEM, operation, "the token file cannot be read or is empty")
        outcome = self._attempt(operation, deadline, token, request)
        if isinstance(outcome, UpstreamDenied):
            refused = token
            other = self._token.after_refusal(refused)
            outcome = self._attempt(operation, deadline, other, request) if other else outcome
        if isinstance(outcome, LifecycleError):
            raise outcome
        return outcome

    def _attempt(
        self, operation: str, deadline: Deadline, token: str, request: Callable[[nomad.Nomad], Any]
    ) -> Any:
        """Return the answer, or the error instead of it: one that is raised later carries no vendor's context."""
        if deadline.left() <= 0:
            return DeadlineExceeded(deadline.purpose)
        session = self._session()
        session.give_up_before(deadline)
        try:
            return request(self._client(session, token))
        except _EXPECTED as error:
            return _meaning(operation, error, session.status)

    def _session(self) -> BoundedSession:
        session: BoundedSession | None = getattr(self._of_thread, "session", None)
        if session is None:
            session = self._of_thread.session = BoundedSession(ca_file=self._ca_file)
        return session

    def _client(self, session: BoundedSession, token: str) -> nomad.Nomad:
        """Return a client of this thread: a few objects around the session, made anew since a token may change."""
        return nomad.Nomad(
            address=self._address,
            namespace=self._namespace,
            region=self._region,
            token=token,
            verify=str(self._ca_file) if self._ca_file else True,
            session=session,
        )


def _meaning(operation: str, error: Exception, status: int | None) -> LifecycleError:
    cause = error.nomad_resp if isinstance(error, BaseNomadException) else error
    if isinstance(cause, AnswerTooLarge):
        return UpstreamNonsense(SYSTEM, operation, "the answer is too large")
    if isinstance(cause, requests.Timeout | urllib3.exceptions.TimeoutError):
        return UpstreamUnavailable(SYSTEM, operation, "no answer in time")
    if isinstance(cause, requests.exceptions.SSLError):
        return UpstreamUnavailable(SYSTEM, operation, "its certificate is not accepted")
    if isinstance(cause, requests.Response):
        kind, detail = meaning_of(cause.status_code, cause.text)
        return kind(SYSTEM, operation, detail)
    if isinstance(cause, ValueError | RecursionError) or status == HTTPStatus.OK:
        return UpstreamNonsense(SYSTEM, operation, "the answer cannot be read")
    return UpstreamUnavailable(SYSTEM, operation, "the connection failed")
