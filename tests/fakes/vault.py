"""Vault's KV v2 in memory, as far as passwords need it."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from fakes.faults import Faults, Hold
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    SecretMissing,
    UpstreamDenied,
    UpstreamUnavailable,
    VersionConflict,
)
from opencode_lifecycle.model.identifiers import JobId, UserId
from opencode_lifecycle.model.password import Password, WrappedPassword
from opencode_lifecycle.ports.secrets import SecretSeen


@dataclass(slots=True)
class _Item:
    """`versions` has None where a version was deleted or destroyed."""

    current: int = 0
    installation: str | None = None
    user_id: UserId | None = None
    written_at: datetime | None = None
    versions: dict[int, Mapping[str, object] | None] = field(default_factory=dict)


class FakeVault:
    """A `PasswordStore`. Set `sealed` or `denied` for lasting trouble, `faults` for single calls."""

    def __init__(self, *, now: Clock = utc_now) -> None:
        self.faults = Faults()
        self._now = now
        self.sealed = False
        self.denied = False
        self._items: dict[JobId, _Item] = {}
        self._wrapped: dict[str, Mapping[str, str]] = {}

    # What a test may do to it

    def fail_next(
        self, method: str, error: Exception, *, after_commit: bool = False, times: int | None = 1
    ) -> None:
        self.faults.fail_next(method, error, after_commit=after_commit, times=times)

    def hold_next(self, method: str, *, after_commit: bool = False) -> Hold:
        return self.faults.hold_next(method, after_commit=after_commit)

    def put(self, job_id: JobId, data: Mapping[str, object]) -> int:
        """Do what an operator's `vault kv put` does."""
        return self._write(job_id, data)

    def put_metadata(self, job_id: JobId, custom: Mapping[str, str]) -> None:
        """Do what an operator's `vault kv metadata put -custom-metadata` does; there need be no version yet."""
        item = self._items.setdefault(job_id, _Item())
        user_id = custom.get("user_id")
        item.installation = custom.get("installation")
        item.user_id = UserId(user_id) if user_id else None
        item.written_at = self._now()

    def delete_latest(self, job_id: JobId) -> None:
        """Do what an operator's `vault kv delete` does."""
        item = self._items[job_id]
        item.versions[item.current] = None

    def destroy_version(self, job_id: JobId, version: int) -> None:
        """Do what an operator's `vault kv destroy` does."""
        self._items[job_id].versions[version] = None

    def stored(self, job_id: JobId, version: int) -> Mapping[str, object]:
        """Return the data of a readable version."""
        data = self._items[job_id].versions[version]
        assert data is not None
        return data

    def unwrap(self, token: Password) -> Mapping[str, str]:
        """Open a wrapping token, once."""
        return self._wrapped.pop(token.reveal())

    @property
    def job_ids(self) -> frozenset[JobId]:
        """Everything that has metadata."""
        return frozenset(self._items)

    # The port

    async def ensure(self, job_id: JobId, deadline: Deadline) -> int:
        async with self.faults.call("ensure", deadline):
            self._admit("ensure")
            item = self._items.get(job_id)
            if item is not None and item.versions.get(item.current) is not None:
                return item.current
            return self._write(job_id, {"password": secrets.token_urlsafe(32), "env": {}})

    async def latest_version(self, job_id: JobId, deadline: Deadline) -> int | None:
        async with self.faults.call("latest_version", deadline):
            self._admit("latest version")
            item = self._items.get(job_id)
            if item is None or item.versions.get(item.current) is None:
                return None
            return item.current

    async def look(self, job_id: JobId, deadline: Deadline) -> SecretSeen | None:
        async with self.faults.call("look", deadline):
            self._admit("look")
            item = self._items.get(job_id)
            if item is None:
                return None
            readable = item.versions.get(item.current) is not None
            return SecretSeen(
                version=item.current if readable else None,
                installation=item.installation,
                user_id=item.user_id,
                written_at=item.written_at,
            )

    async def mark(self, job_id: JobId, *, installation: str, user_id: UserId, deadline: Deadline) -> None:
        async with self.faults.call("mark", deadline):
            self._admit("mark")
            item = self._items.get(job_id)
            if item is None:
                raise SecretMissing("vault", "mark", job_id=job_id)
            item.installation, item.user_id = installation, user_id
            item.written_at = self._now()

    async def list_all(self, deadline: Deadline) -> Sequence[JobId]:
        async with self.faults.call("list_all", deadline):
            self._admit("list")
            return tuple(job_id for job_id in self._items if job_id.startswith("oc-"))

    async def rotate(self, job_id: JobId, *, expected: int, deadline: Deadline) -> int:
        async with self.faults.call("rotate", deadline):
            self._admit("rotate")
            item = self._items.get(job_id)
            if item is None:
                raise SecretMissing("vault", "rotate", job_id=job_id)
            if item.current != expected:
                raise VersionConflict("vault", "rotate", job_id=job_id, expected=expected)
            beside = item.versions[item.current] or {"env": {}}
            return self._write(job_id, {**beside, "password": secrets.token_urlsafe(32)})

    async def read(self, job_id: JobId, version: int, deadline: Deadline) -> Password:
        async with self.faults.call("read", deadline):
            self._admit("read")
            return self._password(job_id, version)

    async def wrap(
        self, job_id: JobId, version: int, *, ttl_seconds: int, deadline: Deadline
    ) -> WrappedPassword:
        async with self.faults.call("wrap", deadline):
            self._admit("wrap")
            password = self._password(job_id, version)
            token = f"hvs.{secrets.token_urlsafe(24)}"
            self._wrapped[token] = {"username": "opencode", "password": password.reveal()}
            return WrappedPassword(token=Password(token), ttl_seconds=ttl_seconds)

    async def destroy(self, job_id: JobId, deadline: Deadline) -> None:
        async with self.faults.call("destroy", deadline):
            self._admit("destroy")
            self._items.pop(job_id, None)

    async def ping(self, deadline: Deadline) -> None:
        async with self.faults.call("ping", deadline):
            self._admit("ping")

    def _admit(self, operation: str) -> None:
        if self.sealed:
            raise UpstreamUnavailable("vault", operation, "it is sealed")
        if self.denied:
            raise UpstreamDenied("vault", operation, "our token lacks the right")

    def _write(self, job_id: JobId, data: Mapping[str, object]) -> int:
        item = self._items.setdefault(job_id, _Item())
        item.current += 1
        item.versions[item.current] = data
        item.written_at = self._now()
        return item.current

    def _password(self, job_id: JobId, version: int) -> Password:
        item = self._items.get(job_id)
        data = item.versions.get(version) if item is not None else None
        if data is None:
            raise SecretMissing("vault", "read", job_id=job_id, version=version)
        match data.get("password"):
            case str(text) if text:
                return Password(text)
            case _:
                raise SecretMissing("vault", "read", "there is no password in it", version=version)
