"""Callers of the real servers, and a small job that stands for a runtime."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from cluster_fixture import RealCluster

SECONDS = 60


class Caller:
    """Somebody with a token."""

    def __init__(self, address: str, header: str, token: str) -> None:
        self._address = address
        self._headers = {header: token}

    def call(self, method: str, path: str, /, body: Any = None, **query: str) -> requests.Response:
        return requests.request(
            method,
            f"{self._address}/v1/{path}",
            json=body,
            params=query,
            headers=self._headers,
            timeout=10,
            allow_redirects=False,
        )

    def status(self, method: str, path: str, /, body: Any = None, **query: str) -> int:
        return self.call(method, path, body, **query).status_code


@dataclass(frozen=True)
class Callers:
    nomad: Caller
    vault: Caller
    consul: Caller


def service_of(cluster: RealCluster) -> Callers:
    """The service's own tokens."""
    return Callers(
        nomad=Caller(cluster.nomad_address, "X-Nomad-Token", cluster.nomad_token_file.read_text().strip()),
        vault=Caller(cluster.vault_address, "X-Vault-Token", cluster.vault_token_file.read_text().strip()),
        consul=Caller(
            cluster.consul_address, "X-Consul-Token", cluster.consul_token_file.read_text().strip()
        ),
    )


def start_a_runtime(service: Callers, job_id: str, *, python: str = sys.executable) -> str:
    """Write a password, register a job and return its allocation once it runs."""
    secret = {"options": {"cas": 0}, "data": {"password": f"password of {job_id}"}}
    assert service.vault.status("POST", f"kv/data/opencode/{job_id}", secret) == 200
    answer = service.nomad.call("PUT", "jobs", {"Job": a_job(job_id, python=python)})
    assert answer.status_code == 200, answer.text
    allocation: str = until(lambda: running_allocation(service, job_id))
    return allocation


def is_passing(service: Callers, job_id: str) -> bool:
    return bool(service.consul.call("GET", f"health/service/{job_id}", passing="true").json())


def a_job(job_id: str, *, python: str = sys.executable, **group_changes: Any) -> dict[str, Any]:
    template = f'{{{{ with secret "kv/data/opencode/{job_id}" }}}}PASSWORD={{{{ .Data.data.password }}}}{{{{ end }}}}'
    script = (
        'cp "$NOMAD_SECRETS_DIR/nomad_token" "$NOMAD_TASK_DIR/nomad"; '
        'cp "$NOMAD_SECRETS_DIR/nomad_vault_default.jwt" "$NOMAD_TASK_DIR/vault"; '
        'printf %s "$PASSWORD" > "$NOMAD_TASK_DIR/password"; '
        f'exec {python} -m http.server "$NOMAD_PORT_http" --bind 127.0.0.1 --directory "$NOMAD_TASK_DIR"'
    )
    task = {
        "Name": "server",
        "Driver": "raw_exec",
        "Config": {"command": "/bin/sh", "args": ["-c", script]},
        "Vault": {"Role": "opencode", "Env": False, "DisableFile": True, "ChangeMode": "noop"},
        "Identity": {"File": True},
        "Identities": [
            {"Name": "vault_default", "Audience": ["vault.io"], "TTL": 3600 * 10**9, "File": True}
        ],
        "Templates": [
            {
                "EmbeddedTmpl": template,
                "DestPath": "secrets/env",
                "Envvars": True,
                "Once": True,
                "ErrMissingKey": True,
            }
        ],
        "Resources": {"CPU": 50, "MemoryMB": 64},
    }
    group = {
        "Name": "opencode",
        "Networks": [{"Mode": "host", "DynamicPorts": [{"Label": "http"}]}],
        "Services": [
            {
                "Name": job_id,
                "PortLabel": "http",
                "Provider": "consul",
                "Checks": [{"Type": "tcp", "Interval": 1 * 10**9, "Timeout": 1 * 10**9}],
            }
        ],
        "Tasks": [task],
    }
    return {
        "ID": job_id,
        "Name": job_id,
        "Namespace": "opencode",
        "Type": "service",
        "TaskGroups": [group | group_changes],
    }


def running_allocation(service: Callers, job_id: str) -> str | None:
    answer = service.nomad.call("GET", f"job/{job_id}/allocations", namespace="opencode")
    if answer.status_code != 200:
        return None
    return next((a["ID"] for a in answer.json() if a["ClientStatus"] == "running"), None)


def until(seen: Callable[[], Any]) -> Any:
    end = time.monotonic() + SECONDS
    while not (value := seen()):
        assert time.monotonic() < end, f"waited {SECONDS} s in vain"
        time.sleep(0.1)
    return value
