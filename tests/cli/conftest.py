import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fakes.lifecycle_service import TOKEN, LifecycleService
from fakes.service_answers import items
from opencode_lifecycle.cli import following
from opencode_lifecycle.cli.main import main

Run = Callable[..., Result]


@pytest.fixture
def service() -> Iterator[LifecycleService]:
    with LifecycleService() as running:
        yield running


@pytest.fixture
def nobody_drains(service: LifecycleService) -> None:
    """Whoever looks at a rollout asks for the agents that it waits for: there are none."""
    service.answers("GET /v1/stacks", items())


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine steers a test: no setting of ours, no wish about colours."""
    for name in list(os.environ):
        if name.startswith("OPENCODE_LIFECYCLE_") or name in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line without the connection options."""
    monkeypatch.setattr(following, "POLL_SECONDS", 0.01)

    def invoke(*arguments: str, **more) -> Result:
        return CliRunner().invoke(main, list(arguments), catch_exceptions=False, **more)

    return invoke


@pytest.fixture
def run(cli: Run, service: LifecycleService, token_file: Path) -> Run:
    """Run the command line against the scripted service with its token."""

    def invoke(*arguments: str, **more) -> Result:
        return cli("--url", service.url, "--token-file", str(token_file), *arguments, **more)

    return invoke


@dataclass(frozen=True)
class Shown:
    text: str
    exit_code: int


@pytest.fixture
def terminal(service: LifecycleService, token_file: Path) -> Callable[..., Shown]:
    """Run the real program on a real pseudo-terminal; *answer* is what the person types."""

    def invoke(*arguments: str, answer: str = "", environment: dict[str, str] | None = None) -> Shown:
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "opencode_lifecycle", *arguments],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={
                    **os.environ,
                    "OPENCODE_LIFECYCLE_URL": service.url,
                    "OPENCODE_LIFECYCLE_TOKEN_FILE": str(token_file),
                    "COLUMNS": "200",
                    **(environment or {}),
                },
            )
        finally:
            os.close(theirs)
        with os.fdopen(ours, "wb+", buffering=0) as screen:
            screen.write(answer.encode())
            text = b"".join(iter(lambda: _read(screen.fileno()), b""))
        return Shown(text.decode(), process.wait(20))

    return invoke


def _read(descriptor: int) -> bytes:
    """Return what is shown next, or nothing when the program has closed its terminal."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    """Settings that are valid, of the installation `tested`."""
    opencode = tmp_path / "opencode"
    opencode.touch()
    lines = ['installation = "tested"', 'driver = "raw_exec"', f'opencode_path = "{opencode}"']
    for system in ("nomad", "vault", "consul"):
        secret = tmp_path / f"{system}.token"
        secret.write_text("a-token")
        secret.chmod(0o600)
        lines.append(f'{system}_token_file = "{secret}"')
    file = tmp_path / "settings.toml"
    file.write_text("\n".join(lines) + "\n")
    return file
