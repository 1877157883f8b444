"""Passwords in Vault's KV v2, one item per stack."""

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from opencode_lifecycle.adapters.blocking import BlockingCalls
from opencode_lifecycle.adapters.token_file import TokenFile
from opencode_lifecycle.adapters.vault.connection import SYSTEM, VaultConnection, field
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    SecretMissing,
    UpstreamError,
    UpstreamNonsense,
    VersionConflict,
)
from opencode_lifecycle.model.identifiers import JobId, UserId
from opencode_lifecycle.model.password import Password, WrappedPassword
from opencode_lifecycle.ports.secrets import SecretSeen

USERNAME: Final = "opencode"
_FOLDER: Final = "opencode"
_PREFIX: Final = "oc-"
_INSTALLATION: Final = "installation"
_USER: Final = "user_id"
"""In the custom metadata of an item: whose it is."""
_PASSWORD_BYTES: Final = 32
_ENSURE_TRIES: Final = 3
"""Each try that fails means that somebody else wrote or destroyed the item in between."""
_LOOK_AGAIN_SECONDS: Final = 300.0
_RENEW_AFTER_SHARE: Final = 1 / 3
_RENEW_RETRY_SECONDS: Final = 5.0
_RENEW_TIMEOUT_SECONDS: Final = 10.0

log = structlog.get_logger(__name__)


class _Item(NamedTuple):
    current: int
    readable: bool
    installation: str | None = None
    user_id: str | None = None
    written_at: datetime | None = None


