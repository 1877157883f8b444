"""Consul's access control, set up. Every step can be repeated and goes on where an earlier run stopped."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import requests
from consul import ACLPermissionDenied, Consul, ConsulException
from consul.callback import CB

from opencode_lifecycle.cluster import configuration
from opencode_lifecycle.cluster.errors import BootstrapFailed
from opencode_lifecycle.cluster.layout import Layout, write_private
from opencode_lifecycle.cluster.record import Record

POLICIES: Final = Path(__file__).parent / "policies"
_HOLDERS: Final = ("agent", "nomad", "service", "operator")
"""Each has a policy file `consul-<holder>.hcl` and a secret `consul_<holder>`, made before Consul first started."""


def bootstrap(layout: Layout, record: Record, secrets: Mapping[str, str]) -> None:
    """Bring policies and tokens in force, and write the service's token file."""
    with _translated("set up Consul's access control"):
        client = _client(record, secrets)
        if not _knows(client, secrets["consul_management"]):
            try:
                client.acl.bootstrap(bootstrap_secret=secrets["consul_management"])
            except ACLPermissionDenied:
                raise BootstrapFailed(
                    "Consul was set up with another management token than the one in secrets.json."
                ) from None
        for holder in _HOLDERS:
            name = f"opencode-lifecycle-{holder}"
            _put_policy(client, name, (POLICIES / f"consul-{holder}.hcl").read_text())
            if not _knows(client, secrets[f"consul_{holder}"]):
                client.acl.token.create(
                    secret_id=secrets[f"consul_{holder}"], policies_name=[name], description=name
                )
    write_private(layout.token("consul"), secrets["consul_service"] + "\n")
    write_private(layout.folder("consul") / "operator.token", secrets["consul_operator"] + "\n")


def trust_nomad(record: Record, secrets: Mapping[str, str]) -> None:
    """Let Nomad's workloads log in, each as the one service that Nomad vouches for."""
    with _translated("let Nomad's workloads log in to Consul"):
        client = _client(record, secrets)
        name = configuration.CONSUL_AUTH_METHOD
        config = {
            "JWKSURL": f"{record.address('nomad')}/.well-known/jwks.json",
            "JWTSupportedAlgs": ["RS256"],
            "BoundAudiences": ["consul.io"],
            "ClaimMappings": {
                key: key for key in ("nomad_namespace", "nomad_job_id", "nomad_task", "nomad_service")
            },
        }
        known = {method["Name"] for method in client.acl.auth_method.list()}
        if name not in known:
            client.acl.auth_method.create(name, "jwt", config=config)
        if not client.acl.binding_rule.list(auth_method=name):
            client.acl.binding_rule.create(
                name,
                "service",
                "${value.nomad_service}",
                selector='"nomad_service" in value and value.nomad_namespace == "opencode"',
            )


def _client(record: Record, secrets: Mapping[str, str]) -> Consul:
    client = Consul(host="127.0.0.1", port=record.ports["consul_http"], scheme="http")
    # Said afterwards: a CONSUL_HTTP_TOKEN of the shell, such as `.local/env` sets, would win over one that is passed.
    client.token = secrets["consul_management"]
    return client


def _knows(client: Consul, secret: str) -> bool:
    try:
        client.acl.token.read_self(token=secret)
    except (ACLPermissionDenied, ConsulException):
        return False
    return True


def _put_policy(client: Consul, name: str, rules: str) -> None:
    """Write the policy as HCL text, which the library's own call would encode once too often."""
    known: dict[str, Any] = {policy["Name"]: policy["ID"] for policy in client.acl.policy.list()}
    path = f"/v1/acl/policy/{known[name]}" if name in known else "/v1/acl/policy"
    client.http.put(
        CB.json(),
        path,
        headers=client.agent.agent.prepare_headers(None),
        data=json.dumps({"Name": name, "Rules": rules}),
    )


@contextmanager
def _translated(purpose: str) -> Iterator[None]:
    try:
        yield
    except (ConsulException, requests.RequestException) as error:
        raise BootstrapFailed(f"Could not {purpose} ({type(error).__name__}); see consul/log.") from None
