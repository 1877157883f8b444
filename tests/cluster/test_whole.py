"""`cluster up` without options: servers, service and a real OpenCode for the user demo, and all of it back after `down`."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from cluster_fixture import COMMAND, keep_apart, take_down
from opencode_lifecycle.cluster import processes
from opencode_lifecycle.cluster import record as record_file
from opencode_lifecycle.cluster.layout import Layout
from opencode_lifecycle.cluster.record import Record

pytestmark = [pytest.mark.servers, pytest.mark.opencode, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Whole:
    layout: Layout
    record: Record

    def command(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, name, "--directory", str(self.layout.root), *options],
            capture_output=True,
            text=True,
            check=False,
        )

    def call(self, method: str, path: str, role: str = "backend") -> Any:
        token = (self.layout.tokens / role).read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        answer = requests.request(
            method, f"{self.record.address('service')}{path}", headers=headers, timeout=60
        )
        assert answer.ok, answer.text
        return answer.json()

    def opencode(self, *credentials: str) -> requests.Response:
        address = self.call("GET", "/v1/stacks/demo/address")["url"]
        return requests.get(
            f"{address}/global/health", auth=tuple(credentials) if credentials else None, timeout=10
        )

    def credentials(self) -> tuple[str, str]:
        given = self.call("POST", "/v1/stacks/demo/credentials")
        return given["username"], given["password"]


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    directory = Path(tempfile.mkdtemp(prefix="oc-", dir="/tmp"))
    keep_apart(directory)
    try:
        up = subprocess.run(
            [*COMMAND, "up", "--private", "--directory", str(directory)],
            capture_output=True,
            text=True,
            check=False,
        )
        if up.returncode != 0:
            pytest.fail(up.stderr, pytrace=False)
        record = record_file.load(Layout(directory))
        assert record is not None
        yield Whole(Layout(directory), record)
    finally:
        take_down(directory)


def test_the_demo_users_opencode_answers_to_its_password_alone(whole: Whole):
    healthy = whole.opencode(*whole.credentials())

    assert whole.opencode().status_code == 401
    assert whole.opencode("opencode", "guessed").status_code == 401
    assert healthy.status_code == 200
    assert healthy.json()["healthy"] is True


def test_the_status_says_that_everything_works_also_to_scripts(whole: Whole):
    status = whole.command("status", "--json")

    seen = json.loads(status.stdout)
    assert status.returncode == 0
    assert seen["works"] is True
    assert [server["name"] for server in seen["servers"]] == ["consul", "vault", "nomad", "service"]
    assert {server["state"] for server in seen["servers"]} == {"running"}


@pytest.mark.parametrize("role", ["backend", "operator", "auditor"])
def test_every_role_has_a_token_that_only_its_owner_reads(whole: Whole, role: str):
    file = whole.layout.tokens / role

    assert file.stat().st_mode & 0o777 == 0o600
    assert whole.call("GET", "/v1/stacks", role)["items"][0]["user_id"] == "demo"


def test_repeating_up_keeps_tokens_and_runtime_and_shows_where_everything_is(whole: Whole):
    tokens = {file.name: file.read_text() for file in whole.layout.tokens.iterdir()}
    before = whole.call("GET", "/v1/stacks/demo")["runtime"]["allocation_id"]

    again = whole.command("up", "--private")

    assert again.returncode == 0, again.stderr
    assert {file.name: file.read_text() for file in whole.layout.tokens.iterdir()} == tokens
    assert whole.call("GET", "/v1/stacks/demo")["runtime"]["allocation_id"] == before
    assert f"{whole.record.address('nomad')}/ui" in again.stdout
    assert str(whole.layout.environment) in again.stdout


def test_down_ends_the_runtime_and_up_brings_it_back_with_its_workspace_and_password(whole: Whole):
    (workspace,) = whole.layout.workspaces.iterdir()
    (workspace / "a-file-of-the-user").write_text("kept")
    credentials = whole.credentials()

    down = whole.command("down")
    left = processes.bearing(whole.record.id)
    up = whole.command("up", "--private")

    assert (down.returncode, left, up.returncode) == (0, [], 0), up.stderr
    assert whole.opencode(*credentials).status_code == 200
    assert whole.credentials() == credentials
    assert (workspace / "a-file-of-the-user").read_text() == "kept"
    running = [Path(f"/proc/{p.pid}/cmdline").read_text() for p in processes.bearing(whole.record.id)]
    assert any(str(workspace) in command for command in running)
