"""The service as a process of its own, on real servers: started, stopped, killed and started again by a test."""

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import pytest

from cluster_fixture import RealCluster
from opencode_lifecycle import application
from opencode_lifecycle.model.identifiers import JobId, UserId, job_id_of
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.settings import load

START_SECONDS = 60
STOP_SECONDS = 30
STUB_VERSION = "1.18.34"
ROOMY_RATES = {
    name: {"per_second": 100_000, "burst": 100_000} for name in ("read", "ensure", "lifecycle", "admin")
}
FINISHED = ("succeeded", "failed", "superseded")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]
    raw: bytes


@dataclass(frozen=True, slots=True)
class StubProgram:
    """Stands in for the OpenCode program. How it behaves may change from one start of it to the next."""

    path: Path

    def behave(self, manner: str, version: str = STUB_VERSION) -> None:
        """Be in *manner*, see `stub_opencode.py`, from the next start on."""
        stub = Path(__file__).with_name("stub_opencode.py")
        words = [sys.executable, "-I", "-S", str(stub), manner, version]
        new = self.path.with_suffix(".new")
        # When a release is checked it is asked for its version, and takes any configuration.
        checked = f'case "$1" in --version) echo {version}; exit;; debug) exit;; esac'
        new.write_text(f'#!/bin/sh\n{checked}\nexec {shlex.join(words)} "$@"\n')
        new.chmod(0o755)
        new.replace(self.path)

    def vanish(self) -> None:
        self.path.unlink()


