"""Stopping a cluster and bringing it back: what is kept, what is ended, and whose processes are left alone."""

import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from cluster.calling import Callers, is_passing, running_allocation, service_of, start_a_runtime, until
from cluster_fixture import COMMAND, RealCluster, bring_up, take_down
from opencode_lifecycle.cluster import processes
from opencode_lifecycle.cluster import state as state_file
from opencode_lifecycle.cluster.processes import Process, identify
from opencode_lifecycle.cluster.state import ServerState

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def own() -> Iterator[RealCluster]:
    """A cluster that these tests may stop as they like; each leaves it as it finds it, up or not."""
    directory = Path(tempfile.mkdtemp(prefix="oc-", dir="/tmp"))
    try:
        yield bring_up(directory)
    finally:
        take_down(directory)


@pytest.fixture
def running(own: RealCluster) -> RealCluster:
    return bring_up(own.directory)


def run(command: str, cluster: RealCluster, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, command, "--directory", str(cluster.directory), *options],
        capture_output=True,
        text=True,
        check=False,
    )


def up(cluster: RealCluster) -> subprocess.CompletedProcess[str]:
    return run("up", cluster, "--servers-only", "--require-mock-driver")


def supervisor_of(cluster: RealCluster) -> Process:
    supervisor = state_file.load(cluster.layout).supervisor
    assert supervisor is not None
    return supervisor


@dataclass(frozen=True)
class BroughtBack:
    """A cluster with one runtime, which was down and is up again."""

    cluster: RealCluster
    service: Callers
    ports_before: Mapping[str, int]
    left_while_down: Sequence[Process]


JOB = "oc-down-and-up"


@pytest.fixture(scope="module")
def brought_back(own: RealCluster) -> BroughtBack:
    cluster = bring_up(own.directory)
    service = service_of(cluster)
    start_a_runtime(service, JOB)
    until(lambda: is_passing(service, JOB))
    assert run("down", cluster).returncode == 0
    left = processes.bearing(cluster.record.id)
    again = bring_up(own.directory)
    return BroughtBack(again, service, cluster.ports, left)


def test_down_leaves_no_process_of_servers_or_runtimes(brought_back: BroughtBack):
    assert brought_back.left_while_down == []


def test_up_takes_the_same_ports_again(brought_back: BroughtBack):
    assert brought_back.cluster.ports == brought_back.ports_before


def test_secrets_survive_down_and_up(brought_back: BroughtBack):
    secret = brought_back.service.vault.call("GET", f"kv/data/opencode/{JOB}").json()

    assert secret["data"]["data"]["password"] == f"password of {JOB}"


def test_a_runtime_is_back_after_down_and_up_and_answers_with_its_password(brought_back: BroughtBack):
    service = brought_back.service

    def answers() -> bool:
        found = service.consul.call("GET", f"health/service/{JOB}", passing="true").json()
        try:
            return bool(found) and bool(
                requests.get(f"http://127.0.0.1:{found[0]['Service']['Port']}", timeout=1).status_code
            )
        except requests.RequestException:
            return False

    assert until(answers)
    allocation = until(lambda: running_allocation(service, JOB))
    read = service.nomad.call(
        "GET", f"client/fs/cat/{allocation}", path="server/local/password", namespace="opencode"
    )
    assert read.text == f"password of {JOB}"


def test_repeating_up_changes_nothing(running: RealCluster):
    before = {name: running.process(name) for name in ("consul", "vault", "nomad")}

    assert up(running).returncode == 0

    assert {name: running.process(name) for name in before} == before


def test_up_goes_by_its_own_tokens_and_not_by_those_of_the_shell(running: RealCluster):
    run("down", running)
    foreign = {"CONSUL_HTTP_TOKEN": "a", "NOMAD_TOKEN": "b", "VAULT_TOKEN": "c", "NOMAD_NAMESPACE": "other"}
    command = [*COMMAND, "up", "--servers-only", "--directory", str(running.directory)]

    came_up = subprocess.run(command, env={**os.environ, **foreign}, capture_output=True, check=False)

    assert came_up.returncode == 0, came_up.stderr


def test_two_ups_at_once_make_one_cluster(running: RealCluster):
    run("down", running)
    command = [*COMMAND, "up", "--servers-only", "--directory", str(running.directory)]

    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    said = [one.communicate()[1] for one in both]

    assert [one.returncode for one in both] == [0, 0], said
    servers = [p for p in processes.bearing(running.record.id) if parent_of(p) == supervisor_of(running).pid]
    assert len(servers) == 3


