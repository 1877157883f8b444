"""One thread's way to Vault: hvac's calls, with our bounds, our token and our errors."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import requests
import urllib3
from hvac.adapters import JSONAdapter
from hvac.api.auth_methods import Token
from hvac.api.secrets_engines import KvV2
from hvac.api.system_backend import Wrapping
from hvac.exceptions import VaultError

from opencode_lifecycle.adapters.bounded_session import AnswerTooLarge, BoundedSession
from opencode_lifecycle.adapters.token_file import TokenFile
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    LifecycleError,
    SecretMissing,
    UpstreamDenied,
    UpstreamError,
    UpstreamNonsense,
    UpstreamRejected,
    UpstreamUnavailable,
    VersionConflict,
)

SYSTEM: Final = "vault"
LARGEST_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of one answer. The largest is the list of names, in one piece: 7 MiB for 100,000 stacks."""
_CHECK_AND_SET: Final = "check-and-set parameter did not match"
_UNAVAILABLE: Final[dict[int, str]] = {
    HTTPStatus.TOO_MANY_REQUESTS: "it asks us to slow down",
    HTTPStatus.NOT_IMPLEMENTED: "it is not initialised",
    HTTPStatus.SERVICE_UNAVAILABLE: "it is sealed or down for maintenance",
}

_TROUBLE: Final[tuple[tuple[tuple[type[Exception], ...], type[UpstreamError], str], ...]] = (
    ((requests.Timeout, urllib3.exceptions.TimeoutError), UpstreamUnavailable, "no answer in time"),
    ((AnswerTooLarge,), UpstreamNonsense, "the answer is too large"),
    (
        (requests.exceptions.SSLError, urllib3.exceptions.SSLError),
        UpstreamUnavailable,
        "its certificate is not accepted",
    ),
    (
        (requests.RequestException, urllib3.exceptions.HTTPError, OSError),
        UpstreamUnavailable,
        "the connection failed",
    ),
    # hvac takes the shape of an error's body for granted.
    (
        (AttributeError, KeyError, RecursionError, TypeError, ValueError),
        UpstreamNonsense,
        "the answer cannot be read",
    ),
)
"""What hvac and requests raise, the narrow before the wide, and what we say instead."""
_EXPECTED_TROUBLE: Final = tuple(kind for kinds, _, _ in _TROUBLE for kind in kinds)

T = TypeVar("T")


class VaultConnection:
    """
    hvac's parts for KV v2, wrapping and the token itself, over one session. One connection serves one thread.

    hvac's own `Client` is not used: it takes addresses, tokens and certificates from the environment.
    """

    def __init__(self, *, address: str, token: TokenFile, ca_file: Path | None) -> None:
        self._token = token
        self._session = BoundedSession(ca_file=ca_file, largest_answer=LARGEST_ANSWER)
        self._adapter = JSONAdapter(base_uri=address, session=self._session, allow_redirects=False)
        self.kv = KvV2(adapter=self._adapter)
        self.wrapping = Wrapping(adapter=self._adapter)
        self.token = Token(adapter=self._adapter)

    def call(self, operation: str, deadline: Deadline, request: Callable[[], Any]) -> Any:
        """
        Make one request, once more with a new token if the file holds one after a refusal.

        Nothing of hvac or requests gets out of here, not even as the cause of an error: their messages quote answers
        and headers.
        """
        refused = self._use_token(operation)
        outcome = self._attempt(operation, deadline, request)
        if isinstance(outcome, UpstreamDenied) and self._adopt_another(refused):
            outcome = self._attempt(operation, deadline, request)
        if isinstance(outcome, LifecycleError):
            raise outcome
        return outcome

    def patch_metadata(self, mount: str, path: str, changes: Mapping[str, Any]) -> Any:
        """Change a part of an item's metadata and leave the rest; hvac knows only how to replace it."""
        return self._adapter.request(
            method="patch",
            url=f"/v1/{mount}/metadata/{path}",
            headers={"Content-Type": "application/merge-patch+json"},
            json=dict(changes),
        )

    def close(self) -> None:
        self._session.close()

    @property
    def status(self) -> int | None:
        """Status of the last answer, for calls whose answer has no body."""
        return self._session.status

    def _use_token(self, operation: str) -> str:
        token = self._token.current()
        if token is None:
            raise UpstreamDenied(SYSTEM, operation, "the token file holds no token")
        self._adapter.token = token
        return token

    def _adopt_another(self, refused: str) -> bool:
        other = self._token.after_refusal(refused)
        if other is not None:
            self._adapter.token = other
        return other is not None

    def _attempt(self, operation: str, deadline: Deadline, request: Callable[[], Any]) -> Any:
        """Return the answer, or the error instead of it: one that is raised later carries no vendor's context."""
        if deadline.left() <= 0:
            return DeadlineExceeded(deadline.purpose)
        self._session.give_up_before(deadline)
        try:
            return request()
        except VaultError as error:
            return self._refusal(operation, error)
        except _EXPECTED_TROUBLE as error:
            kind, detail = next(
                (kind, detail) for kinds, kind, detail in _TROUBLE if isinstance(error, kinds)
            )
            return kind(SYSTEM, operation, detail)

    def _refusal(self, operation: str, error: VaultError) -> UpstreamError:
        status = self._session.status or 0
        if status in _UNAVAILABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            detail = _UNAVAILABLE.get(status, f"it answered {status}")
            return UpstreamUnavailable(SYSTEM, operation, detail)
        if error.errors is None and error.json is None:
            return UpstreamNonsense(SYSTEM, operation, f"it answered {status} without JSON")
        kind, detail = _meaning(status, str(error.errors or ""))
        return kind(SYSTEM, operation, detail)


def _meaning(status: int, errors: str) -> tuple[type[UpstreamError], str]:
    """Say what a refusal means. Vault has no codes, so that two of them differ by their text alone."""
    match status:
        case HTTPStatus.FORBIDDEN | HTTPStatus.UNAUTHORIZED:
            return UpstreamDenied, "our token lacks the right"
        case HTTPStatus.NOT_FOUND if errors:
            return UpstreamUnavailable, "nothing is mounted at this path"
        case HTTPStatus.NOT_FOUND:
            return SecretMissing, ""
        case HTTPStatus.BAD_REQUEST if _CHECK_AND_SET in errors:
            return VersionConflict, ""
        case _:
            return UpstreamRejected, f"it answered {status}"


def field(operation: str, answer: Any, *path: str, of: type[T]) -> T:
    """Return the value at *path* of a JSON answer if it is what it must be, else raise `UpstreamNonsense`."""
    value = answer
    for name in path:
        if not isinstance(value, dict) or name not in value:
            raise UpstreamNonsense(SYSTEM, operation, f"there is no {'.'.join(path)} in the answer")
        value = value[name]
    if not isinstance(value, of) or (of is int and isinstance(value, bool)):
        raise UpstreamNonsense(SYSTEM, operation, f"{'.'.join(path)} is not what it should be")
    return value