@dataclass(slots=True, kw_only=True)
class ServiceProcess:
    """
    One installation of the service. Its name is its own, so many can share the cluster.

    `start`, `stop`, `kill` and `restart` block; the calls do not.
    """

    cluster: RealCluster
    directory: Path
    program: StubProgram
    settings: Mapping[str, Any]
    installation: str = field(default_factory=lambda: f"t{uuid4().hex[:8]}")
    port: int = 0
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    answers: list[Answer] = field(default_factory=list, repr=False)
    """Every refusal and failure that was answered, for whoever wants to search them."""
    process: "subprocess.Popen[bytes] | None" = None

    # --- the process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings_file(self) -> Path:
        return self.directory / "settings.toml"

    @property
    def log_file(self) -> Path:
        return self.directory / "log"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def prepare(self) -> None:
        """Write the settings and make a token for each role but user."""
        self.port = _free_port()
        self._write_settings()
        apart(self._issue_tokens())

    def replica(self, directory: Path) -> "ServiceProcess":
        """Return another one of the same installation, not started yet, that lives in *directory*."""
        replica = replace(self, directory=directory, port=_free_port(), answers=[], process=None)
        replica._write_settings()
        return replica

    def change(self, **settings: Any) -> None:
        """Set these settings anew; they count from the next start on."""
        self.settings = {**self.settings, **settings}
        self._write_settings()

    def _write_settings(self) -> None:
        values = {
            "installation": self.installation,
            "listen_port": self.port,
            "database_url": f"sqlite:///{self.directory / 'lifecycle.db'}",
            "nomad_address": self.cluster.nomad_address,
            "nomad_token_file": str(self.cluster.nomad_token_file),
            "vault_address": self.cluster.vault_address,
            "vault_token_file": str(self.cluster.vault_token_file),
            "consul_address": self.cluster.consul_address,
            "consul_token_file": str(self.cluster.consul_token_file),
            "driver": "raw_exec",
            "opencode_path": str(self.program.path),
            "rates": ROOMY_RATES,
            **self.settings,
        }
        self.settings_file.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in values.items()))

    async def _issue_tokens(self) -> None:
        settings = load(self.settings_file, {})
        for role in (Role.BACKEND, Role.OPERATOR, Role.AUDITOR):
            self.tokens[role] = await application.issue_token(
                settings, name=f"the-{role}", role=role, subject=None
            )
            token_file = self.directory / f"{role}.token"
            token_file.write_text(self.tokens[role])
            token_file.chmod(0o600)

    def start(self) -> None:
        """Start it, and return when it answers."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "opencode_lifecycle", "serve", "--settings", self.settings_file],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=_environment(),
                start_new_session=True,
            )
        ends = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > ends:
                pytest.fail(f"The service did not start:\n{self.log[-4000:]}", pytrace=False)
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/livez", timeout=2):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def stop(self) -> int:
        """Ask it to end as an operator would, and return its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, wherever it is."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(
                f"The service did not end within {STOP_SECONDS} s of {number.name}:\n{self.log[-4000:]}"
            )

    def restart(self) -> None:
        self.stop()
        self.start()

    def command(self, *arguments: str, role: str = "operator") -> "subprocess.CompletedProcess[str]":
        """Run our command line against it."""
        return subprocess.run(
            [sys.executable, "-m", "opencode_lifecycle", *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={
                **_environment(),
                "OPENCODE_LIFECYCLE_URL": self.url,
                "OPENCODE_LIFECYCLE_TOKEN_FILE": str(self.directory / f"{role}.token"),
                "COLUMNS": "200",
            },
        )

    # --- calls

    def client(self, role: str = "backend") -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self.url,
            headers={"Authorization": f"Bearer {self.tokens[role]}"},
            timeout=aiohttp.ClientTimeout(total=90),
            connector=aiohttp.TCPConnector(limit=0),
        )

    async def call(
        self, method: str, path: str, body: object = None, *, role: str = "backend", **query: str
    ) -> Answer:
        async with (
            self.client(role) as client,
            client.request(method, path, json=body, params=query) as response,
        ):
            raw = await response.read()
            is_json = "json" in response.content_type
            answer = Answer(response.status, json.loads(raw) if is_json else raw, response.headers, raw)
        if answer.status >= 400:
            self.answers.append(answer)
        return answer

    async def ensure(self, user: str, body: object = None, *, seconds: float = 180) -> dict[str, Any]:
        """Ensure the user's stack until it is ready, and return it."""
        ends = time.monotonic() + seconds
        while True:
            answer = await self.call("PUT", path_of(user), body or {}, wait="30s")
            if answer.status == 200:
                return answer.body
            assert answer.status == 202, answer.body
            assert time.monotonic() < ends, f"not ready within {seconds} s: {answer.body}\n{self.log[-3000:]}"

    async def accept(self, user: str, body: object = None) -> dict[str, Any]:
        """Ensure the user's stack without waiting for it."""
        answer = await self.call("PUT", path_of(user), body or {})
        assert answer.status in {200, 202}, answer.body
        return answer.body

    async def do(
        self, user: str, verb: str, *, seconds: float = 60, role: str = "operator", **query: str
    ) -> dict[str, Any]:
        """Carry out *verb* (stop, start, recreate, rotate-password, recover, delete) to its end and return the operation."""
        method, path = ("DELETE", path_of(user)) if verb == "delete" else ("POST", f"{path_of(user)}/{verb}")
        answer = await self.call(method, path, role=role, **query)
        assert answer.status == 202, answer.body
        return await self.outcome(answer.body["id"], seconds=seconds)

    async def outcome(self, operation_id: str, *, seconds: float = 60) -> dict[str, Any]:
        """Wait until the operation is finished and return it."""

        async def read() -> dict[str, Any]:
            return (await self.call("GET", f"/v1/operations/{operation_id}", role="operator")).body

        return await until(read, lambda found: found["state"] in FINISHED, seconds)

    async def stack(self, user: str) -> dict[str, Any]:
        answer = await self.call("GET", path_of(user))
        assert answer.status == 200, answer.body
        return answer.body

    async def until_stack(
        self, user: str, holds: Callable[[dict[str, Any]], bool], seconds: float = 60
    ) -> dict[str, Any]:
        return await until(lambda: self.stack(user), holds, seconds)

    async def address(self, user: str) -> str:
        answer = await self.call("GET", f"{path_of(user)}/address")
        assert answer.status == 200, answer.body
        return answer.body["url"]

    async def password(self, user: str) -> str:
        answer = await self.call("POST", f"{path_of(user)}/credentials")
        assert answer.status == 200, answer.body
        return answer.body["password"]

    def job_id(self, user: str) -> JobId:
        return job_id_of(self.installation, UserId(user))


def apart(work: Coroutine[Any, Any, Any]) -> Any:
    """Run *work* in a loop of its own, whether or not one runs here already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def path_of(user: str) -> str:
    return f"/v1/stacks/{quote(user, safe='')}"


async def until(read: Callable[[], Any], holds: Callable[[Any], bool], seconds: float = 60) -> Any:
    """Read again and again until what was read is as it should be, and return that."""
    ends = time.monotonic() + seconds
    while True:
        found = await read()
        if holds(found):
            return found
        assert time.monotonic() < ends, f"waited {seconds:.0f} s in vain; last seen: {found}"
        await asyncio.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENCODE_", "NOMAD_", "VAULT_", "CONSUL_"))
    }


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, Path):
        return json.dumps(str(value))
    return json.dumps(value)
