"""Who may do what in the cluster that `up` sets up: the service, a runtime, people, and nobody else."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from cluster.calling import Caller, Callers, a_job, running_allocation, service_of, start_a_runtime, until
from cluster_fixture import RealCluster

ANA, BOB = "oc-ana-aaaaaaaaaaaaaaaaaaaa", "oc-bob-bbbbbbbbbbbbbbbbbbbb"


@pytest.fixture(scope="module")
def service(cluster: RealCluster) -> Callers:
    return service_of(cluster)


@pytest.fixture(scope="module")
def operator(cluster: RealCluster) -> Callers:
    """The tokens that `.local/env` gives to people."""
    tokens = {
        name: (cluster.layout.folder(name) / "operator.token").read_text().strip()
        for name in ("nomad", "vault", "consul")
    }
    return Callers(
        nomad=Caller(cluster.nomad_address, "X-Nomad-Token", tokens["nomad"]),
        vault=Caller(cluster.vault_address, "X-Vault-Token", tokens["vault"]),
        consul=Caller(cluster.consul_address, "X-Consul-Token", tokens["consul"]),
    )


@dataclass(frozen=True)
class Runtime:
    """A running job of Ana's, which has copied the identities that Nomad gave it to where the test can read them."""

    allocation_id: str
    identity_for_nomad: str
    identity_for_vault: str
    password: str


@pytest.fixture(scope="module")
def runtime(service: Callers) -> Iterator[Runtime]:
    secret = {"options": {"cas": 0}, "data": {"password": f"password of {BOB}"}}
    assert service.vault.status("POST", f"kv/data/opencode/{BOB}", secret) == 200
    for job_id in (ANA, BOB):
        pointer = {"Items": {"instructions": "x"}}
        path = f"var/nomad/jobs/{job_id}/opencode/server"
        assert service.nomad.status("PUT", path, pointer, namespace="opencode") == 200
    bundle = {"Items": {"text": "be kind"}}
    assert service.nomad.status("PUT", "var/opencode/bundles/d1", bundle, namespace="opencode") == 200
    allocation_id = start_a_runtime(service, ANA)
    yield Runtime(
        allocation_id=allocation_id,
        identity_for_nomad=until(lambda: read_file(service, allocation_id, "nomad")),
        identity_for_vault=until(lambda: read_file(service, allocation_id, "vault")),
        password=until(lambda: read_file(service, allocation_id, "password")),
    )
    service.nomad.call("DELETE", f"job/{ANA}", namespace="opencode", purge="true")
    until(lambda: not running_allocation(service, ANA))
    for job_id in (ANA, BOB):
        service.vault.call("DELETE", f"kv/metadata/opencode/{job_id}")


def read_file(service: Callers, allocation_id: str, name: str) -> str | None:
    answer = service.nomad.call(
        "GET", f"client/fs/cat/{allocation_id}", path=f"server/local/{name}", namespace="opencode"
    )
    return answer.text or None if answer.status_code == 200 else None


def test_a_runtime_gets_its_own_password_through_its_identity(runtime: Runtime):
    assert runtime.password == f"password of {ANA}"


def test_a_runtime_is_found_healthy_in_consul_under_the_name_of_its_job(service: Callers, runtime: Runtime):
    def passing() -> Any:
        return service.consul.call("GET", f"health/service/{ANA}", passing="true").json()

    found = until(passing)

    assert found[0]["Service"]["Address"] == "127.0.0.1"
    assert runtime.allocation_id in found[0]["Service"]["ID"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"kv/data/opencode/{ANA}", 200),
        (f"kv/data/opencode/{BOB}", 403),
        (f"kv/metadata/opencode/{ANA}", 403),
        ("kv/metadata/opencode?list=true", 403),
        ("sys/policies/acl/opencode-runtime", 403),
    ],
)
def test_a_runtime_reads_its_own_secret_in_vault_and_nothing_else(
    cluster: RealCluster, runtime: Runtime, path: str, status: int
):
    login = requests.post(
        f"{cluster.vault_address}/v1/auth/jwt-nomad/login",
        json={"role": "opencode", "jwt": runtime.identity_for_vault},
        timeout=10,
    ).json()["auth"]

    answer = Caller(cluster.vault_address, "X-Vault-Token", login["client_token"]).status("GET", path)

    assert answer == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("var/opencode/bundles/d1", 200),
        ("var/opencode/other", 403),
        (f"var/nomad/jobs/{ANA}/opencode/server", 200),
        (f"var/nomad/jobs/{BOB}/opencode/server", 403),
        ("jobs", 403),
    ],
)
def test_a_runtime_reads_bundles_and_its_own_pointer_in_nomad_and_nothing_else(
    cluster: RealCluster, runtime: Runtime, path: str, status: int
):
    caller = Caller(cluster.nomad_address, "X-Nomad-Token", runtime.identity_for_nomad)

    assert caller.status("GET", path, namespace="opencode") == status


