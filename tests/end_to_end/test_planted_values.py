"""
No password and no token comes to light anywhere: known values are planted, much is done with them, all is searched.

The service logs everything it can for it. The same search must find the password in the one place where it has to be.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from cluster_fixture import RealCluster
from end_to_end.conftest import NewService
from end_to_end.outages import sealed
from end_to_end.servers import Servers
from end_to_end.service_process import ServiceProcess, apart, path_of
from leaks import command_lines_meanwhile, found_in, of_files, of_processes

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180, func_only=True)]

USER = "ada"
# Of this run alone: the processes of all runs on a machine are searched.
RUN = uuid4().hex
PASSWORD = f"planted-password+of/ada={RUN}"
MODEL_KEY = f"planted-model-key-of-ada-{RUN}"
STRANGER = f"planted-token-of-a-stranger-{RUN}"


@dataclass(frozen=True, slots=True)
class Story:
    """What was done, and every secret that took part in it."""

    service: ServiceProcess
    allocation_id: str
    secrets: Mapping[str, str] = field(repr=False)
    printed: Mapping[str, bytes]
    """What our commands wrote to both of their outputs."""
    command_lines: set[bytes] = field(repr=False)
    """Those of all processes from before the service started to the end of the story."""

    @property
    def passwords(self) -> Mapping[str, str]:
        """The secrets that belong to the runtime."""
        return {name: self.secrets[name] for name in ("the rotated password", "the model key")}


@pytest.fixture(scope="module")
def story(new_service: NewService, servers: Servers, cluster: RealCluster) -> Story:
    with command_lines_meanwhile() as command_lines:
        service = new_service(log_level="debug", secret_environment=["MODEL_KEY"], observation_max_age=60)
        return apart(tell(service, servers, cluster, command_lines))


async def tell(
    service: ServiceProcess, servers: Servers, cluster: RealCluster, command_lines: set[bytes]
) -> Story:
    """Ensure on a planted secret, ask, be refused in every way, rotate, fail, crash, and run again."""
    planted = {"data": {"password": PASSWORD, "env": {"MODEL_KEY": MODEL_KEY}}}
    await servers.vault(f"kv/data/opencode/{service.job_id(USER)}", "POST", planted)
    await service.ensure(USER, {"labels": {"team": "blue"}})
    assert await service.password(USER) == PASSWORD
    wrapped = await service.call("POST", f"{path_of(USER)}/credentials", wrap="60s")
    token = await service.call(
        "POST", "/v1/tokens", {"name": "mine", "role": "user", "subject": USER}, role="operator"
    )
    service.tokens |= {"mine": token.body["secret"], "stranger": STRANGER}
    await refusals(service)
    async with sealed(cluster, "vault"):
        await service.call("POST", f"{path_of(USER)}/credentials")
        await service.call("GET", "/readyz")
    service.program.behave("sound", "1.18.35")
    failed = await service.do(USER, "rotate-password")
    assert failed["reason"] == "wrong_version"
    service.program.behave("sound")
    await asyncio.to_thread(service.kill)
    await asyncio.to_thread(service.start)
    stack = await service.ensure(USER)
    rotated = await service.password(USER)
    assert rotated != PASSWORD
    secrets = {
        "the planted password": PASSWORD,
        "the rotated password": rotated,
        "the model key": MODEL_KEY,
        "the wrapping token": wrapped.body["wrapping_token"],
        **tokens_of(cluster),
        **{f"the API token of {name}": secret for name, secret in service.tokens.items()},
    }
    printed = await asyncio.to_thread(run_commands, service)
    return Story(service, stack["runtime"]["allocation_id"], secrets, printed, command_lines)


def tokens_of(cluster: RealCluster) -> Mapping[str, str]:
    """Return every token there is for the servers: the service's own, and those that may do all."""
    return {
        "the service's token for Nomad": cluster.nomad_token_file.read_text().strip(),
        "the service's token for Vault": cluster.vault_token_file.read_text().strip(),
        "the service's token for Consul": cluster.consul_token_file.read_text().strip(),
        "Nomad's management token": cluster.nomad_token,
        "Vault's root token": cluster.vault_token,
        "Consul's management token": cluster.consul_token,
    }


def run_commands(service: ServiceProcess) -> Mapping[str, bytes]:
    """Run our commands that need a token and are not there to show a secret."""
    done = {
        command: service.command(*command.split(), role=role)
        for command, role in (
            (f"ensure {USER}", "backend"), (f"show {USER}", "operator"), ("list", "operator"),
            ("token list", "operator"), (f"logs {USER}", "operator"),
        )
    }  # fmt: skip
    assert {each.returncode for each in done.values()} == {0}, [each.stderr for each in done.values()]
    return {command: (each.stdout + each.stderr).encode() for command, each in done.items()}


