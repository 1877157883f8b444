"""The real OpenCode, started by hand, and our prober to look at it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from opencode_lifecycle.adapters.opencode.prober import OpenCodeProber
from opencode_lifecycle.cluster.opencode_package import ensure_opencode
from opencode_lifecycle.model.stack import Address

VERSION = "1.18.34"


@dataclass(frozen=True, slots=True)
class RealOpenCode:
    address: Address
    password: str
    directory: str
    prober: OpenCodeProber = field(default_factory=OpenCodeProber)

    @property
    def tried(self) -> list[str]:
        raise NotImplementedError("what the real server was shown is not seen")

    def behave(self, **behaviour: object) -> None:
        raise NotImplementedError("the real server behaves as it does")


@contextmanager
def opencode(
    program: Path, home: Path, *, password: str, configuration: Mapping[str, Any] | None = None
) -> Iterator[RealOpenCode]:
    """Run a server in *home*, perhaps that of an earlier one, and kill it at the end; entered when it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workspace = home / "workspace"
    for name in ("workspace", "tmp", "managed"):
        (home / name).mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_TEST_MANAGED_CONFIG_DIR": str(home / "managed"),
        "OPENCODE_CONFIG_CONTENT": json.dumps(configuration or {}),
        "OPENCODE_SERVER_PASSWORD": password,
    }
    with (home / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [program, "serve", "--hostname", "127.0.0.1", "--port", str(port)],
            cwd=workspace,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        while line := process.stdout.readline():
            if b"listening on" in line:
                break
        else:
            pytest.fail(f"OpenCode ended at once: {(home / 'stderr').read_text()}")
        yield RealOpenCode(Address(host="127.0.0.1", port=port), password, str(workspace))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def opencode_program() -> Path:
    return asyncio.run(ensure_opencode(VERSION))


@pytest.fixture(scope="module")
def real_opencode(opencode_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealOpenCode]:
    home = tmp_path_factory.mktemp("opencode")
    with opencode(opencode_program, home, password="planted-password-of-the-real-one") as server:
        yield server


@pytest.fixture
def open_opencode(opencode_program: Path, tmp_path: Path) -> Iterator[RealOpenCode]:
    """Yield a server without a password. It listens on loopback for the length of one test."""
    with opencode(opencode_program, tmp_path, password="") as server:
        yield server
