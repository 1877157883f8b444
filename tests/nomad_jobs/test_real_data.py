"""The entrypoint between two published versions of the real OpenCode, whose databases differ: there, back, and there again."""

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fakes.model_server import ModelServer, model_server
from opencode_lifecycle import entrypoint, workspace_data
from opencode_lifecycle.cluster.opencode_package import ensure_opencode
from opencode_lifecycle.model.snapshot import DataReport, report_of
from opencode_lifecycle.workspace_data import snapshots
from opencode_lifecycle.workspace_data.documents import EXIT_DATA
from opencode_session import ask, client_of

pytestmark = [pytest.mark.opencode, pytest.mark.timeout(300)]

PASSWORD = "planted-password-of-both"
OLD, NEW = "1.17.0", "1.18.34"
"""Its database has 32 migrations, and 38."""


@dataclass
class Runtime:
    directory: Path
    model: ModelServer

    def __post_init__(self) -> None:
        for name in ("workspace", "alloc/data", "managed", "tmp"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "secrets.env").write_text(f'OPENCODE_SERVER_PASSWORD="{PASSWORD}"\n')

    async def launch(self, version: str, restore: str) -> asyncio.subprocess.Process:
        workspace = self.directory / "workspace"
        program = await ensure_opencode(version)
        folders = {"HOME": "home", "XDG_CONFIG_HOME": "config", "XDG_DATA_HOME": "data"}
        folders |= {"XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache"}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", entrypoint.__file__, "--workspace", str(workspace)),
            *("--secrets", str(self.directory / "secrets.env")),
            *("--opencode-version", version, "--restore", restore, "--"),
            *(str(program), "serve", "--hostname", "127.0.0.1", "--port", "0"),
            env={
                "PATH": os.environ["PATH"],
                **{name: str(workspace / folder) for name, folder in folders.items()},
                "TMPDIR": str(self.directory / "tmp"),
                "NOMAD_ALLOC_DIR": str(self.directory / "alloc"),
                "OPENCODE_DISABLE_AUTOUPDATE": "1",
                "OPENCODE_DISABLE_MODELS_FETCH": "1",
                "OPENCODE_TEST_MANAGED_CONFIG_DIR": str(self.directory / "managed"),
                "OPENCODE_CONFIG_CONTENT": json.dumps(self.model.configuration()),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    @asynccontextmanager
    async def running(self, version: str, restore: str = "") -> AsyncIterator["Server"]:
        """Run *version* until the end of the `with`, which stops it as Nomad does."""
        process = await self.launch(version, restore)
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            said = await process.stdout.readline()
            found = re.search(rb"http://[0-9.:]+", said)
            assert found is not None, f"it ended at once: {(await process.stderr.read()).decode()}"
            yield Server(found[0].decode(), str(self.directory / "workspace/project"))
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.communicate()

    async def refused(self, version: str, restore: str = "") -> int:
        process = await self.launch(version, restore)
        try:
            await asyncio.wait_for(process.communicate(), 30)
        except TimeoutError:
            process.terminate()
            await process.communicate()
            raise
        assert process.returncode is not None
        return process.returncode

    def sessions_in(self, snapshot: str) -> int:
        kept = self.directory / "workspace" / workspace_data.PLACE / snapshots.SNAPSHOTS / snapshot
        place = shutil.copytree(kept, self.directory / snapshot)
        with closing(sqlite3.connect(place / "opencode.db")) as database:
            return int(database.execute("SELECT count(*) FROM session").fetchone()[0])

    def report(self) -> DataReport:
        report = report_of((self.directory / "alloc/data/opencode-lifecycle.json").read_bytes())
        assert report is not None
        return report


@dataclass
class Server:
    url: str
    project: str

    async def ask(self, text: str) -> str:
        return await ask(self.url, PASSWORD, self.project, text)

    async def asked(self) -> list[str]:
        """Return everything that was ever asked, read back from all sessions."""
        async with client_of(self.url, PASSWORD) as server:
            sessions = await _get(server, "/session", self.project)
            messages = [
                await _get(server, f"/session/{each['id']}/message", self.project) for each in sessions
            ]
        parts = [
            part
            for session in messages
            for message in session
            if message["info"]["role"] == "user"
            for part in message["parts"]
        ]
        return sorted(part["text"] for part in parts if part["type"] == "text")


async def _get(server: Any, path: str, directory: str) -> Any:
    async with server.get(path, params={"directory": directory}) as response:
        return await response.json()


@pytest.fixture
async def runtime(tmp_path) -> AsyncIterator[Runtime]:
    async with model_server() as model:
        yield Runtime(tmp_path, model)


async def test_a_rollback_restores_the_pair_of_version_and_data_and_no_session_is_lost(runtime):
    async with runtime.running(OLD) as server:
        assert await server.ask("Asked of the old.") == "You said: Asked of the old."
    assert runtime.report().snapshots == ()

    async with runtime.running(NEW) as server:
        assert await server.asked() == ["Asked of the old."]
        await server.ask("Asked of the new.")
    [before] = runtime.report().snapshots
    assert runtime.report().taken == before.id
    assert (before.opencode_version, before.before_version) == (OLD, NEW)
    assert before.migrations is not None
    assert before.migrations.count == 32

    assert await runtime.refused(OLD) == EXIT_DATA
    refused = runtime.report().refused
    assert refused is not None
    assert refused.code == EXIT_DATA

    async with runtime.running(OLD, before.id) as server:
        assert await server.asked() == ["Asked of the old."]
        assert await server.ask("Asked after the rollback.") == "You said: Asked after the rollback."
    [_, aside] = runtime.report().snapshots
    assert runtime.report().restored == before.id
    assert aside.migrations is not None
    assert (aside.opencode_version, aside.migrations.count) == (NEW, 38)
    assert runtime.sessions_in(aside.id) == 2

    async with runtime.running(OLD, before.id) as server:
        assert await server.asked() == ["Asked after the rollback.", "Asked of the old."]

    async with runtime.running(NEW, before.id) as server:
        assert await server.asked() == ["Asked after the rollback.", "Asked of the old."]
        await server.ask("Asked of the new once more.")
    assert await runtime.refused(OLD, before.id) == EXIT_DATA


async def test_a_version_that_nobody_has_used_is_gone_back_from_without_being_told(runtime):
    async with runtime.running(OLD) as server:
        await server.ask("Asked of the old.")
    async with runtime.running(NEW) as server:
        assert await server.asked() == ["Asked of the old."]

    async with runtime.running(OLD) as server:
        assert await server.asked() == ["Asked of the old."]
        assert await server.ask("Asked after it.") == "You said: Asked after it."
    assert runtime.report().restored == runtime.report().snapshots[0].id

    async with runtime.running(NEW) as server:
        await server.ask("Asked of the new.")
    assert await runtime.refused(OLD) == EXIT_DATA
    refused = runtime.report().refused
    assert refused is not None
    assert "1 session, 2 messages" in refused.reason