async def refusals(service: ServiceProcess) -> None:
    """Put secrets where they do not belong, as a confused caller does."""
    await service.call("GET", path_of(USER), role="stranger")
    await service.call("GET", path_of(USER), token=service.tokens["operator"])
    await service.call("GET", path_of(f"{USER}/{PASSWORD}"))
    await service.call("PUT", path_of(USER), {"password": PASSWORD})
    await service.call("PUT", path_of(USER), {"environment": {"MODEL_KEY": MODEL_KEY}})
    await service.call("DELETE", path_of(USER), role="mine")
    await service.call("GET", path_of("bob"), role="mine")
    assert len(service.answers) >= 7


async def test_no_error_answer_repeats_a_secret(story: Story):
    answers = {
        f"answer {number} ({answer.status})": answer.raw + str(answer.headers).encode()
        for number, answer in enumerate(story.service.answers)
    }

    assert len(answers) >= 8
    assert found_in(story.secrets, answers) == []


async def test_no_read_of_the_service_tells_a_secret(story: Story):
    paths = [
        path_of(USER), "/v1/stacks", f"{path_of(USER)}/events", "/v1/events", f"{path_of(USER)}/logs",
        "/v1/tokens", "/readyz", "/metrics", "/openapi.json",
    ]  # fmt: skip

    answers = {path: await story.service.call("GET", path, role="operator") for path in paths}

    assert {answer.status for answer in answers.values()} == {200}
    assert found_in(story.secrets, {path: answer.raw for path, answer in answers.items()}) == []


async def test_no_log_and_no_database_file_of_the_service_holds_a_secret(story: Story):
    files = of_files(story.service.directory)
    handed_in = [path for path in files if path.endswith(".token")]

    written = {path: content for path, content in files.items() if path not in handed_in}

    assert [path for path in written if path.endswith("lifecycle.db-wal")]
    assert b'"level": "debug"' in written[str(story.service.log_file)]
    assert found_in(story.secrets, written) == []


async def test_nomad_and_consul_show_no_secret(story: Story, servers: Servers):
    job_id = story.service.job_id(USER)
    paths = [
        f"/v1/job/{job_id}{part}" for part in ("", "/versions", "/evaluations", "/allocations", "/summary")
    ]
    shown = {path: await servers.nomad(path) for path in paths}
    for allocation in await servers.allocations(job_id):
        path = f"/v1/allocation/{allocation['ID']}"
        shown[path] = await servers.nomad(path)
    job = await servers.job(job_id)
    for version in range(job["Version"] + 1):
        shown[f"submission {version}"] = await servers.nomad(
            f"/v1/job/{job_id}/submission", version=str(version)
        )
    for path in await servers.variables(job_id):
        shown[path] = await servers.nomad(f"/v1/var/{path}")
    shown["consul"] = await servers.instances(job_id)

    assert found_in(story.secrets, {path: json.dumps(value).encode() for path, value in shown.items()}) == []


async def test_no_log_of_the_servers_holds_a_secret(story: Story, cluster: RealCluster):
    logs = {server: cluster.log(server).read_bytes() for server in ("nomad", "consul", "vault")}

    assert found_in(story.secrets, logs) == []


async def test_no_file_of_the_servers_but_the_tasks_own_holds_a_password(story: Story, cluster: RealCluster):
    """Nomad's state and the logs of all tasks are among them. The tokens of Nomad and Consul are theirs to keep."""
    own = cluster.data("nomad") / "alloc" / story.allocation_id / "server" / "secrets"
    passwords = {name: story.secrets[name] for name in ("the planted password", *story.passwords)}

    def is_of_a_task(path: Path) -> bool:
        return "alloc" in path.parts and "secrets" in path.parts

    assert len(found_in(story.passwords, of_files(own))) == len(story.passwords)
    for server in ("nomad", "vault", "consul"):
        assert found_in(passwords, of_files(cluster.data(server), but=is_of_a_task)) == []


async def test_the_audit_log_of_vault_tells_of_the_reads_and_no_secret(story: Story, cluster: RealCluster):
    log = (cluster.data("vault").parent / "audit.log").read_bytes()

    assert story.service.job_id(USER).encode() in log
    assert found_in(story.secrets, {"audit.log": log}) == []


async def test_no_command_of_ours_prints_a_secret(story: Story):
    assert USER.encode() in story.printed["list"]
    assert found_in(story.secrets, story.printed) == []


async def test_no_command_line_of_any_process_ever_showed_a_secret(story: Story):
    shown = b"\n".join(story.command_lines)

    assert str(story.service.settings_file).encode() in shown
    assert b"stub_opencode.py" in shown
    assert b"token\0list" in shown
    assert found_in(story.secrets, {"a command line": shown}) == []


async def test_the_environment_of_the_runtime_holds_its_secrets_and_that_of_no_other_process_does(
    story: Story,
):
    environments = of_processes("environ")
    mark = f"NOMAD_ALLOC_ID={story.allocation_id}".encode()
    of_runtime = {process: content for process, content in environments.items() if mark in content}
    of_others = {process: content for process, content in environments.items() if mark not in content}

    assert len(found_in(story.passwords, of_runtime)) == len(story.passwords)
    assert found_in({n: s for n, s in story.secrets.items() if n not in story.passwords}, of_runtime) == []
    assert found_in(story.secrets, of_others) == []
