"""The OpenCode program, started by hand in a home of its own with what the job's environment says."""

import asyncio
import os
import secrets
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from pathlib import Path

_PATIENCE = 30.0


class BareServer:
    """Has its home, password and port over all its starts."""

    def __init__(self, program: Path, home: Path) -> None:
        self._program = program
        self._home = home
        for name in ("project", "home", "config", "data", "state", "cache", "tmp"):
            (home / name).mkdir(parents=True)
        self.password = secrets.token_urlsafe(32)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def project(self) -> str:
        return str(self._home / "project")

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was started"
        return self._process.pid

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            *("serve", "--hostname", "127.0.0.1", "--port", str(self._port)),
            cwd=self._home / "project",
            env=self._environment(),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            start_new_session=True,
        )

    async def stop(self) -> None:
        """Ask it to end, and return when it has."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        assert self._process is not None, "it was started"
        os.killpg(self._process.pid, number)
        async with asyncio.timeout(_PATIENCE):
            await self._process.wait()

    def _environment(self) -> Mapping[str, str]:
        """Return what the job's own environment says, so that both arms start the same."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._home / "home"),
            "TMPDIR": str(self._home / "tmp"),
            "XDG_CONFIG_HOME": str(self._home / "config"),
            "XDG_DATA_HOME": str(self._home / "data"),
            "XDG_STATE_HOME": str(self._home / "state"),
            "XDG_CACHE_HOME": str(self._home / "cache"),
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_SERVER_PASSWORD": self.password,
        }