class VaultPasswordStore:
    """
    The `PasswordStore` over hvac, which is synchronous: each call runs in a thread of *calls*.

    The item of a stack is `opencode/<job id>` under *mount*: `{"password": ..., "env": {...}}`. Of `env` nothing is known
    here; it is carried over when the password is rotated.
    """

    def __init__(
        self,
        *,
        calls: BlockingCalls,
        address: str,
        token_file: Path,
        mount: str,
        ca_file: Path | None = None,
        now: Clock = utc_now,
    ) -> None:
        self._calls = calls
        self._address = address
        self._token = TokenFile(token_file)
        self._ca_file = ca_file
        self._mount = mount
        self._now = now
        self._of_thread = threading.local()
        self._connections: list[VaultConnection] = []

    async def ensure(self, job_id: JobId, deadline: Deadline) -> int:
        return await self._calls.run(deadline, self._ensure, job_id, deadline)

    async def latest_version(self, job_id: JobId, deadline: Deadline) -> int | None:
        item = await self._calls.run(deadline, self._look_up, "latest version", job_id, deadline)
        return item.current if item is not None and item.readable else None

    async def look(self, job_id: JobId, deadline: Deadline) -> SecretSeen | None:
        item = await self._calls.run(deadline, self._look_up, "look", job_id, deadline)
        if item is None:
            return None
        return SecretSeen(
            version=item.current if item.readable else None,
            installation=item.installation,
            user_id=UserId(item.user_id) if item.user_id is not None else None,
            written_at=item.written_at,
        )

    async def mark(self, job_id: JobId, *, installation: str, user_id: UserId, deadline: Deadline) -> None:
        await self._calls.run(deadline, self._mark, job_id, installation, user_id, deadline)

    async def list_all(self, deadline: Deadline) -> Sequence[JobId]:
        return await self._calls.run(deadline, self._list_all, deadline)

    async def rotate(self, job_id: JobId, *, expected: int, deadline: Deadline) -> int:
        return await self._calls.run(deadline, self._rotate, job_id, expected, deadline)

    async def read(self, job_id: JobId, version: int, deadline: Deadline) -> Password:
        return await self._calls.run(deadline, self._read, job_id, version, deadline)

    async def wrap(
        self, job_id: JobId, version: int, *, ttl_seconds: int, deadline: Deadline
    ) -> WrappedPassword:
        return await self._calls.run(deadline, self._wrap, job_id, version, ttl_seconds, deadline)

    async def destroy(self, job_id: JobId, deadline: Deadline) -> None:
        await self._calls.run(deadline, self._destroy, job_id, deadline)

    async def ping(self, deadline: Deadline) -> None:
        await self._calls.run(deadline, self._look_at_token, deadline)

    async def keep_token_alive(self, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """
        Renew our token for as long as this runs, well before it ends. Never returns, and never fails.

        A token that cannot be renewed is looked at again from time to time, since the file may be given another one.
        """
        while True:
            try:
                seconds = await self._renew_within(_RENEW_TIMEOUT_SECONDS)
            except (UpstreamError, DeadlineExceeded) as error:
                log.warning("vault token not renewed", code=error.code, detail=error.message)
                seconds = _RENEW_RETRY_SECONDS
            await pause(seconds)

    async def _renew_within(self, seconds: float) -> float:
        deadline = Deadline.after(seconds, "renew the Vault token")
        return await self._calls.run(deadline, self._renew, deadline)

    def close(self) -> None:
        """Close the connections of all threads. No call may be under way any more."""
        for connection in self._connections:
            connection.close()

    # What follows runs in threads.

    def _connection(self) -> VaultConnection:
        connection: VaultConnection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = VaultConnection(address=self._address, token=self._token, ca_file=self._ca_file)
            self._of_thread.connection = connection
            self._connections.append(connection)
        return connection

    def _ensure(self, job_id: JobId, deadline: Deadline) -> int:
        """Write first and look afterwards: a new stack, the case that comes in herds, takes one request."""
        current = 0
        for _ in range(_ENSURE_TRIES):
            try:
                return self._write("ensure", job_id, {}, current, deadline)
            except VersionConflict:
                item = self._look_up("ensure", job_id, deadline)
            if item is not None and item.readable:
                return item.current
            current = item.current if item is not None else 0
        raise VersionConflict(SYSTEM, "ensure", "others keep writing it", job_id=job_id)

    def _rotate(self, job_id: JobId, expected: int, deadline: Deadline) -> int:
        item = self._look_up("rotate", job_id, deadline)
        if item is None:
            raise SecretMissing(SYSTEM, "rotate", job_id=job_id)
        if item.current != expected:
            raise VersionConflict(SYSTEM, "rotate", job_id=job_id, expected=expected)
        data = self._data("rotate", job_id, expected, deadline) if item.readable else {}
        return self._write("rotate", job_id, data, expected, deadline)

    def _read(self, job_id: JobId, version: int, deadline: Deadline) -> Password:
        match self._data("read", job_id, version, deadline).get("password"):
            case str(text) if text:
                return Password(text)
            case _:
                raise SecretMissing(
                    SYSTEM, "read", "there is no password in it", job_id=job_id, version=version
                )

    def _wrap(self, job_id: JobId, version: int, ttl_seconds: int, deadline: Deadline) -> WrappedPassword:
        password = self._read(job_id, version, deadline)
        payload = {"username": USERNAME, "password": password.reveal()}
        connection = self._connection()
        answer = connection.call(
            "wrap", deadline, lambda: connection.wrapping.wrap(payload=payload, ttl=ttl_seconds)
        )
        return WrappedPassword(
            token=Password(field("wrap", answer, "wrap_info", "token", of=str)),
            ttl_seconds=field("wrap", answer, "wrap_info", "ttl", of=int),
        )

    def _destroy(self, job_id: JobId, deadline: Deadline) -> None:
        connection = self._connection()
        try:
            connection.call(
                "destroy",
                deadline,
                lambda: connection.kv.delete_metadata_and_all_versions(
                    path=_path(job_id), mount_point=self._mount
                ),
            )
        except SecretMissing:
            return
        if connection.status != HTTPStatus.NO_CONTENT:
            raise UpstreamNonsense(SYSTEM, "destroy", f"it answered {connection.status}", job_id=job_id)

    def _mark(self, job_id: JobId, installation: str, user_id: UserId, deadline: Deadline) -> None:
        """Patch, and nothing else: a write would replace what administrators have written beside it."""
        connection = self._connection()
        changes = {"custom_metadata": {_INSTALLATION: installation, _USER: user_id}}
        try:
            connection.call(
                "mark", deadline, lambda: connection.patch_metadata(self._mount, _path(job_id), changes)
            )
        except SecretMissing:
            raise SecretMissing(SYSTEM, "mark", job_id=job_id) from None
        except UpstreamNonsense:
            # A patch of what is not there gets an empty 404 of Vault, which anything on the way could have made.
            missing = connection.status == HTTPStatus.NOT_FOUND
            if not missing or self._look_up("mark", job_id, deadline) is not None:
                raise
            raise SecretMissing(SYSTEM, "mark", job_id=job_id) from None
        if connection.status != HTTPStatus.NO_CONTENT:
            raise UpstreamNonsense(SYSTEM, "mark", f"it answered {connection.status}", job_id=job_id)

    def _list_all(self, deadline: Deadline) -> Sequence[JobId]:
        """Read the names in one answer; Vault has no pages for them. A folder that is not there is an empty one."""
        connection = self._connection()
        try:
            answer = connection.call(
                "list", deadline, lambda: connection.kv.list_secrets(path=_FOLDER, mount_point=self._mount)
            )
        except SecretMissing:
            return ()
        names = field("list", answer, "data", "keys", of=list)
        if not all(isinstance(name, str) for name in names):
            raise UpstreamNonsense(SYSTEM, "list", "a name is no text")
        return tuple(JobId(name) for name in names if name.startswith(_PREFIX) and not name.endswith("/"))

    def _look_up(self, operation: str, job_id: JobId, deadline: Deadline) -> _Item | None:
        """Read the metadata, which holds no secret. None is Vault's own word that there is no such item."""
        connection = self._connection()
        try:
            answer = connection.call(
                operation,
                deadline,
                lambda: connection.kv.read_secret_metadata(path=_path(job_id), mount_point=self._mount),
            )
        except SecretMissing:
            return None
        current = field(operation, answer, "data", "current_version", of=int)
        readable = False
        if current != 0:  # else it is metadata written by hand before any version
            version = field(operation, answer, "data", "versions", str(current), of=dict)
            destroyed = field(operation, version, "destroyed", of=bool)
            deleted_at = field(operation, version, "deletion_time", of=str)
            readable = not destroyed and not self._is_past(operation, deleted_at)
        marks = _written(answer, _INSTALLATION), _written(answer, _USER)
        return _Item(current, readable, *marks, _updated_at(answer))

    def _is_past(self, operation: str, deletion_time: str) -> bool:
        """Whether a version is deleted: a mount may give each an end that lies far ahead."""
        if not deletion_time:
            return False
        try:
            return datetime.fromisoformat(deletion_time) <= self._now()
        except (TypeError, ValueError):
            raise UpstreamNonsense(SYSTEM, operation, "deletion_time is no time") from None

    def _data(self, operation: str, job_id: JobId, version: int, deadline: Deadline) -> Mapping[str, Any]:
        connection = self._connection()
        try:
            answer = connection.call(
                operation,
                deadline,
                lambda: connection.kv.read_secret_version(
                    path=_path(job_id),
                    version=version,
                    mount_point=self._mount,
                    raise_on_deleted_version=True,
                ),
            )
        except SecretMissing:
            raise SecretMissing(SYSTEM, operation, job_id=job_id, version=version) from None
        if field(operation, answer, "data", "metadata", "version", of=int) != version:
            raise UpstreamNonsense(SYSTEM, operation, "it answered with another version")
        data: Mapping[str, Any] = field(operation, answer, "data", "data", of=dict)
        return data

    def _write(
        self, operation: str, job_id: JobId, beside: Mapping[str, Any], expected: int, deadline: Deadline
    ) -> int:
        """Write a new random password, with what stood *beside* the old one, on top of version *expected*."""
        connection = self._connection()
        secret = {"env": {}, **beside, "password": secrets.token_urlsafe(_PASSWORD_BYTES)}
        answer = connection.call(
            operation,
            deadline,
            lambda: connection.kv.create_or_update_secret(
                path=_path(job_id), secret=secret, cas=expected, mount_point=self._mount
            ),
        )
        return field(operation, answer, "data", "version", of=int)

    def _look_at_token(self, deadline: Deadline) -> Mapping[str, Any]:
        connection = self._connection()
        answer = connection.call("look at our token", deadline, connection.token.lookup_self)
        data: Mapping[str, Any] = field("look at our token", answer, "data", of=dict)
        return data

    def _renew(self, deadline: Deadline) -> float:
        """Renew the token if that can be done, and return after how many seconds to come again."""
        seen = self._look_at_token(deadline)
        if seen.get("renewable") is not True:
            return _LOOK_AGAIN_SECONDS
        # Without an increment Vault goes on with the last one, which may have been a short one.
        whole = field("look at our token", seen, "creation_ttl", of=int)
        connection = self._connection()
        answer = connection.call(
            "renew our token", deadline, lambda: connection.token.renew_self(increment=f"{whole}s")
        )
        lease = field("renew our token", answer, "auth", "lease_duration", of=int)
        return min(_LOOK_AGAIN_SECONDS, max(1.0, lease * _RENEW_AFTER_SHARE))


def _path(job_id: JobId) -> str:
    return f"{_FOLDER}/{job_id}"


def _written(answer: Any, name: str) -> str | None:
    """Return what stands under *name* in the custom metadata; administrators may have written anything, or nothing."""
    custom = answer["data"].get("custom_metadata")
    value = custom.get(name) if isinstance(custom, dict) else None
    return value if isinstance(value, str) and value else None


def _updated_at(answer: Any) -> datetime | None:
    """Return when the item or its metadata was last written, or None where the answer does not say."""
    try:
        written_at = datetime.fromisoformat(answer["data"]["updated_time"])
    except (KeyError, TypeError, ValueError):
        return None
    return written_at if written_at.tzinfo is not None else None