@pytest.mark.parametrize(
    ("server", "refusal", "group_changes"),
    [
        ("vault", 'claim "nomad_namespace" does not match', {"Services": []}),
        ("consul", "failed to derive Consul token for service oc-eve", {}),
    ],
)
def test_a_job_of_another_namespace_cannot_log_in(
    cluster: RealCluster, server: str, refusal: str, group_changes: dict[str, Any]
):
    management = Caller(cluster.nomad_address, "X-Nomad-Token", cluster.nomad_token)
    job_id = f"oc-eve-{server}"
    job = a_job(job_id, **group_changes) | {"Namespace": "default"}

    try:
        assert management.status("PUT", "jobs", {"Job": job}) == 200
        events = until(lambda: failure_events(management, job_id))
    finally:
        management.call("DELETE", f"job/{job_id}", purge="true")

    assert any(refusal in event for event in events), events


def failure_events(caller: Caller, job_id: str) -> list[str]:
    allocations = caller.call("GET", f"job/{job_id}/allocations").json()
    return [
        event["DisplayMessage"]
        for allocation in allocations
        for state in (allocation["TaskStates"] or {}).values()
        for event in state["Events"]
        if event["Type"] in {"Setup Failure", "Task hook failed", "Killing"}
    ]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "acl/tokens"),
        ("GET", "jobs?namespace=default"),
        ("PUT", "var/opencode/elsewhere?namespace=opencode"),
        ("GET", "operator/raft/configuration"),
        ("PUT", "system/gc"),
    ],
)
def test_the_service_cannot_reach_beyond_its_namespace_in_nomad(service: Callers, method: str, path: str):
    assert service.nomad.status(method, path, {"Items": {"a": "b"}} if method == "PUT" else None) == 403


def test_the_service_cannot_run_commands_in_a_runtime(cluster: RealCluster, runtime: Runtime):
    answer = subprocess.run(
        [cluster.program("nomad"), "alloc", "exec", "-task", "server", runtime.allocation_id, "id"],
        capture_output=True,
        text=True,
        check=False,
        env={
            "NOMAD_ADDR": cluster.nomad_address,
            "NOMAD_NAMESPACE": "opencode",
            "NOMAD_TOKEN": cluster.nomad_token_file.read_text().strip(),
        },
    )

    assert "Permission denied" in answer.stderr
    assert "uid=" not in answer.stdout


def test_the_service_cannot_drain_a_node(service: Callers):
    (node,) = service.nomad.call("GET", "nodes").json()

    assert service.nomad.status("PUT", f"node/{node['ID']}/eligibility", {"Eligibility": "ineligible"}) == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "kv/data/opencode/oc-nobody", 404),
        ("GET", "kv/metadata/opencode?list=true", 200),
        ("GET", "auth/token/lookup-self", 200),
        ("POST", "sys/wrapping/wrap", 400),
        ("GET", "kv/data/other", 403),
        ("GET", "sys/mounts", 403),
        ("GET", "sys/policies/acl?list=true", 403),
        ("POST", "auth/token/create", 403),
    ],
)
def test_the_service_has_the_secrets_of_stacks_in_vault_and_nothing_else(
    service: Callers, runtime: Runtime, method: str, path: str, status: int
):
    del runtime
    assert service.vault.status(method, path) == status


def test_the_service_renews_its_own_vault_token(service: Callers):
    answer = service.vault.call("POST", "auth/token/renew-self").json()

    assert answer["auth"]["renewable"]
    assert answer["auth"]["token_policies"] == ["control-plane"]


def test_the_service_sees_only_runtimes_in_consul(service: Callers, operator: Callers, runtime: Runtime):
    del runtime
    seen = set(service.consul.call("GET", "catalog/services").json())

    assert "nomad" in operator.consul.call("GET", "catalog/services").json()
    assert {name for name in seen if not name.startswith("oc-")} <= {"consul"}


@pytest.mark.parametrize("path", ["acl/tokens", "kv/any", "operator/raft/configuration"])
def test_the_service_has_no_other_business_in_consul(service: Callers, path: str):
    assert service.consul.status("GET", path) == 403


def test_people_follow_and_stop_jobs_but_give_no_rights(operator: Callers, runtime: Runtime):
    assert operator.nomad.status("GET", f"job/{ANA}", namespace="opencode") == 200
    assert operator.nomad.status("GET", f"allocation/{runtime.allocation_id}", namespace="opencode") == 200
    assert operator.nomad.status("GET", "acl/tokens") == 403
    assert operator.nomad.status("PUT", "system/gc") == 403


def test_people_rotate_a_secret_but_do_not_destroy_it(operator: Callers, runtime: Runtime):
    del runtime
    rotated = {"data": {"password": "another"}}

    assert operator.vault.status("POST", f"kv/data/opencode/{BOB}", rotated) == 200
    assert operator.vault.status("DELETE", f"kv/metadata/opencode/{BOB}") == 403


@pytest.mark.parametrize(
    ("server", "path"),
    [("nomad", "jobs"), ("nomad", "nodes"), ("consul", "catalog/nodes"), ("vault", "kv/data/opencode/x")],
)
def test_without_a_token_nothing_is_told(cluster: RealCluster, server: str, path: str):
    answer = requests.get(f"{cluster.record.address(server)}/v1/{path}", timeout=10)

    assert answer.status_code == 403 or answer.json() == []


def test_vault_writes_an_audit_log_without_the_passwords(cluster: RealCluster, runtime: Runtime):
    log = (cluster.layout.folder("vault") / "audit.log").read_text()

    assert ANA in log
    assert runtime.password not in log