def parent_of(process: Process) -> int:
    found = re.search(r"^PPid:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_servers_without_their_supervisor_are_reported_and_taken_over(running: RealCluster):
    service = service_of(running)
    job_id = "oc-taken-over"
    allocation = start_a_runtime(service, job_id)
    before = until(lambda: restarts_of(service, allocation))
    os.kill(supervisor_of(running).pid, signal.SIGKILL)
    until(lambda: not supervisor_of(running).is_alive())

    reported = run("status", running)
    again = up(running)

    assert reported.returncode == 1
    assert "unsupervised" in reported.stdout
    assert again.returncode == 0, again.stderr
    assert run("status", running).returncode == 0
    assert restarts_of(service, allocation) == before


def restarts_of(service, allocation: str) -> tuple[str, int]:
    state = service.nomad.call("GET", f"allocation/{allocation}", namespace="opencode").json()["TaskStates"]
    return state["server"]["StartedAt"], state["server"]["Restarts"]


def test_a_stranger_that_got_the_number_of_a_server_is_never_touched(running: RealCluster):
    run("down", running)
    with subprocess.Popen(["/bin/sleep", "600"]) as stranger:
        real = identify(stranger.pid)
        assert real is not None
        earlier = Process(real.pid, real.started - 1, real.boot)
        other_boot = Process(real.pid, real.started, "an earlier boot")
        state_file.State(
            supervisor=other_boot,
            phase=state_file.RUNNING,
            servers={"nomad": ServerState(process=earlier), "vault": ServerState(process=other_boot)},
        ).save(running.layout)

        down, again = run("down", running), up(running)

        assert (down.returncode, again.returncode) == (0, 0)
        assert stranger.poll() is None
        stranger.kill()


def test_a_port_that_was_taken_meanwhile_is_named_with_its_holder(running: RealCluster):
    run("down", running)
    port = running.ports["vault_api"]
    with socket.create_server(("127.0.0.1", port)):
        refused = up(running)

    assert refused.returncode == 1
    assert f"vault_api {port}" in refused.stderr
    assert f"(process {os.getpid()})" in refused.stderr


def test_a_vault_whose_keys_were_lost_before_it_held_anything_starts_over():
    directory = Path(tempfile.mkdtemp(prefix="oc-", dir="/tmp"))
    try:
        cluster = bring_up(directory)
        run("down", cluster)
        cluster.layout.vault_keys.unlink()
        refused = up(cluster)
        for file in (cluster.vault_token_file, cluster.layout.folder("vault") / "operator.token"):
            file.unlink()
        begun_anew = up(cluster)
    finally:
        take_down(directory)

    assert refused.returncode == 1
    assert "key file" in refused.stderr
    assert begun_anew.returncode == 0, begun_anew.stderr


def test_status_and_down_of_a_cluster_that_was_never_there_say_so(tmp_path: Path):
    arguments = ["--directory", str(tmp_path / "none")]

    status = subprocess.run([*COMMAND, "status", *arguments], capture_output=True, text=True, check=False)
    down = subprocess.run([*COMMAND, "down", *arguments], capture_output=True, text=True, check=False)

    assert status.returncode == 1
    assert "There is no cluster" in status.stdout
    assert down.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_everything_in_the_directory_is_closed_to_others(own: RealCluster):
    assert own.directory.stat().st_mode & 0o777 == 0o700
    private = [own.layout.secrets, own.layout.vault_keys, own.layout.environment, own.vault_token_file]

    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


def test_no_token_shows_in_the_process_list(running: RealCluster):
    shown = b"".join(
        Path(f"/proc/{process.pid}/{file}").read_bytes()
        for process in [*processes.bearing(running.record.id), supervisor_of(running)]
        for file in ("cmdline", "environ")
        if process.is_alive()
    )

    for secret in (running.nomad_token, running.consul_token, running.vault_token):
        assert secret.encode() not in shown


def test_the_environment_file_gives_a_shell_working_tools(running: RealCluster):
    script = (
        f". {running.layout.environment} && nomad namespace status opencode && consul members && "
        "vault token lookup && vault kv list kv/opencode; opencode-lifecycle --version; echo $NOMAD_NAMESPACE"
    )

    answer = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False, env={})

    assert answer.stdout.splitlines()[-1] == "opencode", answer.stderr
    assert "alive" in answer.stdout
    assert "operator" in answer.stdout
    assert re.search(r"^\d+\.\d+\.\d+$", answer.stdout, re.MULTILINE)
